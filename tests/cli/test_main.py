"""The command ``evoprune``, within this process: help, estimates, files of the user's own, folders."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

import evoprune as ep
from evoprune.cli.experiment import folder_name
from evoprune.search.execution import Execution
from evoprune.search.registry import method_names

SMALL = ("--model", "mlp", "--widths", "8", "--epochs", "1", "--no-report")


def test_the_overview_has_a_line_for_every_method(evoprune) -> None:
    code, output = evoprune("--help")
    assert code == 0
    for name in (*method_names(), "compare", "plot"):
        assert re.search(rf"^  {re.escape(name)} +\S", output, re.M), name
    assert evoprune() == (0, output)
    assert evoprune("--version") == (0, f"{ep.__version__}\n")


@pytest.mark.parametrize("method", method_names())
def test_every_method_explains_its_options_in_groups(evoprune, method: str) -> None:
    code, output = evoprune(method, "--help")
    assert code == 0
    for text in ("problem options", "recipe options", "execution options", "--lr", "--workers", "--dry-run", "--load"):
        assert text in output
    assert "--progress" not in output
    assert " (default: " in output


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kstarts", "--sparsity", "1.0"), "sparsity is 1.0; expected"),
        (("kstarts", "--sparsity", "-0.1"), "sparsity is -0.1; expected"),
        (("kstarts", "--k", "0"), "k is 0; expected"),
        (("kstarts", "--model", "nosuch"), "unknown model 'nosuch'; expected one of"),
        (("kstarts", "--fitness", "nosuch"), "unknown fitness 'nosuch'; expected one of"),
        (("kstarts", "--fitness-epochs", "1", "--out", "/dev/null/run"), "cannot write to /dev/null/run"),
        (("evolve", "--k", "0"), "k is 0; expected"),
        (("evolve", "--mutation", "inform"), "unknown mutation 'inform'"),
        (("evolve", "--start", "nowhere/mask.npz"), "unknown start 'nowhere/mask.npz'"),
        (("evolve", "--fitness", "accuracy", "sparsity", "--selection", "best"), "expected nsga2"),
    ],
)
def test_bad_values_end_with_one_message(evoprune, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, output = evoprune(arguments[0], *SMALL, *arguments[1:])
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2, output
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_evolution_starts_from_files_and_folders(evoprune, tmp_path: Path) -> None:
    assert evoprune("snip", *SMALL, "--sparsity", 0.5, "--out", "snip")[0] == 0
    start = ("--start", "snip", "snip/mask.npz", "random")
    code, output = evoprune(
        "evolve",
        *SMALL,
        "--k",
        2,
        "--generations",
        1,
        "--trained-bests",
        0,
        "--sparsity",
        0.5,
        "--fitness-epochs",
        1,
        *start,
        "--out",
        "run",
    )
    assert code == 0, output
    assert ep.Mask.load(tmp_path / "snip" / "mask.npz").hash in (tmp_path / "run" / "evaluations.csv").read_text()


def test_wrong_names_get_the_cure(evoprune, tmp_path: Path) -> None:
    for arguments, cure in (
        (["kstart"], "Did you mean 'kstarts'"),
        (["exprot", "runs/mine"], "unknown method or command 'exprot'"),
        (["exprot", "runs/mine"], "Did you mean 'export'"),
        (["plot", "fitnes", "."], "Did you mean 'fitness'"),
        (["snip", "--load", "nowhere.py"], "cannot load 'nowhere.py'"),
        (["snip", *SMALL, "--data", "digit"], "Did you mean 'digits'"),
        (["evolve", *SMALL, "--mutation", "swop"], "Did you mean 'swap'"),
        (["snip", *SMALL, "--engine", "spars"], "Did you mean 'sparse'"),
    ):
        code, output = evoprune(*arguments)
        assert code == 2, output
        assert cure in output
        assert "Traceback" not in output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "evaluations"),
    [("kstarts", 16), ("evolve", 16 + 20 * 16), ("combine", 2), ("dissipate", 0), ("snip", 0)],
)
def test_a_dry_run_estimates_and_leaves_nothing(evoprune, tmp_path: Path, method: str, evaluations: int) -> None:
    code, output = evoprune(method, "--model", "mlp", "--epochs", "9", "--dry-run")
    assert code == 0, output
    for name in ("evaluations", "dense epochs", "multiply-adds", "memory", "disk", "time"):
        assert re.search(rf"^{name} +\S", output, re.M), output
    assert re.search(rf"^evaluations +{evaluations:,}$", output, re.M), output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_figure_is_drawn_again(evoprune, tmp_path: Path) -> None:
    assert evoprune("erk", *SMALL, "--sparsity", "0.5", "--out", "run")[0] == 0
    (tmp_path / "run" / "training.png").unlink()
    code, output = evoprune("plot", "training", "run", "--out", "figure.pdf")
    assert (code, output) == (0, "figure.pdf\n")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert evoprune("plot", "training", "run")[0] == 0
    assert (tmp_path / "run" / "training.png").exists()


def test_the_name_of_a_folder_depends_on_settings_alone() -> None:
    values = {
        "data": "digits",
        "initialization": None,
        "lr": 0.1,
        "engine": "auto",
        "workers": "auto",
        "loss": None,
        "load": (),
    }
    name = folder_name("snip", values, Execution)
    assert name.startswith("snip-digits-")
    assert name == folder_name("snip", {**values, "workers": "pool:2", "threads": 4, "dry_run": True}, Execution)
    assert name == folder_name("snip", {**values, "initialization": "kaiming"}, Execution)
    for other in ({"lr": 0.2}, {"seed": 1}, {"engine": "sparse"}, {"loss": "mse"}, {"initialization": "xavier"}):
        assert folder_name("snip", {**values, **other}, Execution) != name


@pytest.mark.slow
def test_weights_removed_at_random_are_recorded_as_the_control(evoprune, tmp_path: Path) -> None:
    few = ("--epochs", 2, "--dissipate-epochs", 1, "--sparsity", 0.3)
    code, output = evoprune("dissipate", *SMALL, *few, "--movement", "random", "--out", "run")
    assert code == 0, output
    assert json.loads((tmp_path / "run" / "result.json").read_text())["method"] == "random-dropout"


def test_a_run_on_a_folder_of_images_is_called_after_it_and_may_move_with_it(evoprune, tmp_path: Path) -> None:
    for number in range(30):
        place = tmp_path / "here" / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3), (8 * number, 200 * (number % 2), 0)).save(place)
    code, output = evoprune("erk", *SMALL, "--sparsity", "0.5", "--data", f"image-folder:{tmp_path}/here/pets")
    assert code == 0, output
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("erk-image-folder-pets-")
    for name in ("config.json", "result.json"):
        text = (folder / name).read_text()
        assert '"image-folder:pets"' in text
        assert str(tmp_path) not in text
    assert json.loads((folder / "result.json").read_text())["data_digest"]
    (tmp_path / "here").rename(tmp_path / "there")
    for given in (f"image-folder:{tmp_path}/there/pets",), ("image-folder:pets", "--data-dir", "there"):
        code, output = evoprune("erk", *SMALL, "--sparsity", "0.5", "--data", *given)
        assert code == 0, output
        assert "is finished already" in output
    Image.new("RGB", (3, 3), (1, 2, 3)).save(tmp_path / "there" / "pets" / "cat" / "1.png")
    code, output = evoprune("erk", *SMALL, "--sparsity", "0.5", "--data", f"image-folder:{tmp_path}/there/pets")
    assert code != 0
    assert "data" in output
