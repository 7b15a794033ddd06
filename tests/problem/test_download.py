"""Downloads, their cache, and their refusals."""

import functools
import gc
import hashlib
import http.server
import os
import threading
from types import SimpleNamespace

import pytest
import torch
from support.idx import IDX_NAMES, STEMS, TRAIN_IMAGES, TRAIN_LABELS, arrays, write

from evoprune.errors import InputError
from evoprune.problem.idx import _PUBLISHED, _Published
from evoprune.problem.load import load

pytestmark = [
    pytest.mark.usefixtures("no_data_from_outside"),
    # urllib3 leaves a socket to the garbage collector where a download fails
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    # the files made up here; a test of test_idx_folders.py expects it
    pytest.mark.filterwarnings("ignore:.* is not the published data set:UserWarning"),
]


# Downloading, from a server of our own


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Pooch waits before it tries again."""
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = write(tmp_path / "served", ".gz")
    handler = functools.partial(Quiet, directory=str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.requests, server.folder = [], folder
        md5 = {part: hashlib.md5((folder / f"{stem}.gz").read_bytes()).hexdigest() for part, stem in STEMS.items()}
        url = f"http://127.0.0.1:{server.server_port}/"
        server.published = _Published(url, "MNIST/raw", md5, {})
        for name in IDX_NAMES:
            monkeypatch.setitem(_PUBLISHED, name, server.published)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    gc.collect()  # what is left is closed here, under the filter above


@pytest.mark.parametrize("name", IDX_NAMES)
def test_a_download_gives_the_data_and_is_cached(server, name, tmp_path):
    first = load(name)
    assert torch.equal(first.test[1], torch.from_numpy(arrays()["test labels"]))
    assert sorted(server.requests) == sorted(f"/{stem}.gz" for stem in STEMS.values())
    assert {path.name for path in (tmp_path / "cache/evoprune" / name).iterdir()} == {f"{s}.gz" for s in STEMS.values()}
    second = load(name)
    assert torch.equal(second.train[0], first.train[0])
    assert len(server.requests) == 4


def test_a_download_shows_its_progress(server, capfd):
    load("mnist")
    assert "100%" in capfd.readouterr().err


def test_a_damaged_cache_is_fetched_anew(server, tmp_path):
    load("mnist")
    path = tmp_path / f"cache/evoprune/mnist/{TRAIN_LABELS}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(load("mnist").test[0]) == 20
    assert len(server.requests) == 5


def test_nothing_is_downloaded_where_a_folder_is_named(server, tmp_path):
    with pytest.raises(InputError):
        load("mnist", data_dir=tmp_path / "empty")
    assert server.requests == []


def download_refused(match):
    with pytest.raises(InputError, match=match) as error:
        load("mnist")
    said = str(error.value)
    assert "cannot download http://127.0.0.1" in said
    assert f"{TRAIN_IMAGES}.gz" in said
    assert "Fetch the four files by other means" in said
    assert "--data-dir or EVOPRUNE_DATA" in said


def test_a_download_with_a_wrong_checksum_is_refused(server, tmp_path):
    (server.folder / f"{TRAIN_IMAGES}.gz").write_bytes(b"something else")
    download_refused("(?i)hash")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left == []  # the next run does not take it for the file


def test_a_download_that_is_not_there_is_refused(server):
    os.remove(server.folder / f"{TRAIN_IMAGES}.gz")  # noqa: PTH107
    download_refused("404")


def test_a_server_that_cannot_be_reached_is_said(server):
    server.shutdown()
    server.server_close()
    download_refused("127.0.0.1")
