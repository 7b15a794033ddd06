"""Full disks, torn lines, and things that are no files."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.processes import python
from support.tables import append_evaluations, evaluations

import evoprune as ep
from evoprune.runs import records
from evoprune.runs.evaluations import read_evaluations
from evoprune.runs.tensors import save_tensors
from evoprune.system import files

# What writes a file, by name; each is tried on a disk with room for 300 bytes more.
WRITERS: dict[str, Callable[[Path], object]] = {
    "evaluations.csv": lambda path: append_evaluations(path, 0, evaluations(8)),
    "table.csv": lambda path: records.write_table(path, ["a"], [{"a": i} for i in range(10_000)]),
    "facts.json": lambda path: records.write_json(path, {"a": "x" * 100_000}),
    "model.safetensors": lambda path: save_tensors(path, {"a": torch.zeros(100_000)}),
    "mask.npz": lambda path: ep.Mask(np.ones(1_000_000, bool), {"w": (1_000_000,)}).save(path),
}


FULL = """
import resource, signal, sys
from pathlib import Path
from test_files import WRITERS
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 300, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for name in sys.argv[2:] :
    try:
        WRITERS[name](path.with_name(name))
    except OSError as error:
        print(name, "raised", error.errno)
"""


@pytest.mark.process
def test_a_full_disk_is_noticed_and_leaves_things_as_they_were(tmp_path: Path) -> None:
    append_evaluations(tmp_path / "evaluations.csv", 0, evaluations(0))
    for name in [name for name in WRITERS if name != "evaluations.csv"]:
        (tmp_path / name).write_text("as before")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    script = tmp_path.parent / f"{tmp_path.name}.py"
    places = [str(folder) for folder in Path(__file__).parents[:2]]  # of this file, and of tests/support
    script.write_text(f"import sys\nsys.path[:0] = {places!r}\n{FULL}")
    code, output = python(script, tmp_path / "evaluations.csv", *WRITERS)
    assert code == 0, output
    assert output.splitlines() == [f"{name} raised 27" for name in WRITERS]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    append_evaluations(tmp_path / "evaluations.csv", 0, evaluations(16))  # there is room again
    assert [e.mask for _, e in read_evaluations(tmp_path)] == [e.mask for e in evaluations(0) + evaluations(16)]


def test_short_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    files.append(tmp_path / "a", b"appended as a whole\n")
    files.write_atomically(tmp_path / "b", b"written as a whole\n")
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == b"appended as a whole\nwritten as a whole\n"


@pytest.mark.parametrize("torn", [3, 200, 320, 900])
def test_rows_never_run_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: int) -> None:
    """A disk that is full, and on which the file cannot even be cut back."""
    path = tmp_path / "evaluations.csv"

    def full(*_: object) -> None:
        raise OSError("no space")

    append_evaluations(path, 0, evaluations(0))
    size = path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(os, "ftruncate", full)
        with pytest.raises(OSError, match="no space"):
            append_evaluations(path, 0, evaluations(8))
    os.truncate(path, size + torn)
    append_evaluations(path, 0, evaluations(16))
    masks = [e.mask for _, e in read_evaluations(tmp_path)]
    assert masks[:8] + masks[-8:] == [e.mask for e in evaluations(0) + evaluations(16)]
    assert masks[8:-8] == [e.mask for e in evaluations(8)][: len(masks) - 16]


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "evaluations.csv").write_text("gen,mask,se")
    append_evaluations(tmp_path / "evaluations.csv", 0, evaluations(0))
    assert len(read_evaluations(tmp_path)) == 8


@pytest.mark.parametrize("name", WRITERS)
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("gen\n")
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / name
    for link in (path, path.with_name(f".{name}.tmp")):
        link.symlink_to(victim)
    try:
        WRITERS[name](path)
    except OSError:
        assert name == "evaluations.csv"
    assert victim.read_text() == "gen\n"


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused_and_does_not_hang(tmp_path: Path, make: Callable[[Path], None]) -> None:
    for name in ("mask.npz", "config.json", "evaluations.csv"):
        make(tmp_path / name)
    reads: list[Callable[[], object]] = [
        lambda: ep.Mask.load(tmp_path / "mask.npz"),
        lambda: records.read_json(tmp_path / "config.json"),
        lambda: read_evaluations(tmp_path),
        lambda: records.read_rows(tmp_path / "evaluations.csv"),
    ]
    for read in reads:
        with pytest.raises(ep.InputError, match="cannot read"):
            read()
