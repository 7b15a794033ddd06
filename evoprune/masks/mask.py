"""Mask: the prunable weights of a network that survive; a DEAP individual, and its file format."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from deap import base
from numpy.typing import NDArray
from torch import Tensor

from evoprune.errors import InputError
from evoprune.system.archive import Archive
from evoprune.system.files import open_regular, write_atomically

if TYPE_CHECKING:
    from evoprune.masks.evidence import Evidence
    from evoprune.masks.snapshot import Snapshot
    from evoprune.problem.problem import Problem
from evoprune.masks.bits import Bits
from evoprune.masks.collapse import Collapse, unreached_outputs

# Bytes of packed bits that a compressed file of any size may hold: those of 8 million weights.
SMALL = 2**20
MOST_DIMENSIONS = 32
# Bits that are compared at a time.
PART = 2**16


class Fitness(base.Fitness):  # type: ignore[misc]
    """DEAP's fitness, with as many objectives as it has values, each to be maximised.

    A subclass that declares ``weights`` keeps them, as DEAP's own does: ``weights = (-1.0,)`` minimises, and the number of
    values is the number of weights.
    """

    weights: tuple[float, ...] = (1.0,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fitness:
        copy = type(self)()
        copy.__dict__.update({name: value for name, value in self.__dict__.items() if name in _TRAVELS})
        return copy

    def _set(self, values: Iterable[float]) -> None:
        numbers = tuple(map(float, values))
        if len(numbers) != len(self.weights):
            if _declares_weights(type(self)) or any(weight != 1 for weight in self.weights):
                raise InputError(
                    f"{len(numbers)} fitness values for the weights {self.weights} of {type(self).__name__}; expected as many: "
                    f"a name in fitness= for each weight."
                )
            self.weights = (1.0,) * len(numbers)
        self.wvalues = tuple(map(mul, numbers, self.weights))
        evidence = getattr(values, "evidence", None)
        if evidence is not None:
            self.evidence = evidence

    values = property(
        base.Fitness.getValues, _set, base.Fitness.delValues, "One number an objective; empty where the fitness is not valid."
    )


def _declares_weights(kind: type[Fitness]) -> bool:
    return next(each for each in kind.__mro__ if "weights" in vars(each)) is not Fitness


# The attributes that a copy of a fitness keeps; DEAP's own keeps the values alone.
_TRAVELS = ("weights", "wvalues", "evidence")


class Values(tuple[float, ...]):
    """Fitness values that bring their mask's evidence along: a worker has a copy of the mask, whose attributes stay there.

    A :class:`Fitness` that they are assigned to passes the evidence to its mask. In every other respect they are a tuple.
    """

    evidence: Evidence | None = None


class Mask:
    """The prunable weights of a network that survive.

    A mask is an ordinary DEAP individual: it has a ``fitness``, a length, items and slices. A slice is a copy, never a view,
    so that operators may swap slices. Other attributes may be set on it and travel with it.

    Args:
        bits: True where a weight survives, over all prunable weights in the order of ``shapes``, each in C order: an
            array [n] of booleans, or of 0 and 1. It is copied.
        shapes: Shape by parameter name.

    Attributes:
        bits: The array [n] of booleans; operators may change it in place.
        shapes: Shape by parameter name, as in the network's ``state_dict``.
        fitness: A :class:`Fitness`, not valid until it has values.
        meant: Number of survivors that an operator gave it on purpose; None for the number of its population.
        snapshot: The state of its training, if weights are inherited: before its evaluation its parent's, afterwards its own.
        parent: The digest of the state that its evaluation continues from; empty for W0.

    Raises:
        InputError: ``bits`` are neither booleans nor 0 and 1, or their number is not that of the shapes' elements.
    """

    meant: int | None = None
    snapshot: Snapshot | None = None
    parent: str = ""
    _evidence: Evidence | None = None
    __hash__ = None  # type: ignore[assignment]  # it is mutable, and == compares the content

    def __init__(self, bits: Bits, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = {name: tuple(map(int, shape)) for name, shape in shapes.items()}
        n = sum(math.prod(shape) for shape in self.shapes.values())
        self.bits: Bits = np.array(as_bits("the mask", bits))
        if self.bits.shape != (n,):
            raise InputError(f"bits have the shape {self.bits.shape}; expected bool ({n},) for {self.shapes}.")
        if "fitness" not in vars(self):  # DEAP's creator has set its own already
            self.fitness = Fitness()

    @classmethod
    def from_layers(cls, layers: Mapping[str, Bits | Tensor]) -> Mask:
        """Makes a mask from arrays or tensors by parameter name, in ``named_parameters`` order.

        Args:
            layers: Booleans, or 0 and 1 as integers or floats, as other packages use; True or 1 where a weight survives.

        Raises:
            InputError: Other values, or no layers.
        """
        if not layers:
            raise InputError("there are no layers; expected arrays or tensors by parameter name.")
        arrays = {name: as_bits(name, layer) for name, layer in layers.items()}
        flat = [array.reshape(-1) for array in arrays.values()]
        return cls(np.concatenate(flat), {name: array.shape for name, array in arrays.items()})

    @classmethod
    def from_packed(cls, packed: NDArray[np.uint8], shapes: Mapping[str, tuple[int, ...]]) -> Mask:
        """Makes a mask from its packed bits, as ``numpy.packbits`` returns them.

        Args:
            packed: The packed bits.
            shapes: Shape by parameter name.
        """
        n = sum(math.prod(shape) for shape in shapes.values())
        return cls(np.unpackbits(packed, count=n).view(np.bool_), shapes)

    @property
    def evidence(self) -> Evidence | None:
        """The findings of its evaluation about its weights, for the informed mutation; None if there are none."""
        # a fitness of another class brings none, and need not have a dictionary
        arrived = getattr(self.fitness, "evidence", None)
        return self._evidence if arrived is None else arrived

    @evidence.setter
    def evidence(self, evidence: Evidence | None) -> None:
        if getattr(self.fitness, "evidence", None) is not None:
            self.fitness.evidence = None
        self._evidence = evidence

    @property
    def layers(self) -> dict[str, Bits]:
        """Boolean arrays of the weights' shapes by parameter name: copies."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])[:-1]
        parts = np.split(self.bits, ends)
        return {name: part.reshape(shape).copy() for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    @property
    def survivors(self) -> int:
        """Number of weights kept."""
        return int(np.count_nonzero(self.bits))

    @property
    def density(self) -> float:
        """Fraction of the prunable weights kept."""
        return self.survivors / len(self.bits)

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights removed."""
        return 1 - self.density

    @property
    def hash(self) -> str:
        """SHA-256 of names, shapes and bits, in hex: equal for equal masks."""
        digest = hashlib.sha256(repr(self.shapes).encode())
        digest.update(np.packbits(self.bits).data)
        return digest.hexdigest()

    @property
    def key(self) -> str:
        """The name of its evaluation: its hash, and after a hyphen the digest of its parent's state, if it inherits one."""
        return f"{self.hash}-{self.parent}" if self.parent else self.hash

    def iou(self, other: Mask) -> float:
        """Returns intersection over union of the survivors, from 0 to 1 (1 for two empty masks).

        Raises:
            InputError: The other mask is for another network.
        """
        other.require(self.shapes)
        union = np.count_nonzero(self.bits | other.bits)
        return float(np.count_nonzero(self.bits & other.bits) / union) if union else 1.0

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Checks that the mask fits a network.

        Args:
            shapes: Shape of the network's prunable weights by name, as in ``problem.shapes``.

        Raises:
            InputError: The mask does not fit; the message names the first difference.
        """
        _require_shapes(self.shapes, shapes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an ``.npz`` without pickle: for each parameter, ``<name>/bits`` and ``<name>/shape``.

        ``bits`` are ``numpy.packbits`` of the boolean array in C order.
        """
        arrays: dict[str, Any] = {}
        for name, layer in self.layers.items():
            arrays[f"{name}/bits"] = np.packbits(layer)
            arrays[f"{name}/shape"] = np.array(layer.shape, np.int64)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str], problem: Problem | None = None) -> Mask:
        """Reads a file that :meth:`save` wrote; files of strangers are safe to read.

        The memory is limited by the problem's network, or without a problem by the size of the file. A file of more than 8
        million weights that was compressed later may hold more than its size, so it can be read only with the problem.

        Args:
            path: The file.
            problem: The problem whose network the mask is for; None does not check.

        Raises:
            InputError: The file is missing or holds no mask, or the mask does not fit the network.
        """
        try:
            with open_regular(Path(path)) as file:
                archive, most = Archive(file), os.fstat(file.fileno()).st_size
                shapes = _read_shapes(archive)
                if problem is not None:
                    _require_shapes(shapes, problem.shapes)
                elif (size := sum(map(_packed, shapes.values()))) > max(SMALL, most):
                    raise ValueError(f"it has {most} bytes for {size} of bits; give the problem that it is for")
                bits = np.concatenate([_read_bits(archive, name, shape) for name, shape in shapes.items()])
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read a mask from {path}: {error}; expected an .npz that Mask.save wrote.") from error
        return cls(bits, shapes)

    def collapse(self, problem: Problem) -> Collapse:
        """Reports the parts that the mask cuts off: layers without survivors, and outputs that no path reaches."""
        self.require(problem.shapes)
        layers = self.layers
        empty = tuple(name for name, layer in layers.items() if not layer.any())
        return Collapse(empty, unreached_outputs(problem, layers))

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, key: Any) -> Any:
        item = self.bits[key]
        return item.copy() if isinstance(item, np.ndarray) else bool(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.bits[key] = value

    def __iter__(self) -> Iterator[bool]:
        return iter(self.bits.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        if list(self.shapes.items()) != list(other.shapes.items()) or len(self.bits) != len(other.bits):
            return False
        # by parts: the first one tells most masks apart
        return all(np.array_equal(self.bits[i : i + PART], other.bits[i : i + PART]) for i in range(0, len(self.bits), PART))

    def __repr__(self) -> str:
        return f"Mask({self.survivors:,} of {len(self):,} weights, sparsity {self.sparsity:.4f}, {self.fitness})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Mask:
        twin = type(self).__new__(type(self))  # without packing the bits, as pickling does
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"bits": np.packbits(self.bits).tobytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        n = sum(math.prod(shape) for shape in state["shapes"].values())
        bits = np.unpackbits(np.frombuffer(state["bits"], np.uint8), count=n).view(np.bool_)
        self.__dict__.update(state | {"bits": bits})


def as_bits(name: str, values: Any) -> Bits:
    """Returns as booleans the values that say which weights survive.

    Args:
        name: Name of the layer or mask, for the message.
        values: An array, a tensor on any device, or nested lists: booleans, or 0 and 1 as integers or floats.

    Raises:
        InputError: The values are of another kind.
    """
    cure = "expected booleans, or 0 and 1 as integers or floats, 1 where a weight survives; of weights, pass weights != 0."
    try:
        if isinstance(values, Tensor):
            values = values.detach().to_dense().cpu()
            # numpy has no small floats
            array = (values.double() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
        else:
            array = np.asarray(values)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f"bits of {name} cannot be read: {error}; {cure}") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"bits of {name} are {array.dtype}; {cure}")
    if array.dtype != np.bool_:
        others = array[(array != 0) & (array != 1)]
        if others.size:
            found = f"{others.size} of them neither 0 nor 1, such as {others[0]}"
            raise InputError(f"bits of {name} are {array.dtype}, {found}; {cure}")
    bits: Bits = array.astype(np.bool_, copy=False)
    return bits


def _require_shapes(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that the shapes of a mask are those of a network; see :meth:`Mask.require`."""
    expected = {name: tuple(shape) for name, shape in wanted.items()}
    if list(expected.items()) == list(shapes.items()):
        return
    names = [*expected, *(name for name in shapes if name not in expected)]
    for name in names:
        if expected.get(name) != shapes.get(name):
            raise InputError(
                f"the mask does not fit the network: {name} is {shapes.get(name, 'absent')} in the mask, "
                f"{expected.get(name, 'absent or excluded')} in the network."
            )
    raise InputError(f"the mask orders its layers {list(shapes)}, the network {list(expected)}.")


def _packed(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // 8)


def _read_shapes(archive: Archive) -> dict[str, tuple[int, ...]]:
    """Returns the shapes in a mask's file, and checks that each has no more weights than the file has bits.

    Raises:
        ValueError: The file holds no mask.
    """
    names = [name.removesuffix("/bits") for name in archive.sizes if name.endswith("/bits")]
    if others := set(archive.sizes) - {f"{name}/{what}" for name in names for what in ("bits", "shape")}:
        raise ValueError(f"it holds {min(others)!r}, which is no part of a mask")
    shapes = {}
    for name in names:
        lengths = archive.read(f"{name}/shape", 8 * MOST_DIMENSIONS)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
            raise ValueError(f"{name!r} has the shape {lengths.tolist()}, expected integers of at least 0")
        shape = tuple(lengths.tolist())
        if math.prod(max(1, length) for length in shape) > 8 * archive.sizes[f"{name}/bits"]:
            raise ValueError(f"{name!r} has {archive.sizes[f'{name}/bits']} bytes for the shape {shape}")
        shapes[name] = shape
    if not shapes:
        raise ValueError("it holds no mask")
    return shapes


def _read_bits(archive: Archive, name: str, shape: tuple[int, ...]) -> Bits:
    packed = archive.read(f"{name}/bits", _packed(shape))
    if packed.dtype != np.uint8 or packed.shape != (_packed(shape),):
        raise ValueError(f"{name!r} has {packed.dtype} {packed.shape} for the shape {shape}")
    return np.unpackbits(packed, count=math.prod(shape)).astype(np.bool_, copy=False)


def distinct(masks: Iterable[Mask]) -> list[Mask]:
    """Returns the first of each set of equal masks, in their order."""
    first: dict[str, Mask] = {}
    for mask in masks:
        first.setdefault(mask.hash, mask)
    return list(first.values())


def fitness_of(mask: Mask) -> float:
    """Returns the mask's first fitness value."""
    return float(mask.fitness.values[0])
