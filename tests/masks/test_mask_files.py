"""Masks in files."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from support.masks import LENET, few, mask_of, masks, random_bits

from evoprune.errors import InputError
from evoprune.masks.mask import Mask

# The file


@few
@given(mask=masks())
def test_a_saved_mask_is_loaded(mask, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "mask.npz"
    mask.save(path)
    loaded = Mask.load(str(path))
    assert loaded == mask
    assert list(loaded.shapes.items()) == list(mask.shapes.items())
    assert loaded.hash == mask.hash


def test_the_file_is_packed_bits_and_shapes_by_name(tmp_path):
    mask = Mask(random_bits(LENET, 0, 0.05), LENET)
    mask.save(tmp_path / "mask")  # the name is kept as it is given
    assert [path.name for path in tmp_path.iterdir()] == ["mask"]
    with np.load(tmp_path / "mask", allow_pickle=False) as file:
        assert set(file.files) == {f"{name}/{what}" for name in LENET for what in ("bits", "shape")}
        for name, layer in mask.layers.items():
            assert file[f"{name}/shape"].tolist() == list(layer.shape)
            assert file[f"{name}/bits"].dtype == np.uint8
            assert np.array_equal(file[f"{name}/bits"], np.packbits(layer))
            unpacked = np.unpackbits(file[f"{name}/bits"], count=layer.size).reshape(layer.shape)
            assert np.array_equal(unpacked, layer)


def test_the_same_mask_makes_the_same_file(tmp_path):
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    mask_of(1, 2).save(a)
    mask_of(1, 2).save(b)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not an archive", pickle.dumps({"w/bits": 1})])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "mask.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"mask\.npz"):
        Mask.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nosuch.npz", tmp_path):
        with pytest.raises(InputError, match="cannot read a mask from"):
            Mask.load(path)


@pytest.mark.parametrize("keep", [30, 300, -5])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "mask.npz"
    mask_of(1).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"mask\.npz"):
        Mask.load(path)


def test_a_plain_array_is_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(InputError, match=r"array\.npy"):
        Mask.load(tmp_path / "array.npy")


BITS, SHAPE = np.zeros(2, np.uint8), np.array([3, 4])


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros(3)},
        {"w/bits": BITS},
        {"w/bits": BITS.astype(float), "w/shape": SHAPE},
        {"w/bits": BITS, "w/shape": np.array(12)},
        {"w/bits": BITS, "w/shape": np.array([-3, -4])},
        {"w/bits": BITS[:1], "w/shape": SHAPE},
        {"w/bits": np.zeros(3, np.uint8), "w/shape": SHAPE},
        {"w/bits": np.array([None, None]), "w/shape": SHAPE},
    ],
    ids=["other", "no shape", "floats", "no lengths", "negative", "too few bits", "too many bits", "pickled"],
)
def test_an_npz_that_is_no_mask_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "mask.npz", **arrays)
    with pytest.raises(InputError, match=r"mask\.npz"):
        Mask.load(tmp_path / "mask.npz")


def test_a_mask_that_fits_its_network_is_loaded(tmp_path, small):
    mask = mask_of(1, 7, shapes=small.shapes)
    mask.save(tmp_path / "mask.npz")
    assert Mask.load(tmp_path / "mask.npz", small) == mask
    assert mask.shapes == {"0.weight": (3, 2), "2.weight": (2, 3)}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"0.weight": (2, 3), "2.weight": (2, 3)}, r"0\.weight is \(2, 3\) in the mask, \(3, 2\) in the network"),
        ({"0.weight": (3, 2)}, r"2\.weight is absent in the mask, \(2, 3\) in the network"),
        ({"0.weight": (3, 2), "2.weight": (2, 3), "x": (1,)}, r"x is \(1,\) in the mask, absent or excluded in the network"),
        ({"2.weight": (2, 3), "0.weight": (3, 2)}, r"orders its layers \['2\.weight', '0\.weight'\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, small, shapes, said):
    mask = mask_of(0, shapes=shapes)
    mask.save(tmp_path / "mask.npz")
    for use in (lambda: Mask.load(tmp_path / "mask.npz", small), lambda: mask.collapse(small)):
        with pytest.raises(InputError, match=said):
            use()
