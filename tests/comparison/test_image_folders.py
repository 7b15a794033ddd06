"""A comparison on folders of images: their names are recorded, their places are not."""

from pathlib import Path

import pytest
from PIL import Image

import evoprune as ep
from evoprune.comparison.options import CompareOptions, plan
from evoprune.errors import InputError
from evoprune.figures import comparisons as plot_compare

PROBLEM = {"model": "mlp", "initialization": None, "data_dir": None}


def images(folder: Path) -> Path:
    for number in range(30):
        place = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3), (8 * number, 200 * (number % 2), 0)).save(place)
    return folder


@pytest.fixture(autouse=True)
def no_data_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)


def test_a_comparison_may_move_with_its_images(tmp_path: Path) -> None:
    images(tmp_path / "a" / "pets")
    wanted = {"methods": ("erk", "dense"), "sparsities": (0.5,), "seeds": 1, "model": "mlp", "widths": (4,), "epochs": 1}
    wanted |= {"out": tmp_path / "out", "engine": "module"}
    first = ep.compare(data=(f"image-folder:{tmp_path}/a/pets",), **wanted)
    assert set(first["data"]) == {"image-folder:pets"}
    for path in (tmp_path / "out").rglob("*"):
        assert ":" not in path.name
        assert path.suffix not in (".json", ".csv") or str(tmp_path / "a") not in path.read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    again = ep.compare(data=("image-folder:pets",), data_dir=tmp_path / "b", **wanted)
    assert again.equals(first)
    names = plot_compare.save_compare_figures(tmp_path / "out")
    assert names
    assert all("image-folder-pets" in path.name for path in names)


def test_data_in_several_folders_are_refused(tmp_path: Path) -> None:
    one, other = (f"image-folder:{tmp_path / place}" for place in ("a/pets", "b/pets"))
    with pytest.raises(InputError, match=r"lie in several folders; expected one.*--data-dir"):
        plan(CompareOptions(data=(one, other)), PROBLEM, {})
    beside = f"image-folder:{tmp_path / 'a/birds'}"
    comparison, cells = plan(CompareOptions(data=(one, beside)), PROBLEM, {})
    assert comparison.problem["data_dir"] == str(tmp_path / "a")
    assert {cell.data for cell in cells} == {"image-folder:pets", "image-folder:birds"}
    again, _ = plan(CompareOptions(data=("mnist", one)), PROBLEM | {"data_dir": tmp_path / "a"}, {})
    assert again.problem["data_dir"] == str(tmp_path / "a")
