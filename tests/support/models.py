"""Networks by name that are too deep or too large for tests of many steps on the digits."""

import functools

import torch

import evoprune as ep

# Widths that make them small enough for a test.
NARROW: dict[str, tuple[int, ...]] = {
    "lenet-5": (2,),
    "vgg-11-bn": (2,),
    "vgg-16-bn": (2,),
    "resnet-18": (2,),
    "mlp-mixer": (4,),
    "vit-tiny": (6,),
}
ON_PATCHES = ("mlp-mixer", "vit-tiny")
CIFAR, MNIST = (3, 32, 32), (1, 28, 28)


def images(shape: tuple[int, ...] = CIFAR, n: int = 4) -> ep.Data:
    """Returns random images of four classes, n in each part."""
    x = torch.randn(3 * n, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(3 * n) % 4
    return ep.Data(*((x[i : i + n], y[i : i + n]) for i in (0, n, 2 * n)))


@functools.cache
def narrow(name: str, shape: tuple[int, ...] = CIFAR, dtype: str = "float64") -> ep.Problem:
    """Returns the problem of a narrow network and four images, which are one training step an epoch."""
    return ep.Problem(name, images(shape), ep.Recipe(epochs=2, batch_size=4), widths=NARROW[name], dtype=dtype)
