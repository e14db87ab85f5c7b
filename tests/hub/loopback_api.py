"""What the loopback Hub answers: the HTTP API of the Hub as its real client uses it, without sockets.

Reading is anybody's, as far as a repository is public. Writing needs a token that may write, of the owner of the namespace or
of one of the repository's writers; a pull request may be opened by everybody who may read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote

from loopback_card import read_card, validate_card
from loopback_repository import Change, RefusalError, Repository, User, digests, file_entry, is_large

_GIT_ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("safetensors", "bin", "parquet"))


@dataclass(frozen=True)
class Request:
    """What the client asks; `user` is None without a token, `base` is the address it uses for this Hub."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: BinaryIO
    user: User | None
    base: str

    def json(self) -> Any:
        return json.load(self.body)


@dataclass
class Response:
    """What the client gets."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def json_response(value: Any, status: int = 200, **headers: str | None) -> Response:
    sent = {
        name.replace("_", "-"): " ".join(text.encode("ascii", "replace").decode().split())
        for name, text in headers.items()
        if text
    }
    return Response(status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json", **sent})


def refusal_response(refusal: RefusalError) -> Response:
    message = str(refusal)
    headers = {"X_Error_Code": refusal.code, "X_Error_Message": message, "X_Repo_Commit": refusal.commit}
    return json_response({"error": message, **refusal.body}, refusal.status, **headers)


class Hub:
    """Answers requests from a folder of repositories, one at a time."""

    def __init__(self, root: Path) -> None:
        self.root, self.lock, self._secret = root, threading.RLock(), secrets.token_bytes()

    def tokens(self) -> dict[str, User]:
        given = self._facts(".tokens.json")
        users = {token: {"user": user} if isinstance(user, str) else user for token, user in given.items()}
        return {
            token: User(user["user"], user.get("role", "write"), tuple(user.get("orgs", ()))) for token, user in users.items()
        }

    def answer(self, method: str, path: str, request: Request) -> Response:
        for methods, pattern, function in _ROUTES:
            match = pattern.fullmatch(path)
            if match and method in methods.split():
                with self.lock:
                    return function(self, request, **{name: unquote(text or "") for name, text in match.groupdict().items()})
        raise RefusalError(404, None, f"no such endpoint: {method} {path}")

    def repository(self, kind: str, repo_id: str) -> Repository | None:
        folder = self.root / (kind.strip("/") or "models") / repo_id
        well_named = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id)
        return Repository(folder.parents[1].name, repo_id, folder) if well_named and folder.is_dir() else None

    def who_am_i(self, request: Request) -> Response:
        user = _known(request.user)
        token = {"displayName": "loopback", "role": user.role}
        orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.orgs]
        return json_response(
            {"type": "user", "name": user.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
        )

    def info(self, request: Request, kind: str, repo_id: str, revision: str = "") -> Response:
        """Tell about a repository; that much of a gated one is public."""
        repository = self._readable(kind, repo_id, request.user)
        commit, files = repository.resolve(revision or "main")
        card = read_card(files["README.md"].read_text(encoding="utf-8")) if "README.md" in files else {}
        about = {"id": repo_id, "author": repo_id.split("/")[0], "sha": commit, "private": repository.private}
        about |= {"gated": repository.gated, "disabled": False, "downloads": 0, "likes": 0, "tags": card.get("tags", [])}
        about |= {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
        about |= {"model-index": card.pop("model-index", None), "cardData": card}
        return json_response(about | {"siblings": [{"rfilename": name} for name in files]})

    def tree(self, request: Request, kind: str, repo_id: str, revision: str, folder: str = "") -> Response:
        commit, files = self._readable(kind, repo_id, request.user).resolve(revision)
        entries = _tree(files)
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise RefusalError(404, "EntryNotFound", f"{folder} does not exist on {revision}", commit)
        start = f"{folder}/" if folder else ""
        recursive = request.query.get("recursive", "").lower() == "true"
        found = [p for p in sorted(entries) if p.startswith(start) and (recursive or "/" not in p.removeprefix(start))]
        return json_response([entries[path] for path in found])

    def paths_info(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        entries = _tree(self._readable(kind, repo_id, request.user).resolve(revision)[1])
        return json_response(
            [entries[path] for path in parse_qs(request.body.read().decode()).get("paths", []) if path in entries]
        )

    def file(self, request: Request, kind: str, repo_id: str, revision: str, name: str) -> Response:
        """Give a file, or the part of it that `Range` asks for."""
        repository = self._readable(kind, repo_id, request.user)
        if not repository.may_download(request.user):
            raise RefusalError(403 if request.user else 401, "GatedRepo", f"Access to {repo_id} is restricted.")
        commit, files = repository.resolve(revision)
        if name not in files:
            raise RefusalError(404, "EntryNotFound", "Entry not found", commit)
        entry, content = file_entry(name, files[name]), files[name].read_bytes()
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

    def references(self, request: Request, kind: str, repo_id: str) -> Response:
        repository = self._readable(kind, repo_id, request.user)
        heads = {name: repository.resolve(name)[0] for name in repository.branches()}
        pulls = {name: commit for name, commit in heads.items() if name.startswith("refs/pr/")}
        branches = {name: commit for name, commit in heads.items() if name not in pulls}
        return json_response(
            {
                "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": commit} for n, commit in branches.items()],
                "pullRequests": [{"name": n, "ref": n, "targetCommit": commit} for n, commit in pulls.items()],
                "tags": [],
                "converts": [],
            }
        )

    def commits(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        found = self._readable(kind, repo_id, request.user).history(revision)
        return json_response(
            [
                {name: commit[name] for name in ("id", "title", "message", "date")} | {"authors": [{"user": commit["author"]}]}
                for commit in found
            ]
        )

    def create(self, request: Request) -> Response:
        asked, user = request.json(), _known(request.user)
        kind, owner = f"{asked.get('type') or 'model'}s", asked.get("organization") or user.name
        repo_id = f"{owner}/{asked['name']}"
        if not user.owns(owner) or user.role != "write":
            raise RefusalError(403, None, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')
        url = f"{request.base}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"
        if self.repository(kind, repo_id):
            raise RefusalError(409, None, f"You already created this {kind[:-1]} repo", url=url)
        folder = self.root / kind / repo_id
        if kind not in ("models", "datasets") or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id):
            raise RefusalError(400, None, f"Invalid repo: {kind}/{repo_id}")
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text(_GIT_ATTRIBUTES)
        repository = Repository(kind, repo_id, folder)
        if asked.get("visibility") == "private" or asked.get("private"):
            repository.set_access(private=True, users=[user.name])
        repository.record_branch("main", "initial commit")
        return json_response({"url": url, "name": repo_id, "id": repo_id})

    def delete(self, request: Request) -> Response:
        asked, user = request.json(), _known(request.user)
        owner = asked.get("organization") or user.name
        repository = self._readable(f"{asked.get('type') or 'model'}s", f"{owner}/{asked['name']}", user)
        if not user.owns(owner) or user.role != "write":
            raise RefusalError(403, None, "You don't have the required permissions to delete this repository")
        shutil.rmtree(repository.folder)
        return json_response({})

    def settings(self, request: Request, kind: str, repo_id: str) -> Response:
        repository, asked = self._writable(request, kind, repo_id), request.json()
        facts = {"gated": asked["gated"]} if "gated" in asked else {}
        repository.set_access(**facts, **({"private": asked["visibility"] == "private"} if "visibility" in asked else {}))
        return json_response(asked)

    def may_write(self, request: Request, kind: str, repo_id: str) -> Response:
        self._writable(request, kind, repo_id)
        return json_response({})

    def preupload(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        """Tell how each file is to be sent, and the digest of the file already there: the client skips what is the same."""
        repository = self._writable(request, kind, repo_id, revision)
        files, told = repository.resolve(revision)[1], []
        for file in request.json()["files"]:
            name = file["path"]
            large = is_large(name, file["size"], base64.b64decode(file["sample"]))
            oid = digests(files[name])[1 if large else 0] if name in files else None
            told.append({"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        return json_response({"files": told})

    def batch(self, request: Request, kind: str, repo_id: str) -> Response:
        """Tell for each object where to put it; without actions if it is there."""
        asked = request.json()
        repository = self._writable(request, kind, repo_id, (asked.get("ref") or {}).get("name"))
        for branch in repository.branches():
            repository.record_branch(branch)
        new = {item["oid"]: item["size"] for item in asked["objects"] if repository.size_of(item["oid"]) is None}
        self._check_quota(repository, sum(new.values()))
        return json_response(
            {
                "transfer": "basic",
                "objects": [
                    {**item, "actions": self._upload_actions(request.base, repository, **item)} if item["oid"] in new else item
                    for item in asked["objects"]
                ],
            }
        )

    def _upload_actions(self, base: str, repository: Repository, oid: str, size: int) -> dict[str, Any]:
        """Give an address that may be written to without a token, as those of the Hub's storage."""
        path = f"/lfs/{repository.name}/{oid}"
        verify = f"{base}/{'datasets/' if repository.kind == 'datasets' else ''}{repository.repo_id}.git/info/lfs/verify"
        signed = f"size={size}&signature={self._signature(path, str(size))}"
        return {"upload": {"href": f"{base}{path}?{signed}"}, "verify": {"href": verify}}

    def _signature(self, path: str, size: str) -> str:
        return hmac.new(self._secret, f"{path} {size}".encode(), hashlib.sha256).hexdigest()

    def put_object(self, request: Request, kind: str, repo_id: str, oid: str) -> Response:
        size, repository = request.query.get("size", ""), self.repository(kind, repo_id)
        signed = self._signature(f"/lfs/{kind}/{repo_id}/{oid}", size)
        if repository is None or not hmac.compare_digest(signed, request.query.get("signature", "")):
            raise RefusalError(403, None, "SignatureDoesNotMatch")
        repository.store(request.body, oid, int(size))
        return Response(200, b"", {"ETag": f'"{oid}"'})

    def verify(self, request: Request, kind: str, repo_id: str) -> Response:
        asked = request.json()
        if self._readable(kind, repo_id, _known(request.user)).size_of(asked["oid"]) != asked["size"]:
            raise RefusalError(404, None, f"Object {asked['oid']} was not uploaded")
        return json_response({})

    def commit(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repository, user = self._writable(request, kind, repo_id, revision), _known(request.user)
        header, change = _read_change(request.body)
        parent, branch, told = header.get("parentCommit"), revision, {}
        page = f"{request.base}/{'datasets/' if repository.kind == 'datasets' else ''}{repo_id}"
        if "create_pr" in request.query:
            repository.check(revision, change, parent)
            number = repository.open_pull_request(revision, change.title, user.name)
            branch, told = f"refs/pr/{number}", {"pullRequestUrl": f"{page}/discussions/{number}"}
        commit = repository.commit(branch, change, user.name, parent)
        return json_response({"success": True, "commitOid": commit, "commitUrl": f"{page}/commit/{commit}", **told})

    def create_branch(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        repository = self._writable(request, kind, repo_id)
        if revision.startswith("refs/") or not re.fullmatch(r"\w[\w./-]*", revision):
            raise RefusalError(400, None, f"Invalid branch name: {revision}")
        repository.create_branch(revision, request.json().get("startingPoint", "main"))
        return json_response({})

    def delete_branch(self, request: Request, kind: str, repo_id: str, revision: str) -> Response:
        self._writable(request, kind, repo_id).delete_branch(revision)
        return json_response({})

    def create_discussion(self, request: Request, kind: str, repo_id: str) -> Response:
        """Open a pull request that changes nothing yet."""
        asked, user = request.json(), _writing(request.user)
        if not asked.get("pullRequest"):
            raise RefusalError(400, None, "This Hub has no discussions but pull requests")
        return json_response({"num": self._readable(kind, repo_id, user).open_pull_request("main", asked["title"], user.name)})

    def discussions(self, request: Request, kind: str, repo_id: str, number: str = "") -> Response:
        """Tell of one pull request, or list them all."""
        repository = self._readable(kind, repo_id, request.user)
        repo, pulls = {"name": repo_id, "type": repository.kind[:-1]}, repository.pull_requests()
        all_of_them = [
            {"num": int(n), "title": pull["title"], "author": {"name": pull["author"]}, "createdAt": pull["date"]}
            | {"status": "open", "isPullRequest": True, "repo": repo}
            | {"events": [], "filesWithConflicts": [], "changes": {"base": f"refs/heads/{pull['base']}"}}
            for n, pull in pulls.items()
        ]
        if not number:
            return json_response({"count": len(pulls), "start": 0, "discussions": all_of_them})
        if number not in pulls:
            raise RefusalError(404, None, f"No discussion {number}")
        return json_response(all_of_them[list(pulls).index(number)])

    def validate_yaml(self, request: Request) -> Response:
        asked = request.json()
        errors, warnings = validate_card(asked["content"], asked.get("repoType") or "model")
        told = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        return json_response(told, 400 if errors else 200)

    def _facts(self, name: str) -> dict[str, Any]:
        file = self.root / name
        return json.loads(file.read_text()) if file.is_file() else {}

    def _readable(self, kind: str, repo_id: str, user: User | None) -> Repository:
        """Return a repository that this user may know of; a private one is as good as missing to anyone else."""
        repository = self.repository(kind, repo_id)
        if repository is None or not repository.may_read(user):
            raise RefusalError(404 if user else 401, "RepoNotFound", "Repository not found")
        return repository

    def _writable(self, request: Request, kind: str, repo_id: str, branch: str | None = "main") -> Repository:
        """Return a repository to whose branch this user may write; None and `create_pr` stand for a new pull request."""
        repository, user = self._readable(kind, repo_id, request.user), _writing(request.user)
        if branch is not None and "create_pr" not in request.query and not repository.may_write(user, branch):
            hint = "pass `create_pr=1` as a query parameter to create a Pull Request"
            raise RefusalError(403, None, f"You don't have the required permissions to write to {repo_id}: {hint}")
        return repository

    def _check_quota(self, repository: Repository, more: int) -> None:
        quota = self._facts(".quota.json").get(repository.owner)
        if more and repository.private and quota is not None:
            own = (self.repository(kind, f"{repository.owner}/{path.name}") for kind, path in self._folders(repository.owner))
            if sum(one.used_bytes() for one in own if one and one.private) + more > quota:
                message = (
                    "Private repository storage limit reached, please upgrade your plan to increase your private storage limit"
                )
                raise RefusalError(403, None, message)

    def _folders(self, owner: str) -> Iterator[tuple[str, Path]]:
        for kind in ("models", "datasets"):
            yield from ((kind, path) for path in (self.root / kind / owner).glob("*"))


def _known(user: User | None) -> User:
    if user is None:
        raise RefusalError(401, None, "Invalid username or password.")
    return user


def _writing(user: User | None) -> User:
    if _known(user).role != "write":
        raise RefusalError(403, None, "Forbidden: you must use a write token to upload to a repository")
    return _known(user)


def _tree(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the entries of all files and folders, by path."""
    folders = {parent.as_posix() for name in files for parent in Path(name).parents[:-1]}
    entries = {f: {"type": "directory", "path": f, "size": 0, "oid": hashlib.sha1(f.encode()).hexdigest()} for f in folders}
    return entries | {name: file_entry(name, path) for name, path in files.items()}


def _read_change(body: BinaryIO) -> tuple[dict[str, Any], Change]:
    """Read the lines of a commit: the header first, then one for each file."""
    lines = [json.loads(line) for line in body if line.strip()]
    if not lines or lines[0].get("key") != "header":
        raise RefusalError(400, None, "the first line must be the header")
    header = lines[0]["value"]
    deleted, content, uploaded = [], {}, {}
    for line in lines[1:]:
        path = line["value"]["path"]
        match line["key"]:
            case "file":
                content[path] = base64.b64decode(line["value"]["content"])
            case "lfsFile":
                uploaded[path] = line["value"]["oid"]
            case "deletedFile":
                deleted.append(path)
            case "deletedFolder":
                deleted.append(f"{path.rstrip('/')}/")
            case other:
                raise RefusalError(400, None, f"unknown operation: {other}")
    return header, Change(header["summary"], header.get("description", ""), tuple(deleted), content, uploaded)


_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
_API = rf"/api/(?P<kind>models|datasets)/{_ID}"
_GIT = rf"/(?P<kind>datasets/)?{_ID}"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Response]]] = [  # methods, path (still quoted), answer
    ("GET", re.compile("/api/whoami-v2"), Hub.who_am_i),
    ("POST", re.compile("/api/validate-yaml"), Hub.validate_yaml),
    ("POST", re.compile("/api/repos/create"), Hub.create),
    ("DELETE", re.compile("/api/repos/delete"), Hub.delete),
    ("GET", re.compile(rf"{_API}/revision/{_REVISION}"), Hub.info),
    ("GET", re.compile(rf"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?"), Hub.tree),
    ("POST", re.compile(rf"{_API}/paths-info/{_REVISION}"), Hub.paths_info),
    ("GET", re.compile(rf"{_API}/refs"), Hub.references),
    ("GET", re.compile(rf"{_API}/commits/{_REVISION}"), Hub.commits),
    ("GET", re.compile(rf"{_API}/auth-check/write"), Hub.may_write),
    ("PUT", re.compile(rf"{_API}/settings"), Hub.settings),
    ("POST", re.compile(rf"{_API}/preupload/{_REVISION}"), Hub.preupload),
    ("POST", re.compile(rf"{_GIT}\.git/info/lfs/objects/batch"), Hub.batch),
    ("PUT", re.compile(rf"/lfs/(?P<kind>models|datasets)/{_ID}/(?P<oid>[0-9a-f]{{64}})"), Hub.put_object),
    ("POST", re.compile(rf"{_GIT}\.git/info/lfs/verify"), Hub.verify),
    ("POST", re.compile(rf"{_API}/commit/{_REVISION}"), Hub.commit),
    ("POST", re.compile(rf"{_API}/branch/{_REVISION}"), Hub.create_branch),
    ("DELETE", re.compile(rf"{_API}/branch/{_REVISION}"), Hub.delete_branch),
    ("POST", re.compile(rf"{_API}/discussions"), Hub.create_discussion),
    ("GET", re.compile(rf"{_API}/discussions(?:/(?P<number>\d+))?"), Hub.discussions),
    ("GET", re.compile(_API), Hub.info),
    ("GET HEAD", re.compile(rf"{_GIT}/resolve/{_REVISION}/(?P<name>.+)"), Hub.file),
]
