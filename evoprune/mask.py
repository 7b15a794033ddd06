"""Mask: which of a network's prunable weights survive; a DEAP individual, and its file format."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from deap import base
from numpy.typing import NDArray
from torch import Tensor, nn

from evoprune.archive import Archive
from evoprune.errors import InputError
from evoprune.files import open_regular, write_atomically

if TYPE_CHECKING:
    from evoprune.operators import Evidence
    from evoprune.problem import Problem

Bits: TypeAlias = NDArray[np.bool_]
# Bytes of packed bits that a file may have whatever its own size, if it is compressed: those of 8 million weights.
SMALL = 2**20
MOST_DIMENSIONS = 32


class Fitness(base.Fitness):  # type: ignore[misc]
    """DEAP's fitness, of as many objectives as it is given values, each to be maximised.

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
            if type(self)._declared() or any(weight != 1 for weight in self.weights):
                raise InputError(
                    f"{len(numbers)} fitness values for the weights {self.weights} of {type(self).__name__}; expected as many: "
                    f"a name in fitness= for each weight."
                )
            self.weights = (1.0,) * len(numbers)
        self.wvalues = tuple(map(mul, numbers, self.weights))
        evidence = getattr(values, "evidence", None)
        if evidence is not None:
            self.evidence = evidence

    @classmethod
    def _declared(cls) -> bool:
        return next(each for each in cls.__mro__ if "weights" in vars(each)) is not Fitness

    values = property(
        base.Fitness.getValues, _set, base.Fitness.delValues, "One number an objective; empty where the fitness is not valid."
    )


# What a copy of a fitness keeps; DEAP's own keeps the values alone.
_TRAVELS = ("weights", "wvalues", "evidence")


class Values(tuple[float, ...]):
    """Fitness values that bring their mask's evidence along: a mask in a worker is a copy, and what is set there stays there.

    A :class:`Fitness` that they are assigned to hands it to the mask that it belongs to; to all else they are a tuple.
    """

    evidence: Evidence | None = None


class Mask:
    """Which of a network's prunable weights survive.

    An ordinary DEAP individual: it has a ``fitness``, a length, items and slices. A slice is a copy, never a view,
    so that operators which swap slices are right. Other attributes may be set on it and travel with it.

    Args:
        bits: True where a weight survives, over all prunable weights in the order of ``shapes``, each in C order: an
            array [n] of booleans, or of 0 and 1. It is copied.
        shapes: Shape by parameter name.

    Attributes:
        bits: The array [n] of booleans; operators may change it in place.
        shapes: Shape by parameter name, as in the network's ``state_dict``.
        fitness: A :class:`Fitness`, not valid until it is given values.
        meant: Number of survivors that an operator has given it on purpose; None for the number of its population.

    Raises:
        InputError: ``bits`` are neither booleans nor 0 and 1, or not as many as the shapes have elements.
    """

    meant: int | None = None
    _evidence: Evidence | None = None
    __hash__ = None  # type: ignore[assignment]  # it is mutable, and == compares what it holds

    def __init__(self, bits: Bits, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = {name: tuple(map(int, shape)) for name, shape in shapes.items()}
        n = sum(math.prod(shape) for shape in self.shapes.values())
        self.bits: Bits = np.array(as_bits("the mask", bits))
        if self.bits.shape != (n,):
            raise InputError(f"bits have the shape {self.bits.shape}; expected bool ({n},) for {self.shapes}.")
        if "fitness" not in vars(self):  # DEAP's creator sets its own before
            self.fitness = Fitness()

    @classmethod
    def from_layers(cls, layers: Mapping[str, Bits | Tensor]) -> Mask:
        """Returns the mask of arrays or tensors by parameter name, in ``named_parameters`` order.

        Args:
            layers: Booleans, or 0 and 1 as integers or floats, as other codes have them; True or 1 where a weight survives.

        Raises:
            InputError: Other values, or no layers.
        """
        if not layers:
            raise InputError("there are no layers; expected arrays or tensors by parameter name.")
        arrays = {name: as_bits(name, layer) for name, layer in layers.items()}
        flat = [array.reshape(-1) for array in arrays.values()]
        return cls(np.concatenate(flat), {name: array.shape for name, array in arrays.items()})

    @property
    def evidence(self) -> Evidence | None:
        """What its evaluation says about its weights, for the informed mutation; None for nothing."""
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
            InputError: It does not; the message names the first difference.
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
        """Reads what :meth:`save` wrote, from whomever it comes.

        No more memory is used than the problem's network, or else the size of the file, explains. A file that was compressed
        since, and is of a network of more than 8 million weights, may hold more than its own size: it needs the problem.

        Args:
            path: The file.
            problem: The problem whose network the mask is for; None does not check.

        Raises:
            InputError: The file is missing or no mask, or the mask does not fit the network.
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
        """Reports what the mask cuts off: layers without survivors, and outputs that no path reaches."""
        self.require(problem.shapes)
        layers = self.layers
        empty = tuple(name for name, layer in layers.items() if not layer.any())
        return Collapse(empty, _unreached_outputs(problem.network(), layers, problem.data.train[0][:16]))

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
        return list(self.shapes.items()) == list(other.shapes.items()) and np.array_equal(self.bits, other.bits)

    def __repr__(self) -> str:
        return f"Mask({self.survivors:,} of {len(self):,} weights, sparsity {self.sparsity:.4f}, {self.fitness})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"bits": np.packbits(self.bits).tobytes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        n = sum(math.prod(shape) for shape in state["shapes"].values())
        bits = np.unpackbits(np.frombuffer(state["bits"], np.uint8), count=n).astype(bool)
        self.__dict__.update(state | {"bits": bits})


def as_bits(name: str, values: Any) -> Bits:
    """Returns values that say which weights survive as booleans.

    Args:
        name: What they are of, for the message.
        values: An array, a tensor on any device, or nested lists: booleans, or 0 and 1 as integers or floats.

    Raises:
        InputError: Anything else.
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
    """Checks that a mask's shapes are those of a network; see :meth:`Mask.require`."""
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
    """Returns the shapes in a mask's file, none of more weights than its bits may be.

    Raises:
        ValueError: It is no mask's file.
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


@dataclass(frozen=True)
class Collapse:
    """What a mask cuts off; false when nothing.

    Attributes:
        empty_layers: Names of the weights without a survivor.
        unreached_outputs: Indices of the network's outputs (flattened) that no path from an input reaches: constants.
    """

    empty_layers: tuple[str, ...]
    unreached_outputs: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.empty_layers or self.unreached_outputs)

    def __str__(self) -> str:
        parts = []
        if self.empty_layers:
            parts.append(f"no survivors in {', '.join(self.empty_layers)}")
        if self.unreached_outputs:
            shown = ", ".join(map(str, self.unreached_outputs[:10]))
            more = ", ..." if len(self.unreached_outputs) > 10 else ""
            parts.append(f"no path to {len(self.unreached_outputs)} outputs ({shown}{more})")
        return "; ".join(parts)


def distinct(masks: Iterable[Mask]) -> list[Mask]:
    """Returns the first of each set of equal masks, in their order."""
    first: dict[str, Mask] = {}
    for mask in masks:
        first.setdefault(mask.hash, mask)
    return list(first.values())


def layer_slices(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, slice]:
    """Returns where each layer lies in a mask's bits, by parameter name."""
    ends = np.cumsum([0, *(math.prod(shape) for shape in shapes.values())]).tolist()
    return {name: slice(*pair) for name, pair in zip(shapes, pairwise(ends), strict=True)}


def layer_counts(masks: Sequence[Mask]) -> NDArray[np.int64]:
    """Returns the survivors [masks, layers] of each layer."""
    slices = layer_slices(masks[0].shapes).values()
    return np.array([[np.count_nonzero(mask.bits[part]) for part in slices] for mask in masks], np.int64)


def expected_iou(a_counts: Sequence[int], b_counts: Sequence[int], sizes: Sequence[int]) -> float:
    """Returns the overlap (IoU) to expect of two independent random masks with given survivors in each layer.

    With a_l and b_l survivors of n_l weights, layer l shares a_l b_l / n_l of them on average. What is returned is the ratio of
    the expectations, E|A and B| / E|A or B|, not the expectation of the ratio; for layers of many weights they hardly differ.

    Args:
        a_counts: Survivors of the one mask, layer by layer.
        b_counts: Survivors of the other.
        sizes: Weights of each layer.

    Returns:
        A number from 0 to 1; NaN where both masks are empty.
    """
    shared = sum(a * b / n for a, b, n in zip(a_counts, b_counts, sizes, strict=True) if n)
    union = sum(a_counts) + sum(b_counts) - shared
    return shared / union if union else math.nan


def chance_diversity(masks: Sequence[Mask]) -> float:
    """Returns the diversity to expect of random masks with as many survivors in each layer; NaN for fewer than two."""
    if len(masks) < 2:
        return math.nan
    counts = layer_counts(masks).tolist()
    sizes = [math.prod(shape) for shape in masks[0].shapes.values()]
    expected = [expected_iou(a, b, sizes) for a, b in combinations(counts, 2)]
    return float(1 - np.mean([1.0 if math.isnan(iou) else iou for iou in expected]))


def diversity(masks: Sequence[Mask]) -> float:
    """Returns 1 - the mean pairwise IoU of a population, from 0 (all equal) to 1 (disjoint); NaN for fewer than two."""
    if len(masks) < 2:
        return math.nan
    bits = np.stack([mask.bits for mask in masks]).astype(np.float32)
    common = (bits @ bits.T).astype(np.float64)
    sizes = np.diagonal(common)
    union = sizes[:, None] + sizes[None, :] - common
    iou = np.divide(common, union, out=np.ones_like(common), where=union > 0)
    return float(1 - iou[np.triu_indices(len(masks), 1)].mean())


def _unreached_outputs(network: nn.Module, layers: Mapping[str, Bits], x: Tensor) -> tuple[int, ...]:
    """Sends examples through the surviving connections: an output that is the same for all of them is not reached.

    The weights are drawn anew, so that no path cancels or vanishes. Every layer with weights has its output scaled,
    every other layer that keeps its input's shape passes its input on, and the rest (flattening, pooling, functions) run
    as they are.
    """
    network = network.to("cpu", torch.float64).eval()
    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(_pass_on)
    draws = torch.Generator().manual_seed(0)
    # inputs of an integer type are indices, which keep their values
    inputs = torch.randn(x.shape, generator=draws, dtype=torch.float64) if x.is_floating_point() else x.cpu()
    reached = torch.tensor(False)
    with torch.no_grad():
        # positive weights keep a chain of functional ReLU alive, mixed signs one that negates; neither reaches what is cut off
        for positive in (True, False):
            for name, parameter in network.named_parameters():
                parameter.normal_(generator=draws)
                if positive:
                    parameter.copy_(torch.zeros(()) if name.endswith("bias") else parameter.abs())
                if name in layers:
                    parameter.mul_(torch.from_numpy(layers[name]))
            outputs = network(inputs)
            reached = reached | (outputs.amax(0) - outputs.amin(0) > 1e-9 * outputs.abs().amax(0))
    return tuple(torch.nonzero(~reached.flatten()).flatten().tolist())


def _pass_on(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    if not isinstance(output, Tensor):
        return output
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim > 1:
        return output / output.abs().amax().clamp(min=1e-300)
    return inputs[0] if inputs and inputs[0].shape == output.shape else output
