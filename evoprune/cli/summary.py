"""The result of a run in words: one sentence, then aligned lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evoprune.system.streams import printable

# Hashes are abbreviated to so many digits; result.json and --json have them whole.
DIGITS = 12
_WIDTH = 22
# Entries of a result that lines with other names show.
_SHOWN = {
    "method", "data", "test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "sparsity", "network_sparsity",
    "survivors", "fitness", "winner_fitness", "winner_status", "cost", "multiply_adds", "search_epochs", "total_epochs",
    "seconds", "failed", "machine_failures", "no_better_than_chance", "better_than_chance", "collapse", "mask",
    "start", "data_digest",
}  # fmt: skip


def sentence(result: Mapping[str, Any]) -> str:
    """Returns the result in one sentence.

    Args:
        result: The content of ``result.json``.
    """
    cost = result.get("cost")
    spent = "" if cost is None else f"cost {cost:.3g} dense epochs, "
    weights = f"{_weights(result)} (sparsity {result['sparsity']:.6g})"
    found = f"{result['method']} on {result['data']}: {_tested(result)} with {weights}"
    return printable(f"{found}, {spent}{_time(result['seconds'])}")


def warnings(result: Mapping[str, Any]) -> list[str]:
    """Returns the faults of a result, a sentence each.

    Args:
        result: The content of ``result.json``.
    """
    masks = result.get("evaluations", result.get("k"))
    found = [
        f"{result[name]} of {masks} masks {words}"
        for name, words in (
            ("failed", "failed; see evaluations.csv"),
            ("machine_failures", "were not judged, because the machine failed; --retry-failed evaluates them again"),
            ("no_better_than_chance", "were no better than chance"),
        )
        if result.get(name)
    ]
    if result.get("winner_status", "ok") != "ok" or result["better_than_chance"] is False:
        found.insert(0, "the winner is no better than chance; lower --lr, or choose by --fitness loss")
    if result["collapse"]:
        found.append(f"the winner's mask cuts off: {result['collapse']}")
    return [printable(text) for text in found]


def details(result: Mapping[str, Any]) -> str:
    """Returns the rest of a result as aligned lines: measures, survivors, costs, failures, all other entries, and hashes last.

    Args:
        result: The content of ``result.json``.
    """
    roles = {"winner": result, **result["controls"]}
    weights = f"{_weights(result)}, sparsity {result['sparsity']:.6g}; of the whole network {result['network_sparsity']:.6g}"
    lines = {
        "test accuracy": _by_role(roles, "test_accuracy", _percent),
        "test loss": _by_role(roles, "test_loss", _number),
        "validation": _validation(result),
        "survivors": weights,
        "fitness": _fitness(result),
        "cost": _cost(result),
        "time": _time(result["seconds"]),
        "failures": _failures(result),
        **{name.replace("_", " "): _text(result[name]) for name in result if name not in _SHOWN and _is_plain(result[name])},
        **{name: str(result[name])[:DIGITS] for name in ("mask", "start", "data_digest") if name in result},
    }
    return "\n".join(f"  {printable(name):{_WIDTH}} {printable(text)}" for name, text in lines.items() if text != "")


def suggestions(folder: object, figures: Sequence[str], commands: Collection[str]) -> list[str]:
    """Returns commands that may come next.

    Args:
        folder: The run folder, as the user gave it.
        figures: Names of the figures that the run has.
        commands: Names of the commands that there are.
    """
    import shlex

    place = shlex.quote(str(folder))
    found = [f"evoprune plot {figures[0]} {place}"] if figures else []
    found += [
        f"evoprune {name} {place}{rest}" for name, rest in (("report", ""), ("export", " --to torch")) if name in commands
    ]
    return [printable(text) for text in found]


def _tested(facts: Mapping[str, Any]) -> str:
    if facts["test_accuracy"] is not None:
        return f"test accuracy {_percent(facts['test_accuracy'])}"
    return "diverged" if facts["test_loss"] is None else f"test loss {_number(facts['test_loss'])}"


def _weights(result: Mapping[str, Any]) -> str:
    return f"{result['survivors']:,} of {sum(size for _, size in result['layers'].values()):,} weights"


def _by_role(roles: Mapping[str, Mapping[str, Any]], name: str, text: Any) -> str:
    if all(facts[name] is None for facts in roles.values()):
        return ""
    return ", ".join(f"{'diverged' if facts[name] is None else text(facts[name])} ({role})" for role, facts in roles.items())


def _validation(result: Mapping[str, Any]) -> str:
    accuracy, loss = result["validation_accuracy"], result["validation_loss"]
    parts = ["" if accuracy is None else f"accuracy {_percent(accuracy)}", "" if loss is None else f"loss {_number(loss)}"]
    chance = {True: "better than chance", False: "NO BETTER THAN CHANCE", None: ""}[result["better_than_chance"]]
    return ", ".join(part for part in (*parts, chance) if part)


def _fitness(result: Mapping[str, Any]) -> str:
    if "fitness" not in result:
        return ""
    return f"{result['fitness']}: {_text(result.get('winner_fitness'))} (winner, status {result.get('winner_status')})"


def _cost(result: Mapping[str, Any]) -> str:
    dense = "" if result.get("cost") is None else f"{result['cost']:.3g} dense epochs, "
    epochs = f"{result['search_epochs']:.4g} epochs of search, {result['total_epochs']:.4g} in all"
    return f"{dense}{_text(result['multiply_adds'])} multiply-adds; {epochs}"


def _failures(result: Mapping[str, Any]) -> str:
    if "failed" not in result:
        return ""
    counts = {
        "masks failed": result["failed"],
        "not judged, because the machine failed": result["machine_failures"],
        "no better than chance": result.get("no_better_than_chance", 0),
    }
    return ", ".join(f"{count} {words}" for words, count in counts.items() if count) or "none"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _is_plain(value: object) -> bool:
    return not isinstance(value, Mapping) and value is not None and value != ""


def _text(value: object) -> str:
    if isinstance(value, list) and len(text := ", ".join(map(str, value))) > 80:
        return f"{len(value)}: {text[:80]}..."
    if isinstance(value, bool) or not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else str(value)
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.4g}"
