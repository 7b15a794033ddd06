"""What two runs have left, compared."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from evoprune.runs import records

TIMING = {"seconds", "worker", "check"}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        found = [{key: value for key, value in row.items() if key not in TIMING} for row in csv.DictReader(file)]
    return sorted(found, key=lambda row: row["mask"]) if path.name == "evaluations.csv" else found


def assert_same(a: Path, b: Path, without: Sequence[str] = ()) -> None:
    """Checks that two runs are equal; ``without`` names what runs of their kind do not leave."""
    for name in ("evaluations.csv", "generations.csv", "layers.csv", "bests.csv", "history.csv"):
        if name in without:
            assert not (a / name).exists()
            assert not (b / name).exists()
            continue
        assert table(a / name) == table(b / name), name
    files = [path.relative_to(a) for path in [a / "mask.npz", a / "model.safetensors", *a.glob("hall_of_fame/*")]]
    assert len(files) > (1 if "hall_of_fame" in without else 2)
    for name in files:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    ours, theirs = (records.read_json(folder / "result.json") for folder in (a, b))
    assert ours is not None
    assert theirs is not None
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def least_fit(folder: Path) -> str:
    """Returns the hash of the least fit mask of the first generation, of which nothing descends."""
    first = [row for row in table(folder / "evaluations.csv") if row["gen"] == "0"]
    return min(first, key=lambda row: float(row["mine"]))["mask"]


def assert_it_alone_failed(folder: Path, whole: Path, mask: str, reason: str) -> None:
    """Checks that a mask failed for a reason, a regular expression, and that all else is as in another run."""
    found, expected = (table(each / "evaluations.csv") for each in (folder, whole))
    (failed,) = [row for row in found if row["mask"] == mask]
    assert failed["status"] == "failed"
    assert re.search(reason, failed["note"]), failed["note"]
    assert [row for row in found if row["mask"] != mask] == [row for row in expected if row["mask"] != mask]
    assert (folder / "mask.npz").read_bytes() == (whole / "mask.npz").read_bytes()
