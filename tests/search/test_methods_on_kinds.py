"""Every method on a network of an embedding, attention, an LSTM and a linear layer."""

from typing import Any

import numpy as np
import pytest
import torch
from support.kinds import problem_of

import evoprune as ep
from evoprune.search.registry import method_names

SPARSITY = 0.6
BRIEF = {"k": 2, "fitness_epochs": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "kstarts": {**BRIEF, "controls": False},
    "combine": {**BRIEF, "controls": False, "dissipate_epochs": 1},
    "evolve": {**BRIEF, "generations": 1, "trained_bests": 0, "controls": False},
    "evolve-gmp": {**BRIEF, "generations": 1},
    "dissipate": {"dissipate_epochs": 1},
}


@pytest.mark.sampled(10)
@pytest.mark.filterwarnings("ignore::evoprune.errors.CollapseWarning")
@pytest.mark.parametrize("name", [name for name in method_names() if name != "train"])
def test_every_method_prunes_every_kind(name: str) -> None:
    problem = problem_of("everything", "float32")
    options = {} if name == "dense" else {"sparsity": SPARSITY, **OPTIONS.get(name, {})}
    result = ep.prune(problem, name, **options)
    n = problem.prunable_count
    assert result.mask.survivors == (n if name == "dense" else round((1 - SPARSITY) * n))
    assert list(result.mask.layers) == list(problem.shapes)
    state = result.model.state_dict()
    for layer, kept in result.mask.layers.items():
        assert not state[layer][torch.from_numpy(~kept)].any()
    trained = np.concatenate([state[layer][torch.from_numpy(kept)].numpy() for layer, kept in result.mask.layers.items()])
    assert np.isfinite(trained).all()
    assert np.mean(trained != problem.w0[result.mask.bits]) > 0.9


@pytest.mark.parametrize("name", ["kstarts", "imp"])
def test_weights_that_are_looked_up_cost_nothing(name: str) -> None:
    looked_up = problem_of("embedding", "float32", exclude=("hidden", "last"))
    result = ep.prune(looked_up, name, sparsity=SPARSITY, **OPTIONS.get(name, {}))
    assert result.mask.survivors == round((1 - SPARSITY) * looked_up.prunable_count)
    assert result.summary["multiply_adds"] == 0
