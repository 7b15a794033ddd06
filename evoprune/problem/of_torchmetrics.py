"""Metrics of torchmetrics by names such as ``torchmetrics:F1Score``, made for the outputs that they are given."""

from __future__ import annotations

import importlib
import inspect
from functools import cached_property
from typing import Any

from torch import Tensor

from evoprune.errors import InputError, look_up

FAMILY = "torchmetrics"


class OfTorchmetrics:
    """A metric of torchmetrics: its class, and the arguments that outputs and targets tell.

    A class that takes a task gets ``multiclass``, and one that takes them the number of classes. All else has its default.

    Args:
        name: The name of its class in ``torchmetrics.classification`` or ``torchmetrics.regression``.

    Raises:
        InputError: torchmetrics cannot be imported, has no such class, or the class needs further arguments.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = _class_of(name)
        try:
            self.make(3)
        except Exception as error:
            raise InputError(
                f"metric '{FAMILY}:{name}' cannot be made of the number of classes alone: {type(error).__name__}: {error}. In "
                f"Python give the object: metrics=[torchmetrics.{name}(...)]."
            ) from error

    @cached_property
    def takes(self) -> frozenset[str]:
        """The names of the arguments of the class that are told from the outputs."""
        makers = (self.kind.__new__, self.kind.__init__)
        names = {name for maker in makers for name in inspect.signature(maker).parameters}
        return frozenset(names & {"task", "num_classes"})

    def make(self, classes: int) -> Any:
        """Returns the metric for a number of classes."""
        told = {"task": "multiclass", "num_classes": classes}
        return self.kind(**{name: value for name, value in told.items() if name in self.takes})

    @property
    def higher_is_better(self) -> bool | None:
        """Whether a larger value is better, as torchmetrics has it; None if it does not say."""
        says: bool | None = self.make(3).higher_is_better
        return says

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """Returns the value for outputs [n, classes, ...] and class labels [n, ...], or for numbers of one shape."""
        metric = self.make(outputs.shape[1] if outputs.ndim > 1 else 1)
        metric.update(outputs, targets)
        return float(metric.compute())

    def __reduce__(self) -> tuple[Any, ...]:
        return OfTorchmetrics, (self.name,)


def _class_of(name: str) -> Any:
    try:
        modules = [importlib.import_module(f"{FAMILY}.{part}") for part in ("classification", "regression")]
    except Exception as error:  # a package that does not fit torch raises others than ImportError
        raise InputError(
            f"the metric '{FAMILY}:{name}' is of the package {FAMILY}, which cannot be imported: {type(error).__name__}: "
            f"{error}. Install it, in a version that fits torch: pip install 'evoprune[{FAMILY}]'."
        ) from error
    known = {each: getattr(module, each) for module in modules for each in module.__all__}
    begun = sorted((each for each in known if each.casefold().startswith(name.casefold())), key=len) if name else []
    return look_up(f"metric of {FAMILY}", name, known, begun[0] if begun else "")
