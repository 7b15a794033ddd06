"""The command ``evoprune compare``: a comparison of methods, with its tables and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evoprune.cli.forms import flat, parse, script
from evoprune.system import signals


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison."""

    data: tuple[str, ...] = ("digits",)
    """Data sets: digits (embedded), mnist, fashion-mnist, or one that you registered."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98, 0.99)
    """Fractions of the prunable weights to remove."""
    methods: tuple[str, ...] = ("dense", "lottery-ticket", "dissipate", "combine", "kstarts", "snip", "grasp", "synflow",
                                "magnitude", "erk", "random", "random-dropout")  # fmt: skip
    """Methods: dense, lottery-ticket (one-shot), lottery-ticket-5 (iterative, 5 rounds), dissipate, dissipate-relative,
    combine, kstarts, evolve (sparsity rises), evolve-fixed (it does not), evolve-dissipated and evolve-dissipated-fixed (from
    the mask that dissipate leaves), random-search and random-search-fixed (the best of as many random masks as evolve and
    evolve-fixed evaluate), snip, grasp, synflow, magnitude, erk, random, random-dropout (dissipating weights drawn at random),
    or a method, baseline or schedule that you registered. With -restart (from W0 in another order of the batches), -shuffled
    (within each layer) or -redrawn (from another W0) behind it, the method's mask is trained instead, as a sanity control."""
    seeds: int = 5
    """Number of seeds."""
    first_seed: int = 0
    """The first of the seeds; the others follow."""
    budget: float | None = None
    """Give all methods the same total of multiply-adds on surviving weights, search included, in epochs of dense training; a
    method that does not fit is left out. None: --epochs for all, search on top."""
    k: int | None = None
    """Number of random masks of kstarts and combine. None: each method's default, as for the options that follow."""
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
    """The processes that do the cells: serial, scoop, auto (SCOOP under `python -m evoprune.scoop`, else serial), pool:N (N
    processes on this machine), dask:N (a local Dask cluster of N processes) or the address of a Dask scheduler. If there are
    fewer cells than workers, the workers of a pool or of Dask share the masks of each cell."""
    out: Path = Path("runs/compare")
    """Folder of the comparison. Running again continues it; methods, sparsities, seeds and data may be added."""
    load: tuple[Path, ...] = ()
    """Python files of your own, which register methods, baselines, networks and so on; see the manual."""


SEARCH = ("k", "fitness", "fitness_epochs", "first_sparsity", "dissipate_epochs")
# The comparison's own options take their place.
HIDDEN = {"problem": ("data", "seed")}


def compare(arguments: Sequence[str], prog: str | None) -> None:
    """Does the missing cells of a comparison, and writes its tables and figures.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.
    """
    with signals.nothing_begun():
        from evoprune.comparison import course, markdown
        from evoprune.comparison.cells import Comparison, make_cells
        from evoprune.problem.options import ProblemOptions
        from evoprune.problem.recipe import Recipe

        parts = {"comparison": CompareOptions, "problem": ProblemOptions, "recipe": Recipe}
        options = parse(script("compare", parts, HIDDEN), "Compare methods over sparsities, seeds and data.", arguments, prog)

    chosen, values = options.comparison, flat(options.comparison)
    recipe = {field.name: getattr(options.recipe, field.name) for field in dataclasses.fields(Recipe)}
    problem = {field.name: getattr(options.problem, field.name) for field in dataclasses.fields(ProblemOptions)}
    for own in ("data", "seed"):
        del problem[own]
    for later in ("loss", "weights_seed", "identity", "ignore"):
        if not problem[later]:
            del problem[later]  # comparisons were begun before there were such options
    problem["initialization"] = problem["initialization"] or "kaiming"
    model = problem.pop("model")
    search = {name: values[name] for name in SEARCH if values[name] is not None}
    comparison = Comparison(problem, recipe, search, chosen.engine, chosen.threads)
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    wanted = make_cells(chosen.methods, chosen.data, model, chosen.sparsities, seeds, chosen.budget)
    shown = {**flat(options.problem), **flat(options.recipe), **values}
    print("\n".join(f"{name:20} {value}" for name, value in shown.items()), end="\n\n", flush=True)
    folder = chosen.out.absolute()
    left = course.compare(comparison, wanted, folder, chosen.workers)
    if left:
        print(f"{len(left)} of {len(wanted)} cells are another process's; run again when it has finished")
    table = markdown.write_tables(folder)
    print(table.read_text(encoding="utf-8"))
    print(f"written to {chosen.out}: {', '.join(['cells.csv', table.name, *_draw_figures(folder)])}")


def _draw_figures(folder: Path) -> list[str]:
    """Draws the figures, and returns the names of their files; a failure is a warning."""
    from evoprune.figures import drawing

    try:
        with drawing.importing_matplotlib():
            from evoprune.figures import comparisons
        return [path.name for path in comparisons.save_compare_figures(folder)]
    except Exception as error:  # noqa: BLE001 - the results are there
        drawing.warn("the figures", error)
        return []
