"""The name and the place of a folder of images; a light module, since the options need it."""

from __future__ import annotations

import os
from pathlib import Path

from evoprune.errors import InputError

IMAGE_FOLDER = "image-folder"


def located(name: str, data_dir: str | os.PathLike[str] | None) -> tuple[str, str | os.PathLike[str] | None]:
    """Separates the name of a folder of images, which records have, from its place, which they do not have.

    ``image-folder:PATH`` becomes ``image-folder:NAME``, where NAME is the last part of PATH, and the folder that holds NAME.
    A relative PATH is sought in ``data_dir``; without one, in the folder that ``EVOPRUNE_DATA`` names, then in the working
    folder. ``image-folder`` alone stands for the folder ``data_dir`` itself. Names of other data sets stay as they are.

    Args:
        name: The name of a data set.
        data_dir: The folder that was given with it, if any.

    Returns:
        The name, and the folder; None: the one in ``EVOPRUNE_DATA``, which may differ from host to host.

    Raises:
        InputError: ``data_dir`` cannot be the name of a folder.
    """
    family, colon, rest = name.partition(":")
    environment = os.environ.get("EVOPRUNE_DATA")
    if family != IMAGE_FOLDER or (colon and not rest) or not (colon or data_dir or environment):
        return name, data_dir
    base = _absolute(data_dir or environment or ".")
    path = _absolute(base / Path(rest).expanduser())
    if data_dir is None and environment is not None:
        if colon and not os.path.lexists(path):
            path = _absolute(rest)
        elif path.parent == base:
            return f"{IMAGE_FOLDER}:{path.name}", None
    return f"{IMAGE_FOLDER}:{path.name}", path.parent


def _absolute(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - without following links
    except TypeError as error:
        raise InputError(f"data_dir is {path!r}: {error}; expected a folder.") from error
