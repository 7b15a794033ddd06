"""Data sets that have a name."""

from __future__ import annotations

import os

import numpy as np
import torch

from evoprune.errors import look_up
from evoprune.problem.data import Data, content_digest, prepare
from evoprune.problem.idx import load_idx, unpublished

# content_digest of scikit-learn's digits
_DIGITS = "8f7d414872ebfafc9725df1780b0a3f251ea93f7f99d775254aeb688d258587a"


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    normalize: bool = True,
) -> Data:
    """Loads a data set by name and splits it.

    Args:
        name: ``digits`` (scikit-learn's 1,797 images of 8 x 8, embedded), ``mnist`` or ``fashion-mnist``
            (60,000 + 10,000 images of 28 x 28; the published test set stays the test set).
        data_dir: Folder with the four IDX files, gzip'd or plain: the files themselves, in a sub-folder named
            after the data set, or where torchvision keeps them. Without it the environment variable
            ``EVOPRUNE_DATA`` is used, and without that they are downloaded once and cached.
        seed: Seeds the split.
        validation_fraction: See :meth:`Data.split`.
        test_fraction: See :meth:`Data.split`; only for data without a published test set.
        normalize: Subtract the mean of the training pixels and divide by their standard deviation. Otherwise
            pixels lie in [0, 1].

    Returns:
        Float32 images [n, 1, height, width] and int64 labels [n].

    Warns:
        UserWarning: The content is unknown: not that which is published under the name.

    Raises:
        InputError: An unknown name, or a file that is missing, truncated or foreign, or another published data set's.
    """
    raw, white = load_raw(name, data_dir)
    return prepare(raw, white, seed, validation_fraction, test_fraction, normalize)


def load_raw(name: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[Data, int]:
    """Returns a data set by name as it is stored, before any split or normalisation, and its value of white.

    Args:
        name: See :func:`load`.
        data_dir: See :func:`load`.

    Raises:
        InputError: An unknown name, or a file that is missing, truncated or foreign.
    """
    return look_up("data set", name, LOADERS)(name, data_dir)


def _load_digits(name: str, data_dir: object) -> tuple[Data, int]:
    from sklearn.datasets import load_digits  # heavy, and needed by this data set alone

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    data = Data(train=(images, torch.from_numpy(digits.target)), name=name)
    return (data if content_digest(data) == _DIGITS else unpublished(data, "scikit-learn's digits", [])), 16


LOADERS = {"digits": _load_digits, "mnist": load_idx, "fashion-mnist": load_idx}
