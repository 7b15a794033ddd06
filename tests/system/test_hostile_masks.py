"""Masks of a stranger are masks or refused."""

import io
import math
import os
import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import evoprune as ep

SHAPES = {"fc1.weight": (30, 78), "fc2.weight": (10, 30)}


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
