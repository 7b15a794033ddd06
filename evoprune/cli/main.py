"""The course of an experiment script."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune.figures import drawing
from evoprune.system import signals

if TYPE_CHECKING:
    from evoprune.problem.problem import Problem
    from evoprune.runs.result import Result
from evoprune.cli.guard import guard, parse
from evoprune.cli.options import NOT_SETTINGS, OptionsT, make_problem


def main(
    method: str,
    kind: type[OptionsT] | Callable[[], type[OptionsT]],
    search: Callable[[Problem, OptionsT, Path], Result],
    description: str | None,
) -> None:
    """Runs an experiment script: options, search, result, figures.

    Ends the process with status 0; 1 for an error of the run, 2 for one of the user's, 130 for Ctrl-C, 143 for SIGTERM.

    Args:
        method: Name of the method, as in records.
        kind: The script's options, or a function that makes their class from modules that take long to import.
        search: Does the search and records it in a run folder.
        description: For ``--help``.
    """
    guard(lambda: _experiment(method, kind, search, description))


def _experiment(
    method: str,
    kind: type[OptionsT] | Callable[[], type[OptionsT]],
    search: Callable[[Problem, OptionsT, Path], Result],
    description: str | None,
) -> None:
    with signals.nothing_begun():
        wanted: type[OptionsT] = kind if isinstance(kind, type) else kind()
        options = parse(wanted, description)
        from evoprune.runs import records
        from evoprune.runs.settings import settings_hash

        values = dataclasses.asdict(options)
        settings = {name: value for name, value in values.items() if name not in NOT_SETTINGS}
        shown_folder = options.out or Path("runs", f"{method}-{options.data}-{settings_hash(settings)}")
        folder = shown_folder.absolute()
        problem = make_problem(options, data=options.data, seed=options.seed)
    config = problem.config()
    resolved = {**config, **config["recipe"]}
    facts = {name: resolved[name] for name in values if name in resolved}
    shown = {"method": method, **values, **facts, "out": shown_folder}
    print("\n".join(f"{name:20} {value}" for name, value in shown.items()), end="\n\n", flush=True)
    anew = options.force or getattr(options, "retry_failed", False)
    finished = (folder / "result.json").exists() and not anew
    result = search(problem, options, folder)
    if finished:
        print(f"{shown_folder} is finished already:")
    with records.as_written(folder / "result.json"):
        _print_result(records.read_json(folder / "result.json") or result.summary)
    files = ["result.json", "mask.npz", "model.safetensors", *_draw_figures(folder, anew=not finished)]
    print(f"written to {shown_folder}: {', '.join(files)}")


def _draw_figures(folder: Path, anew: bool) -> list[str]:
    """Draws a run's figures, where any is missing, and returns the names of their files; what fails is a warning."""
    try:
        from evoprune.figures import runs as plot

        names = [f"{name}.png" for name in plot.figures_of(folder)]
        if anew or not all((folder / name).exists() for name in names):
            plot.save_figures(folder)
    except Exception as error:  # noqa: BLE001 - the result is there
        drawing.warn("the figures", error)
        return []
    return [name for name in names if (folder / name).exists()]


def _print_result(result: dict[str, Any]) -> None:
    shown = {name: value for name, value in result.items() if not isinstance(value, dict)}
    print("\n".join(f"{name:22} {value}" for name, value in shown.items()))
    for role, facts in {"winner": result, **result["controls"]}.items():
        numbers = [f"{name} {facts[f'test_{name}']:.4f}" for name in ("accuracy", "loss") if facts[f"test_{name}"] is not None]
        print(f"test set, {role:11} {', '.join(numbers) or 'diverged'}")
    for count, what in (
        ("failed", "failed; see evaluations.csv"),
        ("machine_failures", "were not judged, because the machine failed; --retry-failed evaluates them again"),
        ("no_better_than_chance", "were no better than chance"),
    ):
        if result.get(count):
            print(f"warning: {result[count]} of {result.get('evaluations', result['k'])} masks {what}")
    if result.get("winner_status", "ok") != "ok" or result["better_than_chance"] is False:
        print("warning: the winner is no better than chance; lower --lr, or choose by --fitness loss")
    if result["collapse"]:
        print(f"warning: the winner's mask cuts off: {result['collapse']}")
