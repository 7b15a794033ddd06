"""Small data sets in IDX files."""

import gzip

import numpy as np

from evoprune.problem.idx import _IDX_FILES, _PUBLISHED

IDX_NAMES = sorted(_PUBLISHED)
STEMS = _IDX_FILES
TRAIN_IMAGES, TRAIN_LABELS = STEMS["train images"], STEMS["train labels"]


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def arrays(train=60, test=20, offset=0):
    rng = np.random.default_rng(offset)
    found = {}
    for part, n in (("train", train), ("test", test)):
        found[f"{part} images"] = rng.integers(0, 256, (n, 28, 28))
        found[f"{part} labels"] = (np.arange(n) + offset) % 5
    return found


def write(folder, end="", **changes):
    """Writes the four files, a part replaced where named (its blank an underscore)."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in arrays().items():
        content = changes.get(part.replace(" ", "_"), idx(array))
        if content is not None:
            path = folder / f"{STEMS[part]}{end}"
            path.write_bytes(gzip.compress(content, 1) if end else content)
    return folder
