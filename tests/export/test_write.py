import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import kinds
from torch import nn
from torch.nn.utils import prune

import evoprune as ep
from evoprune.export.formats import EXPORTS
from evoprune.problem.models import build

PLAIN = ("torch", "prune", "safetensors", "csr")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: ep.Problem) -> Path:
    path = tmp_path_factory.mktemp("export") / "run"
    ep.baseline(digits, "snip", sparsity=0.9, out=path)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ep.Problem]:
    """A run on a network and data without names."""
    path = tmp_path_factory.mktemp("export") / "own"
    problem = kinds.problem_of("everything", "float32")
    ep.baseline(problem, "random", sparsity=0.5, out=path)
    return path, problem


def read(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name) if name.endswith(".safetensors") else torch.load(folder / name, weights_only=True)


def network(digits: ep.Problem) -> nn.Module:
    return build("mlp", digits.data.train[0].shape[1:], 10, (24, 16))


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    written = ep.export.write(folder, PLAIN, out, test_data=True)
    assert sorted(path.name for path in written.files) == sorted(path.name for path in out.iterdir())
    return out


def test_plain_weights_are_those_of_the_run(exported: Path, folder: Path, digits: ep.Problem) -> None:
    expected = load_file(folder / "model.safetensors")
    for name in ("model.pt", "model.safetensors"):
        found = read(exported, name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        network(digits).load_state_dict(found)


def test_pruned_weights_load_into_a_module_under_prune(exported: Path, folder: Path, digits: ep.Problem) -> None:
    state, module, mask = read(exported, "pruned.pt"), network(digits), ep.Mask.load(folder / "mask.npz")
    for name in ("fc1", "fc2", "fc3"):
        prune.identity(module.get_submodule(name), "weight")
    module.load_state_dict(state)
    assert ep.export.mask_of(module) == mask
    x, y = digits.data.test
    accuracy = (module(x).argmax(1) == y).double().mean().item()
    assert accuracy == json.loads((folder / "result.json").read_text())["test_accuracy"]


def test_masks_initial_weights_and_the_test_set(exported: Path, folder: Path, digits: ep.Problem) -> None:
    mask, masks, w0 = ep.Mask.load(folder / "mask.npz"), read(exported, "masks.safetensors"), read(exported, "w0.safetensors")
    assert all(masks[name].dtype == torch.uint8 for name in masks)
    assert ep.Mask.from_layers({name: masks[name] for name in mask.shapes}) == mask
    assert np.array_equal(np.concatenate([w0[name].numpy().ravel() for name in mask.shapes]), digits.w0)
    test, (x, y) = read(exported, "test.safetensors"), digits.data.test
    assert torch.equal(test["inputs"], x)
    assert torch.equal(test["targets"], y)


def test_csr_has_every_survivor(exported: Path, folder: Path) -> None:
    found, dense = read(exported, "csr.pt"), load_file(folder / "model.safetensors")
    mask = ep.Mask.load(folder / "mask.npz")
    for name, tensor in dense.items():
        if name in mask.shapes:
            assert found[name].layout == torch.sparse_csr
            assert found[name].values().numel() == mask.layers[name].sum()
        assert torch.equal(found[name].to_dense(), tensor)


def test_survivors_alone_load_into_a_sparse_network(folder: Path, tmp_path: Path, digits: ep.Problem) -> None:
    ep.export.write(folder, "sparse", tmp_path / "out")
    network_, mask = network(digits), ep.Mask.load(folder / "mask.npz")
    loaded, inputs = ep.sparse(network_, mask), digits.part("test")[0][:20]
    loaded.load_state_dict(read(tmp_path / "out", "sparse.pt"))
    network_.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs), network_(inputs))
    assert sum(layer.values.numel() for layer in loaded.modules() if isinstance(layer, ep.SparseLinear)) == mask.survivors


def test_survivors_that_are_zero_stay_in_csr(tmp_path: Path, digits: ep.Problem) -> None:
    mask = ep.Mask.from_layers({"fc": [[True, False], [True, True]]})
    model = nn.ParameterDict({"fc": torch.tensor([[0.0, 0.0], [1.0, 2.0]])})
    ep.export.write(ep.Result(mask, model, {}, {}), "csr", tmp_path)
    assert read(tmp_path, "csr.pt")["fc"].values().tolist() == [0.0, 1.0, 2.0]


def test_a_result_is_exported_like_its_folder(exported: Path, tmp_path: Path, digits: ep.Problem) -> None:
    result = ep.baseline(digits, "snip", sparsity=0.9)
    ep.export.write(result, PLAIN, tmp_path, problem=digits, test_data=True)
    for path in exported.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    other = ep.Problem(model="mlp", widths=(24, 16), data="digits", recipe=digits.recipe, seed=1)
    with pytest.raises(ep.InputError, match=r"not that of the result: these differ: weights\. Give the problem"):
        ep.export.write(result, "safetensors", tmp_path / "other", problem=other)
    with pytest.raises(ep.InputError, match="out is None"):
        ep.export.write(result, "torch")
    with pytest.raises(ep.InputError, match="a result does not have its problem"):
        ep.export.write(result, (), tmp_path, test_data=True)


def test_a_result_of_a_problem_that_cannot_be_identified(tmp_path: Path) -> None:
    log = (tmp_path / "log").open("w")

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        log.write("called")
        return torch.nn.functional.cross_entropy(outputs, targets)

    with log:
        problem = ep.Problem(model="mlp", widths=(6,), data="digits", recipe=ep.Recipe(epochs=1), loss=loss)
        with pytest.raises(ep.InputError, match="cannot be told from another"):
            problem.identify()
        result = ep.baseline(problem, "erk", sparsity=0.5)
        ep.export.write(result, "safetensors", tmp_path / "out", problem=problem)
    assert set(read(tmp_path / "out", "w0.safetensors")) == set(problem.network().state_dict())


def test_onnx_computes_as_torch_does(folder: Path, tmp_path: Path, digits: ep.Problem) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    facts = ep.export.write(folder, "onnx", tmp_path).facts["onnx"]
    assert facts["largest difference to torch"] < 1e-4
    module = network(digits)
    module.load_state_dict(load_file(folder / "model.safetensors"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    x = digits.data.test[0][:7]
    assert np.allclose(session.run(None, {"input": x.numpy()})[0], module(x).detach().numpy(), atol=1e-4)


def test_a_shrunk_network_is_read_by_torch(folder: Path, tmp_path: Path, digits: ep.Problem) -> None:
    facts = ep.export.write(folder, "shrink", tmp_path).facts["shrink"]
    assert any(name.startswith("times as fast") and float(value) > 0 for name, value in facts.items())
    small, module = torch.export.load(tmp_path / "shrunk.pt2").module(), network(digits)
    module.load_state_dict(load_file(folder / "model.safetensors"))
    x = digits.data.test[0][:9]
    assert torch.allclose(small(x), module(x), atol=1e-5)
    left = sum(parameter.numel() for parameter in small.parameters())
    assert facts["parameters"] == f"{digits.parameter_count:,} before, {left:,} after"
    assert left < digits.parameter_count


def test_a_network_of_the_users_own(own: tuple[Path, ep.Problem], tmp_path: Path) -> None:
    folder, problem = own
    written = ep.export.write(folder, PLAIN, tmp_path)
    assert "cannot be made again" in written.facts["safetensors"]["left out"]
    assert not (tmp_path / "w0.safetensors").exists()
    assert set(read(tmp_path, "masks.safetensors")) == set(problem.shapes)
    module = problem.network()
    module.load_state_dict(read(tmp_path, "model.pt"))
    with pytest.raises(ep.InputError, match=r"from Python.*unknown model 'own.Everything'"):
        ep.export.write(folder, "shrink", tmp_path)
    ep.export.write(folder, "safetensors", tmp_path, problem=problem)
    assert (tmp_path / "w0.safetensors").exists()
    with pytest.raises(ep.InputError, match=r"the problem is not that of .*: these differ: .*network"):
        ep.export.write(folder, "safetensors", tmp_path, problem=kinds.problem_of("attention", "float32"))
    with pytest.raises(ep.InputError, match="the model is not that of"):
        ep.export.write(folder, "shrink", tmp_path, model=nn.Linear(2, 2), example=torch.ones(2, 2))


def test_a_module_and_an_example_in_place_of_the_problem(tmp_path: Path, folder: Path, digits: ep.Problem) -> None:
    ep.export.write(folder, "shrink", tmp_path, model=network(digits), example=torch.zeros(3, *digits.data.train[0].shape[1:]))
    assert (tmp_path / "shrunk.pt2").exists()


def test_other_files_stay(folder: Path, tmp_path: Path) -> None:
    ep.export.write(folder, "torch", tmp_path)
    before = (tmp_path / "model.pt").read_bytes()
    ep.export.write(folder, "torch", tmp_path)  # the same content
    (tmp_path / "model.pt").write_bytes(b"mine")
    with pytest.raises(ep.InputError, match=r"model.pt is there already, with another content; .*--force"):
        ep.export.write(folder, ["csr", "torch"], tmp_path)
    assert (tmp_path / "model.pt").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]  # nothing is half-written
    ep.export.write(folder, "torch", tmp_path, force=True)
    assert (tmp_path / "model.pt").read_bytes() == before
    (tmp_path / "csr.pt").mkdir()
    with pytest.raises(ep.InputError, match="is a folder"):
        ep.export.write(folder, "csr", tmp_path, force=True)
    with pytest.raises(ep.InputError, match="is no folder"):
        ep.export.write(folder, "csr", tmp_path / "model.pt" / "x")


def test_the_usual_folder_lies_beside_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (first,) = ep.export.write(folder, "torch").files
    (second,) = ep.export.write(".", "torch").files
    assert first.resolve() == second.resolve() == (folder.parent / "run-export" / "model.pt").resolve()


def test_runs_that_cannot_be_exported_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ep.InputError, match="holds no run"):
        ep.export.write(tmp_path, "torch")
    with pytest.raises(ep.InputError, match=r"unknown format 'onx'; .* Did you mean 'onnx'"):
        ep.export.write(folder, "onx")
    with pytest.raises(ep.InputError, match="to is empty"):
        ep.export.write(folder, [])
    with pytest.raises(ep.InputError, match="the run is Problem"):
        ep.export.write(ep.Problem(), "torch", tmp_path)
    with pytest.raises(ep.InputError, match="unknown option 'modell'"):
        ep.export.write(folder, "torch", tmp_path, modell=1)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(bytes(content))
    with pytest.raises(ep.InputError, match=r"model.safetensors in .* differs from what evoprune wrote"):
        ep.export.write(other, "torch")
    (other / "result.json").unlink()
    with pytest.raises(ep.InputError, match="is not finished, and has no trained network yet"):
        ep.export.write(other, "torch")
    assert not (tmp_path / "other-export").exists()


def test_every_format_has_a_summary_in_the_help() -> None:
    assert all(form.summary for form in EXPORTS.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"to": None}, "to is None; expected some of: torch"),
        ({"to": 3}, "to is 3"),
        ({"example": [1]}, "example is list; expected a tensor"),
        ({"example": torch.zeros(0, 1, 8, 8)}, r"example has the shape \(0, 1, 8, 8\)"),
        ({"model": "mlp"}, "model is str; expected a torch.nn.Module"),
        ({"problem": "digits"}, "problem is str; expected an ep.Problem"),
    ],
)
def test_values_of_another_kind_are_refused(folder: Path, tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.export.write(folder, **{"to": "shrink", "out": tmp_path, **given})
    assert not list(tmp_path.iterdir())
