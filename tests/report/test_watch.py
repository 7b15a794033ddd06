"""A page that is served: on this machine alone, and nothing else."""

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from support.pages import copy, make_run

from evoprune.errors import InputError
from evoprune.report import pictures, size
from evoprune.report.watch import make_server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(size, "picture", lambda name, caption, draw, prefix: pictures.Picture(name, caption))
    return make_run("erk", tmp_path / "run")


@pytest.fixture
def server(folder: Path) -> Iterator[ThreadingHTTPServer]:
    with make_server([folder], pause=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server: ThreadingHTTPServer, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_page_is_served_and_made_anew_when_the_run_continues(server: ThreadingHTTPServer, folder: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, text = get(server, "/")
    _, version = get(server, "/version")
    assert status == 200
    assert f'data-watched="{version}"' in text
    assert "connect-src" in text
    assert get(server, "/version")[1] == version
    copy(folder, folder.parent / "kept")
    (folder / "result.json").unlink()
    assert get(server, "/version")[1] != version
    assert "is not finished" in get(server, "/")[1]


def test_nothing_else_is_served(server: ThreadingHTTPServer) -> None:
    for path in ("/config.json", "/../run/config.json", "/etc/passwd", "/%2e%2e/", "/?x"):
        assert get(server, path)[0] == 404, path
    assert get(server, "/", method="POST")[0] == 501


def test_a_foreign_host_is_refused(server: ThreadingHTTPServer) -> None:
    port = server.server_address[1]
    assert get(server, "/", f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
        status, text = get(server, "/", host)
        assert (status, text) == (403, "unknown host")


@pytest.mark.slow
def test_a_browser_that_leaves_is_no_error(server: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.server_address[1]
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as browser:
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed at once, unread
            browser.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    assert get(server, "/version")[0] == 200
    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken_is_refused(server: ThreadingHTTPServer, folder: Path) -> None:
    for port in (server.server_address[1], 70_000):
        with pytest.raises(InputError, match="choose another --port"):
            make_server([folder], port)
