"""Lineage: the masks that a mask was bred from, and the operators that bred it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evoprune.runs.journal import Journal

COLUMNS = ("gen", "mask", "operator", "parent", "other_parent")
START, CONTINUED = "start", "continued"
# The birth of a mask, by its key: its generation, the operators, and its parents' keys. JSON values.
Lineage = dict[str, list[Any]]


@dataclass(frozen=True)
class Bred:
    """The way in which a child was made; it travels with the child as its attribute ``bred``.

    Attributes:
        operator: Name of the operator, or of several, one after another, joined by a plus sign.
        parents: Names of its parents, the one that it was copied from first.
    """

    operator: str
    parents: tuple[str, ...]


def note(child: Any, operator: str, *parents: str) -> None:
    """Notes with a child how it was bred."""
    child.bred = Bred(operator, parents)


def key_of(mask: Any) -> str:
    """Returns the name of a mask in a lineage."""
    return str(mask.key)


class Traced:
    """An operator that notes with each child how it was bred; a class, so that a toolbox that holds it pickles.

    Args:
        name: Name of the operator.
        operator: A mutation or a crossover: it takes individuals, and returns as many children.
        key: Returns the name of an individual.
    """

    __slots__ = ("key", "name", "operator")

    def __init__(self, name: str, operator: Callable[..., Any], key: Callable[[Any], str] = key_of) -> None:
        self.name, self.operator, self.key = name, operator, key

    def __call__(self, *individuals: Any, **options: Any) -> Any:
        """Calls the operator."""
        before = [self._bred(each) for each in individuals]
        children = self.operator(*individuals, **options)
        for i, child in enumerate(children):
            own, others = before[i], [bred for j, bred in enumerate(before) if j != i]
            parents = dict.fromkeys(parent for bred in (own, *others) for parent in bred.parents if parent)
            note(child, f"{own.operator} + {self.name}" if own.operator else self.name, *parents)
        return children

    def _bred(self, individual: Any) -> Bred:
        """Returns how an individual was varied before; one that has its fitness yet is a copy of a parent."""
        earlier: Bred | None = getattr(individual, "bred", None)
        if individual.fitness.valid or earlier is None:
            return Bred("", (self.key(individual),))
        return earlier


def enter(lineage: Lineage, gen: int, children: Iterable[Any], key: Callable[[Any], str] = key_of) -> None:
    """Enters the births of a generation; a mask that is known already keeps its first."""
    for child in children:
        bred = getattr(child, "bred", None) or Bred(START, ())
        lineage.setdefault(key(child), [gen, bred.operator, *bred.parents])


def ancestors(lineage: Lineage, masks: Iterable[str]) -> Lineage:
    """Returns the births of masks and of all masks that they come from, in the order of the lineage."""
    found: set[str] = set()
    waiting = list(masks)
    while waiting:
        mask = waiting.pop()
        if mask in lineage and mask not in found:
            found.add(mask)
            waiting += lineage[mask][2:]
    return {mask: birth for mask, birth in lineage.items() if mask in found}


def write_lineage(journal: Journal, lineage: Lineage) -> None:
    """Writes ``lineage.csv``."""
    rows = [dict(zip(COLUMNS, _cells(mask, *birth), strict=True)) for mask, birth in lineage.items()]
    journal.write_table("lineage.csv", COLUMNS, rows)


def _cells(mask: str, gen: int, operator: str, *parents: str) -> Sequence[Any]:
    return (gen, mask, operator, *(*parents, "", "")[:2])
