"""Folders and zips of images, and the cache of decoded arrays."""

import io
import json
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from support.images import encoded, files, pixels, png_of_16_bits, read, refused, write

import evoprune as ep
from evoprune.errors import InputError
from evoprune.problem.data import content_digest
from evoprune.problem.load import load_raw
from evoprune.problem.readers import image_folder, listing


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOPRUNE_DATA", raising=False)
    monkeypatch.setenv("EVOPRUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["pets", "pets.zip"])
def test_class_folders_are_read_in_sorted_order(tmp_path, name):
    data, white = read(write(tmp_path / name, dict(reversed(files().items()))))
    assert white == 255
    assert data.classes == ("cat", "dog")
    assert data.name == f"image-folder:{name}"
    x, y = data.train
    assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)
    assert y.tolist() == [0] * 6 + [1] * 6
    wanted = [pixels([0, c, i]).transpose(2, 0, 1) for c in range(2) for i in range(6)]
    assert np.array_equal(x.numpy(), np.stack(wanted))
    assert data.test is None
    assert data.validation is None


@pytest.mark.parametrize("top", ["", "all/pets/"])
@pytest.mark.parametrize("name", ["pets", "pets.zip"])
def test_parts_are_taken_from_folders_of_their_names(tmp_path, name, top):
    contents = {top + name: content for name, content in files(("train/", "test/", "val/")).items()}
    data, _ = read(write(tmp_path / name, contents))
    assert list(data.parts()) == ["train", "validation", "test"]
    assert np.array_equal(data.test[0][7].numpy(), pixels([1, 1, 1]).transpose(2, 0, 1))
    assert np.array_equal(data.validation[0][7].numpy(), pixels([2, 1, 1]).transpose(2, 0, 1))


def test_the_content_decides_the_digest_not_the_place_nor_the_format(tmp_path):
    one, _ = read(write(tmp_path / "a" / "pets", files()))
    other, _ = read(write(tmp_path / "pets.zip", files()))
    assert one.digest == other.digest == content_digest(one)
    changed, _ = read(write(tmp_path / "b.zip", files() | {"dog/3.png": encoded(pixels(9))}))
    assert changed.digest != one.digest


def test_a_problem_on_images_moves_with_its_folder(tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 2))
    write(tmp_path / "a" / "pets", files(count=10))
    problem = ep.Problem(network, f"image-folder:{tmp_path}/a/pets")
    (tmp_path / "a").rename(tmp_path / "b")
    again = ep.Problem(network, "image-folder:pets", data_dir=tmp_path / "b")
    assert again.hash == problem.hash
    assert again.config() == problem.config()
    assert problem.config()["data"] == "image-folder:pets"
    assert str(tmp_path) not in json.dumps(problem.config())


def test_a_problem_on_images_travels_with_the_place(tmp_path, monkeypatch):
    write(tmp_path / "pets", files(count=10))
    monkeypatch.chdir(tmp_path)
    problem = ep.Problem("mlp", "image-folder:pets", widths=(4,))
    packed = pickle.dumps(problem)
    monkeypatch.chdir("/")
    assert pickle.loads(packed).hash == problem.hash
    assert len(packed) < 5000  # names, not images


def test_jpeg_is_decoded_as_pillow_does(tmp_path):
    contents = {name: encoded(pixels(i, (16, 16)), "JPEG") for i, name in enumerate(["a/1.jpg", "a/2.JPEG", "b/1.jpg"])}
    data, _ = read(write(tmp_path / "jpegs", contents))
    wanted = np.asarray(Image.open(tmp_path / "jpegs" / "a" / "2.JPEG")).transpose(2, 0, 1)
    assert np.array_equal(data.train[0][1].numpy(), wanted)


def test_images_are_grey_if_all_are(tmp_path):
    grey = files(channels=1)
    assert read(write(tmp_path / "grey", grey))[0].train[0].shape == (12, 1, 4, 5)
    mixed, _ = read(write(tmp_path / "mixed", grey | {"dog/5.png": encoded(pixels(1))}))
    assert mixed.train[0].shape == (12, 3, 4, 5)
    assert np.array_equal(mixed.train[0][0].numpy(), np.stack([pixels([0, 0, 0], channels=1)] * 3))


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    stream = io.BytesIO()
    image = Image.fromarray(pixels(1)).convert(mode)
    image.save(stream, "TIFF")
    contents = {"cat/a.tif": stream.getvalue(), "dog/b.png": encoded(pixels(2))}
    data, _ = read(write(tmp_path / "pets", contents))
    assert np.array_equal(data.train[0][0].numpy(), np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def test_more_than_eight_bits_are_refused(tmp_path):
    wide = encoded(pixels(0, channels=1).astype(np.uint16))
    refused(write(tmp_path / "pets", files() | {"dog/2.png": wide}), r"dog/2.png.*mode I.*expected 8 bits")


@pytest.mark.parametrize("name", ["pets", "pets.zip"])
def test_images_of_two_sizes_are_refused_by_name(tmp_path, name):
    contents = files() | {"dog/2.png": encoded(pixels(1, (5, 4)))}
    refused(write(tmp_path / name, contents), r"dog/2.png has 4 x 5 .*cat/0.png has 5 x 4; expected one size: resize")
    assert not list((tmp_path / "cache" / "decoded").glob("images-*"))  # nothing half done is left
    assert not list((tmp_path / "cache" / "decoded").glob("*.tmp"))


@pytest.mark.parametrize("broken", [b"", b"<html>", encoded(pixels(1, (40, 40)))[:900]], ids=["empty", "foreign", "truncated"])
@pytest.mark.parametrize("name", ["pets", "pets.zip"])
def test_a_broken_image_is_named(tmp_path, name, broken):
    contents = {name: encoded(pixels(0, (40, 40))) for name in files()}
    refused(write(tmp_path / name, contents | {"dog/2.png": broken}), "cannot read the image dog/2.png.*replace or remove")


def test_formats_that_pillow_runs_programs_for_are_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(pixels(1)).save(stream, "EPS")
    refused(write(tmp_path / "pets", files() | {"dog/2.png": stream.getvalue()}), "cannot read the image dog/2.png")


def test_a_bomb_takes_no_memory(tmp_path, monkeypatch):
    stream = io.BytesIO()
    Image.new("1", (5000, 4000)).save(stream, "PNG")  # 20 million pixels in 3 kB
    monkeypatch.setattr(Image.Image, "convert", None)  # it is never decoded
    refused(write(tmp_path / "pets", {"cat/0.png": stream.getvalue(), "dog/0.png": stream.getvalue()}), "5000 x 4000 pixels")


def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    for module in (listing, image_folder):
        monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    refused(write(tmp_path / "pets.zip", files() | {"dog/2.png": bytes(1_000_000)}), "dog/2.png.*more than 10,000 bytes")


@pytest.mark.parametrize(
    ("contents", "match"),
    [
        ({"readme.txt": b"x"}, "has no images"),
        ({"cat/0.png": b""}, "has the classes cat to train on; expected two"),
        ({"cat/0.png": b"", "1.png": b""}, "has the image 1.png; expected CLASS/FILE"),
        ({"cat/a/0.png": b"", "dog/0.png": b""}, "has the image cat/a/0.png; expected CLASS/FILE"),
        ({"test/cat/0.png": b"", "test/dog/0.png": b""}, "has the classes none to train on"),
        ({"train/cat/0.png": b"", "train/dog/0.png": b"", "more/dog/0.png": b""}, "has the image more/dog/0.png"),
        (
            {"train/cat/0.png": b"", "train/dog/0.png": b"", "test/cow/0.png": b""},
            "test has the class 'cow', which train has not",
        ),
    ],
    ids=["none", "one class", "flat", "deep", "no train", "other part", "new class"],
)
@pytest.mark.parametrize("name", ["pets", "pets.zip"])
def test_files_that_lie_otherwise_are_refused(tmp_path, name, contents, match):
    refused(write(tmp_path / name, contents), match)


def test_missing_and_foreign_places_are_refused(tmp_path):
    refused(tmp_path / "nosuch", "no folder or zip of images")
    write(tmp_path, {"a.zip": b"PK\x03\x04 and so on"})
    refused(tmp_path / "a.zip", "cannot read .*a.zip")
    with pytest.raises(InputError, match="unknown data set 'image-folder'"):
        load_raw("image-folder")


def test_other_files_and_hidden_ones_are_passed_over(tmp_path):
    extra = {"cat/Thumbs.db": b"x", "__MACOSX/cat/._0.png": b"x", ".git/a.png": b"x", "cat/._1.png": b"x", "notes.md": b"x"}
    whole = write(tmp_path / "pets.zip", {name: c for name, c in (files() | extra).items() if not name.startswith(".git")})
    assert len(read(whole)[0].train[0]) == 12
    del extra["__MACOSX/cat/._0.png"]
    assert len(read(write(tmp_path / "pets", files() | extra))[0].train[0]) == 12


@pytest.mark.parametrize("name", ["../../dog/9.png", "dog/../9.png", "/dog/9.png"])
def test_a_zip_whose_names_lead_out_of_it_is_refused(tmp_path, name):
    refused(write(tmp_path / "pets.zip", files() | {name: encoded(pixels(9))}), "has a file named")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets.zip"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "store", files())
    (tmp_path / "pets").mkdir()
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).symlink_to(tmp_path / "store" / label)
    (tmp_path / "store" / "dog" / "round.png").symlink_to(tmp_path / "pets")
    assert len(read(tmp_path / "pets")[0].train[0]) == 12
    (tmp_path / "store" / "dog" / "lost.png").symlink_to(tmp_path / "nosuch.png")
    refused(tmp_path / "pets", "lost.png")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(write(tmp_path / "pets", files()) / "dog" / "pipe.png")
    refused(tmp_path / "pets", "dog/pipe.png.*no regular file")


# The cache


def test_colours_of_sixteen_bits_are_refused(tmp_path):
    content = png_of_16_bits(np.full((4, 5, 3), 300))
    refused(write(tmp_path / "deep", {f"{name}/{i}.png": content for name in ("cat", "dog") for i in range(3)}), "8 bits")


def test_the_training_images_are_no_test_images(tmp_path):
    same = {f"{part}/{name}": content for part in ("train", "test") for name, content in files().items()}
    refused(write(tmp_path / "same", same), "the same images in train/ and test/")


def test_parts_in_capitals_are_no_classes(tmp_path):
    contents = {f"{part}/{i}.png": encoded(pixels(i)) for part in ("Train", "Test") for i in range(3)}
    refused(write(tmp_path / "capitals", contents), "the folder Test; expected small letters, test")
