"""The registry of prunable kinds: classes of modules, each with the names of its prunable weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from evoprune.errors import InputError
from evoprune.registry import Registry, describe

PRUNABLE_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of modules with prunable weights. Kinds of the same class are equal, also when its definition ran again.

    Attributes:
        module: The modules' class; subclasses count, too.
        weights: Names of the prunable parameters in such a module. ``*`` stands for any letters, ``[qkv]`` for one of three.

    Raises:
        InputError: The class is no class of modules, or no parameters are named.
    """

    module: type[nn.Module]
    weights: tuple[str, ...] = ("weight",)

    def __post_init__(self) -> None:
        if not (isinstance(self.module, type) and issubclass(self.module, nn.Module)):
            raise InputError(f"a prunable kind is {describe(self.module)}; expected a class of modules, such as nn.Embedding.")
        given: object = self.weights
        object.__setattr__(self, "weights", (given,) if isinstance(given, str) else tuple(self.weights))
        if not self.weights or not all(isinstance(name, str) and name for name in self.weights):
            raise InputError(f"the weights of {describe(self.module)} are {self.weights!r}; expected names of its parameters.")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kind) and self._place() == other._place()

    def __hash__(self) -> int:
        return hash(self._place())

    def parameters_in(self, network: nn.Module) -> Iterator[nn.Parameter]:
        """Yields the prunable parameters of this kind's modules in a network."""
        for module in network.modules():
            if isinstance(module, self.module):
                for name, parameter in module.named_parameters():
                    if any(fnmatchcase(name, pattern) for pattern in self.weights):
                        yield parameter

    def _place(self) -> tuple[str, str]:
        return self.module.__module__, self.module.__qualname__


def _as_kind(thing: object) -> Kind:
    if isinstance(thing, Kind):
        return thing
    raise InputError(f"the prunable kind is {describe(thing)}; expected an evoprune.problem.kinds.Kind.")


KINDS: Registry[Kind] = Registry(
    "prunable kind",
    {
        **{module.__name__.lower(): Kind(module) for module in PRUNABLE_MODULES},
        "attention": Kind(nn.MultiheadAttention, ("in_proj_weight", "[qkv]_proj_weight")),  # its out_proj is a linear layer
        "recurrent": Kind(nn.RNNBase, ("weight_[ih]h_l*", "weight_hr_l*")),
        "recurrent-cell": Kind(nn.RNNCellBase, ("weight_ih", "weight_hh")),
    },
    _as_kind,
)
