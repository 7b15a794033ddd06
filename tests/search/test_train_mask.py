"""Masks of other codes, trained and evolved; and untrained networks, judged as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import ROOT, python
from torch.nn.utils import prune

import evoprune as ep


@pytest.fixture
def mask(digits: ep.Problem) -> ep.Mask:
    return ep.baselines.snip(digits, sparsity=0.9)


def test_a_mask_is_trained_as_its_method_would_train_it(digits: ep.Problem, mask: ep.Mask, tmp_path: Path) -> None:
    expected = ep.baseline(digits, "snip", sparsity=0.9)
    found = ep.train_mask(digits, mask, out=tmp_path / "run")
    assert found.mask == mask
    for name in ("test_accuracy", "test_loss", "survivors"):
        assert found.summary[name] == expected.summary[name]
    assert (found.summary["search_epochs"], found.summary["total_epochs"]) == (0, digits.recipe.epochs)
    assert found.summary["method"] == "train"
    assert ep.Mask.load(tmp_path / "run" / "mask.npz") == mask
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + digits.recipe.epochs
    mask.save(tmp_path / "own.npz")
    again = ep.train_mask(digits, tmp_path / "own.npz", out=tmp_path / "run")  # the same run, finished
    assert again.summary["test_loss"] == expected.summary["test_loss"]
    assert ep.train_mask(digits, tmp_path / "run").mask == mask  # of a run folder
    other = ep.random_mask(digits.shapes, 0.9, np.random.default_rng(0))
    with pytest.raises(ep.InputError, match="holds another run: of was"):
        ep.train_mask(digits, other, out=tmp_path / "run")


def test_masks_of_any_number_of_survivors_are_trained(digits: ep.Problem, mask: ep.Mask) -> None:
    mask.bits[np.flatnonzero(~mask.bits)[:7]] = True
    result = ep.train_mask(digits, mask)
    assert result.summary["survivors"] == mask.survivors
    for name, layer in mask.layers.items():
        weight = result.model.get_parameter(name).detach()
        assert bool((weight[torch.from_numpy(~layer)] == 0).all())


def test_masks_of_torch_prune_are_taken(digits: ep.Problem) -> None:
    network = digits.network()
    layers = [(module, "weight") for module in network if hasattr(module, "weight")]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=0.9)
    buffers = {name.removesuffix("_mask"): values for name, values in network.named_buffers()}
    mask = ep.Mask.from_layers(buffers)
    assert mask == ep.baselines.magnitude(digits, sparsity=0.9)
    assert ep.train_mask(digits, mask).summary["survivors"] == mask.survivors


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.ones(3), "mask is ndarray; expected ep.Mask"),
        (None, "mask is NoneType"),
        ("nowhere.npz", "cannot read a mask"),
        (ep.Mask(np.ones(6, bool), {"a": (2, 3)}), "does not fit the network"),
    ],
)
def test_what_is_no_mask_is_refused(digits: ep.Problem, given: Any, said: str) -> None:
    with pytest.raises(ep.InputError, match=said):
        ep.train_mask(digits, given)


def test_an_empty_mask_is_refused(digits: ep.Problem, mask: ep.Mask) -> None:
    mask.bits[:] = False
    with pytest.raises(ep.InputError, match="keeps no weights"):
        ep.train_mask(digits, mask)


def test_a_mask_in_the_place_of_a_baseline_is_told_where_to_go(digits: ep.Problem, mask: ep.Mask) -> None:
    with pytest.raises(ep.InputError, match=r"ep\.train_mask\(problem, mask\)"):
        ep.baseline(digits, mask)  # type: ignore[arg-type]


def test_an_evolution_starts_from_masks(digits: ep.Problem, mask: ep.Mask, tmp_path: Path) -> None:
    run = {"sparsity": 0.9, "fitness_epochs": 1, "controls": False, "trained_bests": 0}
    mask.save(tmp_path / "own.npz")
    by_path = ep.evolve(digits, ep.Evolution(k=2, generations=1, start=(str(tmp_path / "own.npz"), "random")), **run)
    for start in ([mask, "random"], (mask, mask, "random")):
        found = ep.evolve(digits, ep.Evolution(k=2, generations=1, start=start), **run)
        assert found.mask == by_path.mask
    options = ep.Evolution(k=1, generations=0, start=mask)
    alone = ep.evolve(digits, options, **run, out=tmp_path / "run")
    assert alone.mask == mask
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["start"] == [f"mask {mask.hash}"]
    assert not mask.fitness.valid  # the user's mask stays as it is


def test_a_start_with_other_survivors_says_what_to_pass(digits: ep.Problem, mask: ep.Mask) -> None:
    mask.bits[np.flatnonzero(~mask.bits)[0]] = True
    evolution = ep.Evolution(k=1, generations=0, start=[mask])
    run = {"fitness_epochs": 1, "controls": False, "trained_bests": 0}
    with pytest.raises(ep.InputError, match=rf"Pass sparsity={mask.sparsity!r}.*train_mask"):
        ep.evolve(digits, evolution, sparsity=0.9, **run)
    assert ep.evolve(digits, evolution, sparsity=mask.sparsity, **run).mask == mask
    with pytest.raises(ep.InputError, match="start has 3"):
        ep.evolve(digits, ep.Evolution(start=[3]), sparsity=0.9, **run)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.process
def test_the_script_trains_a_mask(digits: ep.Problem, tmp_path: Path) -> None:
    problem = ep.Problem(model="mlp", widths=(24, 16), recipe=ep.Recipe(epochs=2))
    mask = ep.random_mask(problem.shapes, 0.9, np.random.default_rng(0))
    mask.save(tmp_path / "own.npz")
    options = ("--model", "mlp", "--widths", 24, 16, "--epochs", 2, "--out", tmp_path / "run")
    code, output = python("experiments/train.py", tmp_path / "own.npz", *options)
    assert code == 0, output
    assert f"survivors              {mask.survivors}" in output
    code, output = python(ROOT / "experiments/train.py", "own.npz", *options[:-2], folder=tmp_path)
    assert code == 0, output
    assert "written to runs/train-digits-" in output
    code, output = python("experiments/train.py", tmp_path / "none.npz", *options)
    assert code == 2
    assert "cannot read a mask" in output


@pytest.mark.parametrize("fitness", ["loss", "accuracy", "magnitude"])
def test_untrained_networks_are_judged_as_they_are(digits: ep.Problem, fitness: str, engine: str) -> None:
    evaluator = ep.Evaluator(digits, fitness=fitness, epochs=0, engine=engine)
    mask = ep.random_mask(digits.shapes, 0.5, np.random.default_rng(0))
    (value,) = evaluator(mask)
    network = digits.network().eval()
    with torch.no_grad():
        for name, layer in mask.layers.items():
            network.get_parameter(name).mul_(torch.from_numpy(layer))
        x, y = digits.part("validation")
        outputs = network(x)
    expected = {
        "loss": -float(digits.loss(outputs, y)),
        "accuracy": float((outputs.argmax(1) == y).double().mean()),
        "magnitude": sum(float(network.get_parameter(name).detach().abs().double().sum()) for name in digits.shapes),
    }
    assert value == pytest.approx(expected[fitness], rel=1e-5)
    assert evaluator.known[mask.hash].multiply_adds == 0


@pytest.mark.parametrize("fitness", ["gradient", "combined", ["loss", "gradient"]])
def test_untrained_networks_have_no_gradient(digits: ep.Problem, fitness: Any) -> None:
    with pytest.raises(ep.InputError, match="no accumulated gradient; take loss, accuracy or magnitude"):
        ep.Evaluator(digits, fitness=fitness, epochs=0)


def test_searches_of_strong_tickets(digits: ep.Problem) -> None:
    result = ep.k_starts(digits, k=4, sparsity=0.5, fitness="loss", fitness_epochs=0)
    assert result.summary["search_epochs"] == 0
    assert result.summary["total_epochs"] == digits.recipe.epochs
    with pytest.warns(UserWarning, match="have not moved: survivors are dropped by magnitude"):
        result = ep.evolve(digits, ep.Evolution(k=2, generations=2), sparsity=0.5, fitness="loss", fitness_epochs=0)
    assert result.summary["winner_fitness"] >= result.logbook[0]["max"]
    with pytest.raises(ep.InputError, match="untrained weights have not moved; take drop='magnitude'"):
        ep.make_toolbox(digits, fitness="loss", fitness_epochs=0, evidence=0.1)
    ep.combine(digits, sparsity=0.9, fitness="loss", fitness_epochs=0, dissipate_epochs=2)
    with pytest.raises(ep.InputError, match="in which no weight dissipates"):
        ep.combine(digits, sparsity=0.9, fitness="loss", fitness_epochs=0, select="end")
