"""A comparison: methods x sparsities x seeds x data; leaves cells.csv, table.md, figures, and a run folder a cell.

Running again does only what is missing; under `python -m evoprune.scoop -n N`, or with --workers, it is spread over workers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from evoprune.cli.guard import guard, parse
from evoprune.cli.options import ProblemOptions, problem_arguments
from evoprune.figures import drawing
from evoprune.system import signals


@dataclass(frozen=True)
class CompareOptions(ProblemOptions):
    """Options of a comparison."""

    data: tuple[str, ...] = ("digits",)
    """Data sets: digits (embedded), mnist, fashion-mnist."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    """Fractions of the prunable weights to remove."""
    methods: tuple[str, ...] = ("dense", "lottery-ticket", "dissipate", "combine", "kstarts", "snip", "grasp", "synflow",
                                "magnitude", "erk", "random", "random-dropout")  # fmt: skip
    """Methods: dense, lottery-ticket (one-shot), lottery-ticket-5 (iterative, 5 rounds), dissipate, dissipate-relative,
    combine, kstarts, evolve (sparsity rises), evolve-fixed (it does not), evolve-dissipated and evolve-dissipated-fixed (from
    the mask that dissipate leaves), random-search and random-search-fixed (the best of as many random masks as evolve and
    evolve-fixed evaluate), snip, grasp, synflow, magnitude, erk, random, random-dropout (dissipating weights drawn at random).
    With -restart (from W0 in another order of the batches), -shuffled (within each layer) or -redrawn (from another W0) behind
    it, the method's mask is trained instead, as a sanity control."""
    seeds: int = 5
    """Number of seeds."""
    first_seed: int = 0
    """The first of the seeds; the others follow."""
    budget: float | None = None
    """Give all methods the same total of multiply-adds on surviving weights, search included, in epochs of dense training; a
    method that does not fit is left out. None: --epochs for all, search on top."""
    k: int | None = None
    """Number of random masks of kstarts and combine. None: each method's default; so for the options that follow."""
    fitness: str | None = None
    """Fitness of kstarts and combine."""
    fitness_epochs: int | None = None
    """Epochs of the brief training of kstarts and combine."""
    first_sparsity: float | None = None
    """Sparsity of the random masks of combine."""
    dissipate_epochs: int | None = None
    """Number of removals of dissipate and combine."""
    engine: str = "auto"
    """How masked networks are trained: module, stacked, sparse, or auto (the one with the least measured cost)."""
    threads: int = 1
    """Threads of torch in every process."""
    workers: str = "auto"
    """Who does the cells: serial, scoop, auto (SCOOP under `python -m evoprune.scoop`, else serial), dask:N (a local cluster of
    N processes) or the address of a Dask scheduler. Where Dask has more workers than there are cells, they share its masks."""
    out: Path = Path("runs/compare")
    """Folder of the comparison. Running again goes on with it; methods, sparsities, seeds and data may be added."""


SEARCH = ("k", "fitness", "fitness_epochs", "first_sparsity", "dissipate_epochs")


def run() -> None:
    """Does what is missing, and writes tables and figures."""
    with signals.nothing_begun():
        options = parse(CompareOptions, __doc__)
        from evoprune.comparison import course as cells
        from evoprune.comparison import markdown as tables
        from evoprune.comparison.cells import Comparison, make_cells

    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    problem, recipe = problem_arguments(options)
    model = problem.pop("model")
    search = {name: values[name] for name in SEARCH if values[name] is not None}
    comparison = Comparison(problem, recipe, search, options.engine, options.threads)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    wanted = make_cells(options.methods, options.data, model, options.sparsities, seeds, options.budget)
    print("\n".join(f"{name:20} {value}" for name, value in values.items()), end="\n\n", flush=True)
    folder = options.out.absolute()
    left = cells.compare(comparison, wanted, folder, options.workers)
    if left:
        print(f"{len(left)} of {len(wanted)} cells are another process's; run again when it has finished")
    table = tables.write_tables(folder)
    print(table.read_text(encoding="utf-8"))
    print(f"written to {options.out}: {', '.join(['cells.csv', table.name, *draw_figures(folder)])}")


def draw_figures(folder: Path) -> list[str]:
    """Draws the figures, and returns the names of their files; what fails is a warning."""
    try:
        from evoprune.figures import comparisons as plot_compare

        return [path.name for path in plot_compare.save_compare_figures(folder)]
    except Exception as error:  # noqa: BLE001 - the results are there
        drawing.warn("the figures", error)
        return []


if __name__ == "__main__":
    guard(run)
