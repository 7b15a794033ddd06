"""Conversion of inputs and targets to tensors: from arrays, data frames, series, lists, and labels that are words."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from evoprune.errors import InputError
from evoprune.problem.examples import Examples, inputs_of
from evoprune.problem.filearray import file_array, is_in_file

# Class labels to be encoded: words, or numbers of a categorical or object column.
Words: TypeAlias = list[Any]

BOOLEAN = ("False", "True")


def as_inputs(values: Any, where: str) -> Tensor | Examples:
    """Returns inputs as a contiguous tensor of real numbers; the columns of a data frame become float64 or float32.

    Args:
        values: A tensor, array, data frame or list; or a memory map, which is not read.
        where: Their name in messages.

    Raises:
        InputError: They are not numbers.
    """
    if isinstance(values, Examples):
        return values
    if is_in_file(values):
        return inputs_of(file_array(values, where), where)
    if _is_pandas(values) and values.ndim == 2:
        return _from_frame(values, where)
    plain = _plain(values, where)
    return _dense(_numbers(plain, where) if isinstance(plain, np.ndarray) else plain, where)


def as_targets(values: Any, where: str) -> Tensor | Words:
    """Returns targets as a contiguous tensor, or as labels to be encoded.

    A data frame with one column of labels gives one label an example, as in scikit-learn.

    Args:
        values: A tensor, array, data frame, series or list.
        where: Their name in messages.

    Raises:
        InputError: They are neither numbers nor labels, or some are missing.
    """
    if _is_pandas(values) and values.ndim == 2 and values.shape[1] > 1:
        whole = all(getattr(dtype, "kind", "O") in "iub" for dtype in values.dtypes)
        found = _from_frame(values, where)
        return found.long() if whole else found
    if _is_pandas(values):
        column = values.iloc[:, 0] if values.ndim == 2 else sys.modules["pandas"].Series(values)  # a Categorical, say
        found_or_words = _from_column(column, where)
        is_regression = isinstance(found_or_words, Tensor) and found_or_words.is_floating_point()
        return found_or_words[:, None] if values.ndim == 2 and is_regression else found_or_words  # type: ignore[call-overload]
    plain = _plain(values, where)
    return _words(plain, where) if isinstance(plain, np.ndarray) else _dense(plain, where)


def encode(
    targets: Mapping[str, Tensor | Words], classes: Sequence[str] | None
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Numbers the classes 0, 1, ... in sorted order over all parts.

    Args:
        targets: Targets by part; those that are numbers stay as they are, True and False become 1 and 0.
        classes: Names of the classes 0, 1, ..., if they are known.

    Returns:
        The targets, with labels as int64, and the names of the classes; None if they are numbers.

    Raises:
        InputError: Parts are of different kinds, or have classes that are not in the training part.
    """
    words = {part: y for part, y in targets.items() if isinstance(y, list)}
    if classes is not None:
        classes = tuple(str(name) for name in classes)
        if len(set(classes)) != len(classes):
            raise InputError(f"classes are {classes}; expected every name once.")
    elif words:
        classes = _names(targets, words)
    elif all(isinstance(y, Tensor) and y.dtype == torch.bool and y.ndim == 1 for y in targets.values()):
        classes = BOOLEAN
    codes = {name: code for code, name in enumerate(classes or ())}
    encoded = {}
    for part, y in targets.items():
        unknown = sorted({str(label) for label in y} - codes.keys()) if isinstance(y, list) else []
        if unknown:
            raise InputError(f"{part} targets have the class {unknown[0]!r}; expected one of {_listed(codes)}.")
        encoded[part] = torch.tensor([codes[str(label)] for label in y]) if isinstance(y, list) else y
        if is_labels(encoded[part]):
            encoded[part] = encoded[part].long()
    for part, y in encoded.items():
        if classes is not None and is_labels(y) and len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(classes):
            raise InputError(
                f"{part} targets have labels from {int(y.min())} to {int(y.max())}; expected 0 to {len(classes) - 1}, "
                f"for the classes {_listed(classes)}."
            )
    return encoded, classes


def is_labels(y: Tensor | Examples) -> bool:
    """Tells whether targets are class labels (of an integer type) rather than regression targets."""
    return not (y.is_floating_point() or y.is_complex())


def require_finite(values: Tensor | Examples, where: str, dtype: torch.dtype, missing: bool = False) -> None:
    """Checks that values are finite, also after a cast to a type.

    Args:
        values: The values.
        where: Their name in the message.
        dtype: The type that they will be cast to.
        missing: Allow NaN, which may stand for a missing value.

    Raises:
        InputError: Some are not; the message says how many, and where the first is.
    """
    if isinstance(values, Examples):  # checks each batch
        return
    most = torch.finfo(dtype).max
    if not values.is_floating_point() or not values.numel():
        return
    low, high = (float(bound) for bound in (values.float() if values.element_size() < 2 else values).aminmax())
    if -most <= low <= high <= most:  # false for NaN
        return
    values = values.double()
    wrong = ~(values.abs() <= most)
    if missing:
        wrong &= ~values.isnan()
    count = int(wrong.sum())
    if not count:
        return
    place = [int(i) for i in np.unravel_index(int(wrong.flatten().to(torch.uint8).argmax()), tuple(values.shape))]
    plural = "" if count == 1 else "s"
    if bool(values[wrong].isfinite().all()):
        kind = f"value{plural} too large for {str(dtype).removeprefix('torch.')}"
        cure = "scale them, or give dtype='float64'"
    else:
        kind, cure = f"NaN or infinite value{plural}", "remove these examples, or fill them in"
    raise InputError(f"{where} have {count:,} {kind} among {values.numel():,}, the first at {place}; {cure}.")


def _is_pandas(values: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "pandas" for base in type(values).__mro__)


def _plain(values: Any, where: str) -> Tensor | np.ndarray[Any, Any]:
    """Returns a tensor of numbers, or an array of words or objects."""
    if isinstance(values, Tensor):
        return values
    if hasattr(values, "toarray"):
        raise InputError(
            f"{where} are a sparse {type(values).__name__}; expected a dense array: give {_short(where)}.toarray()."
        )
    if isinstance(values, (list, tuple)):
        return _from_list(values, where)
    if isinstance(values, (str, bytes, dict, set)) or not (hasattr(values, "__array__") or hasattr(values, "to_numpy")):
        try:
            return torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{where} are {type(values).__name__}; expected a tensor, array, data frame or list.") from error
    return _from_numpy(values.to_numpy() if hasattr(values, "to_numpy") else np.asanyarray(values), where)


def _from_list(values: Sequence[Any], where: str) -> Tensor | np.ndarray[Any, Any]:
    try:
        if values and all(isinstance(value, Tensor) for value in values):
            return torch.stack(list(values))
        if values and all(isinstance(value, np.ndarray) for value in values):
            return _from_numpy(np.stack(values), where)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{where} are a list whose items differ in shape or kind: {error}.") from error
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return np.fromiter(values, object, len(values))


def _from_numpy(array: np.ndarray[Any, Any], where: str) -> Tensor | np.ndarray[Any, Any]:
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InputError(f"{where} have masked values; expected all: give {_short(where)}.filled(...), or leave them out.")
        array = array.data
    kind = array.dtype.kind
    if kind in "OUST":
        return array.astype(object) if kind != "S" else array.astype(str).astype(object)
    if kind not in "biuf":
        raise InputError(f"{where} are of the type {array.dtype}; expected real numbers{_cure_of(kind)}.")
    if kind == "u" and array.itemsize == 8 and array.size and array.max() >= 2**63:
        raise InputError(f"{where} have {array.max()}, which no 64-bit integer holds; expected smaller numbers, or floats.")
    # torch supports few operations on these types
    dtype = {"u2": "i4", "u4": "i8", "u8": "i8", "f12": "f8", "f16": "f8"}.get(array.dtype.str[1:])
    return torch.from_numpy(np.require(array, dtype or array.dtype.newbyteorder("="), ["C", "W", "E"]))


def _dense(values: Tensor, where: str) -> Tensor:
    if values.layout != torch.strided or values.is_quantized or values.is_meta or values.is_nested:
        raise InputError(f"{where} are a tensor that is sparse, nested, quantized or empty; expected a dense one: to_dense().")
    if values.is_complex():
        raise InputError(f"{where} are of the type {values.dtype}; expected real numbers{_cure_of('c')}.")
    if values.requires_grad:
        values = values.detach()
    unsigned = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
    return values.to(unsigned.get(values.dtype, values.dtype)).contiguous()


def _numbers(array: np.ndarray[Any, Any], where: str) -> Tensor:
    """Returns an array of objects as float64 if all of them are numbers."""
    others = tuple(kind for kind in set(map(type, array.flat)) if not issubclass(kind, (numbers.Real, np.bool_)))
    if others:
        place, value = next((place, value) for place, value in np.ndenumerate(array) if isinstance(value, others))
        raise InputError(
            f"{where} have {_shown(value)} at {list(place)}; expected numbers: leave such columns out, encode them (as "
            f"one-hot, say), or fill in the missing ones."
        )
    return torch.from_numpy(array.astype(np.float64))


def _words(array: np.ndarray[Any, Any], where: str) -> Tensor | Words:
    """Returns labels that are words, or True and False, or integers; objects that are floats are regression targets."""
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1:
        raise InputError(f"{where} are words of the shape {array.shape}; expected one label an example, or numbers.")
    labels: list[Any] = array.tolist()
    missing = [place for place, label in enumerate(labels) if _is_missing(label)]
    if missing:
        raise InputError(
            f"{where} have {len(missing):,} missing labels among {len(labels):,}, the first at {missing[:1]}; remove these "
            f"examples, or fill them in."
        )
    if all(isinstance(label, (bool, np.bool_)) for label in labels):
        return torch.tensor([bool(label) for label in labels])
    if any(isinstance(label, (bool, np.bool_)) for label in labels):
        raise InputError(f"{where} mix True and False with other labels; expected labels of one type, such as all words.")
    if all(isinstance(label, str) for label in labels) or all(isinstance(label, numbers.Integral) for label in labels):
        return labels
    if all(isinstance(label, numbers.Real) for label in labels):
        return torch.tensor([float(label) for label in labels], dtype=torch.float64)
    types = ", ".join(sorted({type(label).__name__ for label in labels}))
    raise InputError(f"{where} are labels of type {types}; expected all words or all integers: give y.astype(str).")


def _from_frame(frame: Any, where: str) -> Tensor:
    for name, dtype in frame.dtypes.items():
        kind = getattr(dtype, "kind", "O")
        if kind not in "biuf":
            raise InputError(
                f"{where} have the column {name!r} of the type {dtype}; expected numbers{_cure_of(kind)}: leave it out, as by "
                f"select_dtypes('number'), or encode it, as by pandas.get_dummies."
            )
    single = all(dtype == np.float32 for dtype in frame.dtypes)
    array = frame.to_numpy(dtype=np.float32 if single else np.float64, na_value=np.nan)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _from_column(column: Any, where: str) -> Tensor | Words:
    """Returns a pandas Series or Index as numbers, or as labels to be encoded."""
    dtype = column.dtype
    kind = getattr(dtype, "kind", "O")
    if kind not in "biufOUST":
        raise InputError(f"{where} are of the type {dtype}; expected numbers or labels{_cure_of(kind)}.")
    if kind == "f":
        found = _from_numpy(column.to_numpy(dtype=f"f{dtype.itemsize}", na_value=np.nan), where)
    elif kind in "OUST" or bool(column.isna().any()):
        return _words(column.astype(object).to_numpy(), where)
    else:
        found = _from_numpy(column.to_numpy(dtype=bool if kind == "b" else f"{kind}{dtype.itemsize}"), where)
    return _dense(found, where) if isinstance(found, Tensor) else _words(found, where)


def _names(targets: Mapping[str, Tensor | Words], words: Mapping[str, Words]) -> tuple[str, ...]:
    """Returns the names of the classes of all parts, in sorted order; all of them are in the training part."""
    for part in targets:
        if part not in words:
            other = next(iter(words))
            raise InputError(f"{part} targets are numbers, those of {other} are words; expected the same kind in all parts.")
    try:
        names = tuple(str(label) for label in sorted({label for labels in words.values() for label in labels}))
    except TypeError as error:
        raise InputError(f"targets are words in one part and numbers in another ({error}); expected the same kind.") from error
    trained = {str(label) for label in words.get("train", [])}
    if len(names) < 2:
        raise InputError(f"train has targets that are all {names[0]!r}; expected two classes at least, or numbers.")
    for part, labels in words.items():
        unknown = sorted({str(label) for label in labels} - trained)
        if unknown:
            raise InputError(
                f"{part} targets have the class {unknown[0]!r}, which train has not; expected {_listed(sorted(trained))}."
            )
    return names


def _is_missing(label: Any) -> bool:
    return label is None or type(label).__name__ in ("NAType", "NaTType") or (isinstance(label, float) and label != label)


def _cure_of(kind: str) -> str:
    cures = {
        "c": " (torch.view_as_real makes real numbers of complex ones)",
        "M": " (dates: give their distance from one of them, in days, say)",
        "m": " (durations: give .dt.total_seconds(), or divide by numpy.timedelta64(1, 's'))",
        "V": " (fields: numpy.lib.recfunctions.structured_to_unstructured)",
    }
    return cures.get(kind, "")


def _short(where: str) -> str:
    return "y" if where.endswith("targets") else "x"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) < 40 else text[:37] + '...'} ({type(value).__name__})"


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    shown = [repr(name) for name in list(names)[:10]]
    return ", ".join(shown) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
