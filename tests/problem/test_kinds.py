"""Kinds of layers whose weights are prunable: their names, uses, draws, and the registry."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest
import torch
from support.kinds import HIDDEN, KINDS, TOKENS, WIDTH, Bare, Embedding, Everything, made, problem_of, sentences, sequences
from torch import Tensor, nn

import evoprune as ep
from evoprune.errors import InputError
from evoprune.problem import kinds
from evoprune.problem.kinds import Kind
from evoprune.problem.prunable import prunable, unprunable, uses
from evoprune.problem.weights import initialize

X = sequences(1)

MODULES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "attention": (lambda: nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
    "attention to other widths": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
        ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
    ),
    "LSTM": (
        lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True),
        [f"weight_{part}_l{i}{way}" for i in (0, 1) for way in ("", "_reverse") for part in ("ih", "hh")],
    ),
    "projected LSTM": (lambda: nn.LSTM(4, 6, proj_size=3), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
    "GRU": (lambda: nn.GRU(4, 6), ["weight_ih_l0", "weight_hh_l0"]),
    "RNN": (lambda: nn.RNN(4, 6, bias=False), ["weight_ih_l0", "weight_hh_l0"]),
    "LSTMCell": (lambda: nn.LSTMCell(4, 6), ["weight_ih", "weight_hh"]),
    "GRUCell": (lambda: nn.GRUCell(4, 6), ["weight_ih", "weight_hh"]),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8),
        ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"],
    ),
}


@pytest.mark.parametrize("kind", MODULES)
def test_the_matrices_of_a_kind_are_prunable_in_order(kind: str) -> None:
    make, names = MODULES[kind]
    network = make()
    assert list(prunable(network)) == names
    assert list(prunable(network)) == [name for name, _ in network.named_parameters() if name in names]
    assert unprunable(network) == {}


# Included by name


@pytest.mark.parametrize(
    ("include", "more"),
    [
        (["table"], {"table.weight"}),
        (["table.weight", "last"], {"table.weight"}),
        ([], set()),
    ],
)
def test_an_embedding_is_prunable_where_it_is_included(include: list[str], more: set[str]) -> None:
    network = Everything()
    default = {f"attention.{n}" for n in ("in_proj_weight", "out_proj.weight")} | {f"cell.weight_{n}_l0" for n in ("ih", "hh")}
    found = prunable(network, include=include)
    assert set(found) == default | more | {"last.weight"}
    assert list(found) == [name for name, _ in network.named_parameters() if name in found]
    assert set(unprunable(network, include=include)) == {"table.weight"} - more


def test_parameters_outside_of_layers_are_included_by_name() -> None:
    assert list(prunable(Bare(), include=["matrix", "shifts"])) == ["matrix", "shifts", "last.weight"]
    network = nn.Sequential(nn.Embedding(5, 4), Bare())
    assert list(prunable(network, include=["1"])) == ["1.matrix", "1.factors", "1.shifts", "1.last.weight"]  # and no scale
    assert list(prunable(network, ["1.factors", "1.last"], ["1"])) == ["1.matrix", "1.shifts"]  # exclusion has the last word


@pytest.mark.parametrize(
    ("network", "name", "reason"),
    [
        (Bare(), "scale", r"scale \[6\] cannot be prunable: it has one dimension"),
        (Bare(), "last.bias", r"last\.bias \[2\] cannot be prunable: it is a bias"),
        (
            nn.Sequential(nn.LayerNorm((3, 4)), nn.Linear(4, 4)),
            "0.weight",
            r"0\.weight \[3, 4\] .* it belongs to normalisation",
        ),
        (Bare(), "matrx", r"cannot include 'matrx': no weights of that name; expected one of matrix, factors, shifts"),
        (
            nn.Sequential(nn.LayerNorm((3, 4)), nn.Linear(4, 4)),
            "0",
            r"cannot include '0'.*expected one of 1\.weight, or a module",
        ),
    ],
    ids=["scale", "bias", "norm", "unknown", "module of norm"],
)
def test_what_is_no_weight_between_units_is_not_included(network: nn.Module, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        prunable(network, include=[name])


@pytest.mark.filterwarnings("ignore::evoprune.errors.UnprunableWarning")
def test_included_names_are_part_of_the_problem_and_of_old_records_none() -> None:
    plain, more = problem_of("everything", include=()), problem_of("everything", include="table")
    assert "include" not in plain.config()
    assert more.config()["include"] == ["table"]
    assert plain.hash != more.hash
    assert more == problem_of("everything", include=("table.weight",))  # other words for the same weights
    for problem in (plain, more):
        again = pickle.loads(cloudpickle.dumps(problem))
        assert again == problem and again.config() == problem.config() and again.shapes == problem.shapes


# Uses, counted by hand


class First(nn.Module):
    """The first output of a module, called on something made of the input."""

    def __init__(self, module: nn.Module, inputs: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.module(*self.inputs(x))
        return outputs if isinstance(outputs, Tensor) else outputs[0]


class Cells(nn.Module):
    """A cell that is called in each time step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), HIDDEN)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


def attention(**options: object) -> nn.Module:
    return nn.MultiheadAttention(WIDTH, 2, batch_first=True, **options)


def packed(x: Tensor) -> tuple[Tensor, ...]:
    return (nn.utils.rnn.pack_padded_sequence(x, [3] * len(x), batch_first=True),)


# The network, and the uses of its matrices in the order of its parameters, for an example of 5 tokens.
COUNTS: dict[str, tuple[Callable[[], nn.Module], list[float]]] = {
    "attention to itself": (lambda: First(attention(), lambda x: (x, x, x)), [TOKENS, TOKENS]),
    # two queries, and five keys and values: (2 + 5 + 5) / 3 on average
    "attention to more tokens": (lambda: First(attention(), lambda x: (x[:, :2], x, x)), [4, 2]),
    "attention to less tokens": (lambda: First(attention(), lambda x: (x, x[:, :3], x[:, :3])), [11 / 3, 5]),
    "attention to other widths": (
        lambda: First(attention(kdim=3, vdim=2), lambda x: (x[:, :2], x[..., :3], x[..., :2])),
        [2, TOKENS, TOKENS, 2],
    ),
    "LSTM": (lambda: First(nn.LSTM(WIDTH, HIDDEN, 2, batch_first=True, bidirectional=True), lambda x: (x,)), [TOKENS] * 8),
    "GRU": (lambda: First(nn.GRU(WIDTH, HIDDEN, batch_first=True), lambda x: (x,)), [TOKENS] * 2),
    "packed LSTM": (lambda: First(nn.LSTM(WIDTH, HIDDEN, batch_first=True), packed), [3, 3]),
    "cells": (Cells, [TOKENS, TOKENS]),
    "bilinear": (lambda: First(nn.Bilinear(WIDTH, WIDTH, 3), lambda x: (x, x)), [TOKENS]),
    "bare": (Bare, [TOKENS, 1, 0, 1]),  # a product with each token, one by elements, a sum; and the last layer
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # an LSTM has a kernel of its own in float32
@pytest.mark.parametrize("kind", COUNTS)
def test_uses_are_those_counted_by_hand(kind: str, dtype: torch.dtype) -> None:
    make, expected = COUNTS[kind]
    network = make().to(dtype)
    names = [name for name, parameter in network.named_parameters() if parameter.ndim > 1]
    assert uses(network, names, X.to(dtype)) == dict(zip(names, expected, strict=True))


def test_a_look_up_multiplies_nothing() -> None:
    assert problem_of("embedding").uses == {"table.weight": 0, "hidden.weight": 1, "last.weight": 1}


@pytest.mark.parametrize("subscripts", ["btd,hde->bhte", "btd,hed->bhte", "btd,ehd->bhte"])
def test_a_product_with_a_copy_of_a_weight_counts(subscripts: str) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"h": 2, "d": WIDTH, "e": 3}
            self.weight = nn.Parameter(torch.randn([sizes[letter] for letter in subscripts[4:7]]))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum(subscripts, x, self.weight)

    assert uses(Heads(), ["weight"], X) == {"weight": TOKENS}


# Initial weights


@pytest.mark.parametrize("method", ["kaiming", "xavier", "pytorch"])
def test_attention_and_recurrent_layers_draw_their_own_default(method: str) -> None:
    network, other = made(Everything, sentences()), made(Everything, sentences())
    names = list(prunable(network))
    for each, seed in ((network, 0), (other, 0)):
        initialize(each, method, seed, names)
    state, given = network.state_dict(), made(Everything, sentences()).state_dict()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    assert not any(torch.equal(state[name], given[name]) for name in [*names, "table.weight"])
    assert not state["attention.in_proj_bias"].any() and not state["attention.out_proj.bias"].any()
    weight, bound = state["attention.in_proj_weight"], (6 / (WIDTH + 3 * WIDTH)) ** 0.5  # Glorot and Bengio 2010, uniform
    assert 0.8 * bound < weight.abs().max() <= bound
    assert state["cell.weight_hh_l0"].abs().max() <= HIDDEN**-0.5


def test_an_attention_that_is_not_prunable_keeps_its_inputs_weights() -> None:
    given = made(KINDS["attention"][0], sequences())
    problem = problem_of("attention", exclude="attention", initialization="kaiming", dtype="float32")
    assert torch.equal(problem.network().attention.in_proj_weight, given.attention.in_proj_weight)


@pytest.mark.parametrize("kind", ["attention", "LSTM", "embedding"])
def test_weights_are_drawn_anew(kind: str) -> None:
    problem = problem_of(kind)
    other = problem.redrawn(5)
    assert other.shapes == problem.shapes
    before, after = problem.network().state_dict(), other.network().state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in problem.shapes)


def test_parameters_outside_of_layers_cannot_be_drawn_anew() -> None:
    with pytest.raises(InputError, match=r"has matrix, factors, shifts as before"):
        problem_of("bare").redrawn(5)


def test_w0_of_every_kind_is_scaled_for_a_density() -> None:
    plain, scaled = problem_of("everything").network(), problem_of("everything", w0_density=0.25).network()
    for name in problem_of("everything").shapes:
        torch.testing.assert_close(scaled.get_parameter(name), 2 * plain.get_parameter(name))


def test_the_row_of_the_padding_counts_and_stays_zero() -> None:
    x = sentences()
    data = ep.Data(train=(x, x[:, 0] % 2))
    problem = ep.Problem(made(lambda: Embedding(padding_idx=0), x), data, ep.Recipe(epochs=1), include=["table"])
    assert problem.prunable_count == x.unique().numel() * WIDTH + WIDTH * HIDDEN + HIDDEN * 2
    result = ep.baseline(problem, "dense")
    assert not result.model.table.weight[0].any()


# The registry


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(WIDTH, 3)), nn.Parameter(torch.randn(3, HIDDEN))
        self.shift = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.left @ self.right + self.shift


class Narrower(Own):
    """A subclass."""


def network_of(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Flatten(0, 1), kind(), nn.Unflatten(0, (-1, TOKENS)), nn.Flatten(), nn.Linear(TOKENS * HIDDEN, 2))


@pytest.fixture
def own_kind() -> Iterator[None]:
    ep.register.prunable("low-rank", weights=("left", "right"))(Own)
    yield
    kinds.KINDS.forget("low-rank")


@pytest.mark.parametrize("kind", [Own, Narrower])
def test_a_kind_of_the_users_is_prunable(own_kind: None, kind: type[nn.Module]) -> None:
    assert list(prunable(network_of(kind))) == ["1.left", "1.right", "4.weight"]
    ep.register.prunable("low-rank", Own, weights="l*")
    assert list(prunable(network_of(kind))) == ["1.left", "4.weight"]
    kinds.KINDS.forget("low-rank")
    assert list(prunable(network_of(kind))) == ["4.weight"]


def test_a_problem_of_own_kinds_travels_without_the_registry(own_kind: None) -> None:
    problem = ep.Problem(network_of(Own), ep.Data(train=(sequences(), torch.arange(60) % 2)))
    content = cloudpickle.dumps(problem)
    assert problem.uses == {"1.left": TOKENS, "1.right": TOKENS, "4.weight": 1}
    kinds.KINDS.forget("low-rank")
    there = pickle.loads(content)
    assert there == problem and there.shapes == problem.shapes
    assert there.config() == problem.config() and "include" not in there.config()
    again = pickle.loads(cloudpickle.dumps(there))
    assert again == problem and again.config() == problem.config()


def test_a_kind_that_is_defined_again_replaces_itself() -> None:
    def define() -> type[nn.Module]:
        class Local(nn.Module): ...

        return Local

    try:
        first = ep.register.prunable("local", define())
        second = ep.register.prunable("local", define(), weights=["a", "b"])
        assert kinds.KINDS["local"].module is second is not first
        assert kinds.KINDS["local"].weights == ("a", "b")
        with pytest.raises(InputError, match="prunable kind 'local' is registered already"):
            ep.register.prunable("local", Own)
        with pytest.raises(InputError, match="prunable kind 'linear' is built in"):
            ep.register.prunable("linear", Own)
    finally:
        kinds.KINDS.forget("local")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("lefft", "weight of Own, which the prunable kind 'low-rank' names, 'lefft'; expected one of: left.* mean 'left'"),
        (("left", "Right"), "'Right'; expected one of: .*Did you mean 'right'"),
        (("left", "w*"), r"'w\*'; expected one of: left, right, shift"),
    ],
)
def test_a_weight_that_no_module_of_a_kind_has_is_refused(own_kind: None, weights: Any, said: str) -> None:
    ep.register.prunable("low-rank", Own, weights=weights)
    with pytest.raises(InputError, match=said):
        ep.Problem(network_of(Own), ep.Data(train=(sequences(), torch.arange(60) % 2)))
    assert list(prunable(nn.Sequential(nn.Linear(2, 2)))) == ["0.weight"]  # a network without such modules


def test_a_weight_that_some_modules_of_a_kind_have_is_enough(own_kind: None) -> None:
    class Wider(Own):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Parameter(torch.ones(2, 2))
            self.register_parameter("none", None)

    ep.register.prunable("low-rank", Own, weights=("left", "more", "none"))
    assert list(prunable(nn.Sequential(Own(), Wider()))) == ["0.left", "1.left", "1.more"]
    parametrized = nn.utils.parametrizations.weight_norm(Wider(), "left")
    assert list(prunable(nn.Sequential(Own(), parametrized))) == ["0.left", "1.more"]


def test_a_kind_that_cannot_be_is_refused(own_kind: None) -> None:
    with pytest.raises(InputError, match=r"a prunable kind is int; expected a class of modules"):
        ep.register.prunable("number", 3)
    with pytest.raises(InputError, match=r"the weights of Own are \(\); expected names"):
        Kind(Own, ())
    ep.register.prunable("low-rank", Own, weights="*")
    with pytest.raises(InputError, match=r"1\.shift \[6\] cannot be prunable: it has one dimension"):
        prunable(network_of(Own))
