"""Residual networks on images with augmentation and milestones, as users start them: killed, and resumed on other workers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.comparing import assert_same
from support.datasets import FOLDERS, cifar_files, write_files
from support.processes import kill_group, python, python_anew, start, wait_for

from evoprune.runs import records

pytestmark = pytest.mark.process

SETTINGS = (
    *("--model", "resnet-20", "--widths", 4, "--augment", "crop:4", "flip", "--schedule", "milestones", "--nesterov"),
    *("--sparsity", 0.95, "--k", 6, "--epochs", 4, "--fitness-epochs", 2, "--batch-size", 25),
)  # fmt: skip
WITHOUT = ("bests.csv", "hall_of_fame")


def cifar(folder: Path) -> list[object]:
    write_files(folder / FOLDERS["cifar10", "binary"], cifar_files("cifar10", "binary", 30))
    return ["--data", "cifar10", "--data-dir", folder]


def folder_of_images(folder: Path) -> list[object]:
    rng = np.random.default_rng(0)
    for part, count in (("train", 70), ("test", 15)):
        for place, name in enumerate(("cat", "dog")):
            (folder / "pets" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (32, 32, 3), np.uint8)
                pixels[:, 16 * place :][:, :16] += 90
                Image.fromarray(pixels).save(folder / "pets" / part / name / f"{i:03}.jpg")
    return ["--data", f"image-folder:{folder / 'pets'}"]


DATA = {"cifar10": cifar, "image-folder": folder_of_images}


@pytest.fixture(scope="module", params=DATA)
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    """A whole run, and its command line without a folder."""
    folder = tmp_path_factory.mktemp("images")
    command = ["experiments/kstarts.py", *DATA[request.param](folder), *SETTINGS]
    code, output = python(*command, "--out", folder / "run")
    assert code == 0, output
    assert ("is not the published data set cifar10" in output) == (request.param == "cifar10")
    result = records.read_json(folder / "run" / "result.json")
    assert result is not None
    assert result["data"] == {"cifar10": "cifar10", "image-folder": "image-folder:pets"}[request.param]
    assert abs(float(str(result["sparsity"])) - 0.95) < 1e-4
    return folder / "run", command


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "on", ["serial", pytest.param("scoop", marks=pytest.mark.slow), pytest.param("dask:2", marks=pytest.mark.slow)]
)
def test_killed_and_resumed(images: tuple[Path, list[object]], tmp_path: Path, on: str) -> None:
    whole, command = images
    launcher = ["-m", "evoprune.scoop", "-n", 2] if on == "scoop" else []
    arguments = [*launcher, *command, "--workers", on, "--out", tmp_path]
    process = start([str(a) for a in arguments])
    rows = tmp_path / "evaluations.csv"
    wait_for(process, lambda: rows.exists() and rows.read_text().count("\n") > 2)
    kill_group(process)
    process.communicate()
    assert rows.read_text().count("\n") <= 6
    code, output = python_anew(*arguments)
    assert code == 0, output
    assert_same(whole, tmp_path, WITHOUT)
