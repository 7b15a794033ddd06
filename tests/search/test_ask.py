"""Ask and tell: the masks of a search, rated by anyone, and resumed."""

import math
from pathlib import Path

import pytest

import evoprune as ep

OPTIONS = {"k": 2, "offspring": 3, "generations": 3, "sparsity": 0.8}


def rate(mask: ep.Mask) -> float:
    return float(mask.bits[:40].sum())


def drive(search: ep.Search, steps: int | None = None) -> list[list[str]]:
    asked = []
    while not search.finished and (steps is None or len(asked) < steps):
        masks = search.ask()
        search.tell(masks, [rate(mask) for mask in masks])
        asked.append([mask.hash for mask in masks])
    return asked


def test_what_is_told_is_what_evolves(digits: ep.Problem) -> None:
    search = ep.Search(digits, "evolve", **OPTIONS)
    first = search.ask()
    assert [mask.hash for mask in search.ask()] == [mask.hash for mask in first]  # until it is told
    assert all(mask.survivors == round(0.2 * digits.prunable_count) for mask in first)
    drive(search)
    assert search.finished
    assert rate(search.best) >= max(map(rate, first))
    assert search.best.fitness.values == (rate(search.best),)


def test_it_resumes_where_it_was(digits: ep.Problem, tmp_path: Path) -> None:
    whole = drive(ep.Search(digits, "evolve", **OPTIONS))
    with ep.Search(digits, "evolve", out=tmp_path / "run", **OPTIONS) as search:
        begun = drive(search, 2)
        search.ask()  # and lost before it is told
    with ep.Search(digits, "evolve", out=tmp_path / "run", **OPTIONS) as search:
        assert begun + drive(search) == whole
        best = search.best
    with ep.Search(digits, "evolve", out=tmp_path / "run", **OPTIONS) as search:
        assert search.finished
        assert search.best == best


def test_another_search_is_refused(digits: ep.Problem, tmp_path: Path) -> None:
    with ep.Search(digits, "evolve", out=tmp_path / "run", **OPTIONS) as search:
        drive(search, 1)
    with pytest.raises(ep.InputError, match=r"sparsity was 0\.8, now 0\.9"):
        ep.Search(digits, "evolve", out=tmp_path / "run", **{**OPTIONS, "sparsity": 0.9})


@pytest.mark.parametrize(("method", "options"), [("kstarts", {"k": 3}), ("combine", {"k": 3, "dissipate_epochs": 1})])
def test_searches_of_one_generation(digits: ep.Problem, method: str, options: dict[str, int]) -> None:
    search = ep.Search(digits, method, **options)
    masks = search.ask()
    assert len(masks) == 3
    search.tell(masks, [0.0, 2.0, 1.0])
    assert search.finished
    assert search.best == masks[1]


def test_a_failure_is_least_fit(digits: ep.Problem) -> None:
    search = ep.Search(digits, "kstarts", k=3)
    masks = search.ask()
    search.tell(masks[::-1], [math.nan, 1.0, -math.inf])
    assert search.best == masks[1]


def test_several_objectives(digits: ep.Problem) -> None:
    search = ep.Search(digits, "evolve", objectives=2, fitness=("loss", "accuracy"), **OPTIONS)
    while not search.finished:
        masks = search.ask()
        search.tell(masks, [(rate(mask), -rate(mask)) for mask in masks])
    assert len(search.best.fitness.values) == 2


def test_bad_calls_name_the_cure(digits: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match="finds its mask without evaluating any"):
        ep.Search(digits, "snip")
    with pytest.raises(ep.InputError, match="Did you mean 'evolve'"):
        ep.Search(digits, "evolv")
    with pytest.raises(ep.InputError, match="Did you mean 'sparsity'"):
        ep.Search(digits, "evolve", sparsit=0.9)
    search = ep.Search(digits, "kstarts", k=2)
    with pytest.raises(ep.InputError, match=r"expected search.tell\(search.ask\(\), fitness\) first"):
        _ = search.best
    with pytest.raises(ep.InputError, match="1 values are told of 2 masks; expected one for each of the 2 masks"):
        search.tell(search.ask(), [1.0])
    with pytest.raises(ep.InputError, match="expected 1 numbers a mask"):
        search.tell(search.ask(), [(1.0, 2.0), (1.0, 2.0)])
