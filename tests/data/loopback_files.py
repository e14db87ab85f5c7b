"""A web server of files on this machine, which can be told to fail; it lists no folders."""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Fault:
    """What goes wrong with the requests for a path: with the next `times` of a method, after `skip` that go well.

    `status` answers so, `cut` sends so many bytes of the body only, `delay` waits so many seconds before the body.
    """

    path: str
    status: int = 0
    cut: int | None = None
    delay: float = 0.0
    times: int = 1 << 30
    method: str = "GET"
    skip: int = 0


@dataclass
class Asked:
    """A request that was answered: method, path, bytes asked for (None: all of them), and bytes of the body sent."""

    method: str
    path: str
    part: tuple[int, int] | None
    sent: int
    headers: dict[str, str] = field(default_factory=dict)


class LoopbackFiles(ThreadingHTTPServer):
    """`with LoopbackFiles(root) as server:` gives the files below root at `server.url`.

    `server.ranges` says whether it gives parts of files, `server.tags` whether it says what their content is called,
    `server.sizes` whether it says how large they are.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.ranges, self.tags, self.sizes = root, True, True, True
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stopping = threading.Event()

    def __enter__(self) -> LoopbackFiles:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def listing(self, folder: str, query: dict[str, str]) -> bytes:
        """Return what is in a folder; a web server does not tell."""
        return b""

    def gets(self, path: str = "") -> list[Asked]:
        """Return the requests for content, of one path or of all, and forget them all."""
        found = [asked for asked in self.asked if asked.method == "GET" and path in ("", asked.path)]
        self.asked.clear()
        return found

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client go away when it likes."""


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackFiles
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing; `LoopbackFiles.asked` tells."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        file = self.server.root / path.lstrip("/")
        fault = self._fault(path)
        if fault and fault.status:
            self._send(fault.status, {}, b"", None)
            return
        query = dict(parse_qsl(urlsplit(self.path).query))
        if "list-type" in query:
            self._send(200, {"Content-Type": "application/xml"}, self.server.listing(path.strip("/"), query), None)
            return
        if not file.is_file():
            self._send(404, {}, b"", None)
            return
        headers, facts = {}, file.stat()
        if self.server.tags:
            headers["ETag"] = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
        if self.headers.get("If-Match", headers.get("ETag")) != headers.get("ETag"):
            self._send(412, {}, b"", None)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if self.server.ranges else None
        if asked is None:
            self._send(200, headers, file.read_bytes(), None, fault)
            return
        start, end = int(asked[1]), min(int(asked[2]) + 1, facts.st_size)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{facts.st_size}"
        with file.open("rb") as opened:
            opened.seek(start)
            self._send(206, headers, opened.read(end - start), (start, end), fault)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.server.faults:
            if fault.path == path and fault.method == self.command and fault.times > 0:
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                return fault
        return None

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, part: tuple[int, int] | None, fault: Fault | None = None
    ) -> None:
        sent = 0 if self.command == "HEAD" else len(body) if fault is None or fault.cut is None else fault.cut
        self.server.asked.append(Asked(self.command, self.path, part, sent, dict(self.headers)))
        with contextlib.suppress(OSError):
            self.send_response(status)
            length = {"Content-Length": str(len(body))} if self.server.sizes or not body else {"Connection": "close"}
            for name, value in {**headers, **length}.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = "Connection" in length
            if fault is not None and fault.delay:
                self.server.stopping.wait(fault.delay)
            if self.command != "HEAD":
                self.wfile.write(body[:sent])
                self.close_connection = self.close_connection or sent < len(body)
