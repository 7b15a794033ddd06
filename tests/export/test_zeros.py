from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.problem.prunable import prunable

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def mask_for(model: nn.Module, **options: object) -> ep.Mask:
    return ep.random_mask(prunable(model, **options), 0.5, np.random.default_rng(0), "uniform")


def step(model: nn.Module, optimizer: torch.optim.Optimizer, i: int) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(i))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), x.argmax(1) % 3).backward()
    optimizer.step()


def removed_of(model: nn.Module, mask: ep.Mask) -> list[tuple[nn.Parameter, torch.Tensor]]:
    return [(model.get_parameter(name), torch.from_numpy(~layer)) for name, layer in mask.layers.items()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_are_zero_after_every_step_and_not_remembered(name: str) -> None:
    model = network()
    mask, optimizer = mask_for(model), OPTIMIZERS[name](model.parameters())
    for i in range(3):
        step(model, optimizer, i)  # the optimiser has a memory of all weights by now
    kept = ep.export.keep_zero(mask, model, optimizer)
    before = [weight.detach().clone() for weight, _ in removed_of(model, mask)]
    assert all((weight[removed] == 0).all() for weight, removed in removed_of(model, mask))
    for i in range(3, 7):
        step(model, optimizer, i)
        for weight, removed in removed_of(model, mask):
            assert (weight[removed] == 0).all()
            assert (weight.grad[removed] == 0).all()
            for memory in optimizer.state[weight].values():
                if memory.shape == weight.shape and name != "Rprop":  # whose memory is a size of steps
                    assert (memory[removed] == 0).all()
    for (weight, removed), old in zip(removed_of(model, mask), before, strict=True):
        assert (weight[~removed] != old[~removed]).all()
    kept.remove()
    step(model, optimizer, 7)
    assert any((weight.grad[removed] != 0).any() for weight, removed in removed_of(model, mask))
    assert any((weight[removed] != 0).any() for weight, removed in removed_of(model, mask))


def test_survivors_move_as_in_the_products_of_torch() -> None:
    """The reference: torch's parametrisation multiplies weights by the mask, and so masks gradients."""
    ours, theirs = network(), network()
    mask = mask_for(ours)
    one, other = (torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (ours, theirs))
    ep.export.apply(mask, theirs)
    with ep.export.keep_zero(mask, ours, one):
        for i in range(5):
            step(ours, one, i)
            step(theirs, other, i)
    for name, layer in mask.layers.items():
        expected = theirs.get_parameter(f"{name}_orig").detach() * torch.from_numpy(layer)
        assert torch.allclose(ours.get_parameter(name), expected, atol=1e-6)
        assert (ours.get_parameter(name).detach()[torch.from_numpy(~layer)] == 0).all()


def test_the_context_ends_it() -> None:
    model = network()
    mask, optimizer = mask_for(model), torch.optim.SGD(model.parameters(), lr=0.1)
    with ep.export.keep_zero(mask, model, optimizer):
        step(model, optimizer, 0)
        assert all((weight[removed] == 0).all() for weight, removed in removed_of(model, mask))
    step(model, optimizer, 1)
    assert not all((weight[removed] == 0).all() for weight, removed in removed_of(model, mask))


def test_sparse_gradients_and_those_that_are_not_finite() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    keep = torch.ones(5, 3, dtype=torch.bool)
    keep[1, 2] = keep[4, 0] = False
    optimizer = torch.optim.SparseAdam(table.parameters())
    ep.export.keep_zero(ep.Mask.from_layers({"weight": keep}), table, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        table(torch.tensor([1, 1, 2])).square().sum().backward()
        assert table.weight.grad.is_sparse
        optimizer.step()
        assert (table.weight[~keep] == 0).all()
    model = network()
    mask, sgd = mask_for(model), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ep.export.keep_zero(mask, model, sgd)
    (model(torch.full((2, 6), 1e38)) * 1e38).sum().backward()
    sgd.step()
    assert all((weight[removed] == 0).all() for weight, removed in removed_of(model, mask))


def test_a_gradient_that_is_there_already_and_a_frozen_layer() -> None:
    model = network()
    model[2].weight.requires_grad_(False)
    mask = mask_for(model)
    optimizer = torch.optim.SGD([model[0].weight, model[0].bias], lr=0.1)
    model(torch.ones(2, 6)).sum().backward()
    ep.export.keep_zero(mask, model, optimizer)
    assert (model[0].weight.grad[torch.from_numpy(~mask.layers["0.weight"])] == 0).all()
    assert (model[2].weight[torch.from_numpy(~mask.layers["2.weight"])] == 0).all()


def test_optimizers_of_other_parameters_are_refused() -> None:
    model = network()
    mask = mask_for(model)
    with pytest.raises(ep.InputError, match=r"lacks the parameter 0.weight"):
        ep.export.keep_zero(mask, model, torch.optim.SGD(network().parameters(), lr=0.1))
    with pytest.raises(ep.InputError, match="optimizer is float"):
        ep.export.keep_zero(mask, model, 0.1)
    assert all((weight != 0).all() for weight, _ in removed_of(model, mask))


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_forgets_and_never_tries_removed_weights(search: str | None) -> None:
    model = network()
    mask, optimizer = mask_for(model), torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn=search)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    tried: list[bool] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        tried.append(all((weight[removed] == 0).all() for weight, removed in removed_of(model, mask)))
        loss = nn.functional.cross_entropy(model(x), x.argmax(1) % 3)
        loss.backward()
        return loss

    optimizer.step(closure)
    ep.export.keep_zero(mask, model, optimizer)
    tried.clear()
    before = closure().item()
    for _ in range(2):
        optimizer.step(closure)
    assert all(tried) and closure().item() < before
