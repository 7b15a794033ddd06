"""The commands that do a run or a comparison again, from the settings that it recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from evoprune.comparison.budget import options_of
from evoprune.comparison.cells import GIVEN, Comparison
from evoprune.comparison.methods import split_control
from evoprune.comparison.options import SEARCH, CompareOptions, defaults_of, plan
from evoprune.errors import EvopruneError
from evoprune.problem.load import DATA
from evoprune.problem.models import MODELS
from evoprune.problem.options import ProblemOptions
from evoprune.problem.recipe import Recipe
from evoprune.search.registry import find_method

# Names in records that stand for a method with one of its options.
_COMMANDS = {"random-dropout": "dissipate"}


def command_of(config: Mapping[str, Any], folder: str, out: str) -> str:
    """Returns the command that does a run again in a new folder; empty where no command line says it.

    Args:
        config: The content of ``config.json``.
        folder: The folder of the run.
        out: The new folder.
    """
    settings, name = config["settings"], _COMMANDS.get(config["method"], config["method"])
    problem = settings["problem"]
    recipe = problem["recipe"]
    try:
        method = find_method(name)
    except EvopruneError:
        return ""
    is_said = settings["seed"] == problem["seed"] and not recipe.get("options") and not settings.get("given")
    if not is_said or not _is_plain(problem):
        return ""
    values = {**_options_of(name, settings), **recipe, **problem, "engine": settings.get("engine", "auto")}
    flags = {**_fields(ProblemOptions), **_fields(Recipe), **_fields(method.Options), "engine": "auto"}
    given = {flag: values[flag] for flag, default in flags.items() if flag in values and not _same(values[flag], default)}
    given.pop("mask", None)
    mask = f" {shlex.quote(f'{folder}/mask.npz')}" if name == "train" else ""  # the mask is not changed by its training
    return _line(f"evoprune {name}{mask}", {**given, "out": out})


def _options_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a method's options by their names on the command line, where records have removals otherwise."""
    if name not in ("dissipate", "combine"):
        schedule = settings.get("schedule", {})  # options of a schedule of masks
        return {**settings, **(schedule if isinstance(schedule, Mapping) else {})}
    removals = settings.get("dissipation", settings)
    first = {"first_sparsity": settings["sparsity"]} if name == "combine" else {}
    named = {key: removals[key] for key in ("sparsity", "fraction", "movement", "scope", "course") if key in removals}
    return {**settings, **named, **first, "dissipate_epochs": removals["epochs"]}


def comparison_command(settings: Mapping[str, Any], out: str) -> str:
    """Returns the command that does a comparison again in a new folder; empty where no command line says it.

    Args:
        settings: The content of ``compare.json``.
        out: The new folder.
    """
    shared, cells = settings["settings"], settings["cells"]
    recipe, models = shared["recipe"], {cell[2] for cell in cells}
    if recipe == GIVEN or recipe.get("options") or len(models) != 1:
        return ""
    seeds = sorted({cell[4] for cell in cells})
    values = {
        **_search_of(settings["methods"]),
        **recipe,
        **shared["problem"],
        "model": models.pop(),
        "data": tuple(dict.fromkeys(cell[1] for cell in cells)),
        "methods": tuple(dict.fromkeys(cell[0] for cell in cells)),
        "sparsities": tuple(dict.fromkeys(cell[3] for cell in cells if split_control(cell[0])[0] != "dense")) or (0.9,),
        "seeds": len(seeds),
        "first_seed": seeds[0],
        "budget": cells[0][5],
        "engine": shared["engine"],
    }
    flags = {**_fields(Recipe), **_fields(ProblemOptions), **_fields(CompareOptions)}
    given = {flag: values[flag] for flag, default in flags.items() if flag in values and not _same(values[flag], default)}
    return _line("evoprune compare", {**given, "out": out}) if _plans(values, settings) else ""


def _search_of(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the options of the searches that differ from the defaults of a method."""
    default = Comparison({}, {}, {})
    found: dict[str, Any] = {}
    for name, options in methods.items():
        with contextlib.suppress(EvopruneError):
            usual = options_of(default, name)
            found |= {key: options[key] for key in SEARCH if key in options and not _same(options[key], usual.get(key))}
    return found


def _plans(values: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Tells whether options describe the comparison that was recorded: its settings, the options of its methods, its cells."""
    own, problem, recipe = (
        {name: values.get(name, default) for name, default in defaults_of(kind).items()}
        for kind in (CompareOptions, ProblemOptions, Recipe)
    )
    try:
        comparison, cells = plan(CompareOptions(**own), problem, recipe)
        methods = {cell.base: options_of(comparison, cell.base) for cell in cells}
    except EvopruneError:
        return False
    planned = {"settings": comparison.settings(), "methods": json.loads(json.dumps(methods, default=dataclasses.asdict))}
    recorded = {name: settings[name] for name in planned}
    return planned == recorded and {cell.keys for cell in cells} == {tuple(keys) for keys in settings["cells"]}


def uses_own(problem: Mapping[str, Any]) -> list[str]:
    """Returns the names of a problem's network and data that evoprune does not bring."""
    named = ((problem.get("model"), MODELS), (problem.get("data"), DATA))
    return [str(name) for name, registry in named if not registry.is_built_in(str(name))]


def _is_plain(problem: Mapping[str, Any]) -> bool:
    """Tells whether a command line can say a problem: no network or data of the user's that have no name there."""
    return not any(name.startswith(("own.", "custom")) or name[:1].isupper() for name in uses_own(problem))


def _fields(kind: type[Any]) -> dict[str, Any]:
    """Returns the default of each flag by name, those of nested dataclasses among them."""
    found: dict[str, Any] = {}
    for each in dataclasses.fields(kind):
        make: Any = each.default_factory
        default: Any = each.default if each.default is not dataclasses.MISSING else make()
        if dataclasses.is_dataclass(default):
            found |= _fields(type(default))
        elif each.metadata.get("positional") or each.metadata.get("flag", True):
            found[each.name] = default
    return found


def _same(value: Any, default: Any) -> bool:
    return (list(value) if isinstance(value, (list, tuple)) else value) == (
        list(default) if isinstance(default, (list, tuple)) else default
    )


def _line(command: str, flags: Mapping[str, Any]) -> str:
    return " \\\n  ".join([command, *(" ".join(_words(name, value)) for name, value in flags.items())])


def _words(name: str, value: Any) -> Iterator[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
        return
    yield f"--{flag}"
    values = value if isinstance(value, (list, tuple)) else [value]
    for each in values:
        yield shlex.quote(str(each))
