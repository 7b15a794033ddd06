"""Networks of a user's own, each with the shape of an example; with four outputs."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import evoprune as ep
from evoprune.errors import UnprunableWarning

CLASSES = 4


class Residual(nn.Module):
    """Nested, with a layer without bias, layer normalisation, functional ReLU and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12, bias=False)
        self.block = nn.ModuleDict({"norm": nn.LayerNorm(12), "linear": nn.Linear(12, 12)})
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        x = x + torch.tanh(self.block["linear"](self.block["norm"](x)))
        return self.last(self.drop(x))


class ResidualImages(nn.Module):
    """Batch normalisation, a shortcut, groups, a stride, and the mean over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv3, self.last = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(x + self.norm2(self.conv2(x)))
        return self.last(torch.relu(self.conv3(x)).mean((2, 3)))


class Functional(nn.Module):
    """Convolutions between functions of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.last = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 6, 2, padding=1), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.adaptive_avg_pool2d(torch.relu(self.conv2(x)), (2, 2))
        return self.last(x.view(x.size(0), -1))


class Shapes(nn.Module):
    """The features in many shapes, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.last = nn.Linear(6, 12), nn.Conv1d(2, 3, 3, padding=1), nn.Linear(18, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.reshape(self.first(x), (-1, 3, 4)).flatten(1).unsqueeze(1).squeeze(1)
        x = self.conv(x.unflatten(1, (2, 6)).contiguous())
        return self.last(torch.flatten(torch.unsqueeze(x, 1), start_dim=1))


class Twice(nn.Module):
    """A layer that is used twice, and a sum of a value with itself and with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.hidden(x)) + x
        x = torch.tanh(self.hidden(x + x))
        return self.last(x)


class ConvolutionTwice(nn.Module):
    """A convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.hidden(torch.tanh(self.hidden(x))))
        return self.last(torch.mean(x, dim=(-2, -1)))


class Tied(nn.Module):
    """Two layers with one weight, and a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.first(x))
        return self.last(self.third(self.second(x).relu()).relu())


class Branches(nn.Module):
    """A value that three others read, one of them through pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.pool, self.last = nn.AvgPool2d(3, 1, 1), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = torch.relu(x)
        y = self.left(y) + self.right(x) + self.pool(x)
        y += x
        return self.last(y.mean((2, 3), keepdim=True).flatten(1))


def linear(features: int) -> tuple[nn.Module, nn.Module]:
    return nn.Flatten(), nn.Linear(features, CLASSES)


# LINEAR networks take 6 features unless a shape says otherwise
LINEAR: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "shapes": Shapes,
    "twice": Twice,
    "tied": Tied,
    "sequential": lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9, bias=False), nn.GELU(), nn.Linear(9, 4)),
    "norm first": lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 9), nn.ReLU(), nn.Flatten(), nn.Linear(9, 4)),
    "one activation twice": lambda: (lambda relu: nn.Sequential(nn.Linear(6, 9), relu, nn.Linear(9, 9), relu, nn.Linear(9, 4)))(
        nn.ReLU()
    ),
    "in place": lambda: nn.Sequential(nn.Linear(6, 9), nn.LeakyReLU(inplace=True), nn.Linear(9, 4), nn.Hardtanh(inplace=True)),
    "plain norm": lambda: nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9, elementwise_affine=False), nn.Linear(9, 4)),
    "norm without shift": lambda: nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9, bias=False), nn.ReLU(), nn.Linear(9, 4)),
    "noise": lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 4)),
    "batch norm": lambda: nn.Sequential(
        nn.BatchNorm1d(6), nn.Linear(6, 9), nn.BatchNorm1d(9, affine=False), nn.ReLU(), nn.Linear(9, 4), nn.BatchNorm1d(4)
    ),
    "average of all batches": lambda: nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9, momentum=None), nn.Linear(9, 4)),
    "unflatten": lambda: nn.Sequential(
        nn.Linear(6, 36), nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), *linear(108)
    ),
}
# the others, each with the shape of an example
SHAPED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "tokens": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.ReLU(), *linear(24)), (3, 6)),
    "norm of tokens": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm((3, 8)), nn.BatchNorm1d(3), *linear(24)), (3, 6)),
    "residual images": (ResidualImages, (3, 8, 8)),
    "functional": (Functional, (3, 7, 8)),
    "convolution twice": (ConvolutionTwice, (3, 5, 6)),
    "branches": (Branches, (3, 5, 6)),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.BatchNorm1d(5),
            nn.Conv1d(5, 6, 3, dilation=2), nn.ReLU(), nn.AvgPool1d(2, padding=1), *linear(18),
        ),
        (3, 16),
    ),
    "adaptive1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 4, stride=3, padding=2), nn.Tanh(), nn.AdaptiveMaxPool1d(4), nn.Conv1d(4, 4, 2),
            nn.AdaptiveAvgPool1d(2), *linear(8),
        ),
        (3, 16),
    ),
    "stride": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 6, (3, 2), stride=(2, 1), padding=(1, 0)),
            nn.Tanh(), nn.AdaptiveAvgPool2d((2, 3)), *linear(36),
        ),
        (3, 9, 10),
    ),
    "same": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 4, padding="same"), nn.Dropout2d(0.2), nn.ReLU(),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.Conv2d(5, 6, 1, bias=False),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True), *linear(72),
        ),
        (3, 9, 10),
    ),
    "dilated": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding="same", dilation=2), nn.ReLU(), nn.MaxPool2d(2, 1, dilation=2), nn.Conv2d(4, 4, 2, padding="valid"),
            nn.AvgPool2d(2, ceil_mode=True, divisor_override=3), *linear(24),
        ),
        (3, 8, 7),
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, groups=2),
            nn.LayerNorm((6, 2, 3)), nn.SiLU(), *linear(36),
        ),
        (4, 5, 8),
    ),
    "narrow": (  # dimensions of length one
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (1, 3), padding=(0, 1)), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1), nn.AvgPool2d((1, 2)), *linear(9)
        ),
        (2, 1, 7),
    ),
    "conv3d": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(4, 4, 2, groups=4),
            nn.AdaptiveMaxPool3d(1), *linear(4),
        ),
        (1, 4, 5, 6),
    ),
    "pools3d": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1)), nn.MaxPool3d(2, padding=1, ceil_mode=True), nn.Dropout3d(0.2),
            nn.Conv3d(3, 3, 1), nn.AvgPool3d(2, 1, 1, count_include_pad=False), nn.AdaptiveAvgPool3d((1, 2, 2)), *linear(12),
        ),
        (2, 3, 4, 5),
    ),
}  # fmt: skip
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (make, (6,)) for name, make in LINEAR.items()},
    **SHAPED,
}


def examples(shape: tuple[int, ...], train: int = 60) -> ep.Data:
    """Returns random examples with labels: so many to train on, and 21 each to validate and to test."""
    generator = torch.Generator().manual_seed(1)
    n = train + 42
    x, y = torch.randn(n, *shape, generator=generator), torch.randint(0, CLASSES, (n,), generator=generator)
    y[:CLASSES] = torch.arange(CLASSES)
    parts = [(x[rows], y[rows]) for rows in (slice(train), slice(train, train + 21), slice(train + 21, n))]
    return ep.Data(*parts)


def problem_of(name: str, dtype: str = "float64", train: int = 60, seed: int = 0, **recipe: object) -> ep.Problem:
    """Returns the problem of a network by name, with drawn weights."""
    make, shape = NETWORKS[name]
    return problem_with(make, shape, dtype, train, seed, **recipe)


def problem_with(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    dtype: str = "float64",
    train: int = 60,
    seed: int = 0,
    **recipe: object,
) -> ep.Problem:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
    settings = {"epochs": 1, "batch_size": 16, **recipe}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnprunableWarning)  # a scale may look like a matrix
        warnings.filterwarnings("ignore", "Using padding='same'")
        return ep.Problem(network, examples(shape, train), ep.Recipe(**settings), dtype=dtype)
