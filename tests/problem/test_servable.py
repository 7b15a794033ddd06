"""Modules that cannot be served, weights that are not prunable, and how often a weight is used."""

import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import evoprune as ep
from evoprune.problem.prunable import uses

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
DATA = ep.Data(train=(X, (X[:, 0] > 0).long()))


def network(first: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8) if first is None else first, nn.ReLU(), nn.Linear(8, 2))


def pruned() -> nn.Module:
    model = network()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    return model


def pruned_and_used() -> nn.Module:
    model = pruned()
    model(X)  # the weight is now no leaf, and cannot be copied
    return model


def compiled_in_place() -> nn.Module:
    model = network()
    model.compile()
    return model


def scripted() -> nn.Module:
    made: nn.Module = torch.jit.script(network())
    return made


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return network(nn.utils.weight_norm(nn.Linear(6, 8)))


NOT_SERVED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pruned": (pruned, r"prune\.remove"),
    "pruned and used": (pruned_and_used, r"prune\.remove"),
    "old weight_norm": (old_weight_norm, "remove_weight_norm"),
    "old spectral_norm": (lambda: network(nn.utils.spectral_norm(nn.Linear(6, 8))), "remove_spectral_norm"),
    "lazy": (lambda: network(nn.LazyLinear(8)), r"send a batch through it first"),
    "a lazy buffer": (lambda: network(nn.Sequential(nn.Linear(6, 8), nn.LazyBatchNorm1d())), "send a batch through it first"),
    "compiled": (lambda: torch.compile(network()), "_orig_mod"),
    "compiled in place": (compiled_in_place, r"do not call model\.compile"),
    "a compiled part": (lambda: network(torch.compile(nn.Linear(6, 8))), "_orig_mod"),
    "TorchScript": (scripted, "the module that it was made from"),
    "without values": (lambda: network(nn.Linear(6, 8, device="meta")), "to_empty"),
    "data parallel": (lambda: nn.DataParallel(network()), r"model\.module"),
}


@pytest.mark.sampled(15)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("kind", NOT_SERVED)
@pytest.mark.parametrize("how", ["module", "function"])
def test_modules_that_cannot_be_served_get_the_cure(kind: str, how: str) -> None:
    make, cure = NOT_SERVED[kind]
    with pytest.raises(ep.InputError, match=cure):
        ep.Problem(model=make() if how == "module" else make, data=DATA)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.ones(1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix * self.vector


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell = kind(6, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.cell(x[:, None])[0][:, 0]
        return outputs


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None].expand(-1, 3, -1)
        outputs: torch.Tensor = self.attention(x, x, x, need_weights=False)[0].mean(1)
        return outputs


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table(torch.zeros(len(x), dtype=torch.long))


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(6, 6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(x, x)


# Weights that are like a layer's but are no layer's plain weight, by their names in a network that begins with them.
UNPRUNABLE: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), {"parametrizations.weight.original1"}),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)), {"parametrizations.weight.original"}),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), {"parametrizations.weight.original"}),
    "embedding": (Embedding, {"table.weight"}),
    "bilinear": (Both, {"pair.weight"}),
    "bare": (Bare, {"matrix"}),
}


@pytest.mark.parametrize("kind", UNPRUNABLE)
def test_weights_that_are_not_prunable_are_named_once(kind: str) -> None:
    make, expected = UNPRUNABLE[kind]
    model = nn.Sequential(make(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    names = {f"0.{name}" for name in expected}
    with pytest.warns(ep.errors.UnprunableWarning, match="not prunable, and so dense: 0") as said:
        problem = ep.Problem(model=model, data=DATA, recipe=ep.Recipe(epochs=1))
    assert [str(warning.message).count("0.") for warning in said] == [len(names)]
    assert set(problem.unprunable) == names
    if kind == "bare":  # all else can be sent to another process, which says nothing again
        assert pickle.loads(pickle.dumps(problem)).unprunable == problem.unprunable
    result = ep.k_starts(problem, k=2, sparsity=0.5, fitness="loss", fitness_epochs=1, controls=False, engine="module")
    assert set(result.summary["unprunable"]) == names
    removed = problem.prunable_count - result.mask.survivors
    assert result.summary["network_sparsity"] == removed / sum(p.numel() for p in model.parameters())
    assert result.summary["network_sparsity"] < result.summary["sparsity"]
    quiet = ep.Problem(model=model, data=DATA, exclude=["0"])
    assert quiet.unprunable == {}


# Weights of attention and recurrent layers, which are prunable without being included.
PRUNABLE: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "attention": (Attending, {"attention.in_proj_weight", "attention.out_proj.weight"}),
    "LSTM": (lambda: Recurrent(nn.LSTM), {"cell.weight_ih_l0", "cell.weight_hh_l0"}),
    "GRU": (lambda: Recurrent(nn.GRU), {"cell.weight_ih_l0", "cell.weight_hh_l0"}),
}


@pytest.mark.parametrize("kind", PRUNABLE)
def test_attention_and_recurrent_layers_are_prunable(kind: str) -> None:
    make, expected = PRUNABLE[kind]
    model = nn.Sequential(make(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    problem = ep.Problem(model=model, data=DATA, recipe=ep.Recipe(epochs=1))  # warns of nothing
    names = {f"0.{name}" for name in expected}
    assert set(problem.shapes) == {*names, "1.weight", "3.weight"}
    assert problem.unprunable == {}
    result = ep.k_starts(problem, k=2, sparsity=0.5, fitness="loss", fitness_epochs=1, controls=False, engine="module")
    assert "unprunable" not in result.summary
    removed = problem.prunable_count - result.mask.survivors
    assert result.summary["network_sparsity"] == removed / sum(p.numel() for p in model.parameters())
    assert set(ep.Problem(model=model, data=DATA, exclude=["0"]).shapes) == {"1.weight", "3.weight"}


def test_a_network_without_plain_layers_says_what_it_has() -> None:
    with pytest.raises(
        ep.InputError, match=r"nothing to prune: .*Weights of other kinds: 0\.table\.weight; include them by name"
    ):
        ep.Problem(model=nn.Sequential(Embedding()), data=DATA)


class Functional(nn.Module):
    """Uses a layer's weight twice, once without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(nn.functional.linear(self.a(x), self.a.weight.t()))


def test_uses_count_whoever_takes_the_weight() -> None:
    attending = nn.Sequential(Attending(), nn.Linear(6, 2))
    names = ["0.attention.out_proj.weight", "1.weight"]
    assert uses(attending, names, X[:1]) == dict(zip(names, [3, 1], strict=True))  # three positions
    encoder = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), nn.Flatten())
    inside = ["1.self_attn.out_proj.weight", "1.linear1.weight", "1.linear2.weight"]
    assert uses(encoder, inside, X[:1]) == dict.fromkeys(inside, 1)
    assert uses(Functional(), ["a.weight", "b.weight"], X[:1]) == {"a.weight": 2, "b.weight": 1}


class Returning(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(6, 2), make

    def forward(self, x: torch.Tensor) -> object:
        return self.make(self.layer(x))


RETURNED: dict[str, Callable[[torch.Tensor], object]] = {
    "dict": lambda z: {"logits": z},
    "tuple": lambda z: (z, z),
    "list": lambda z: [z],
    "None": lambda z: None,
    "number": lambda z: 1.0,
}


@pytest.mark.parametrize("kind", RETURNED)
def test_outputs_that_are_no_tensor_get_the_cure(kind: str) -> None:
    with pytest.raises(ep.InputError, match=r"forward returns .*; expected one tensor .*wrap it in a module"):
        ep.Problem(model=Returning(RETURNED[kind]), data=DATA)


class Bound(nn.Module):
    def __init__(self, make: Callable[["Bound"], object]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)
        self.head = make(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.a(x))

    def end(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(x)


@pytest.mark.parametrize("how", ["module", "function"])
@pytest.mark.parametrize(
    "make",
    [lambda self: lambda x: self.b(x), lambda self: lambda x, b=self.b: b(x), lambda self: lambda x, *, s=self: s.b(x)],
    ids=["closure", "default", "keyword"],
)
def test_functions_that_hold_the_original_are_refused(make: Callable[[Bound], object], how: str) -> None:
    with pytest.raises(ep.InputError, match=r"head is a function that holds a module of the network.*Make it a method"):
        ep.Problem(model=Bound(make) if how == "module" else lambda: Bound(make), data=DATA)


def test_a_frozen_original_is_found_too() -> None:
    bound = Bound(lambda self: lambda x: self.b(x))
    bound.b.requires_grad_(False)
    with pytest.raises(ep.InputError, match="holds a module of the network"):
        ep.Problem(model=bound, data=DATA)


def test_bound_methods_and_functions_of_other_things_are_served() -> None:
    assert ep.Problem(model=Bound(lambda self: self.end), data=DATA).prunable_count == 48
    other = nn.Linear(6, 2).requires_grad_(False)
    assert ep.Problem(model=Bound(lambda self: lambda x: other(x)), data=DATA).prunable_count == 48


def test_parameters_with_gradient_hooks_are_refused() -> None:
    model = network()
    model[0].weight.register_hook(lambda gradient: gradient * 0)
    with pytest.raises(ep.InputError, match="hooks for gradients, which a copy of it loses"):
        ep.Problem(model=model, data=DATA)
