"""The registry of prunable kinds: classes of modules, each with the names of its prunable weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from evoprune.errors import InputError, look_up
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

    def unknown_in(self, network: nn.Module) -> dict[str, tuple[str, ...]]:
        """Returns those of the names that no module of the kind has, each with the names of the parameters that they have.

        A network without such modules has nothing to say. A parameter may be None in a module, or
        reparametrised.
        """
        modules = [module for module in network.modules() if isinstance(module, self.module)]
        known = tuple(dict.fromkeys(name for module in modules for name in _names_of(module)))
        unknown = [name for name in self.weights if not any(fnmatchcase(each, name) for each in known)]
        return dict.fromkeys(unknown, known) if modules else {}

    def _place(self) -> tuple[str, str]:
        return self.module.__module__, self.module.__qualname__


def _names_of(module: nn.Module) -> Iterator[str]:
    """Yields the names of a module's parameters, also of those that are None."""
    for prefix, each in module.named_modules():
        place = f"{prefix}." if prefix else ""
        parametrized = getattr(each, "parametrizations", ())
        for name in (*vars(each)["_parameters"], *(parametrized if isinstance(parametrized, nn.ModuleDict) else ())):
            yield f"{place}{name}"


def require_weights(network: nn.Module) -> None:
    """Checks that the weights of the kinds that a user has registered are there, in a network with such modules.

    Raises:
        InputError: No module of a kind has a weight of a name.
    """
    for title, kind in KINDS.own.items():
        for name, known in kind.unknown_in(network).items():
            look_up(f"weight of {describe(kind.module)}, which the prunable kind {title!r} names,", name, dict.fromkeys(known))


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
