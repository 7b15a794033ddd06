"""The course of a command that runs a method: options, search, result, figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune.cli.commands import COMMANDS
from evoprune.cli.forms import flat, parse, script
from evoprune.cli.output import FOR_A_PERSON, Output, OutputOptions
from evoprune.cli.report import write_report
from evoprune.system import signals
from evoprune.system.streams import printable

if TYPE_CHECKING:
    from evoprune.problem.problem import Problem
    from evoprune.search.execution import Execution
    from evoprune.search.method import Method


@dataclass(frozen=True)
class CommandOptions(OutputOptions):
    """Options of the command itself."""

    load: tuple[Path, ...] = ()
    """Your Python files, which register fitness terms, operators, methods, networks and so on; see the manual."""
    dry_run: bool = False
    """Print an estimate of evaluations, cost, memory, disk and time, and start nothing."""
    report: bool = True
    """Write the page report.html at the end."""


@dataclass(frozen=True)
class EvolveCommandOptions(CommandOptions):
    """Options of the command itself."""

    tensorboard: Path | None = None
    """Folder to write the generations' statistics to, for TensorBoard (an optional extra). None: do not."""


def run_method(name: str, arguments: Sequence[str] | None, prog: str | None, output: Output = FOR_A_PERSON) -> None:
    """Runs a method with the options of a command line, prints its result, and draws its figures.

    Args:
        name: Name of the method.
        arguments: The command line; None takes the process's.
        prog: The command's name in ``--help``.
        output: The place where the result is printed.
    """
    with signals.nothing_begun():
        from evoprune.problem.readers.place import located
        from evoprune.search.execution import Execution
        from evoprune.search.method import summary_of
        from evoprune.search.registry import find_method

        method = find_method(name)
        options = parse(script(name, parts_of(name, method)), summary_of(method), arguments, prog)
        values = flat(options)
        values["data"], values["data_dir"] = located(values["data"], values["data_dir"])
        shown_folder = values["out"] or Path("runs", folder_name(name, values, Execution))
        problem = make_problem(values)
        given = {**flat(getattr(options, _group(name))), **flat(options.execution), "out": shown_folder, "progress": True}
        if values.get("tensorboard") is not None:
            from evoprune.loggers.tensorboard import TensorBoard

            given["callbacks"] = (TensorBoard(values["tensorboard"]),)
    if values["dry_run"]:
        from evoprune.cli.estimate import print_estimate

        print_estimate(problem, method, given, output)
        return
    output.more(_settings_text(name, problem, {**values, "out": shown_folder}) + "\n")
    _run_and_draw(name, problem, given, shown_folder, values["report"], output)


def parts_of(name: str, method: Method) -> dict[str, type[Any]]:
    """Returns the dataclasses whose fields are the options of a method's command, by the name of their group."""
    from evoprune.problem.options import ProblemOptions
    from evoprune.problem.recipe import Recipe
    from evoprune.search.execution import Execution

    command = EvolveCommandOptions if name == "evolve" else CommandOptions
    of_problem = {"problem": ProblemOptions, "recipe": Recipe}
    return {**of_problem, _group(name): method.Options, "execution": Execution, "command": command}


def _group(name: str) -> str:
    return name.replace("-", "_")


def folder_name(name: str, values: dict[str, Any], execution: type[Execution]) -> str:
    """Returns the name of a run's folder: method, data, and a hash of the settings.

    Threads, workers, paths and whatever else belongs to the execution do not count, except for the engine.
    """
    from evoprune.options import later_of
    from evoprune.problem.load import DATA
    from evoprune.problem.models import MODELS, usual_initialization
    from evoprune.problem.options import ProblemOptions
    from evoprune.problem.recipe import Recipe
    from evoprune.runs.settings import settings_hash

    names = {name: kind.name_of(values[name]) for name, kind in (("model", MODELS), ("data", DATA)) if name in values}
    values = {**values, **names}
    later = {"load": ()} | later_of(Recipe) | later_of(ProblemOptions)
    apart = {field.name for field in dataclasses.fields(execution)} - {"engine", "seed"} | {
        "data_dir",
        "tensorboard",
        "dry_run",
        "report",
        *(field.name for field in dataclasses.fields(OutputOptions)),
    }
    settings = {key: value for key, value in values.items() if key not in apart and later.get(key, ...) != value}
    settings["initialization"] = settings["initialization"] or usual_initialization(values.get("model", ""))
    return f"{name}-{values['data'].replace(':', '-')}-{settings_hash(settings)}"


def make_problem(values: dict[str, Any]) -> Problem:
    """Returns the problem that flags describe.

    Args:
        values: Their values by name.
    """
    from evoprune.problem.options import ProblemOptions
    from evoprune.problem.problem import Problem
    from evoprune.problem.recipe import Recipe

    recipe, problem = (
        {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
        for kind in (Recipe, ProblemOptions)
    )
    return Problem(recipe=Recipe(**recipe), **problem)


def _settings_text(name: str, problem: Problem, values: dict[str, Any]) -> str:
    config = problem.config()
    resolved = {**config, **config["recipe"]}
    facts = {key: resolved[key] for key in values if key in resolved}
    apart = {"dry_run", "report", *(field.name for field in dataclasses.fields(OutputOptions))}
    shown = {"method": name, **{key: value for key, value in values.items() if key not in apart}, **facts, "out": values["out"]}
    return "\n".join(f"{key:20} {printable(value)}" for key, value in shown.items())


def _run_and_draw(name: str, problem: Problem, given: dict[str, Any], shown_folder: Path, report: bool, output: Output) -> None:
    from evoprune.cli import summary
    from evoprune.runs import records
    from evoprune.search.registry import prune

    folder = shown_folder.absolute()
    finished = (folder / "result.json").exists() and not (given["force"] or given["retry_failed"])
    result = prune(problem, name, **given)
    with records.as_written(folder / "result.json"):
        facts = records.read_json(folder / "result.json") or result.summary
        output.result({**facts, "folder": str(shown_folder)}, summary.sentence(facts), summary.warnings(facts))
        output.more(summary.details(facts))
    if finished:
        output.more(f"{shown_folder} is finished already")
    figures = _draw_figures(folder, anew=not finished)
    pages = write_report(folder, anew=not finished) if report and figures is not None else []
    output.more(
        f"written to {shown_folder}: {', '.join(['result.json', 'mask.npz', 'model.safetensors', *(figures or []), *pages])}"
    )
    names = [figure.removesuffix(".png") for figure in figures or []]
    for suggestion in summary.suggestions(shown_folder, names, COMMANDS):
        output.more(f"next: {suggestion}")


def _draw_figures(folder: Path, anew: bool) -> list[str] | None:
    """Draws a run's figures, if any is missing, and returns the names of their files. A failure is a warning, and None."""
    from evoprune.figures import drawing

    try:
        with drawing.importing_matplotlib():
            from evoprune.figures import runs as plot
        names = [f"{name}.png" for name in plot.figures_of(folder)]
        if anew or not all((folder / name).exists() for name in names):
            plot.save_figures(folder)
    except Exception as error:  # noqa: BLE001 - the result is there
        drawing.warn("the figures", error)
        return None
    return [name for name in names if (folder / name).exists()]
