"""The chapter of a run: its result, settings, costs, search, network and environment, from the files of its folder."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evoprune.errors import InputError
from evoprune.figures.of_run.reading import read_config
from evoprune.figures.runs import FIGURES, figures_of
from evoprune.report import command
from evoprune.report.blocks import (
    MISSING,
    Block,
    Chapter,
    Code,
    Facts,
    Section,
    Table,
    Text,
    counted,
    duration,
    facts_of,
    is_number,
    number,
    operations,
    percent,
    shown,
    sparsity,
    words,
)
from evoprune.report.size import Budget, failure, section
from evoprune.report.tables import evaluation_rows, failures, generations, layers, lineage, per_class
from evoprune.runs import records, sums
from evoprune.runs.settings import flatten

CAPTIONS = {
    "fitness": "Fitness over the generations: mean and range of the population, and the best mask so far.",
    "diversity": "Diversity of the population over the generations, beside that of random masks.",
    "fronts": "The Pareto fronts of the first two objectives.",
    "starts": "Fitness of the starts against their validation accuracy after the brief training.",
    "finals": "Validation accuracy after the full training against fitness, for the fittest masks of some generations.",
    "lineage": "The masks that the winner comes from. A line joins a parent to its child, in the colour of the operator.",
    "layers": "Survivors of each layer, and its density.",
    "survivors": "Density of each layer over the generations.",
    "inputs": "Survivors of the first layer that read each pixel of the image.",
    "confusion": "Test examples of each class (rows) by prediction (columns); colours are percent of the class.",
    "training": "Losses and validation accuracy of the final trainings, by epoch.",
    "dissipation": "Density by epoch and layer, and the movement of the weights at each removal.",
}


@dataclass(frozen=True)
class Source:
    """A run folder that is read.

    Attributes:
        folder: The folder.
        config: The content of ``config.json``.
        result: That of ``result.json``; empty if the run is not finished, or the file is damaged.
        damage: The reason why the result cannot be shown; None if it can, or there is none.
        figures: Names of the figures that it has data for and that are not drawn yet.
        budget: The room for figures.
    """

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]
    damage: Exception | None
    figures: list[str]
    budget: Budget

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run."""
        found: dict[str, Any] = self.config["settings"]
        return found

    def draw(self, *names: str) -> Iterator[Block]:
        """Yields figures, as far as there is data for them."""
        for name in names:
            if name in self.figures:
                self.figures.remove(name)
                caption = CAPTIONS.get(name, (FIGURES[name].__doc__ or name).partition("\n")[0])
                yield self.budget.draw(name, caption, functools.partial(FIGURES[name], self.folder))


def chapter(folder: Path, budget: Budget) -> Chapter:
    """Returns the chapter of a run, finished or not.

    Args:
        folder: Its folder.
        budget: The room for figures.

    Raises:
        InputError: The folder holds no run that can be read.
    """
    config = read_config(folder)
    result, damage = _result(folder)
    source = Source(folder, config, result, damage, _figures(folder), budget)
    problem = source.settings.get("problem")
    problem = problem if isinstance(problem, Mapping) else {}
    title = f"{config['method']} on {problem.get('data', '?')}, {problem.get('model', '?')}"
    makers = {
        "Search": _search,
        "Lineage of the winner": _lineage,
        "Survivors by layer": _layers,
        "Pixels that the first layer reads": lambda source: source.draw("inputs"),
        "Confusion of the classes": _confusion,
        "Final training": _training,
        "Costs": _costs,
        "Failures": lambda source: failures(source.folder),
        "Further figures": lambda source: source.draw(*list(source.figures)),
        "Settings": _settings,
        "Environment": _environment,
        "Do it again": _again,
    }
    made = [section(name, functools.partial(make, source)) for name, make in makers.items()]
    sections: list[Section] = [each for each in made if each is not None]
    return Chapter(title, str(folder), *_beginning(source), sections)


def _result(folder: Path) -> tuple[dict[str, Any], Exception | None]:
    """Returns the result, and the reason why it cannot be shown."""
    if not (folder / "result.json").exists():
        return {}, None
    try:
        sums.require_intact(folder, "result.json")
        return records.read_json(folder / "result.json") or {}, None
    except InputError as error:
        return {}, error


def _figures(folder: Path) -> list[str]:
    with contextlib.suppress(Exception):
        return figures_of(folder)
    return [name for name in FIGURES if name in CAPTIONS and _suits(name, folder)]


def _suits(name: str, folder: Path) -> bool:
    with contextlib.suppress(Exception):
        return FIGURES[name].suits(folder)
    return True  # it says itself why it cannot be drawn


def _beginning(source: Source) -> tuple[str, list[Text], list[tuple[str, str, str]]]:
    """Returns the sentence, the notes and the main numbers; or the reason why they cannot be shown."""
    damage = source.damage
    if damage is None:
        try:
            return *_summary(source), _tiles(source)
        except Exception as error:  # noqa: BLE001 - a foreign file does not lose the page
            damage = error
    return f"The result of this run of {source.config['method']} cannot be shown.", [failure("It", damage)], []


def _summary(source: Source) -> tuple[str, list[Text]]:
    result, method = source.result, source.config["method"]
    if not result:
        done = evaluation_rows(source.folder)
        return f"This run of {method} is not finished: {counted(len(done), 'evaluation')} so far.", []
    kept, size = (sum(column) for column in zip(*result["layers"].values(), strict=True))
    what = "keeps every weight" if kept == size else f"keeps {kept:,} of {size:,} prunable weights"
    sentence = f"{method} {what}, and the trained network reaches {_quality(result)}."
    return sentence, [*_spread(source), *_warnings(result)]


def _quality(result: Mapping[str, Any]) -> str:
    accuracy: Any = result.get("test_accuracy")
    if is_number(accuracy):
        return f"{100 * accuracy:.2f} % test accuracy"
    return f"a test loss of {shown(result.get('test_loss'))}"


def _spread(source: Source) -> Iterator[Text]:
    """Yields the uncertainty of the result that is known, and that which is not."""
    seed = source.result.get("seed")
    text = f"One run, with seed {seed}: the spread over seeds is not known, and evoprune compare measures it."
    accuracy: Any = source.result.get("test_accuracy")
    with contextlib.suppress(Exception):
        n = sum(count for row in per_class(source.folder) for count in row)
        if is_number(accuracy):
            low, high = wilson(accuracy, n)
            text = f"95 % interval for the {n:,} test examples alone: {100 * low:.2f} to {100 * high:.2f} %. {text}"
    yield Text(text)


def wilson(part: float, n: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a part of n examples (Wilson 1927)."""
    z = 1.959964
    centre, spread = part + z * z / (2 * n), z * math.sqrt(part * (1 - part) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def _warnings(result: Mapping[str, Any]) -> Iterator[Text]:
    total = result.get("evaluations", result.get("k"))
    texts = {
        "failed": "masks failed",
        "machine_failures": "masks were not judged, because the machine failed",
        "no_better_than_chance": "masks were no better than chance",
    }
    for name, text in texts.items():
        if result.get(name):
            yield Text(f"{result[name]} of {total} {text}.", is_warning=True)
    if result.get("winner_status", "ok") != "ok" or result.get("better_than_chance") is False:
        yield Text("The winner is no better than chance.", is_warning=True)
    if result.get("collapse"):
        yield Text(f"The winner's mask cuts off: {result['collapse']}", is_warning=True)


def _tiles(source: Source) -> list[tuple[str, str, str]]:
    result = source.result
    if not result:
        return []
    accuracy = result.get("test_accuracy")
    tested = ("Test accuracy", percent(accuracy).text, f"loss {shown(result.get('test_loss'))}")
    if not is_number(accuracy):
        tested = ("Test loss", shown(result.get("test_loss")), "")
    validated = result.get("validation_accuracy")
    validation = percent(validated).text if is_number(validated) else shown(result.get("validation_loss"))
    dense = result.get("dense_multiply_adds")
    cost = shown(result["multiply_adds"] / dense, 3) if is_number(dense) and dense else operations(result.get("multiply_adds"))
    return [
        tested,
        ("Validation", validation, "on which masks are selected"),
        ("Sparsity", sparsity(result.get("sparsity")).text, f"{shown(result.get('survivors'))} survivors"),
        ("Cost", cost, "epochs of dense training" if dense else "multiply-adds"),
        ("Computing time", duration(result.get("seconds")), "over all processes"),
    ]


def _search(source: Source) -> Iterator[Block]:
    result = source.result
    names = ("k", "generations", "evaluations", "stopped_by", "fitness", "winner_fitness", "winner_status", "spearman_rho")
    facts = {name.replace("_", " "): result[name] for name in names if name in result}
    if facts:
        yield facts_of(facts)
    yield from source.draw("fitness", "starts", "finals", "diversity", "fronts")
    yield from generations(source.folder)


def _lineage(source: Source) -> Iterator[Block]:
    if (source.folder / "lineage.csv").exists() and source.result:
        yield from lineage(source.folder)
        yield from source.draw("lineage")
    elif source.result.get("k") and source.config["method"] in ("kstarts", "combine"):
        yield Text(f"The winner is one of {counted(source.result['k'], 'random mask')}; it has no ancestors.")


def _layers(source: Source) -> Iterator[Block]:
    if source.result:
        yield layers(source.result)
    yield from source.draw("layers", "survivors")


def _confusion(source: Source) -> Iterator[Block]:
    yield from source.draw("confusion")
    if (source.folder / "confusion.csv").exists() and source.result:
        yield confused(source.folder)


def confused(folder: Path) -> Table:
    """Returns the accuracy of each class, and the class that it is taken for most often."""
    from evoprune.figures.of_run.confusion import read_confusion

    confusion = read_confusion(folder)
    counts, names, rows = confusion.counts, confusion.names, []
    for i, name in enumerate(names):
        own, others = counts[i], counts[i].copy()
        others[i] = 0
        most = int(others.argmax())
        found = f"{names[most]} ({int(others[most]):,})" if others[most] else MISSING
        predicted = int(counts[:, i].sum())
        parts = (counts[i, i] / max(1, own.sum()), counts[i, i] / predicted if predicted else None)
        rows.append(
            [
                words(name),
                number(int(own.sum())),
                *(percent(part if part is None else float(part), 1) for part in parts),
                words(found),
            ]
        )
    return Table(
        "Recall and precision of each class on the test set.",
        ["class", "examples", "recall", "precision", "most often taken for"],
        rows,
    )


def _training(source: Source) -> Iterator[Block]:
    result = source.result
    if not result:
        return
    rows = []
    for role, facts in {"winner": result, **result["controls"]}.items():
        rows.append([
            words(role), percent(facts.get("test_accuracy")), number(facts.get("test_loss")),
            percent(facts.get("validation_accuracy")), number(facts.get("validation_loss")),
            number(facts.get("survivors")), words(str(facts.get("mask", ""))[:12]),
        ])  # fmt: skip
    head = ["role", "test accuracy", "test loss", "validation accuracy", "validation loss", "survivors", "mask"]
    yield Table("The masks that were trained fully: the winner, and the controls.", head, rows)
    yield from source.draw("training", "dissipation")


def _costs(source: Source) -> Iterator[Block]:
    result = source.result
    if not result:
        return
    dense, total = result.get("dense_multiply_adds"), result.get("multiply_adds")
    rows = [
        ("epochs of the search", shown(result.get("search_epochs"))),
        ("epochs in all", shown(result.get("total_epochs"))),
        ("multiply-adds on survivors", operations(total)),
        ("computing time", duration(result.get("seconds"))),
    ]
    if is_number(dense) and dense and is_number(total):
        rows[2:2] = [("in epochs of dense training", shown(total / dense, 3))]
        rows.append(("multiply-adds of a dense epoch", operations(dense)))
    yield Facts(rows)
    yield Text("Epochs are summed over all masks, whatever their sparsity. Trainings of controls are not counted.")


def _settings(source: Source) -> Iterator[Block]:
    settings = dict(source.settings)
    problem = dict(settings.pop("problem"))
    recipe = problem.pop("recipe")
    yield facts_of({"method": source.config["method"], **flatten(settings)})
    yield Text("The problem, and the recipe of its training:")
    yield facts_of({**flatten(problem), **flatten(recipe)})


def _environment(source: Source) -> Iterator[Block]:
    found = sums.read_sealed(source.folder / "environment.json")
    if found is None:
        return
    earlier = found.pop("earlier", [])
    yield facts_of(
        {**flatten(found), **{f"execution {key}": value for key, value in flatten(source.config["execution"]).items()}}
    )
    if earlier:
        yield Text(f"{counted(len(earlier), 'earlier session')} had another environment; environment.json keeps it.")


def _again(source: Source) -> Iterator[Block]:
    found = command.command_of(source.config, source.folder.name, f"{source.folder.name}-again")
    if found:
        yield Code(found)
    else:
        yield Text("No command line says this run: it used objects of a program. Run that program again.")
    if own := command.uses_own(source.settings["problem"]):
        yield Text(
            f"The run used things that evoprune does not bring: {', '.join(own)}. Load them by --load, or run your program."
        )
    yield Text("This page is written again, and a figure drawn, by:")
    yield Code(f"evoprune report {source.folder.name}\nevoprune plot training {source.folder.name} --out training.pdf")
    yield Text(f"Hash of the problem: {source.config.get('problem_hash', MISSING)}")
