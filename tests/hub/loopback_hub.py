"""A Hub on this machine: the HTTP API that the real client speaks, over a folder of repositories. Standard library only.

    python tests/hub/loopback_hub.py --root DIR [--port N] [--log FILE]

    DIR/.tokens.json                             {"TOKEN": "USER"}
    DIR/{models,datasets}/OWNER/NAME/...         the files of the branch main
    DIR/.../NAME/.revisions/BRANCH/...           the files of another branch ("/" in its name as %2F)
    DIR/.../NAME/.access.json                    {"private": true, "gated": "manual", "users": ["USER"]}

A commit is a digest of the files it holds: changed files are a new commit. It answers on 127.0.0.1 only, and it only reads;
writing is to come as further rows of `_ROUTES`. It knows nothing of xet: set HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote

_LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".arrow", ".png", ".jpg", ".zip", ".tar")


@dataclass(frozen=True)
class Request:
    """What the client asks; `user` is None without a token."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    user: str | None


@dataclass
class Response:
    """What the client gets."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def _json(value: Any, status: int = 200, **headers: str | None) -> Response:
    sent = {name.replace("_", "-"): text for name, text in headers.items() if text}
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json", **sent})


class RefusalError(Exception):
    """An answer other than the one asked for, in the Hub's own codes."""

    def __init__(self, status: int, code: str | None, message: str, commit: str | None = None) -> None:
        super().__init__(message)
        self.response = _json({"error": message}, status, X_Error_Code=code, X_Error_Message=message, X_Repo_Commit=commit)


@functools.lru_cache(maxsize=4096)
def _digests(path: Path, modified_ns: int, size: int) -> tuple[str, str]:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % size + content).hexdigest(), hashlib.sha256(content).hexdigest()


def _file_entry(name: str, path: Path) -> dict[str, Any]:
    """Describe a file as the tree does: `oid` is git's name of the blob; large kinds of files have `lfs`, too."""
    stat = path.stat()
    oid, sha256 = _digests(path, stat.st_mtime_ns, stat.st_size)
    lfs = {"lfs": {"oid": sha256, "size": stat.st_size, "pointerSize": 130}} if path.suffix in _LFS_SUFFIXES else {}
    return {"type": "file", "path": name, "size": stat.st_size, "oid": oid, **lfs}


class Repository:
    """One repository: who may read it, and the files of each of its revisions."""

    def __init__(self, kind: str, repo_id: str, folder: Path) -> None:
        access = folder / ".access.json"
        facts = json.loads(access.read_text()) if access.is_file() else {}
        self.private, self.gated, self.users = facts.get("private", False), facts.get("gated", False), facts.get("users", ())
        self.name, self.folder = f"{kind}/{repo_id}", folder

    def branches(self) -> dict[str, Path]:
        others = (path for path in (self.folder / ".revisions").glob("*") if path.is_dir())
        return {"main": self.folder} | {unquote(path.name): path for path in others}

    def resolve(self, revision: str) -> tuple[str, dict[str, Path]]:
        """Return the commit of a branch (or the commit itself) and its files by path."""
        branches = self.branches()
        for root in [branches[revision]] if revision in branches else branches.values():
            paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
            files = {name: path for name, path in paths.items() if not name.startswith((".access.json", ".revisions/"))}
            oids = [(name, _file_entry(name, path)["oid"]) for name, path in files.items()]
            commit = hashlib.sha1(json.dumps([self.name, oids]).encode()).hexdigest()
            if revision in branches or commit == revision:
                return commit, files
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def _tree(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the entries of all files and folders, by path."""
    folders = {parent.as_posix() for name in files for parent in Path(name).parents[:-1]}
    entries = {f: {"type": "directory", "path": f, "size": 0, "oid": hashlib.sha1(f.encode()).hexdigest()} for f in folders}
    return entries | {name: _file_entry(name, path) for name, path in files.items()}


def _card_data(files: Mapping[str, Path]) -> dict[str, Any]:
    """Read the plain keys and plain lists of a card's front matter (the standard library has no YAML parser)."""
    text = files["README.md"].read_text(encoding="utf-8") if "README.md" in files else ""
    front = re.match(r"---\n(.*?)\n---(\n|$)", text, re.DOTALL)
    data: dict[str, Any] = {}
    for key, value, block in re.findall(r"^([\w-]+):[ ]*(.*)((?:\n[ -].*)*)", front[1] if front else "", re.MULTILINE):
        items = [line.strip().removeprefix("- ") for line in block.splitlines()[1:]]
        if value or not any(": " in item or item.endswith(":") for item in items):
            data[key] = value.strip("'\"") if value else items
    return data


class Hub:
    """Answers requests from a folder; knows nothing of sockets."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def tokens(self) -> dict[str, str]:
        file = self.root / ".tokens.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def answer(self, method: str, path: str, request: Request) -> Response:
        for methods, pattern, function in _ROUTES:
            match = pattern.fullmatch(path)
            if match and method in methods.split():
                return function(self, request, **{name: unquote(text or "") for name, text in match.groupdict().items()})
        raise RefusalError(404, None, f"no such endpoint: {method} {path}")

    def _repository(self, kind: str, repo_id: str, user: str | None) -> Repository:
        """Return a repository that this user may know of; a private one is as good as missing to anyone else."""
        kind = kind.strip("/") or "models"
        folder = self.root / kind / repo_id
        if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id) and folder.is_dir():
            repository = Repository(kind, repo_id, folder)
            if not repository.private or user in repository.users:
                return repository
        raise RefusalError(404 if user else 401, "RepoNotFound", "Repository not found")

    def who_am_i(self, request: Request) -> Response:
        if request.user is None:
            raise RefusalError(401, None, "Invalid username or password.")
        return _json({"type": "user", "name": request.user, "orgs": [], "auth": {"type": "access_token"}})

    def info(self, request: Request, kind: str, repo_id: str, revision: str = "") -> Response:
        """Tell about a repository; that much of a gated one is public."""
        repository = self._repository(kind, repo_id, request.user)
        commit, files = repository.resolve(revision or "main")
        about = {"id": repo_id, "author": repo_id.split("/")[0], "sha": commit, "private": repository.private, "tags": []}
        about |= {"gated": repository.gated, "disabled": False, "downloads": 0, "likes": 0}
        return _json(about | {"siblings": [{"rfilename": name} for name in files], "cardData": _card_data(files)})

    def tree(self, request: Request, kind: str, repo_id: str, revision: str, folder: str = "") -> Response:
        commit, files = self._repository(kind, repo_id, request.user).resolve(revision)
        entries = _tree(files)
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise RefusalError(404, "EntryNotFound", f"{folder} does not exist on {revision}", commit)
        start = f"{folder}/" if folder else ""
        recursive = request.query.get("recursive", "").lower() == "true"
        found = [p for p in sorted(entries) if p.startswith(start) and (recursive or "/" not in p.removeprefix(start))]
        return _json([entries[path] for path in found])

    def paths_info(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        entries = _tree(self._repository(kind, repo_id, request.user).resolve(revision)[1])
        return _json([entries[path] for path in parse_qs(request.body.decode()).get("paths", []) if path in entries])

    def file(self, request: Request, kind: str, repo_id: str, revision: str, name: str) -> Response:
        """Give a file, or the part of it that `Range` asks for."""
        repository = self._repository(kind, repo_id, request.user)
        if repository.gated and request.user not in repository.users:
            raise RefusalError(403 if request.user else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
        commit, files = repository.resolve(revision)
        if name not in files:
            raise RefusalError(404, "EntryNotFound", "Entry not found", commit)
        entry, content = _file_entry(name, files[name]), files[name].read_bytes()
        etag = f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"'
        headers = {"Content-Type": "application/octet-stream", "X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if asked is None or asked[0] == "bytes=-":
            return Response(200, content, headers)
        first = int(asked[1]) if asked[1] else max(len(content) - int(asked[2]), 0)
        end = min(int(asked[2]) + 1, len(content)) if asked[1] and asked[2] else len(content)
        if first >= end:
            return Response(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        return Response(206, content[first:end], headers | {"Content-Range": f"bytes {first}-{end - 1}/{len(content)}"})


_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
_API = rf"/api/(?P<kind>models|datasets)/{_ID}"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = [  # methods, path (still quoted), answer
    ("GET", re.compile("/api/whoami-v2"), Hub.who_am_i),
    ("GET", re.compile(rf"{_API}/revision/{_REVISION}"), Hub.info),
    ("GET", re.compile(rf"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?"), Hub.tree),
    ("POST", re.compile(rf"{_API}/paths-info/{_REVISION}"), Hub.paths_info),
    ("GET", re.compile(_API), Hub.info),
    ("GET HEAD", re.compile(rf"/(?P<kind>datasets/)?{_ID}/resolve/{_REVISION}/(?P<name>.+)"), Hub.file),
]


class LoopbackHub(ThreadingHTTPServer):
    """The server: `with LoopbackHub(root) as hub:` answers at `hub.url` until the block ends or `hub.stop()`.

    `hub.requests` lists what was asked: method, path, status and user. Tokens are never among it.
    """

    def __init__(self, root: Path, port: int = 0, log: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.hub, self.log, self.lock = Hub(root), log, threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def commit(self, kind: str, repo_id: str, revision: str = "main") -> str:
        """Return the commit that the client should find."""
        return Repository(kind, repo_id, self.hub.root / kind / repo_id).resolve(revision)[0]

    def record(self, method: str, path: str, status: int, user: str | None) -> None:
        path = re.sub("|".join([r"hf_\w+", *map(re.escape, self.hub.tokens())]), "TOKEN", path)
        entry = {"method": method, "path": path, "status": status, "user": user}
        with self.lock:
            self.requests.append(entry)
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        token, tokens = self.headers.get("Authorization", "").removeprefix("Bearer ").strip(), self.server.hub.tokens()
        user = tokens.get(token)
        try:
            if token and user is None:
                raise RefusalError(401, None, "Invalid credentials in Authorization header")
            asked = Request(dict(parse_qsl(query)), self.headers, body, user)  # type: ignore[arg-type]
            response = self.server.hub.answer(self.command, path, asked)
        except RefusalError as refusal:
            response = refusal.response
        except Exception as error:  # a mistake of this file: the client shall see it, not hang
            response = _json({"error": f"{type(error).__name__}: {error}"}, 500)
        self.server.record(self.command, self.path, response.status, user)
        self.send_response(response.status)
        for name, value in {**response.headers, "Content-Length": str(len(response.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = handle_any  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing on stderr; `LoopbackHub.requests` and the log file tell."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder of repositories as a Hub, on 127.0.0.1 only.")
    parser.add_argument("--root", type=Path, required=True, help="folder with models/OWNER/NAME and datasets/OWNER/NAME")
    parser.add_argument("--port", type=int, default=0, help="by default a free one")
    parser.add_argument("--log", type=Path, help="file that gets one JSON line a request")
    options = parser.parse_args()
    with LoopbackHub(options.root, options.port, options.log) as hub, contextlib.suppress(KeyboardInterrupt):
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
