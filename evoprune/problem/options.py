"""Options of a problem: the keywords of :class:`evoprune.problem.problem.Problem`, and options of the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evoprune.errors import InputError
from evoprune.options import check_sizes

# Metadata of fields that are newer than the records of runs.
_LATER = {"later": True}


@dataclass(frozen=True)
class ProblemOptions:
    """Options of the problem."""

    model: str = "lenet-300-100"
    """Network: lenet-300-100, mlp, autoencoder, conv-2, conv-4, conv-6, resnet-8, resnet-20, or one that --load or a plugin
    registers."""
    data: str = "digits"
    """Data set: digits (embedded), mnist, fashion-mnist, or one that --load or a plugin registers."""
    loss: str | None = None
    """Loss: cross-entropy, mse (mean squared error), or reconstruction (mean squared error against the input). None: the one
    that the named model is made for, else cross-entropy where the targets are class labels and mse where they are not."""
    label_smoothing: float = field(default=0.0, metadata=_LATER)
    """Part of each label that cross-entropy spreads over all classes, from 0 to below 1 (Szegedy et al. 2016). Measured losses
    are smoothed, too."""
    class_weights: Literal["balanced"] | tuple[float, ...] | None = field(default=None, metadata=_LATER)
    """Weights of the classes in cross-entropy, one a class, or balanced: in inverse proportion to their number among the
    training examples. Measured losses are weighted, too; accuracies are not. None: all alike."""
    seed: int = field(default=0, metadata={"any_size": True})
    """Seed of everything drawn: weights, split, order of batches, masks, choices."""
    weights_seed: int | None = field(default=None, metadata={"any_size": True})
    """Seed of the initial weights alone. None: --seed."""
    exclude: tuple[str, ...] = ()
    """Names of parameters or modules that stay dense, such as fc3."""
    initialization: Literal["kaiming", "xavier", "pytorch", "given"] | None = None
    """Initial weights: kaiming or xavier (both normal, zero biases), pytorch (each layer's own default), or given (the values
    that the network has). None: kaiming for a model of this package, given for one of your own."""
    w0_density: float | dict[str, float] | None = None
    """Scale the initial weights by 1 / sqrt of this density, the same for every mask; a number, or one by parameter name. None:
    not scaled."""
    widths: tuple[int, ...] | None = None
    """Hidden widths of mlp (None: 128 64) or autoencoder (None: 256 64, mirrored in the decoder). For conv-2, conv-4 and conv-6
    (None: 64) and for resnet-8 and resnet-20 (None: 16) one number, the channels of the first layer, of which all other widths
    are multiples."""
    data_dir: Path | None = None
    """Folder of the data files; None: the environment variable EVOPRUNE_DATA, else they are downloaded and cached."""
    validation_fraction: float = 0.1
    """Fraction of the training examples that is split off to select on."""
    test_fraction: float = 0.2
    """Fraction split off as test set, for data that come without one (digits)."""
    normalize: bool = True
    """Shift and scale the pixels to mean 0 and standard deviation 1 (of the training pixels); else they lie in 0 to 1."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number format of weights and inputs."""
    device: str = "cpu"
    """Where networks are trained: cpu or cuda. It does not count in the problem's hash."""
    ignore: tuple[str, ...] = ()
    """Names of attributes or globals of model and loss that change no training and do not count in the problem's hash, such as
    those of a log file; Net.log is one whose path ends so."""
    identity: str | None = None
    """Name that stands for the code and attributes of model and loss in the problem's hash where they cannot be identified; to
    be changed whenever they are. None: their code."""

    def __post_init__(self) -> None:
        check_sizes(self)
        for name in ("exclude", "ignore"):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        if self.widths is not None:
            object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "device", str(self.device))
        self._check_loss()
        if self.identity is not None and (not isinstance(self.identity, str) or not self.identity):
            raise InputError(f"identity is {self.identity!r}; expected a name for model and loss, such as 'my-net-1'.")

    def _check_loss(self) -> None:
        smoothing, weights = self.label_smoothing, self.class_weights
        if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)) or not 0 <= smoothing < 1:
            raise InputError(f"label_smoothing is {smoothing!r}; expected a number from 0 to below 1, such as 0.1.")
        object.__setattr__(self, "label_smoothing", float(smoothing))
        if weights is None or weights == "balanced":
            return
        given: Any = weights
        if isinstance(given, str) or not all(isinstance(w, (int, float)) and 0 < w < math.inf for w in given):
            raise InputError(f"class_weights are {given!r}; expected numbers above 0, one a class, or 'balanced'.")
        object.__setattr__(self, "class_weights", tuple(float(weight) for weight in given))
