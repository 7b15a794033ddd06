"""Links that lead out of a folder, and names that choose a place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import comparison
from support.tables import evaluations

import evoprune as ep
from evoprune.comparison import course as cells
from evoprune.comparison import markdown as tables
from evoprune.comparison import spread
from evoprune.comparison.cells import Comparison, make_cells
from evoprune.figures import comparisons as plot_compare
from evoprune.figures import runs as plot
from evoprune.runs.run import Run
from evoprune.system import files
from evoprune.workers.base import Returned

# Names and links from strangers


LINKS = ["config.json", "evaluations.csv", "result.json", ".lock", "mask.npz", "starts.png", ".config.json.tmp", "checkpoint",
         "hall_of_fame", "checkpoint/mask.json", "checkpoint/evidence-000001", "hall_of_fame/000.npz"]  # fmt: skip


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside, whose one file must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("{}")
    return tmp_path / "outside"


def link_out(folder: Path, name: str, victim: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim if "." not in path.name else victim / "file")


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_a_run_is_refused(tmp_path: Path, victim: Path, digits: ep.Problem, name: str) -> None:
    link_out(tmp_path / "run", name, victim)
    uses: list[Callable[[], object]] = [
        lambda: ep.k_starts(digits, k=2, sparsity=0.9, fitness_epochs=1, out=tmp_path / "run"),
        lambda: ep.k_starts(digits, k=2, sparsity=0.9, fitness_epochs=1, out=tmp_path / "run", force=True),
        lambda: plot.save_figures(tmp_path / "run"),
        lambda: plot.FIGURES["training"](tmp_path / "run"),
        lambda: plot.FIGURES["fitness"](tmp_path / "run"),
        lambda: ep.evolve(digits, ep.Evolution(start=(str(tmp_path / "run"),)), sparsity=0.9),
    ]
    for use in uses:
        with pytest.raises(ep.InputError, match=r"symbolic link to .*outside.*remove the link"):
            use()
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "{}"


@pytest.mark.parametrize("name", ["cells.csv", "compare.json", "table.md", ".lock", "cells", "cells/a", "cells/a/checkpoint"])
def test_a_link_out_of_a_comparison_is_refused(tmp_path: Path, victim: Path, name: str) -> None:
    link_out(tmp_path / "comparison", name, victim)
    wanted = make_cells(["random"], ["digits"], "mlp", [0.9], [0])
    uses: list[Callable[[], object]] = [
        lambda: cells.compare(Comparison({}, {"epochs": 1}, {}), wanted, tmp_path / "comparison"),
        lambda: tables.write_tables(tmp_path / "comparison"),
        lambda: plot_compare.save_compare_figures(tmp_path / "comparison"),
    ]
    for use in uses:
        with pytest.raises(ep.InputError, match=r"symbolic link to .*outside.*remove the link"):
            use()
    assert (victim / "file").read_text() == "{}"


def test_links_within_and_to_the_folder_are_taken(tmp_path: Path, digits: ep.Problem) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "checkpoint").symlink_to("kept")
    (tmp_path / "disk" / "kept").mkdir()
    with Run.plan(tmp_path / "run", "kstarts", {}, force=True).of(digits) as run:
        run.record(0, evaluations(0))
    assert (tmp_path / "disk" / "evaluations.csv").exists()


NAMES = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "x" * 300, "C:x", "a*", None, 3]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_plain_are_refused(name: Any) -> None:
    with pytest.raises(ep.InputError, match="expected a plain name"):
        files.plain_name(name, "a worker")


@pytest.mark.parametrize("name", ["mask.npz", "accuracy-fashion-mnist-lenet-300-100.png", "Bücher (2).csv", "a+b=c,d@e"])
def test_plain_names_are_taken(name: str) -> None:
    assert files.plain_name(name, "a worker") == name


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../b", "x" * 300])
@pytest.mark.parametrize("column", ["data", "model"])
def test_names_in_tables_choose_no_place(tmp_path: Path, name: str, column: str) -> None:
    (tmp_path / "comparison").mkdir()
    comparison.cells(["random"], seeds=1).assign(**{column: name}).to_csv(tmp_path / "comparison" / "cells.csv", index=False)
    with pytest.raises(ep.InputError, match="expected a plain name"):
        plot_compare.save_compare_figures(tmp_path / "comparison")
    assert [path.name for path in tmp_path.rglob("*")] == ["comparison", "cells.csv"]


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "sub/evil", ".lock"])
def test_names_from_workers_choose_no_place(tmp_path: Path, name: str) -> None:
    wanted = make_cells(["random"], ["digits"], "mlp", [0.9], [0])

    class Evil:
        evaluation_timeout = None

        def submit(self, *_: object) -> int:
            return 0

        def wait(self) -> tuple[int, Returned]:
            return 0, Returned(("ok", {name: b"evil"}))

        def count(self) -> int:
            return 1

        def close(self) -> None:
            pass

    with pytest.raises(ep.InputError, match=r"a worker names a file .*expected a plain name"):
        list(spread.spread_cells(Evil(), Comparison({}, {}, {}), wanted, tmp_path / "cells", []))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
