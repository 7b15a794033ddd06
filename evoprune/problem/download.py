"""Downloads, which are checked and kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evoprune.errors import InputError
from evoprune.problem.cache import cache_folder


def download(name: str, url: str, files: Mapping[str, str]) -> list[Path]:
    """Downloads files unless they are there already, and returns their places in the cache.

    Args:
        name: The folder in the cache to keep them in.
        url: The folder from which they are fetched.
        files: Their MD5 checksums by name.

    Raises:
        InputError: A file cannot be fetched, or has another checksum.
    """
    import pooch  # heavy, and needed for downloads alone

    registry = {file: f"md5:{md5}" for file, md5 in files.items()}
    cache = pooch.create(cache_folder() / name, url, registry=registry, retry_if_failed=1)
    found = []
    for file in files:
        try:
            found.append(Path(cache.fetch(file, progressbar=True)))
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            which = "the four files" if len(files) == 4 else "the file"
            raise InputError(
                f"cannot download {url}{file}: {error}. Fetch {which} by other means and name the folder with --data-dir or "
                f"EVOPRUNE_DATA."
            ) from error
    return found
