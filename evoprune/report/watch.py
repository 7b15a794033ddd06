"""A page that is served on this machine alone, and made anew while its run continues."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from evoprune.errors import InputError
from evoprune.report.page import render

ADDRESS = "127.0.0.1"
# Seconds between two renderings at least, so that watching does not slow the run down.
PAUSE = 5.0
_TITLE = '<!DOCTYPE html><title>evoprune</title><meta http-equiv="refresh" content="5"><p>'


@dataclass
class Watched:
    """The page of runs and comparisons, rendered again when their files have changed.

    Attributes:
        folders: Their folders.
        pause: Seconds between two renderings at least.
    """

    folders: Sequence[Path]
    pause: float = PAUSE
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _seen: str = ""
    _page: bytes = b""
    _when: float = 0.0

    def latest(self) -> tuple[str, bytes]:
        """Returns the version of the page, and the page."""
        with self._lock:
            if not self._page or time.monotonic() - self._when >= self.pause:
                now = self._state()
                if now != self._seen:
                    self._page = self._render(now)
                    self._seen, self._when = now, time.monotonic()
            return self._seen, self._page

    def _render(self, version: str) -> bytes:
        try:
            return render(self.folders, watched=version).encode(errors="replace")
        except (InputError, OSError):  # a file is being written
            return f"{_TITLE}The folder cannot be read just now.".encode()

    def _state(self) -> str:
        """Returns a digest of names, sizes and times of the files."""
        digest = hashlib.sha256()
        for folder in self.folders:
            for path in sorted(folder.glob("*")):
                if path.suffix in (".csv", ".json", ".npz"):
                    try:
                        stat = path.stat()
                    except OSError:
                        continue
                    digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def make_server(folders: Sequence[Path], port: int = 0, pause: float = PAUSE) -> ThreadingHTTPServer:
    """Returns a server of the page of runs and comparisons, on this machine's own address alone.

    It knows two paths: ``/``, the page, and ``/version``, which changes with the page. Requests that name another host are
    refused, so that no page of a foreign site can read this one under its name.

    Args:
        folders: Their folders.
        port: The port; 0 for a free one.
        pause: Seconds between two renderings at least.

    Raises:
        InputError: The port is not free, or out of range.
    """
    watched = Watched([folder.absolute() for folder in folders], pause)

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "evoprune", ""

        def do_GET(self) -> None:
            if self.headers.get("Host", "") not in _hosts(self.connection.getsockname()[1]):
                self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"unknown host")
            elif self.path == "/":
                self._answer(HTTPStatus.OK, "text/html", watched.latest()[1])
            elif self.path == "/version":
                self._answer(HTTPStatus.OK, "text/plain", watched.latest()[0].encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found")

        def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
            headers = {
                "Content-Type": f"{kind}; charset=utf-8",
                "Content-Length": str(len(content)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Cross-Origin-Resource-Policy": "same-origin",
            }
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError):  # the browser has left
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, text: str, *values: object) -> None:
            """Prints nothing."""

    try:
        server = ThreadingHTTPServer((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used: {error}; choose another --port, or none for a free one.") from error
    server.daemon_threads = True
    return server


def _hosts(port: int) -> tuple[str, ...]:
    return f"{ADDRESS}:{port}", f"localhost:{port}"
