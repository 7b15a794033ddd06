import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import evoprune as ep
from evoprune.system import loading

SMALL = ("--model", "mlp", "--widths", "8", "--epochs", "1", "--sparsity", "0.5")


def test_a_run_is_exported(evoprune, tmp_path: Path) -> None:
    assert evoprune("erk", *SMALL, "--out", "run")[0] == 0
    code, output = evoprune("export", "run", "--to", "torch", "safetensors", "--test-data")
    names = "model.pt, model.safetensors, masks.safetensors, w0.safetensors, test.safetensors"
    assert (code, output) == (0, f"written to run-export: {names}\n")
    masks = load_file(tmp_path / "run-export" / "masks.safetensors")
    assert sum(int(layer.sum()) for layer in masks.values()) == ep.Mask.load(tmp_path / "run" / "mask.npz").survivors
    code, output = evoprune("export", "run", "--to", "shrink", "--out", "small")
    assert code == 0, output
    for text in ("shrink       parameters: ", "times as fast, batch 64, one thread: ", "written to small: shrunk.pt2"):
        assert text in output
    (tmp_path / "small" / "shrunk.pt2").write_bytes(b"")
    code, output = evoprune("export", "run", "--to", "shrink", "--out", "small")
    assert (code, output.count("--force to replace it")) == (2, 1)
    assert evoprune("export", "run", "--to", "shrink", "--out", "small", "--force")[0] == 0


OWN = """
import evoprune as ep
from torch import nn


@ep.register.model("mine")
def mine(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape.numel(), 6), nn.ReLU(), nn.Linear(6, classes))
"""


@pytest.mark.slow
def test_a_registered_network_is_made_again_from_its_file(evoprune, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN.replace("input_shape.numel()", "64"))
    few = ("--epochs", "1", "--sparsity", "0.5", "--out", "run")
    assert evoprune("erk", "--load", "mine.py", "--model", "mine", *few)[0] == 0
    code, output = evoprune("export", "run", "--load", "mine.py", "--to", "safetensors", "shrink")
    assert code == 0, output
    assert "w0.safetensors, shrunk.pt2" in output


FILE = """
from torch import nn


def net(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, classes))
"""


def test_code_that_a_folder_names_runs_only_if_the_user_loads_it(evoprune, tmp_path: Path) -> None:
    (tmp_path / "exported_net.py").write_text(FILE)
    code, output = evoprune("erk", "--model", "exported_net.py:net", "--epochs", "1", "--sparsity", "0.5", "--out", "run")
    assert code == 0, output
    loaded = sys.modules.pop("evoprune_loaded_exported_net")
    loading._loaded.pop(loaded.__name__)  # as in a new process
    (tmp_path / "exported_net.py").write_text(FILE + "\nopen('ran', 'w')\n")
    code, output = evoprune("export", "run", "--to", "shrink")
    assert code == 2
    assert "load the file yourself: --load exported_net.py" in output
    assert not (tmp_path / "ran").exists()
    (tmp_path / "exported_net.py").write_text(FILE)
    code, output = evoprune("export", "run", "--to", "shrink", "--load", "exported_net.py")
    assert code == 0, output


def test_mistakes_end_with_one_message(evoprune, tmp_path: Path) -> None:
    for arguments, message in (
        (("nowhere", "--to", "torch"), "nowhere holds no run: there is no such folder"),
        (("--to", "torch"), "no folder is given; expected that of a run: evoprune export RUN --to torch"),
        ((".", "--to", "torch"), "evoprune list . shows those below it"),
        (("nowhere",), "no format is given; expected --to with some of: torch, prune"),
        (("nowhere", "--to", "torh"), "unknown format 'torh'"),
    ):
        code, output = evoprune("export", *arguments)
        assert code == 2, output
        assert message in output
        assert output.count("\n") == 1
    assert not list(tmp_path.iterdir())
    code, output = evoprune("export", "--help")
    assert code == 0
    assert "torch.nn.utils.prune" in output
    assert "export" in evoprune("--help")[1]
