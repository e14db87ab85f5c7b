"""The server itself: what the Hub's documentation and its real client expect of each endpoint."""

import base64
import hashlib
import http.client
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import client
import loopback_hub
import pytest

HERE = Path(__file__).resolve().parent


ANN, BOB = "hf_AnnsToken", "secret-of-bob"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    files = {
        ".tokens.json": json.dumps({ANN: "ann", BOB: "bob"}),
        "models/ann/open/README.md": "---\nlicense: mit\ntags:\n- one\n- two\nmodel-index:\n- name: x\n---\n# Open\n",
        "models/ann/open/config.json": "{}",
        "models/ann/open/model.safetensors": "0123456789",
        "models/ann/open/deep/er/file.txt": "deep",
        "models/ann/open/.revisions/v1/config.json": '{"old": true}',
        "models/ann/open/.revisions/refs%2Fpr%2F1/config.json": '{"proposed": true}',
        "models/ann/private/config.json": "{}",
        "models/ann/private/.access.json": '{"private": true, "users": ["ann"]}',
        "models/ann/gated/config.json": "{}",
        "models/ann/gated/.access.json": '{"gated": "manual", "users": ["ann"]}',
        "datasets/ann/images/train/cat/0.png": "not really",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with loopback_hub.LoopbackHub(root, log=root.parent / "log.jsonl") as server:
        yield server


@pytest.fixture(scope="module")
def ask(hub):
    """Ask the server; return status, headers, and the body (parsed where it is JSON)."""

    def request(path, token=None, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", hub.server_port, timeout=10)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, response.headers, json.loads(content) if is_json else content

    return request


def test_server__listens_on_this_machine_only(hub):
    assert hub.server_address[0] == "127.0.0.1"


def test_info__names_commit_files_and_card(ask, hub):
    status, _, info = ask("/api/models/ann/open")
    assert status == 200
    assert info["sha"] == hub.commit("models", "ann/open")
    assert [file["rfilename"] for file in info["siblings"]] == [
        "README.md",
        "config.json",
        "deep/er/file.txt",
        "model.safetensors",
    ]
    assert info["cardData"] == {"license": "mit", "tags": ["one", "two"]}
    assert info["private"] is False
    assert info["gated"] is False


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1"])
def test_info__of_a_branch_and_of_its_commit_is_the_same(ask, hub, revision):
    quoted = revision.replace("/", "%2F")
    branch = ask(f"/api/models/ann/open/revision/{quoted}")[2]
    assert branch["sha"] != hub.commit("models", "ann/open")
    assert ask(f"/api/models/ann/open/revision/{branch['sha']}")[2] == branch
    assert [file["rfilename"] for file in branch["siblings"]] == ["config.json"]


def test_commit__follows_the_content(hub):
    repository = hub.hub.root / "models" / "ann" / "moving"
    repository.mkdir()
    seen = set()
    for text in ("one", "two"):
        (repository / "config.json").write_text(text)
        seen.add(hub.commit("models", "ann/moving"))
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/ann/missing", "RepoNotFound"),
        ("/api/models/single", "RepoNotFound"),
        ("/ann/missing/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/..%2F..%2Fann/open", "RepoNotFound"),
        ("/api/models/ann/open/revision/nope", "RevisionNotFound"),
        ("/ann/open/resolve/nope/config.json", "RevisionNotFound"),
        ("/api/models/ann/open/tree/main/nowhere", "EntryNotFound"),
        ("/ann/open/resolve/main/nothing.json", "EntryNotFound"),
        ("/ann/open/resolve/main/..%2Fprivate%2Fconfig.json", "EntryNotFound"),
        ("/ann/gated/resolve/main/.access.json", "EntryNotFound"),
        ("/ann/open/resolve/main/.revisions%2Fv1%2Fconfig.json", "EntryNotFound"),
    ],
)
def test_refusal__carries_the_hubs_code(ask, path, code):
    status, headers, _ = ask(path, ANN)
    assert (status, headers["X-Error-Code"]) == (404, code)
    assert (headers["X-Repo-Commit"] is not None) == (code == "EntryNotFound")


def test_tree__top_level_and_recursive(ask):
    top = ask("/api/models/ann/open/tree/main?recursive=False&expand=False")[2]
    assert [(entry["type"], entry["path"]) for entry in top] == [
        ("file", "README.md"),
        ("file", "config.json"),
        ("directory", "deep"),
        ("file", "model.safetensors"),
    ]
    below = ask("/api/models/ann/open/tree/main/deep?recursive=True")[2]
    assert [entry["path"] for entry in below] == ["deep/er", "deep/er/file.txt"]
    assert top[3]["lfs"] == {"oid": hashlib.sha256(b"0123456789").hexdigest(), "size": 10, "pointerSize": 130}
    assert "lfs" not in top[1]


def test_paths_info__answers_for_the_paths_that_exist(ask):
    body = "paths=config.json&paths=deep&paths=nothing&expand=False"
    found = ask("/api/models/ann/open/paths-info/main", method="POST", body=body)[2]
    assert [(entry["type"], entry["path"]) for entry in found] == [("file", "config.json"), ("directory", "deep")]


def test_file__head_and_get(ask, hub):
    for method, content in (("HEAD", b""), ("GET", b"0123456789")):
        status, headers, body = ask("/ann/open/resolve/main/model.safetensors", method=method)
        assert (status, body, headers["Content-Length"]) == (200, content, "10")
        assert headers["X-Repo-Commit"] == hub.commit("models", "ann/open")
        assert headers["ETag"] == headers["X-Linked-Etag"] == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
        assert headers["X-Linked-Size"] == "10"
    assert ask("/datasets/ann/images/resolve/main/train%2Fcat/0.png")[2] == b"not really"
    blob = "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git hash-object of "{}"
    assert ask("/ann/open/resolve/main/config.json")[1]["ETag"] == f'"{blob}"'


@pytest.mark.parametrize(
    ("asked", "status", "content", "told"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_file__range(ask, asked, status, content, told):
    found = ask("/ann/open/resolve/main/model.safetensors", Range=asked)
    assert (found[0], found[2], found[1]["Content-Range"]) == (status, content, told)


def test_private__exists_for_its_readers_only(ask):
    for path in ("/api/models/ann/private", "/ann/private/resolve/main/config.json", "/api/models/ann/private/tree/main"):
        assert [ask(path, token)[0] for token in (None, BOB, ANN)] == [401, 404, 200]


def test_gated__tells_of_itself_but_gives_no_files(ask):
    assert ask("/api/models/ann/gated")[2]["gated"] == "manual"
    answers = [ask("/ann/gated/resolve/main/config.json", token) for token in (None, BOB, ANN)]
    assert [(status, headers["X-Error-Code"]) for status, headers, _ in answers] == [
        (401, "GatedRepo"),
        (403, "GatedRepo"),
        (200, None),
    ]


def test_token__is_known_or_refused(ask):
    assert ask("/api/whoami-v2", BOB)[2]["name"] == "bob"
    assert ask("/api/whoami-v2")[0] == 401
    assert ask("/api/models/ann/open", "hf_unknown")[0] == 401


def test_log__tells_every_request_and_no_token(ask, hub):
    ask(f"/api/whoami-v2?token={BOB}&other=hf_Unknown", ANN)
    log = (hub.hub.root.parent / "log.jsonl").read_text()
    assert json.loads(log.splitlines()[-1]) == hub.requests[-1]
    assert hub.requests[-1] == {
        "method": "GET",
        "path": "/api/whoami-v2?token=TOKEN&other=TOKEN",
        "status": 200,
        "user": "ann",
        "bytes": 0,
    }
    for secret in (ANN, BOB, "hf_Unknown"):
        assert secret not in log
        assert secret not in json.dumps(hub.requests)


def test_client__understands_it(hub, tmp_path):
    """The real client, in a process of its own, finds what is there."""
    code = """
import json
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
api = HfApi()
print(json.dumps({
    "name": api.whoami()["name"],
    "sha": api.model_info("ann/private").sha,
    "license": api.model_info("ann/open").card_data.license,
    "files": api.list_repo_files("ann/open"),
    "paths": [info.path for info in api.get_paths_info("ann/open", ["deep", "nothing"])],
    "old": open(hf_hub_download("ann/open", "config.json", revision="v1")).read(),
    "exists": [api.file_exists("ann/open", name) for name in ("config.json", "nothing")],
    "snapshot": open(snapshot_download("ann/images", repo_type="dataset") + "/train/cat/0.png").read(),
}))
"""
    environment = client.client_environment(hub.url, tmp_path, ANN)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "name": "ann",
        "sha": hub.commit("models", "ann/private"),
        "license": "mit",
        "files": ["README.md", "config.json", "deep/er/file.txt", "model.safetensors"],
        "paths": ["deep"],
        "old": '{"old": true}',
        "exists": [True, False],
        "snapshot": "not really",
    }


def test_script__serves_a_folder(hub, tmp_path):
    (tmp_path / "faults.json").write_text('[{"path": "single", "status": 418, "headers": {"X-Why": "asked"}}]')
    command = [sys.executable, str(HERE / "loopback_hub.py"), "--root", str(hub.hub.root), "--log", str(tmp_path / "log")]
    command += ["--faults", str(tmp_path / "faults.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip().removeprefix("http://")
            connection = http.client.HTTPConnection(address, timeout=10)
            connection.request("GET", "/api/models/ann/open")
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["id"]) == (200, "ann/open")
            connection.request("GET", "/api/models/single")
            response = connection.getresponse()
            assert (response.status, response.headers["X-Why"]) == (418, "asked")
            connection.close()
        finally:
            process.terminate()
    paths = [json.loads(line)["path"] for line in (tmp_path / "log").read_text().splitlines()]
    assert paths == ["/api/models/ann/open", "/api/models/single"]


WRITER = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from huggingface_hub import HfApi, ModelCard, snapshot_download

ANN, BOB, READER, FOLDER = *sys.argv[1:4], Path(sys.argv[4])
api, bob, reader = HfApi(token=ANN), HfApi(token=BOB), HfApi(token=READER)


def said(function, *words, **options):
    try:
        return str(function(*words, **options))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def model(name, seed):
    folder = FOLDER / name
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(bytes([seed % 256]) * 100_000)
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    (folder / "deep" / "notes.txt").write_text("the same in every version")
    (folder / "README.md").write_text("---\\nlicense: mit\\n---\\n# A model\\n")
    return folder


def push(name, seed, **options):
    return api.upload_folder(repo_id=f"ann/{name}", folder_path=model(name, seed), **options)


def files(name, revision=None):
    root = Path(snapshot_download(f"ann/{name}", revision=revision, token=ANN))
    return {path.relative_to(root).as_posix(): path.read_bytes()[:50].hex() for path in root.rglob("*") if path.is_file()}


def create():
    url = api.create_repo("ann/created", private=True)
    return {
        "url": str(url), "again": said(api.create_repo, "ann/created"),
        "exist_ok": str(api.create_repo("ann/created", exist_ok=True)),
        "own": str(api.create_repo("unnamed", repo_type="dataset")), "team": str(api.create_repo("team/created")),
        "foreign": said(api.create_repo, "bob/created"), "bob": said(bob.model_info, "ann/created"),
        "files": api.list_repo_files("ann/created"), "private": api.model_info("ann/created").private,
    }


def history():
    api.create_repo("ann/history")
    one = push("history", 1, commit_message="one")
    two = push("history", 2, commit_message="two", delete_patterns="deep/*")
    same = push("history", 2, delete_patterns="README.md")
    api.delete_file("config.json", "ann/history", commit_message="three")
    api.delete_folder("deep", "ann/history", commit_message="four")
    return {
        "commits": [one.oid, two.oid, same.oid], "titles": [commit.title for commit in api.list_repo_commits("ann/history")],
        "old": files("history", one.oid),
        "files": api.list_repo_files("ann/history"), "missing": said(api.delete_file, "no.txt", "ann/history"),
        "stale": said(api.upload_file, repo_id="ann/history", path_or_fileobj=b"", path_in_repo="a", parent_commit=one.oid),
    }


def branches():
    api.create_repo("ann/branches")
    one = push("branches", 1)
    push("branches", 2)
    api.create_branch("ann/branches", branch="v1", revision=one.oid)
    api.create_branch("ann/branches", branch="gone")
    api.delete_branch("ann/branches", branch="gone")
    push("branches", 3, revision="v1")
    refs = api.list_repo_refs("ann/branches")
    return {
        "again": said(api.create_branch, "ann/branches", branch="v1"), "names": [branch.name for branch in refs.branches],
        "contents": [json.loads(bytes.fromhex(files("branches", revision)["config.json"]))["seed"]
                     for revision in ("main", "v1", one.oid)],
        "nowhere": said(push, "branches", 4, revision="nope"),
        "commits": len(api.list_repo_commits("ann/branches", revision="v1")),
    }


def pull_requests():
    api.create_repo("ann/pulls")
    main = push("pulls", 1).oid
    proposed = bob.upload_folder(repo_id="ann/pulls", folder_path=model("pulls", 2), create_pr=True, commit_message="Better")
    more = bob.upload_file(repo_id="ann/pulls", path_in_repo="a.txt", path_or_fileobj=b"a", revision=proposed.pr_revision)
    empty = api.create_pull_request("ann/pulls", title="Nothing yet")
    refs = api.list_repo_refs("ann/pulls", include_pull_requests=True)
    return {
        "url": proposed.pr_url, "revision": proposed.pr_revision, "main": api.model_info("ann/pulls").sha == main,
        "directly": said(bob.upload_file, repo_id="ann/pulls", path_in_repo="a.txt", path_or_fileobj=b"a"),
        "branch": said(bob.create_branch, "ann/pulls", branch="mine"), "deletion": said(bob.delete_repo, "ann/pulls"),
        "refs": {ref.ref: ref.target_commit == more.oid for ref in refs.pull_requests},
        "proposed": sorted(files("pulls", "refs/pr/1")), "empty": [empty.num, empty.is_pull_request, empty.author],
        "list": [(pull.num, pull.title, pull.author) for pull in api.get_repo_discussions("ann/pulls")],
    }


def access():
    api.create_repo("ann/access", private=True)
    api.update_repo_settings("ann/access", private=False, gated="manual")
    told = {"gated": api.model_info("ann/access").gated, "private": api.model_info("ann/access").private}
    told |= {"role": reader.whoami()["auth"]["accessToken"]["role"], "orgs": [org["name"] for org in api.whoami()["orgs"]]}
    told["reader"] = said(reader.upload_file, repo_id="ann/access", path_in_repo="a.txt", path_or_fileobj=b"a")
    told["reader_creates"] = said(reader.create_repo, "ann/access2")
    told["reader_pr"] = said(reader.upload_file, repo_id="ann/access", path_in_repo="a", path_or_fileobj=b"a", create_pr=True)
    told["writer"] = bob.upload_file(repo_id="ann/shared", path_in_repo="a.txt", path_or_fileobj=b"a").oid
    api.create_repo("ann/doomed")
    api.delete_repo("ann/doomed")
    return told | {"doomed": said(api.model_info, "ann/doomed"), "wrong": said(HfApi(token="hf_no").create_repo, "ann/wrong")}


def quota():
    told = {}
    for visibility in ("private", "public"):
        bob.create_repo(f"bob/{visibility}", visibility=visibility)
        told[visibility] = said(bob.upload_folder, repo_id=f"bob/{visibility}", folder_path=model("quota", 5))
    return told


def cards():
    good = {"license": "other", "license_name": "my-license", "license_link": "LICENSE", "pipeline_tag": "image-classification",
            "base_model": ["timm/resnet18.a1_in1k", "bert"], "datasets": ["ann/images"], "tags": ["a"], "metrics": ["accuracy"],
            "language": "en", "library_name": "transformers", "model-index": [{"name": "x", "results": [{
                "task": {"type": "image-classification"}, "dataset": {"name": "Images", "type": "ann/images"},
                "metrics": [{"type": "accuracy", "value": 0.5}]}]}]}
    bad = {"unknown license": {"license": "apache"}, "license list": {"license": ["mit", 3]},
           "license name": {"license": "mit", "license_name": "x"},
           "license link": {"license": "other", "license_link": "over there"},
           "task": {"pipeline_tag": "image-sorting"}, "base model": {"base_model": "/home/ann/model"}, "tags": {"tags": "one"},
           "datasets": {"datasets": ["a/b/c"]}, "library": {"library_name": 5}, "index": {"model-index": [{"name": "x"}]},
           "result": {"model-index": [{"name": "x", "results": [
               {"task": {}, "dataset": {"name": "y"}, "metrics": [{"type": "a"}]}]}]}}
    texts = {name: f"---\\n{json.dumps(data)}\\n---\\n# Card" for name, data in {"good": good, **bad}.items()}
    texts |= {"yaml": "---\\na: [\\n---\\n", "list": "---\\n- a\\n---\\n"}
    texts["plain"] = "---\\nlicense: mit\\ntags:\\n- a\\n---\\n"
    return {name: said(lambda text: api._validate_yaml(text), text) for name, text in texts.items()} | {
        "client": said(ModelCard(texts["good"]).validate, repo_type="model")}


def dataset():
    import datasets
    from PIL import Image

    datasets.disable_progress_bars()
    columns = {"image": [Image.new("RGB", (4, 4), (place, 0, 0)) for place in range(4)], "label": [0, 1, 1, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for split in ("train", "test"):
        datasets.Dataset.from_dict(columns, features=features).push_to_hub("ann/pictures", private=True, split=split)
    loaded = datasets.load_dataset("ann/pictures")
    return {"rows": loaded.num_rows, "classes": loaded["train"].features["label"].names, "labels": loaded["test"]["label"][:],
            "reds": [image.getpixel((0, 0))[0] for image in loaded["train"]["image"]],
            "bob": said(bob.dataset_info, "ann/pictures")}


def faults():
    told = {}

    def one(name, create=True):
        if create:
            api.create_repo(f"ann/{name}", exist_ok=True)
        started = time.monotonic()
        first = said(push, name, 1)
        told[name] = {"first": first, "seconds": time.monotonic() - started, "second": said(push, name, 1)}

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, json.loads(sys.argv[5])))
    told["create"] = said(api.create_repo, "ann/create-limited")
    return told


names = [create, history, branches, pull_requests, access, quota, cards, dataset, faults]
with ThreadPoolExecutor(len(names)) as pool:
    done = {function.__name__: pool.submit(function) for function in names}
print(json.dumps({name: future.result() for name, future in done.items()}))
"""
READER = "hf_OfAnnToReadOnly"
FAULTS = {
    "put-500": {"method": "PUT", "status": 500, "times": 1},
    "put-503": {"method": "PUT", "status": 503, "headers": {"Retry-After": "1"}, "times": 1},
    "put-403": {"method": "PUT", "status": 403, "message": "No.", "times": 1},
    "put-dropped": {"method": "PUT", "drop": "during", "read_bytes": 1000, "times": 1},
    "put-unanswered": {"method": "PUT", "drop": "before", "times": 1},
    "preupload-slow": {"path": "/preupload/", "delay": 1.5, "times": 1},
    "batch-404": {"path": "objects/batch$", "status": 404, "times": 1},
    "commit-429": {"path": "/commit/", "status": 429, "headers": {"Retry-After": "7"}, "message": "Slow down.", "times": 1},
    "commit-401": {"path": "/commit/", "status": 401, "message": "Invalid credentials in Authorization header", "times": 1},
    "commit-lost": {"path": "/commit/", "drop": "after", "times": 1},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the real client said while it wrote to a Hub, in one process; the Hub's folder, address and requests."""
    folder = tmp_path_factory.mktemp("written")
    root = folder / "hub"
    (root / "models/ann/shared").mkdir(parents=True)
    (root / "models/ann/shared/.access.json").write_text('{"private": true, "writers": ["bob"]}')
    (root / "models/ann/shared/config.json").write_text("{}")
    users = {ANN: {"user": "ann", "orgs": ["team"]}, BOB: "bob", READER: {"user": "ann", "role": "read"}}
    (root / ".tokens.json").write_text(json.dumps(users))
    (root / ".quota.json").write_text('{"bob": 50000}')
    with loopback_hub.LoopbackHub(root) as server:
        server.faults += [loopback_hub.Fault(repo=f"ann/{name}", **fault) for name, fault in FAULTS.items()]
        limited = {"status": 429, "headers": {"ratelimit": '"api";r=0;t=9'}, "message": "Too many repositories."}
        server.faults.append(loopback_hub.Fault(path="repos/create", repo="ann/create-limited", **limited))
        done = subprocess.run(
            [sys.executable, "-c", WRITER, ANN, BOB, READER, str(folder / "local"), json.dumps(list(FAULTS))],
            env=client.client_environment(server.url, folder / "home", ANN),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        commits = {name: server.commit("models", f"ann/{name}") for name in ("history", *FAULTS)}
    return SimpleNamespace(said=json.loads(done.stdout), url=server.url, root=root, requests=server.requests, commits=commits)


def asked(written, name, pattern=""):
    """Return method, status and bytes of the requests for a repository whose path matches."""
    found = [row for row in written.requests if f"ann/{name}" in row["path"] and re.search(pattern, row["path"])]
    return [(row["method"], row["status"], row["bytes"]) for row in found]


def test_create__new_existing_and_foreign(written):
    said = written.said["create"]
    assert said["url"] == said["exist_ok"] == f"{written.url}/ann/created"
    assert (said["own"], said["team"]) == (f"{written.url}/datasets/ann/unnamed", f"{written.url}/team/created")
    assert "409 Conflict" in said["again"] and said["again"].endswith("You already created this model repo")
    assert '403 Forbidden: You don\'t have the rights to create a model under the namespace "bob"' in said["foreign"]
    assert said["bob"].startswith("RepositoryNotFoundError")
    assert (said["private"], said["files"]) == (True, [".gitattributes"])
    access = json.loads((written.root / "models/ann/created/.access.json").read_text())
    assert access == {"private": True, "users": ["ann"]}


def test_push__keeps_every_commit_readable(written):
    said = written.said["history"]
    one, two, same = said["commits"]
    assert two == same != one
    assert said["titles"] == ["four", "three", "two", "one", "initial commit"]
    assert said["files"] == [".gitattributes", "README.md", "model.safetensors"]
    old = {name: bytes.fromhex(content) for name, content in said["old"].items()}
    assert old.pop(".gitattributes").startswith(b"*.safetensors")
    assert old == {
        "README.md": b"---\nlicense: mit\n---\n# A model\n",
        "model.safetensors": b"\1" * 50,  # the first bytes of it
        "config.json": b'{"seed": 1}',
        "deep/notes.txt": b"the same in every version",
    }
    assert (written.root / "models/ann/history/model.safetensors").read_bytes() == b"\2" * 100_000
    assert not (written.root / "models/ann/history/deep").exists()


def test_push__sends_what_is_new_once(written):
    assert asked(written, "history", "^/lfs") == [("PUT", 200, 100_000)] * 2
    commits = [sent for _, status, sent in asked(written, "history", "/commit/main") if status == 200]
    assert len(commits) == 4  # a push of the same files makes none
    assert max(commits) < 1000


def test_commit__that_cannot_be_is_refused(written):
    said = written.said["history"]
    assert (
        said["missing"].startswith("RemoteEntryNotFoundError")
        and "A file with this name doesn't exist: no.txt" in said["missing"]
    )
    assert "412 Precondition Failed" in said["stale"] and "A commit has happened since" in said["stale"]


@pytest.mark.parametrize(
    ("key", "value", "status", "message"),
    [
        ("lfsFile", {"path": "b.bin", "oid": "0" * 64, "size": 5}, 400, "LFS objects are missing: b.bin"),
        ("file", {"path": "../up.txt", "content": "YQ=="}, 400, "Invalid path: ../up.txt"),
        ("file", {"path": ".access.json", "content": "YQ=="}, 400, "Invalid path: .access.json"),
        ("file", {"path": "config.json/deep", "content": "YQ=="}, 400, "config.json/deep lies below a path that is a file"),
        ("deletedFolder", {"path": "nothing"}, 404, "A folder with this name doesn't exist: nothing/"),
        ("moved", {"path": "a"}, 400, "unknown operation: moved"),
    ],
)
def test_commit__is_all_or_nothing(ask, hub, key, value, status, message):
    before = hub.commit("models", "ann/open")
    header = {"key": "header", "value": {"summary": "Half of it"}}
    good = {"key": "file", "value": {"path": "good.txt", "content": "YQ=="}}
    body = "\n".join(json.dumps(item) for item in (header, good, {"key": key, "value": value}))
    answer = ask("/api/models/ann/open/commit/main", ANN, "POST", body)
    assert answer[0] == status
    assert message in answer[2]["error"] and message in answer[1]["X-Error-Message"]
    assert hub.commit("models", "ann/open") == before
    assert (
        ask("/api/models/ann/open/commit/main", ANN, "POST", json.dumps(good))[2]["error"]
        == "the first line must be the header"
    )


def test_commit__on_files_put_there_by_hand(ask, hub):
    folder = hub.hub.root / "models/ann/mixed"
    folder.mkdir()
    seen = []
    for number in range(2):
        (folder / "config.json").write_text(f"by hand {number}")
        seen.append(hub.commit("models", "ann/mixed"))
        change = [
            {"key": "header", "value": {"summary": f"Push {number}", "parentCommit": seen[-1]}},
            {"key": "file", "value": {"path": "pushed.txt", "content": base64.b64encode(b"%d" % number).decode()}},
        ]
        body = "\n".join(map(json.dumps, change))
        seen.append(ask("/api/models/ann/mixed/commit/main", ANN, "POST", body)[2]["commitOid"])
    history = ask("/api/models/ann/mixed/commits/main")[2]
    assert [commit["id"] for commit in history] == seen[::-1]
    assert [commit["title"] for commit in history] == ["Push 1", "Files put there by hand", "Push 0", "Files put there by hand"]
    contents = [ask(f"/ann/mixed/resolve/{commit}/config.json")[2] for commit in seen]
    assert contents == [b"by hand 0", b"by hand 0", b"by hand 1", b"by hand 1"]


def test_object__must_be_what_was_announced(ask, hub):
    content, size = b"\0" * 100_000, 100_000
    oid = hashlib.sha256(content).hexdigest()
    body = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": size}], "ref": {"name": "main"}})
    offered = ask("/ann/open.git/info/lfs/objects/batch", ANN, "POST", body)[2]["objects"][0]["actions"]
    put, verify = (offered[name]["href"].removeprefix(hub.url) for name in ("upload", "verify"))
    told = json.dumps({"oid": oid, "size": size})
    assert ask(verify, ANN, "POST", told)[0] == 404
    assert [ask(put, None, "PUT", wrong)[0] for wrong in (b"short", b"\1" * size)] == [400, 400]
    assert ask(put.replace("size=1", "size=2"), None, "PUT", content)[0] == 403
    assert ask("/ann/open.git/info/lfs/objects/batch", BOB, "POST", body)[0] == 403
    assert ask(put, None, "PUT", content)[0] == 200
    assert ask(verify, ANN, "POST", told)[0] == 200
    assert "actions" not in ask("/ann/open.git/info/lfs/objects/batch", ANN, "POST", body)[2]["objects"][0]


def test_branches__are_made_moved_and_deleted(written):
    said = written.said["branches"]
    assert "409 Conflict" in said["again"]
    assert said["names"] == ["main", "v1"]
    assert said["contents"] == [2, 3, 1]
    assert said["commits"] == 3  # the initial one, that of the branch's start, and its own
    assert said["nowhere"].startswith("RevisionNotFoundError")


def test_pull_request__by_somebody_who_may_only_read(written):
    said = written.said["pull_requests"]
    assert (said["url"], said["revision"]) == (f"{written.url}/ann/pulls/discussions/1", "refs/pr/1")
    assert said["main"] and "a.txt" in said["proposed"]
    assert said["refs"] == {"refs/pr/1": True, "refs/pr/2": False}
    assert said["list"] == [[1, "Better", "bob"], [2, "Nothing yet", "ann"]]
    assert said["empty"] == [2, True, "ann"]
    for refused in ("directly", "branch", "deletion"):
        assert "403 Forbidden: You don't have the required permissions" in said[refused]


def test_access__tokens_writers_and_settings(written):
    said = written.said["access"]
    assert (said["gated"], said["private"], said["role"], said["orgs"]) == ("manual", False, "read", ["team"])
    for refused in ("reader", "reader_pr"):
        assert "403 Forbidden: Forbidden: you must use a write token to upload to a repository" in said[refused]
    assert "403 Forbidden: You don't have the rights to create a model" in said["reader_creates"]
    assert re.fullmatch("[0-9a-f]{40}", said["writer"])
    assert said["doomed"].startswith("RepositoryNotFoundError")
    assert "401 Unauthorized" in said["wrong"] and "Invalid credentials in Authorization header" in said["wrong"]


def test_quota__of_private_repositories(written):
    said = written.said["quota"]
    assert "403 Forbidden: Private repository storage limit reached, please upgrade your plan" in said["private"]
    assert said["public"].startswith(f"{written.url}/bob/public/commit/")


def test_validate_yaml__good_and_bad(written):
    said = written.said["cards"]
    assert [said[name] for name in ("good", "plain", "client")] == ["None"] * 3
    bad = {
        "unknown license": '"license" must be one of [apache-2.0, mit, ',
        "license list": '"license" must be a string or an array of strings',
        "license name": '"license_name" is only allowed when "license" is "other"',
        "license link": '"license_link" must be "LICENSE", "LICENSE.md" or a URL',
        "task": '"pipeline_tag" must be one of [',
        "base model": '"base_model" with value "/home/ann/model" is not valid. Use a model id from https://hf.co/models.',
        "tags": '"tags" must be an array of strings',
        "datasets": '"datasets" with value "a/b/c" is not valid. Use a dataset id from https://hf.co/datasets.',
        "library": '"library_name" must be a string',
        "index": '"model-index[0].results" is required',
        "result": '- "model-index[0].results[0].task.type" is required\n'
        '- "model-index[0].results[0].dataset.type" is required\n'
        '- "model-index[0].results[0].metrics[0].value" is required',
        "yaml": "YAML Metadata Error: while parsing a flow node",
        "list": "YAML Metadata Error: the metadata must be an object",
    }
    for name, message in bad.items():
        assert said[name].startswith("ValueError: Invalid metadata in README.md.\n") and message in said[name], name


def test_validate_yaml__nothing_to_validate_is_a_warning(ask):
    status, _, answer = ask("/api/validate-yaml", None, "POST", json.dumps({"repoType": "model", "content": "# A model"}))
    assert (status, answer) == (200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})


def test_dataset__is_pushed_and_loaded(written):
    said = written.said["dataset"]
    assert said.pop("bob").startswith("RepositoryNotFoundError")
    assert said == {
        "rows": {"train": 4, "test": 4},
        "classes": ["cat", "dog"],
        "labels": [0, 1, 1, 0],
        "reds": [0, 1, 2, 3],
    }


@pytest.mark.parametrize(
    ("name", "seconds", "puts"),
    [
        ("put-500", 1, [("PUT", 500, 100_000), ("PUT", 200, 100_000)]),
        ("put-503", 2, [("PUT", 503, 100_000), ("PUT", 200, 100_000)]),
        ("put-dropped", 1, [("PUT", 0, 1000), ("PUT", 200, 100_000)]),
        ("put-unanswered", 1, [("PUT", 0, 100_000), ("PUT", 200, 100_000)]),
        ("preupload-slow", 1.5, [("PUT", 200, 100_000)]),
    ],
)
def test_fault__that_the_client_outlasts(written, name, seconds, puts):
    said = written.said["faults"][name]
    assert said["first"] == said["second"] == f"{written.url}/ann/{name}/commit/{written.commits[name]}"
    assert seconds <= said["seconds"] < seconds + 5
    assert asked(written, name, "^/lfs") == puts


@pytest.mark.parametrize(
    ("name", "message", "puts"),
    [
        ("put-403", "RuntimeError: Error while uploading 'model.safetensors' to the Hub.", [403, 200]),
        ("batch-404", "404 Not Found", [200]),
        ("commit-429", "429 Too Many Requests for url: URL/api/models/ann/commit-429/commit/main.\nSlow down.", [200]),
        ("commit-401", "Invalid credentials in Authorization header", [200]),
        ("commit-lost", "RemoteProtocolError: Server disconnected without sending a response.", [200]),
    ],
)
def test_fault__that_the_client_reports(written, name, message, puts):
    """The next push sends what is missing, and no more."""
    said = written.said["faults"][name]
    assert message.replace("URL", written.url) in said["first"]
    assert said["second"] == f"{written.url}/ann/{name}/commit/{written.commits[name]}"
    assert [status for _, status, _ in asked(written, name, "^/lfs")] == puts
    commits = {"commit-429": [429, 200], "commit-401": [401, 200], "commit-lost": [0]}.get(name, [200])
    assert [status for _, status, _ in asked(written, name, "/commit/")] == commits


def test_fault__of_creating_one_repository(written):
    assert written.said["faults"]["create"].startswith("HfHubHTTPError: 429 Too Many Requests")
    assert "Retry after 9 seconds" in written.said["faults"]["create"]
    assert not (written.root / "models/ann/create-limited").exists()


def test_kill__in_the_middle_of_an_upload(tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/.tokens.json").write_text(json.dumps({ANN: "ann"}))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"\0" * 30_000_000)
    push = [
        "import sys",
        "from huggingface_hub import HfApi",
        "HfApi().create_repo('ann/killed', exist_ok=True)",
        "print(HfApi().upload_folder(repo_id='ann/killed', folder_path=sys.argv[1]).oid)",
    ]
    with loopback_hub.LoopbackHub(tmp_path / "hub") as server:
        slow = loopback_hub.Fault(method="PUT", delay=60, times=1)
        server.faults.append(slow)
        command = [sys.executable, "-c", "\n".join(push), str(tmp_path / "model")]
        environment = client.client_environment(server.url, tmp_path / "home", ANN)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 30
            while not slow.hits and time.monotonic() < deadline:
                time.sleep(0.01)
            before = server.commit("models", "ann/killed")
            process.kill()
        assert slow.hits == 1
        assert server.commit("models", "ann/killed") == before
        assert not (tmp_path / "hub/models/ann/killed/model.safetensors").exists()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == server.commit("models", "ann/killed") != before
        assert [row["bytes"] for row in server.requests if row["method"] == "PUT"] == [30_000_000]


def test_stop__cuts_what_is_under_way(tmp_path):
    server = loopback_hub.LoopbackHub(tmp_path).__enter__()
    server.faults.append(loopback_hub.Fault(path="slow", delay=60))
    connections = [http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10) for _ in range(2)]
    connections[0].request("GET", "/api/models/quick")
    assert connections[0].getresponse().read()
    connections[1].request("GET", "/api/models/slow")
    while not server.faults[0].hits:
        time.sleep(0.01)
    started = time.monotonic()
    server.stop()
    assert time.monotonic() - started < 2
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connections[1].getresponse()
    connections[0].auto_open = False
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connections[0].request("GET", "/api/models/quick")
        connections[0].getresponse()
    for connection in connections:
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10).connect()


def test_fault__of_a_kind_that_there_is_not():
    with pytest.raises(ValueError, match='drop is "during", "before" or "after", not "never"'):
        loopback_hub.Fault(drop="never")
