"""The server itself: what the Hub's documentation and its real client expect of each endpoint."""

import hashlib
import http.client
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def _module(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


loopback_hub, client = _module("loopback_hub"), _module("client")
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
        return response.status, response.headers, json.loads(content) if "json" in response.headers["Content-Type"] else content

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
    command = [sys.executable, str(HERE / "loopback_hub.py"), "--root", str(hub.hub.root), "--log", str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip().removeprefix("http://")
            connection = http.client.HTTPConnection(address, timeout=10)
            connection.request("GET", "/api/models/ann/open")
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            process.terminate()
    assert json.loads((tmp_path / "log").read_text())["path"] == "/api/models/ann/open"
