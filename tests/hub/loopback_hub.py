"""A Hub on this machine: the HTTP API that the real client speaks, over a folder of repositories.

    python tests/hub/loopback_hub.py --root DIR [--port N] [--log FILE] [--faults FILE]

    DIR/.tokens.json                             {"TOKEN": "USER"}; or {"user": "USER", "role": "read", "orgs": ["ORG"]}
    DIR/.quota.json                              {"OWNER": BYTES of private repositories}
    DIR/{models,datasets}/OWNER/NAME/...         the files of the branch main; see loopback_repository.py for the rest
    DIR/.../NAME/.revisions/BRANCH/...           the files of another branch ("/" in its name as %2F)
    DIR/.../NAME/.access.json                    {"private": true, "gated": "manual", "users": ["USER"], "writers": ["USER"]}

It prints its address. Then, in another terminal (it knows nothing of xet):

    export HF_ENDPOINT=http://127.0.0.1:PORT HF_TOKEN=TOKEN HF_HUB_DISABLE_XET=1
    hf upload USER/NAME FOLDER
    hf-transfer push RUN --repo-id USER/NAME

`--faults` names a JSON list of faults with the fields of `loopback_faults.Fault`; this one lets two uploads fail:

    [{"method": "PUT", "status": 503, "headers": {"Retry-After": "1"}, "times": 2}]

It answers on 127.0.0.1 only, and forgets nothing: stop it with Ctrl-C, start it again on the same folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote

from loopback_api import Hub, Request, Response, json_response, refusal_response
from loopback_faults import Fault
from loopback_repository import RefusalError, User

_SHORT_BODY = 1 << 16
_CHUNK = 1 << 16


class LoopbackHub(ThreadingHTTPServer):
    """The server: `with LoopbackHub(root) as hub:` answers at `hub.url` until the block ends or `hub.stop()`.

    `hub.requests` lists what was asked: method, path, status (0: the connection was dropped), user, and the bytes of the body
    that arrived. Tokens are never among it. `hub.faults` is a list of `Fault`: the first that matches a request spoils it.
    """

    request_queue_size = 64

    def __init__(self, root: Path, port: int = 0, log: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub, self.log, self.lock = Hub(root), log, threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.connections: set[socket.socket] = set()
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening, and cut the connections that clients keep open."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            _cut(connection)

    def commit(self, kind: str, repo_id: str, revision: str = "main") -> str:
        """Return the commit that the client should find."""
        with self.hub.lock:
            repository = self.hub.repository(kind, repo_id)
            if repository is None:
                raise FileNotFoundError(f"{kind}/{repo_id}")
            return repository.resolve(revision)[0]

    def fault(self, method: str, path: str, body: bytes) -> Fault | None:
        """Return the fault of a request, and count it."""
        with self.lock:
            found = next((fault for fault in self.faults if fault.matches(method, path, body)), None)
            if found is not None:
                found.hits += 1
            return found

    def record(self, method: str, path: str, status: int, user: User | None, received: int) -> None:
        path = re.sub("|".join([r"hf_\w+", *map(re.escape, self.hub.tokens())]), "TOKEN", path)
        entry = {"method": method, "path": path, "status": status, "user": user.name if user else None, "bytes": received}
        with self.lock:
            self.requests.append(entry)
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client go away when it likes."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _DroppedError(Exception):
    """The connection ends without an answer."""


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections.add(self.connection)

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle_any(self) -> None:
        """Answer a request. A long body is read into a file, and not before it is known that no fault drops it."""
        self.received, self.expected = 0, int(self.headers.get("Content-Length") or 0)
        user = self.server.hub.tokens().get(self._token())
        try:
            with tempfile.SpooledTemporaryFile(max_size=1 << 20) as body:
                response = self._response(body, user)  # type: ignore[arg-type]
        except (_DroppedError, OSError):
            self.close_connection = True
            self.server.record(self.command, self.path, 0, user, self.received)
            _cut(self.connection)
            return
        self.server.record(self.command, self.path, response.status, user, self.received)
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing on stderr; `LoopbackHub.requests` and the log file tell."""

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ").strip()

    def _response(self, body: BinaryIO, user: User | None) -> Response:
        """Read the body, do what was asked, and spoil it if there is a fault for it."""
        if self.command != "PUT" and self.expected <= _SHORT_BODY:
            self._receive(body, self.expected)
        body.seek(0)
        fault = self.server.fault(self.command, unquote(self.path), body.read())
        if fault and fault.drop == "during":
            self._receive(body, min(fault.read_bytes, self.expected))
            raise _DroppedError
        if fault and self.server.stopping.wait(fault.delay):
            raise _DroppedError
        self._receive(body, self.expected)
        body.seek(0)
        if fault and fault.drop == "before":
            raise _DroppedError
        if fault and fault.status:
            told = {"error": fault.message}
            return json_response(told, fault.status, X_Error_Message=fault.message, **fault.headers)
        response = self._answer(body, user)
        if fault and fault.drop == "after":
            raise _DroppedError
        return response

    def _receive(self, body: BinaryIO, end: int) -> None:
        """Read the body as far as `end`."""
        while self.received < end:
            chunk = self.rfile.read(min(_CHUNK, end - self.received))
            if not chunk:
                raise _DroppedError
            self.received += len(chunk)
            body.write(chunk)

    def _answer(self, body: BinaryIO, user: User | None) -> Response:
        path, _, query = self.path.partition("?")
        base = f"http://{self.headers.get('Host', '127.0.0.1')}"
        try:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                self.close_connection = True
                raise RefusalError(411, None, "this Hub wants a Content-Length")
            if self._token() and user is None:
                raise RefusalError(401, None, "Invalid credentials in Authorization header")
            asked = Request(dict(parse_qsl(query)), self.headers, body, user, base)  # type: ignore[arg-type]
            return self.server.hub.answer(self.command, path, asked)
        except RefusalError as refusal:
            return refusal_response(refusal)
        except Exception as error:  # a mistake of this file: the client shall see it, not hang
            return json_response({"error": f"{type(error).__name__}: {error}"}, 500)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder of repositories as a Hub, on 127.0.0.1 only.")
    parser.add_argument("--root", type=Path, required=True, help="folder with models/OWNER/NAME and datasets/OWNER/NAME")
    parser.add_argument("--port", type=int, default=0, help="by default a free one")
    parser.add_argument("--log", type=Path, help="file that gets one JSON line a request")
    parser.add_argument("--faults", type=Path, help="JSON list of what shall go wrong")
    options = parser.parse_args()
    with LoopbackHub(options.root, options.port, options.log) as hub, contextlib.suppress(KeyboardInterrupt):
        hub.faults += [Fault(**fields) for fields in json.loads(options.faults.read_text())] if options.faults else []
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
