"""Pages of reports, read for comparison; and small runs of each method."""

import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import evoprune as ep
from evoprune.report.page import render

HOSTILE = "<script>alert(1)</script></style><img src=x onerror=alert(2)>\"onmouseover='alert(3)' {{ 7*7 }} $x_1$"
BRIEF = {"k": 2, "fitness_epochs": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "kstarts": BRIEF,
    "combine": {**BRIEF, "dissipate_epochs": 1},
    "evolve": {**BRIEF, "generations": 2, "trained_bests": 2, "crossover_probability": 0.5},
    "evolve-gmp": {**BRIEF, "generations": 1},
    "dissipate": {"dissipate_epochs": 1},
}


def small_problem() -> ep.Problem:
    return ep.Problem(model="mlp", widths=(10, 8), data="digits", recipe=ep.Recipe(epochs=2), seed=0)


def make_run(name: str, folder: Path, problem: ep.Problem | None = None) -> Path:
    """A run of a method, of two epochs; the training of a mask takes one that erk found."""
    problem = problem or small_problem()
    options: dict[str, Any] = {"engine": "module"}  # which has nothing to compile
    if name not in ("dense", "train"):
        options |= {"sparsity": 0.6, **OPTIONS.get(name, {})}
    if name == "train":
        options["mask"] = ep.prune(problem, "erk", sparsity=0.6).mask
    ep.prune(problem, name, out=folder, **options)
    return folder


def copy(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoint", ".lock"))
    return folder


class Page(HTMLParser):
    """A page: its elements with their attributes, and its text without those of styles and scripts.

    Attributes:
        html: The page.
        elements: Names of elements with attributes, in their order.
        text: The text, words separated by single spaces.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._texts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.text = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self._texts.append(data)

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(*folders: Path) -> Page:
    return Page(render(folders))
