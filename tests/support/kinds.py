"""Networks with layers of the prunable kinds beside linear and convolutional ones, each with two outputs."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import evoprune as ep

TOKENS, WORDS, WIDTH, HIDDEN = 5, 7, 4, 6


class Attending(nn.Module):
    """Attention among the tokens of sequences [n, 5, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x)[0].mean(1))


class Encoding(nn.Module):
    """A layer of a transformer, which has a fast path in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encoder(x).mean(1))


class Recurrent(nn.Module):
    """A recurrent layer over the steps of sequences [n, 5, 4]."""

    def __init__(self, kind: Callable[..., nn.Module], **options: object) -> None:
        super().__init__()
        self.cell, self.last = kind(WIDTH, HIDDEN, batch_first=True, **options), nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cell(x)[0][:, -1])


class Embedding(nn.Module):
    """A bag of words, of sentences [n, 5] of words by their number."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.table, self.hidden = nn.Embedding(WORDS, WIDTH, **options), nn.Linear(WIDTH, HIDDEN)
        self.last = nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.hidden(self.table(x).mean(1))))


class Bare(nn.Module):
    """Parameters outside of layers: a matrix between units, a table of factors, one of shifts, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.factors = nn.Parameter(torch.randn(WIDTH, HIDDEN)), nn.Parameter(torch.randn(TOKENS, HIDDEN))
        self.shifts, self.scale = nn.Parameter(torch.randn(TOKENS, HIDDEN)), nn.Parameter(torch.ones(HIDDEN))
        self.last = nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(((x @ self.matrix) * self.factors * self.scale + self.shifts).tanh().mean(1))


class Everything(nn.Module):
    """Words, embedded, that attend to each other and are read by an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.attention = nn.Embedding(WORDS, WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.cell, self.last = nn.LSTM(WIDTH, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.table(x)
        return self.last(self.cell(x + self.attention(x, x, x)[0])[0][:, -1])


def sequences(n: int = 60) -> Tensor:
    return torch.randn(n, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


def sentences(n: int = 60) -> Tensor:
    return torch.randint(WORDS, (n, TOKENS), generator=torch.Generator().manual_seed(0))


def made(make: Callable[[], nn.Module], x: Tensor) -> nn.Module:
    """Returns a network, drawn under a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = make()
        network(x[:2])  # which gives lazy layers their shape
    return network


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor, tuple[str, ...]]] = {
    "attention": (Attending, sequences(), ()),
    "encoder": (Encoding, sequences(), ()),
    "LSTM": (lambda: Recurrent(nn.LSTM), sequences(), ()),
    "GRU": (lambda: Recurrent(nn.GRU, bidirectional=True), sequences(), ()),
    "embedding": (Embedding, sentences(), ("table",)),
    "bare": (Bare, sequences(), ("matrix", "factors", "shifts")),
    "everything": (Everything, sentences(), ("table",)),
}


@functools.cache
def problem_of(kind: str, dtype: str = "float64", **options: object) -> ep.Problem:
    """Returns the problem of a network by name; all of its matrices are prunable."""
    make, x, include = KINDS[kind]
    data = ep.Data(train=(x, (x.flatten(1).double().mean(1) > x.double().mean()).long()))
    recipe = ep.Recipe(epochs=2, batch_size=16, lr=0.1, momentum=0.9, weight_decay=1e-3)
    return ep.Problem(made(make, x), data, recipe, **{"dtype": dtype, "include": include, **options})
