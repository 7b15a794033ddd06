"""Options of a problem: the keywords of :class:`evoprune.problem.problem.Problem`, and options of the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evoprune.errors import InputError
from evoprune.options import check_sizes
from evoprune.problem.readers.place import located

# Metadata of fields that are newer than the records of runs.
_LATER = {"later": True}


@dataclass(frozen=True)
class ProblemOptions:
    """Options of the problem."""

    model: str = "lenet-300-100"
    """Network: lenet-300-100, mlp, autoencoder, lenet-5, conv-2, conv-4, conv-6, vgg-11-bn, vgg-16-bn, resnet-8, resnet-18,
    resnet-20, mlp-mixer, vit-tiny, timm:NAME or torchvision:NAME (of those packages, where installed), or one that --load or a
    plugin registers. For a network of a file of yours give path/to/file.py:function."""
    data: str = "digits"
    """Data set: digits (embedded), mnist, fashion-mnist, kmnist, emnist (balanced), emnist-letters, -digits, -mnist, -byclass
    or -bymerge, cifar10, cifar100, image-folder:PATH (a folder or zip of class folders, optionally under train/ and test/), or
    one that --load or a plugin registers. For data of a file of yours give path/to/file.py:function."""
    loss: str | None = field(default=None, metadata={"later": True})
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
    weights_seed: int | None = field(default=None, metadata={"any_size": True, "later": True})
    """Seed of the initial weights alone. None: --seed."""
    exclude: tuple[str, ...] = ()
    """Names of parameters or modules that stay dense, such as fc3."""
    include: tuple[str, ...] = field(default=(), metadata={"later": True})
    """Names of further parameters or modules whose matrices are prunable, such as an embedding: weights that are not of a
    linear, convolutional, attention or recurrent layer."""
    initialization: Literal["kaiming", "xavier", "pytorch", "given"] | None = None
    """Initial weights: kaiming or xavier (both normal, zero biases), pytorch (each layer's own default), or given (the values
    that the network has). None: kaiming for a model of this package, given for one of your own and for those of
    timm and torchvision, which draw them."""
    w0_density: float | dict[str, float] | None = None
    """Scale the initial weights by 1 / sqrt of this density, the same for every mask; a number, or one by parameter name. None:
    not scaled."""
    widths: tuple[int, ...] | None = None
    """Hidden widths of mlp (None: 128 64) or autoencoder (None: 256 64, mirrored in the decoder). For conv-2, conv-4, conv-6,
    vgg-11-bn, vgg-16-bn and resnet-18 (None: 64), resnet-8 and resnet-20 (None: 16), lenet-5 (None: 20), mlp-mixer (None: 128)
    and vit-tiny (None: 192) one number, the width of the first layer, of which all other widths are multiples."""
    data_dir: Path | None = None
    """Folder of the data files; None: the environment variable EVOPRUNE_DATA, else they are downloaded. Downloaded and decoded
    data are kept in the folder that EVOPRUNE_CACHE names, else in your folder for caches."""
    validation_fraction: float = 0.1
    """Fraction of the training examples that is split off to select on."""
    test_fraction: float = 0.2
    """Fraction split off as test set, for data that come without one (digits)."""
    normalize: bool = True
    """Shift and scale the pixels to mean 0 and standard deviation 1 (of the training pixels); else they lie in 0 to 1."""
    augment: tuple[str, ...] = field(default=(), metadata={"later": True})
    """Random changes of each training batch, never of an evaluation: flip (left to right), crop:4 (padded by 4 pixels on each
    side, then cut to size at random), or others that --load registers; applied in turn."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number format of weights and inputs."""
    metrics: tuple[str, ...] = field(default=(), metadata={"later": True})
    """Numbers to record beside loss and accuracy: top-5, balanced-accuracy, f1 (macro), ece (calibration error), mae (mean
    absolute error), r2, torchmetrics:NAME (of that package, where installed), or one that you registered. Only one that
    --stop-by names counts in the problem's hash."""
    device: str = "cpu"
    """Where networks are trained: cpu or cuda. It does not count in the problem's hash."""
    ignore: tuple[str, ...] = field(default=(), metadata={"later": True})
    """Names of attributes or globals of model and loss that change no training and do not count in the problem's hash, such as
    those of a log file; Net.log is one whose path ends so."""
    identity: str | None = field(default=None, metadata={"later": True})
    """Name that stands for the code and attributes of model and loss in the problem's hash where they cannot be identified; to
    be changed whenever they are. None: their code."""

    def __post_init__(self) -> None:
        check_sizes(self)
        if isinstance(self.data, str):
            name, data_dir = located(self.data, self.data_dir)
            object.__setattr__(self, "data", name)
            object.__setattr__(self, "data_dir", data_dir)
        for name in ("exclude", "include", "ignore"):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))
        metrics: Any = self.metrics
        if not isinstance(metrics, (Mapping, list, tuple)):
            object.__setattr__(self, "metrics", (metrics,))
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
        if weights is None or (isinstance(weights, str) and weights == "balanced"):
            return
        given: Any = getattr(weights, "tolist", lambda: weights)()
        is_list = isinstance(given, (list, tuple)) and len(given) > 0
        if not is_list or not all(isinstance(w, (int, float)) and 0 < w < math.inf for w in given):
            raise InputError(f"class_weights are {weights!r}; expected numbers above 0, one a class, or 'balanced'.")
        object.__setattr__(self, "class_weights", tuple(float(weight) for weight in given))
