import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support import kinds
from support.networks import NETWORKS
from torch import Tensor, nn
from torch.nn.utils import prune

import evoprune as ep
from evoprune.problem.prunable import prunable

NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, tuple[str, ...]]] = {
    **kinds.KINDS,
    **{
        name: (make, torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)), ())
        for name, (make, shape) in NETWORKS.items()
    },
}


def drawn(name: str) -> tuple[nn.Module, Tensor, ep.Mask]:
    """Returns a network, inputs, and a random mask of all its prunable weights."""
    make, x, include = NETS[name]
    model = kinds.made(make, x).eval()
    shapes = prunable(model, include=include)
    return model, x[:4], ep.random_mask(shapes, 0.6, np.random.default_rng(0), "uniform")


def multiplied(model: nn.Module, mask: ep.Mask) -> nn.Module:
    """Returns a copy whose weights are multiplied by the mask by hand."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in mask.layers.items():
            copied.get_parameter(name).mul_(torch.from_numpy(layer))
    return copied


def removed_everywhere(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    return model


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", NETS)
def test_a_mask_comes_back_and_the_outputs_are_those_of_masked_weights(name: str) -> None:
    model, x, mask = drawn(name)
    expected = multiplied(model, mask)(x)
    before = dict(model.named_parameters())
    assert ep.export.apply(mask, model) is model
    assert prune.is_pruned(model)
    assert ep.export.mask_of(model) == mask
    assert torch.equal(model(x), expected)
    assert all(model.get_parameter(f"{each}_orig") is before[each] for each in mask.shapes)
    assert not prune.is_pruned(removed_everywhere(model))
    assert {each for each, _ in model.named_parameters()} == set(before)
    assert torch.equal(model(x), expected)
    assert ep.export.mask_of(model, zeros=True, names=mask.shapes) == mask


@pytest.mark.parametrize("name", ["tied", "LSTM", "encoder", "bare", "branches"])
def test_every_pruned_weight_trains_from_step_to_step(name: str) -> None:
    model, x, mask = drawn(name)
    ep.export.apply(mask, model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {each: model.get_parameter(f"{each}_orig").detach().clone() for each in mask.shapes}
    for _ in range(2):  # a weight that is not computed anew fails in the second backward pass
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    for each, layer in mask.layers.items():
        moved = model.get_parameter(f"{each}_orig").detach() != before[each]
        assert moved.any(), each
        assert not moved[torch.from_numpy(~layer)].any(), each


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([torch.randn(4, 4), torch.randn(4, 4)])
        self.named = nn.ModuleList([nn.ParameterDict({"a": torch.randn(4, 4)})])
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x @ self.matrices[0] @ self.matrices[1] @ self.named[0]["a"])


def test_parameters_in_lists_that_nobody_calls() -> None:
    model, x = Listed(), torch.randn(3, 4)
    mask = ep.random_mask(prunable(model, include=("matrices", "named")), 0.5, np.random.default_rng(0), "uniform")
    assert set(mask.shapes) == {"matrices.0", "matrices.1", "named.0.a", "last.weight"}
    expected = multiplied(model, mask)
    ep.export.apply(mask, model)
    with torch.no_grad():
        for each in (model, expected):
            parameters = dict(each.named_parameters())
            parameters.get("matrices.0_orig", parameters.get("matrices.0")).mul_(2)
    assert torch.equal(model(x), expected(x))
    assert ep.export.mask_of(model) == mask


def test_a_tied_weight_is_pruned_in_both_layers_and_stays_tied() -> None:
    model, _, mask = drawn("tied")
    assert "third.weight" not in mask.shapes
    ep.export.apply(mask, model)
    assert model.third.weight_orig is model.second.weight_orig
    assert torch.equal(model.third.weight_mask.bool(), torch.from_numpy(mask.layers["second.weight"]))
    removed_everywhere(model)
    assert model.third.weight is model.second.weight


def test_the_parametrisation_is_that_of_torch() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    keep = torch.tensor([[1, 0, 1], [0, 0, 1]])
    ep.export.apply(ep.Mask.from_layers({"weight": keep}), ours)
    prune.custom_from_mask(theirs, "weight", keep)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


def test_zeros_of_survivors_are_taken_for_removed_only_on_request() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    mask = ep.Mask.from_layers({"0.weight": [[True, True], [True, False]]})
    ep.export.apply(mask, model)
    assert ep.export.mask_of(model) == mask
    removed_everywhere(model)
    with pytest.raises(ep.InputError, match="zeros=True"):
        ep.export.mask_of(model)
    assert ep.export.mask_of(model, zeros=True).layers["0.weight"].tolist() == [[False, True], [True, False]]


def layers(**shapes: tuple[int, ...]) -> ep.Mask:
    return ep.Mask.from_layers({name.replace("__", "."): np.ones(shape, bool) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (layers(first__weight=(8, 6), secnd__weight=(8, 8)), r"no 'secnd.weight'.* Did you mean 'second.weight'"),
        (layers(first__weight=(6, 8)), r"first.weight is \(6, 8\) in the mask, \(8, 6\) in the network"),
        (layers(second__weight=(8, 8), first__weight=(8, 6)), "the mask orders its layers"),
        (layers(second__weight=(8, 8), third__weight=(8, 8)), "are one parameter of the model, tied"),
        (np.ones(3), "mask is ndarray; expected ep.Mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused_and_change_nothing(mask: ep.Mask, message: str) -> None:
    model = NETS["tied"][0]()
    for act in (ep.export.apply, lambda m, n: ep.export.keep_zero(m, n, torch.optim.SGD(n.parameters(), lr=1))):
        with pytest.raises(ep.InputError, match=message):
            act(mask, model)
    assert not prune.is_pruned(model)


def test_models_that_cannot_be_pruned_are_refused() -> None:
    model, _, mask = drawn("sequential")
    ep.export.apply(mask, model)
    with pytest.raises(ep.InputError, match=r"0.weight is pruned already .*remove\(model.0, 'weight'\)"):
        ep.export.apply(mask, model)
    table = nn.Embedding(5, 3, max_norm=1.0)
    with pytest.raises(ep.InputError, match="max_norm"):
        ep.export.apply(layers(weight=(5, 3)), table)
    with pytest.raises(ep.InputError, match="model is str"):
        ep.export.apply(mask, "model")
    with pytest.raises(ep.InputError, match="model is str"):
        ep.export.mask_of("model")
    with pytest.raises(ep.InputError, match="names go with zeros"):
        ep.export.mask_of(model, names=["0.weight"])
    with pytest.raises(ep.InputError, match=r"no parameter '9.weight'"):
        ep.export.mask_of(model, zeros=True, names=["9.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(ep.InputError, match="TorchScript"):
        ep.export.apply(layers(weight=(2, 2)), scripted)
