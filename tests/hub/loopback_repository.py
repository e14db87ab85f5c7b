"""The repositories of the loopback Hub: a folder of files for each branch, and every commit that was pushed.

    NAME/...                             the files of the branch main
    NAME/.revisions/BRANCH/...           the files of another branch or pull request ("/" in its name as %2F)
    NAME/.access.json                    {"private": true, "gated": "manual", "users": [readers], "writers": [...]}
    NAME/.history/objects/SHA256         content that was uploaded, or was part of a commit
    NAME/.history/commits/COMMIT.json    title, author, parent and files (path to SHA-256) of a commit
    NAME/.history/heads.json             the last commit that was pushed to a branch, and the digest of its files
    NAME/.history/pulls.json             title and author of the pull requests

The folders may be filled and changed by hand: files that nobody pushed are a commit whose name is a digest of them. They are
recorded before anything is pushed on top of them, so that every commit stays readable.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

_LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".arrow", ".png", ".jpg", ".zip", ".tar")
_LFS_BYTES = 10_000_000
_OWN_NAMES = (".access.json", ".history", ".revisions")


class RefusalError(Exception):
    """An answer other than the one asked for: HTTP status, the Hub's own code, the message, and what else the body tells."""

    def __init__(self, status: int, code: str | None, message: str, commit: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.commit, self.body = status, code, commit, body


@dataclass(frozen=True)
class User:
    """Whose token it is, and whether that token may write."""

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


@dataclass(frozen=True)
class Change:
    """What a commit shall do: files by path (content, or the SHA-256 of an uploaded object), and deletions, in this order."""

    title: str
    message: str = ""
    deleted: tuple[str, ...] = ()  # a folder ends with "/"
    content: Mapping[str, bytes] = field(default_factory=dict)
    uploaded: Mapping[str, str] = field(default_factory=dict)


def is_large(name: str, size: int, sample: bytes) -> bool:
    """Tell whether the Hub keeps this file apart from git: by its kind, its size, or a zero byte among its first 512."""
    return size > 0 and (Path(name).suffix in _LFS_SUFFIXES or size > _LFS_BYTES or b"\0" in sample[:512])


@functools.lru_cache(maxsize=4096)
def _digests(path: Path, inode: int, modified_ns: int, size: int) -> tuple[str, str, bytes]:
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
    return blob, hashlib.sha256(content).hexdigest(), content[:512]


def digests(path: Path) -> tuple[str, str, bytes]:
    """Return git's name of a file, its SHA-256 and its first bytes."""
    stat = path.stat()
    fresh = time.time_ns() - stat.st_mtime_ns < 100_000_000  # what is written next may get the same time
    return (_digests.__wrapped__ if fresh else _digests)(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)


def file_entry(name: str, path: Path) -> dict[str, Any]:
    """Describe a file as the tree does: `oid` is git's name of the blob; large kinds of files have `lfs`, too."""
    size = path.stat().st_size
    oid, sha256, sample = digests(path)
    lfs = {"lfs": {"oid": sha256, "size": size, "pointerSize": 130}} if is_large(name, size, sample) else {}
    return {"type": "file", "path": name, "size": size, "oid": oid, **lfs}


class Repository:
    """One repository: who may read and write it, its branches, and its history."""

    def __init__(self, kind: str, repo_id: str, folder: Path) -> None:
        facts = _read_json(folder / ".access.json")
        self.private, self.gated = facts.get("private", False), facts.get("gated", False)
        self.users, self.writers = facts.get("users", ()), facts.get("writers", ())
        self.kind, self.repo_id, self.folder = kind, repo_id, folder
        self.name, self.owner = f"{kind}/{repo_id}", repo_id.split("/")[0]
        self._history = folder / ".history"

    def may_read(self, user: User | None) -> bool:
        return not self.private or (user is not None and (user.name in self.users or self.may_write(user)))

    def may_download(self, user: User | None) -> bool:
        return not self.gated or (user is not None and (user.name in self.users or self.may_write(user)))

    def may_write(self, user: User, branch: str = "main") -> bool:
        """Tell whether the person may write to a branch, whatever the token allows; a pull request is its author's, too."""
        opened = self.pull_requests().get(branch.removeprefix("refs/pr/"), {}) if branch.startswith("refs/pr/") else {}
        return user.owns(self.owner) or user.name in self.writers or user.name == opened.get("author")

    def set_access(self, **facts: Any) -> None:
        _write_json(self.folder / ".access.json", _read_json(self.folder / ".access.json") | facts)

    def branches(self) -> dict[str, Path]:
        others = (path for path in (self.folder / ".revisions").glob("*") if path.is_dir())
        return {"main": self.folder} | {unquote(path.name): path for path in others}

    def pull_requests(self) -> dict[str, dict[str, Any]]:
        return _read_json(self._history / "pulls.json")

    def resolve(self, revision: str) -> tuple[str, dict[str, Path]]:
        """Return the commit of a branch (or the commit itself) and its files by path."""
        branches = self.branches()
        if revision in branches:
            return self._head(revision)
        record = self._commit(revision)
        if record:
            return revision, {name: self._object(sha256) for name, sha256 in record["files"].items()}
        for branch in branches:
            commit, files = self._head(branch)
            if commit == revision:
                return commit, files
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def history(self, revision: str) -> list[dict[str, Any]]:
        """Return the recorded commits of a branch, or those up to a commit, the newest first."""
        for branch in self.branches():
            self.record_branch(branch)
        commit: str | None = self.resolve(revision)[0]
        found = []
        while commit is not None:
            record = self._commit(commit)
            found.append({"id": commit, **record})
            commit = record["parent"]
        return found

    def size_of(self, sha256: str) -> int | None:
        """Return the bytes of an uploaded object, or nothing if it is not there."""
        path = self._object(sha256)
        return path.stat().st_size if path.is_file() else None

    def used_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self._history / "objects").glob("*"))

    def store(self, content: BinaryIO, sha256: str, size: int) -> None:
        """Keep an uploaded object; it need not become part of a commit."""
        with _replacing(self._object(sha256)) as temporary:
            with temporary.open("wb") as file:
                shutil.copyfileobj(content, file)
            if temporary.stat().st_size != size or digests(temporary)[1] != sha256:
                raise RefusalError(400, None, "BadDigest: the content is not what was announced")

    def record_branch(self, branch: str, title: str = "Files put there by hand") -> str:
        """Record what a branch holds now, if it is no commit yet; return the commit."""
        commit, files = self._head(branch)
        if not self._commit(commit):
            contents = {name: digests(path)[1] for name, path in files.items()}
            for name, sha256 in contents.items():
                if self.size_of(sha256) is None:
                    _copy(files[name], self._object(sha256))
            parent = self._heads().get(branch, {}).get("commit")
            self._record(commit, contents, title, "", self.owner, parent)
        return commit

    def create_branch(self, branch: str, start: str) -> str:
        if branch in self.branches():
            raise RefusalError(409, None, f"Reference already exists: {branch}")
        commit = self.record_branch(start) if start in self.branches() else self.resolve(start)[0]
        self._set_branch(branch, commit)
        return commit

    def delete_branch(self, branch: str) -> None:
        if branch == "main":
            raise RefusalError(403, None, "The default branch cannot be deleted")
        if branch not in self.branches():
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        shutil.rmtree(self.branches()[branch])
        _write_json(self._history / "heads.json", {name: head for name, head in self._heads().items() if name != branch})

    def open_pull_request(self, base: str, title: str, author: str) -> int:
        """Make refs/pr/N from a branch; return N."""
        taken = [int(name.removeprefix("refs/pr/")) for name in self.branches() if name.startswith("refs/pr/")]
        number = max(taken, default=0) + 1
        self.create_branch(f"refs/pr/{number}", base)
        opened = {"title": title, "author": author, "base": base, "date": _now()}
        _write_json(self._history / "pulls.json", self.pull_requests() | {str(number): opened})
        return number

    def check(self, branch: str, change: Change, parent: str | None = None) -> dict[str, str]:
        """Return the files (path to SHA-256) that a branch would hold after the change.

        Raises:
            RefusalError: when the branch is missing or is not at `parent` any more, a path cannot be, an object was never
                uploaded, or what shall be deleted is not there.
        """
        if branch not in self.branches():
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        head = self.record_branch(branch)
        if not head.startswith(parent or ""):
            raise RefusalError(412, None, "A commit has happened since. Please refresh and try again.")
        files: dict[str, str] = dict(self._commit(head)["files"])
        for gone in change.deleted:
            doomed = [name for name in files if name == gone or (gone.endswith("/") and name.startswith(gone))]
            if not doomed:
                kind = "folder" if gone.endswith("/") else "file"
                raise RefusalError(404, "EntryNotFound", f"A {kind} with this name doesn't exist: {gone}", head)
            files = {name: sha256 for name, sha256 in files.items() if name not in doomed}
        missing = [name for name, sha256 in change.uploaded.items() if self.size_of(sha256) is None]
        if missing:
            raise RefusalError(400, None, f"Your push was rejected because LFS objects are missing: {', '.join(missing)}")
        files |= {name: hashlib.sha256(content).hexdigest() for name, content in change.content.items()}
        files |= change.uploaded
        _check_paths(files)
        return files

    def commit(self, branch: str, change: Change, author: str, parent: str | None = None) -> str:
        """Add a commit to a branch, all of it or nothing; return its name."""
        files = self.check(branch, change, parent)
        before = self.record_branch(branch)
        for content in change.content.values():
            path = self._object(hashlib.sha256(content).hexdigest())
            with _replacing(path) as temporary:
                temporary.write_bytes(content)
        commit = _digest([self.name, before, change.title, sorted(files.items())])
        self._record(commit, files, change.title, change.message, author, before)
        self._set_branch(branch, commit)
        return commit

    def _head(self, branch: str) -> tuple[str, dict[str, Path]]:
        files = _files(self.branches()[branch])
        tree, head = self._tree_digest(files), self._heads().get(branch, {})
        return head["commit"] if head.get("tree") == tree else tree, files

    def _tree_digest(self, files: Mapping[str, Path]) -> str:
        return _digest([self.name, [(name, digests(path)[0]) for name, path in files.items()]])

    def _heads(self) -> dict[str, dict[str, str]]:
        return _read_json(self._history / "heads.json")

    def _set_branch(self, branch: str, commit: str) -> None:
        """Make the folder of a branch hold the files of a commit."""
        root = self.folder if branch == "main" else self.folder / ".revisions" / quote(branch, safe="")
        root.mkdir(parents=True, exist_ok=True)
        wanted = self._commit(commit)["files"]
        for name, path in _files(root).items():
            if name not in wanted:
                path.unlink()
        for empty in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            if empty.relative_to(root).parts[0] not in _OWN_NAMES and not any(empty.iterdir()):
                empty.rmdir()
        for name, sha256 in wanted.items():
            path = root / name
            if not path.is_file() or digests(path)[1] != sha256:
                _copy(self._object(sha256), path, self._history)
        head = {"commit": commit, "tree": self._tree_digest(_files(root))}
        _write_json(self._history / "heads.json", self._heads() | {branch: head})

    def _object(self, sha256: str) -> Path:
        return self._history / "objects" / PurePosixPath(sha256).name

    def _commit(self, commit: str) -> dict[str, Any]:
        return _read_json(self._history / "commits" / f"{PurePosixPath(commit).name}.json")

    def _record(self, commit: str, files: Mapping[str, str], title: str, message: str, author: str, parent: str | None) -> None:
        about = {"title": title, "message": message, "author": author, "date": _now(), "parent": parent, "files": files}
        _write_json(self._history / "commits" / f"{commit}.json", about)


def _files(root: Path) -> dict[str, Path]:
    """Return the files of a branch by path, without those that are the server's own."""
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name: path for name, path in paths.items() if name.split("/")[0] not in _OWN_NAMES}


def _check_paths(names: Iterable[str]) -> None:
    known = set(names)
    for name in known:
        parts = name.split("/")
        if not name or {"", ".", "..", ".git"} & set(parts) or parts[0] in _OWN_NAMES or "\\" in name:
            raise RefusalError(400, None, f"Invalid path: {name}")
        if known & {parent.as_posix() for parent in PurePosixPath(name).parents}:
            raise RefusalError(400, None, f"{name} lies below a path that is a file")


@contextlib.contextmanager
def _replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give a temporary path, in `folder` or next to `path`, that takes the place of `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = (folder or path.parent) / f"{path.name}.part"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(source: Path, target: Path, folder: Path | None = None) -> None:
    with _replacing(target, folder) as temporary:
        shutil.copyfile(source, temporary)


def _digest(value: Any) -> str:
    return hashlib.sha1(json.dumps(value).encode()).hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_json(path: Path, value: Any) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
