"""Files: nothing is written by halves or through links, and whatever a stranger wrote is read or refused."""

import io
import json
import math
import os
import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import comparison
from support.processes import python
from support.tables import append_evaluations

import evoprune as ep
from evoprune.comparison import course as cells
from evoprune.comparison import markdown as tables
from evoprune.comparison import spread
from evoprune.comparison.cells import Comparison, make_cells
from evoprune.evaluation.evaluation import Evaluation
from evoprune.figures import comparisons as plot_compare
from evoprune.figures import runs as plot
from evoprune.problem.identity import VERSION
from evoprune.runs import records, sums
from evoprune.runs.evaluations import read_evaluations
from evoprune.runs.run import SCHEMA, Run
from evoprune.runs.tensors import save_tensors
from evoprune.system import files
from evoprune.workers.base import Returned

SHAPES = {"fc1.weight": (30, 78), "fc2.weight": (10, 30)}


def evaluations(first: int) -> list[Evaluation]:
    terms = {"magnitude": 1.0, "gradient": 1.0, "loss": -1.0, "sparsity": 0.9}
    return [Evaluation(f"{i:064x}", 1, terms, 1.0, 0.5, "ok", "", 1e6, "host:1", 0.1) for i in range(first, first + 8)]


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


# Masks from strangers


def a_mask(seed: int = 0, density: float = 0.1) -> ep.Mask:
    n = sum(math.prod(shape) for shape in SHAPES.values())
    return ep.Mask(np.random.default_rng(seed).random(n) < density, SHAPES)


def saved(mask: ep.Mask) -> bytes:
    arrays = {}
    for name, layer in mask.layers.items():
        arrays |= {f"{name}/bits": np.packbits(layer), f"{name}/shape": np.array(layer.shape, np.int64)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def archive(arrays: dict[str, object], method: int = zipfile.ZIP_STORED) -> bytes:
    """Returns an archive of arrays, or of bytes as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, array in arrays.items():
            content = io.BytesIO()
            if isinstance(array, bytes):
                content.write(array)
            else:
                np.save(content, array, allow_pickle=True)
            file.writestr(name.split("#")[0], content.getvalue())
    return buffer.getvalue()


def of_shape(shape: object, bits: object = None, method: int = zipfile.ZIP_STORED) -> bytes:
    return archive({"w/bits.npy": np.zeros(2, np.uint8) if bits is None else bits, "w/shape.npy": shape}, method)


def header(descr: str, shape: str, values: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values


def patched(content: bytes, old: bytes, offset: int, new: bytes) -> bytes:
    """Returns an archive with bytes changed behind every signature."""
    changed, at = bytearray(content), -1
    while (at := content.find(old, at + 1)) >= 0:
        changed[at + offset : at + offset + len(new)] = new
    return bytes(changed)


LOCAL, CENTRAL, TWELVE = b"PK\x03\x04", b"PK\x01\x02", np.array([3, 4])
HOSTILE: dict[str, Callable[[], bytes]] = {
    "encrypted": lambda: patched(patched(saved(a_mask()), CENTRAL, 8, b"\x01\x00"), LOCAL, 6, b"\x01\x00"),
    "strongly encrypted": lambda: patched(saved(a_mask()), CENTRAL, 8, b"\x41\x00"),
    "patched data": lambda: patched(saved(a_mask()), CENTRAL, 8, b"\x20\x00"),
    "bzip2": lambda: of_shape(TWELVE, method=zipfile.ZIP_BZIP2),
    "lzma": lambda: of_shape(TWELVE, method=zipfile.ZIP_LZMA),
    "unknown method": lambda: patched(patched(saved(a_mask()), CENTRAL, 10, b"\x63\x00"), LOCAL, 8, b"\x63\x00"),
    "version": lambda: patched(saved(a_mask()), CENTRAL, 6, b"\xff\x00"),
    "offset": lambda: patched(saved(a_mask()), CENTRAL, 42, b"\xfe\xff\xff\xff"),
    "sizes": lambda: patched(saved(a_mask()), CENTRAL, 20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"),
    "twice": lambda: archive({"w/bits.npy": BITS, "w/shape.npy": TWELVE, "w/shape.npy#2": TWELVE}),
    "more": lambda: archive({"w/bits.npy": BITS, "w/shape.npy": TWELVE, "v/bitz.npy": BITS}),
    "no array": lambda: archive({"w/bits.npy": BITS, "w/shape.npy": TWELVE, "notes.txt": b"hello"}),
    "shape of objects": lambda: of_shape(np.array([None, 3])),
    "infinite shape": lambda: of_shape(np.array([math.inf, 3.0])),
    "shape not a number": lambda: of_shape(np.array([math.nan, 3.0])),
    "shape of floats": lambda: of_shape(np.array([3.0, 4.0])),
    "shape of text": lambda: of_shape(np.array(["3", "4"])),
    "shape of booleans": lambda: of_shape(np.array([True, True])),
    "shape of times": lambda: of_shape(np.array([3, 4], "m8[s]")),
    "shape of records": lambda: of_shape(np.array([(3, 4)], "i8,i8")),
    "scalar shape": lambda: of_shape(np.array(12)),
    "matrix of shapes": lambda: of_shape(np.array([[3, 4]])),
    "negative shape": lambda: of_shape(np.array([-3, -4])),
    "product that overflows": lambda: of_shape(np.array([2**32, 2**32, 3])),
    "product that overflows to 12": lambda: of_shape(np.array([2**62 + 3, 4])),
    "unsigned": lambda: of_shape(np.array([2**64 - 1, 2**64 - 1], np.uint64)),
    "nothing of much": lambda: of_shape(np.array([0, 2**62]), np.zeros(0, np.uint8)),
    "many dimensions": lambda: of_shape(np.ones(1000, np.int64), np.zeros(1, np.uint8)),
    "long shape": lambda: of_shape(np.ones(10**6, np.int64), np.zeros(1, np.uint8), zipfile.ZIP_DEFLATED),
    "bits of floats": lambda: of_shape(TWELVE, np.zeros(2)),
    "bits of objects": lambda: of_shape(TWELVE, np.array([None, None])),
    "too many bits": lambda: of_shape(TWELVE, np.zeros(3, np.uint8)),
    "header of gigabytes": lambda: of_shape(header("'<i8'", f"({10**15},)"), BITS),
    "bits of gigabytes": lambda: of_shape(np.array([10**10, 80]), header("'|u1'", f"({10**11},)")),
    "code in a header": lambda: of_shape(header("__import__('os')", "(2,)", bytes(16)), BITS),
    "deep header": lambda: of_shape(header("(" * 400 + ")" * 400, "(2,)", bytes(16)), BITS),
    "old python": lambda: of_shape(header("'<i8'", "(2L,)", bytes(16)), BITS),
    "unknown kind": lambda: of_shape(header("'<i3'", "(2,)", bytes(6)), BITS),
    "long header": lambda: of_shape(header("'<i8'", f"({'1, ' * 8000}2)", bytes(16)), BITS),
    "no layers": lambda: archive({}),
    "no name": lambda: archive({"bits.npy": BITS, "shape.npy": TWELVE}),
}
BITS = np.zeros(2, np.uint8)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_mask_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mask.npz").write_bytes(HOSTILE[kind]())
    with pytest.raises(ep.InputError, match=r"cannot read a mask from .*mask\.npz"):
        ep.Mask.load(tmp_path / "mask.npz")


def mutant(rng: random.Random) -> bytes:
    """Returns a mask's file with something changed."""
    content = bytearray(saved(a_mask(rng.randrange(4), rng.random())))
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    kind = rng.choice(["bits", "bytes", "cut", "insert", "fields", "headers", "arrays", "zipped"])
    if kind == "bits":
        for _ in range(rng.choice([1, 1, 2, 20])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        start = rng.randrange(len(content))
        content[start : start + 8] = rng.randbytes(8)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "insert":
        at = rng.randrange(len(content))
        content[at:at] = rng.randbytes(rng.randrange(1, 100))
    elif kind == "fields":  # of the archive's own records
        signature = rng.choice([LOCAL, CENTRAL, b"PK\x05\x06"])
        extreme = rng.choice([b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff"]) * rng.choice([1, 2, 4, 8])
        content = bytearray(patched(bytes(content), signature, rng.randrange(4, 46), extreme))
    elif kind == "headers":  # of the arrays
        place, value = rng.choice([(b"'|u1'", b"'|O8'"), (b"'<i8'", b"'<f8'"), (b"(2,)", b"(9,)"), (b"False", b"True "),
                                   (b"'<i8'", b"'>i8'"), (b"NUMPY\x01", b"NUMPY\x03"), (b"\x76\x00", b"\xff\xff")])  # fmt: skip
        content = bytearray(bytes(content).replace(place, value, rng.choice([1, 2, -1])))
    elif kind == "arrays":
        shape = np.array([rng.choice([-1, 0, 1, 3, 4, 2**31, 2**62]) for _ in range(rng.randrange(5))])
        other = rng.choice(
            [shape, shape.astype(float), shape.astype(str), shape.astype(object), shape.astype(np.int8), shape[:0]]
        )
        return of_shape(other, np.zeros(rng.randrange(4), rng.choice([np.uint8, np.int8, bool, float])), method)
    else:
        with zipfile.ZipFile(io.BytesIO(bytes(content))) as file:
            members = {info.filename: file.read(info) for info in file.infolist()}
        for name in rng.sample(sorted(members), rng.randrange(3)):
            members[f"{name}{rng.choice(['#', 'x', '/../x.npy'])}"] = members.pop(name)
        return archive(members, method)
    return bytes(content)


@pytest.mark.slow
def test_a_thousand_mutants_are_masks_or_refused(tmp_path: Path) -> None:
    rng, path, good = random.Random(13), tmp_path / "mask.npz", 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(1000):
            path.write_bytes(mutant(rng))
            try:
                mask = ep.Mask.load(path)
            except ep.InputError:
                continue
            good += 1
            assert mask == ep.Mask.from_layers(mask.layers)
    assert 20 < good < 500


# Files that say to hold more than they are: megabytes that would be gigabytes.
BOMBS: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: of_shape(np.array([8, 2 * 10**8]), np.zeros(2 * 10**8, np.uint8), zipfile.ZIP_DEFLATED),
    "shape": lambda: of_shape(np.ones(2 * 10**7, np.int64), np.zeros(1, np.uint8), zipfile.ZIP_DEFLATED),
    "layers": lambda: archive(
        {f"{i}/{what}.npy": array for i in range(200)
         for what, array in (("bits", np.zeros(10**6, np.uint8)), ("shape", np.array([8 * 10**6])))}, zipfile.ZIP_DEFLATED
    ),
    "claims": lambda: of_shape(np.array([8, 10**12]), header("'|u1'", f"({10**12},)")),
    "spaces": lambda: of_shape(np.array([8, 2]), header("'|u1'", " " * 60_000 + "(2,)") + b" " * 10**8, zipfile.ZIP_DEFLATED),
}  # fmt: skip
MEASURE = """
import resource, sys
import evoprune as ep
ep.Mask
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        ep.Mask.load(path)
    except ep.InputError:
        print("refused")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.process
def test_memory_is_what_the_file_explains(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        (tmp_path / f"{name}.npz").write_bytes(make())
        assert (tmp_path / f"{name}.npz").stat().st_size < 2**21
    (tmp_path / "sparse.npz").touch()
    os.truncate(tmp_path / "sparse.npz", 2**40)  # a terabyte of nothing
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *sorted(map(str, tmp_path.iterdir()))], capture_output=True, text=True, check=True
    )
    *refused, megabytes = done.stdout.split()
    assert refused == ["refused"] * (len(BOMBS) + 1)
    assert int(megabytes) < 20


def test_a_mask_that_was_compressed_since_is_read(tmp_path: Path) -> None:
    bits, shapes = np.ones(10**7, bool), {"w": (10**7,)}
    ep.Mask(bits, shapes).save(tmp_path / "mask.npz")
    with np.load(tmp_path / "mask.npz") as file:
        np.savez_compressed(tmp_path / "small.npz", **dict(file))
    assert ep.Mask.load(tmp_path / "mask.npz").survivors == 10**7
    with pytest.raises(ep.InputError, match="give the problem"):
        ep.Mask.load(tmp_path / "small.npz")
    pair = torch.zeros(4, 1000), torch.zeros(4, 10_000)
    problem = ep.Problem(torch.nn.Linear(1000, 10_000, bias=False), ep.Data(pair, pair, pair))
    with np.load(tmp_path / "small.npz") as file:
        np.savez_compressed(tmp_path / "fits.npz", **{"weight/bits": file["w/bits"], "weight/shape": [10_000, 1000]})
    assert ep.Mask.load(tmp_path / "fits.npz", problem).survivors == 10**7
    (tmp_path / "little.npz").write_bytes(
        of_shape(np.array([1000, 1000]), np.full(125_000, 255, np.uint8), zipfile.ZIP_DEFLATED)
    )
    assert ep.Mask.load(tmp_path / "little.npz").survivors == 10**6


# Names and links from strangers


LINKS = ["config.json", "evaluations.csv", "result.json", ".lock", "mask.npz", "starts.png", ".config.json.tmp", "checkpoint",
         "hall_of_fame", "checkpoint/mask.json", "checkpoint/evidence-000001", "hall_of_fame/000.npz"]  # fmt: skip


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder outside, whose one file must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("{}")
    return tmp_path / "outside"


def link_out(folder: Path, name: str, victim: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim if "." not in path.name else victim / "file")


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_a_run_is_refused(tmp_path: Path, victim: Path, digits: ep.Problem, name: str) -> None:
    link_out(tmp_path / "run", name, victim)
    uses: list[Callable[[], object]] = [
        lambda: ep.k_starts(digits, k=2, sparsity=0.9, fitness_epochs=1, out=tmp_path / "run"),
        lambda: ep.k_starts(digits, k=2, sparsity=0.9, fitness_epochs=1, out=tmp_path / "run", force=True),
        lambda: plot.save_figures(tmp_path / "run"),
        lambda: plot.FIGURES["training"](tmp_path / "run"),
        lambda: plot.FIGURES["fitness"](tmp_path / "run"),
        lambda: ep.evolve(digits, ep.Evolution(start=(str(tmp_path / "run"),)), sparsity=0.9),
    ]
    for use in uses:
        with pytest.raises(ep.InputError, match=r"symbolic link to .*outside.*remove the link"):
            use()
    assert [path.name for path in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "{}"


@pytest.mark.parametrize("name", ["cells.csv", "compare.json", "table.md", ".lock", "cells", "cells/a", "cells/a/checkpoint"])
def test_a_link_out_of_a_comparison_is_refused(tmp_path: Path, victim: Path, name: str) -> None:
    link_out(tmp_path / "comparison", name, victim)
    wanted = make_cells(["random"], ["digits"], "mlp", [0.9], [0])
    uses: list[Callable[[], object]] = [
        lambda: cells.compare(Comparison({}, {"epochs": 1}, {}), wanted, tmp_path / "comparison"),
        lambda: tables.write_tables(tmp_path / "comparison"),
        lambda: plot_compare.save_compare_figures(tmp_path / "comparison"),
    ]
    for use in uses:
        with pytest.raises(ep.InputError, match=r"symbolic link to .*outside.*remove the link"):
            use()
    assert (victim / "file").read_text() == "{}"


def test_links_within_and_to_the_folder_are_taken(tmp_path: Path, digits: ep.Problem) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "checkpoint").symlink_to("kept")
    (tmp_path / "disk" / "kept").mkdir()
    with Run.plan(tmp_path / "run", "kstarts", {}, force=True).of(digits) as run:
        run.record(0, evaluations(0))
    assert (tmp_path / "disk" / "evaluations.csv").exists()


NAMES = ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "x" * 300, "C:x", "a*", None, 3]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_plain_are_refused(name: Any) -> None:
    with pytest.raises(ep.InputError, match="expected a plain name"):
        files.plain_name(name, "a worker")


@pytest.mark.parametrize("name", ["mask.npz", "accuracy-fashion-mnist-lenet-300-100.png", "Bücher (2).csv", "a+b=c,d@e"])
def test_plain_names_are_taken(name: str) -> None:
    assert files.plain_name(name, "a worker") == name


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../b", "x" * 300])
@pytest.mark.parametrize("column", ["data", "model"])
def test_names_in_tables_choose_no_place(tmp_path: Path, name: str, column: str) -> None:
    (tmp_path / "comparison").mkdir()
    comparison.cells(["random"], seeds=1).assign(**{column: name}).to_csv(tmp_path / "comparison" / "cells.csv", index=False)
    with pytest.raises(ep.InputError, match="expected a plain name"):
        plot_compare.save_compare_figures(tmp_path / "comparison")
    assert [path.name for path in tmp_path.rglob("*")] == ["comparison", "cells.csv"]


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "sub/evil", ".lock"])
def test_names_from_workers_choose_no_place(tmp_path: Path, name: str) -> None:
    wanted = make_cells(["random"], ["digits"], "mlp", [0.9], [0])

    class Evil:
        evaluation_timeout = None

        def submit(self, *_: object) -> int:
            return 0

        def wait(self) -> tuple[int, Returned]:
            return 0, Returned(("ok", {name: b"evil"}))

        def count(self) -> int:
            return 1

        def close(self) -> None:
            pass

    with pytest.raises(ep.InputError, match=r"a worker names a file .*expected a plain name"):
        list(spread.spread_cells(Evil(), Comparison({}, {}, {}), wanted, tmp_path / "cells", []))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


CONFIG = {"schema": SCHEMA, "method": "kstarts", "settings": {}, "execution": {}, "divisors": {}, "identity_version": VERSION,
          "identity": {"data": "a"}}  # fmt: skip
CHANGED = [
    {"settings": 1},
    {"method": []},
    {"execution": []},
    {"execution": {"threads": "9"}},
    {"execution": {"threads": 10**9}},
    {"execution": {"engine": 3}},
    {"divisors": {"a": []}},
    {"divisors": []},
    {"identity": None},
    {"identity": {"data": 3}},
    {"identity_version": "1"},
    {"schema": [1]},
]
CONFIGS = ["{}", "[]", "null", "3", "{", "\xff", "[" * 100_000, json.dumps({"schema": SCHEMA}),
           *(json.dumps(sums.seal({**CONFIG, **change})) for change in CHANGED), json.dumps(CONFIG)]  # fmt: skip


@pytest.mark.parametrize("content", CONFIGS, ids=lambda content: content[:60])
def test_a_configuration_of_a_stranger(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, "latin-1")
    with pytest.raises(ep.InputError):
        Run.plan(tmp_path, "kstarts", {})
    sums.write_sealed(tmp_path / "config.json", CONFIG)
    assert Run.plan(tmp_path, "kstarts", {}).identity == {"data": "a"}


def test_a_configuration_names_no_place() -> None:
    config = ep.Problem(model="mlp", data="digits").config()
    with pytest.raises(ep.InputError, match="names a data_dir"):
        ep.Problem.from_config({**config, "data_dir": "/etc"})


@pytest.mark.parametrize("content", [b"", b"x" * 100, (2**60).to_bytes(8, "little") + b"{}", b"\2\0\0\0\0\0\0\0{}garbage"])
def test_damaged_tensors_are_named_and_made_again(tmp_path: Path, digits: ep.Problem, content: bytes) -> None:
    with Run.plan(tmp_path / "run", "kstarts", {}).of(digits) as run:
        run.step("mask", lambda: ({}, {"bits": torch.zeros(3)}))
        (run.checkpoint / "mask.safetensors").write_bytes(content)
        with pytest.warns(UserWarning, match=r"mask\.json is damaged .*made again"):
            _, tensors = run.step("mask", lambda: ({}, {"bits": torch.zeros(3)}))
    assert tensors["bits"].tolist() == [0.0] * 3
