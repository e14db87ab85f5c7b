"""Whatever the Hub, the network or the token does: training does not die of it, the run is complete, and a push can follow."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import client
import loopback_hub
import pytest
import repositories

ROOT = Path(__file__).resolve().parents[2]


Fault = loopback_hub.Fault

READER = "hf_OfAnnWhoMayOnlyReadThings"
WRONG = "hf_OfNobodyWhoIsKnownHere"
SMALL = [
    "data.max_train_samples=40",
    "data.max_validation_samples=20",
    "data.max_test_samples=20",
    "training.disable_tqdm=true",
]
PROBE = {
    "output_dir": "runs/probe",
    "data": {"source": "package:digits", "test_fraction": 0.2},
    "model": {"backbone": "vit"},
    "strategy": "linear_probe",
}
# What is done to the repository of this name.
FAULTS = {
    "preupload-500": Fault(path="/preupload/", status=500, times=1),
    "batch-503": Fault(path="/objects/batch", status=503, headers={"Retry-After": "1"}, times=1),
    "batch-429": Fault(path="/objects/batch", status=429, headers={"Retry-After": "1"}, times=1),
    "upload-dropped": Fault(method="PUT", drop="during", read_bytes=100, times=1),
    "slow": Fault(delay=0.2),
    "commit-500": Fault(path="/commit/", status=500, message="Internal Error", times=1),
    "commit-dropped": Fault(path="/commit/", drop="before", times=1),
    "commit-429": Fault(path="/commit/", status=429, times=1),
    "commit-silent": Fault(path="/commit/", delay=5, drop="before", times=1),
    "commit-404": Fault(path="/commit/", status=404, times=1),
    "create-401": Fault(path="/repos/create", status=401, message="Invalid credentials in Authorization header"),
    "create-503": Fault(path="/repos/create", status=503),
    "html": Fault(path="/validate-yaml", status=502),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    repositories.write_tokens(folder / "hub")
    tokens = {
        repositories.TOKEN: {"user": "ann", "orgs": ["poor"]},
        READER: {"user": "ann", "role": "read"},
    }
    (folder / "hub/.tokens.json").write_text(json.dumps(tokens))
    (folder / "hub/.quota.json").write_text(json.dumps({"poor": 1000}))
    for name in ("bob/theirs", "ann/open"):
        (folder / "hub/models" / name).mkdir(parents=True)
        (folder / "hub/models" / name / "README.md").write_text("# Public\n")
    repositories.write_vit(folder / "vit")
    (folder / "probe.json").write_text(json.dumps(PROBE))
    with loopback_hub.LoopbackHub(folder / "hub") as server:
        yield folder, server


def _environment(hub, token=repositories.TOKEN):
    folder, server = hub
    return client.client_environment(server.url, folder / "home", token) | {"HF_HUB_DOWNLOAD_TIMEOUT": "3"}


@pytest.fixture(scope="module")
def told(hub):
    """Train once; push to every repository at once, then once more; push with other tokens; train while pushing fails."""
    folder, server = hub
    server.faults += [Fault(**{**vars_of(fault), "repo": f"ann/{name}"}) for name, fault in FAULTS.items()]
    server.faults.append(Fault(path="/commit/", repo="ann/broken", status=500))
    pushes = [{"run": "runs/probe", "repo_id": f"ann/{name}"} for name in FAULTS]
    others = [{"run": "runs/probe", "repo_id": name} for name in ("bob/mine", "poor/model", "ann/open")]
    others.append({"run": "runs/probe", "repo_id": "bob/theirs", "private": False})
    training = ["strategy=full", "output_dir=runs/broken", "training.num_train_epochs=2", "training.report_to=none"]
    training += ["hub.push=true", "hub.repo_id=ann/broken", "hub.strategy=every_save"]
    jobs = {
        "run": {"job": "command", "words": ["run", "probe.json", *SMALL]},
        "first": {"job": "pushes", "pushes": pushes + others},
        "second": {"job": "pushes", "pushes": pushes},
        "training": {"job": "command", "words": ["run", "probe.json", *SMALL, *training]},
        "resumed": {
            "job": "command",
            "words": ["run", "probe.json", *SMALL, *training, "hub.repo_id=ann/resumed", "--resume", "--json"],
        },
        "reader": {"job": "command", "words": ["push", "runs/probe", "--repo-id", "ann/read"], "token": READER},
        "wrong": {"job": "command", "words": ["push", "runs/probe"], "token": WRONG},
        "nobody": {"job": "command", "words": ["push", "runs/probe"], "token": ""},
    }
    told = client.run_jobs(_environment(hub), jobs, folder)
    assert told["run"]["status"] == 0, told["run"]["stderr"]
    names = [push["repo_id"] for push in pushes + others]
    told["first"] = dict(zip(names, told["first"]["results"], strict=True))
    told["second"] = dict(zip(names, told["second"]["results"], strict=False))
    told["requests"] = list(server.requests)
    return told


def vars_of(fault):
    return {name: value for name, value in vars(fault).items() if name != "hits"}


LATER = "Nothing of the run is lost; push it later with: hf-transfer push runs/probe --repo-id ann/{name}"


@pytest.mark.parametrize("name", ["preupload-500", "batch-503", "batch-429", "upload-dropped", "slow"])
def test_push__what_passes_is_overcome(hub, told, name):
    assert "error" not in told["first"][f"ann/{name}"], told["first"]
    assert told["first"][f"ann/{name}"]["commit"] == hub[1].commit("models", f"ann/{name}")


@pytest.mark.parametrize(
    ("name", "reason", "temporary"),
    [
        ("commit-500", "the Hub has a problem of its own (Internal Error)", True),
        ("commit-dropped", "the Hub (URL) does not answer (Server disconnected without sending a response)", True),
        ("commit-429", "the Hub has had too many requests from here; wait some minutes", True),
        ("commit-silent", "the Hub (URL) does not answer (timed out)", True),
        ("commit-404", "there is no ann/commit-404 on the Hub that this token may write to", False),
        (
            "create-401",
            "the Hub refused the access token; log in anew with 'hf auth login', or correct HF_TOKEN",
            False,
        ),
        ("create-503", "the Hub has a problem of its own (This fault was asked for)", True),
    ],
)
def test_push__what_does_not_pass_is_told_with_the_command_for_later(hub, told, name, reason, temporary):
    found = told["first"][f"ann/{name}"]
    reason = reason.replace("URL", hub[1].url)
    assert found["error"] == f"runs/probe could not be pushed: {reason}. {LATER.format(name=name)}"
    assert found["temporary"] is temporary


@pytest.mark.parametrize("name", ["commit-500", "commit-dropped", "commit-429", "commit-silent", "commit-404"])
def test_push__again_sends_only_what_is_missing(hub, told, name):
    assert told["second"][f"ann/{name}"]["commit"] == hub[1].commit("models", f"ann/{name}")
    weights = [r for r in told["requests"] if r["method"] == "PUT" and f"ann/{name}" in r["path"] and r["status"] == 200]
    sent = [request["path"] for request in weights]
    assert sent and len(sent) == len(set(sent))  # the first push sent every large file, the second none of them


def test_push__without_the_right_to_write(hub, told):
    for name in ("bob/theirs", "bob/mine"):
        found = told["first"][name]
        assert found["error"].startswith(f"runs/probe could not be pushed: this token may not write to {name} (")
        assert "use one with write permission, another --repo-id, or propose it with --create-pr. Nothing" in found["error"]
        assert found["temporary"] is False
    assert told["reader"]["status"] == 2
    assert "this token may not" in told["reader"]["stderr"] and "Traceback" not in told["reader"]["stderr"]
    assert {p.name for p in (hub[0] / "hub/models/bob").iterdir()} == {"theirs"}


def test_push__what_is_to_be_private_goes_to_no_public_repository(hub, told):
    assert told["first"]["ann/open"]["error"] == (
        "push: ann/open is public, and a private repository was asked for; nothing was pushed. To publish there say --public "
        "(hub.private: false), else choose another --repo-id"
    )
    assert [path.name for path in (hub[0] / "hub/models/ann/open").iterdir() if path.is_file()] == ["README.md"]


def test_push__no_storage_left(hub, told):
    found = told["first"]["poor/model"]
    assert found["error"].startswith("runs/probe could not be pushed: there is no storage left on the Hub (")
    assert "storage limit reached" in found["error"]
    assert found["temporary"] is False


def test_push__a_wrong_token_and_none(told):
    assert told["wrong"]["status"] == told["nobody"]["status"] == 2
    assert told["wrong"]["stderr"] == (
        "error: runs/probe could not be pushed: the Hub refused the access token; log in anew with 'hf auth login', or correct "
        "HF_TOKEN. Nothing of the run is lost; push it later with: hf-transfer push runs/probe\n"
    )
    assert told["nobody"]["stderr"] == (
        "error: runs/probe could not be pushed: nobody is logged in to the Hub; run 'hf auth login', or set HF_TOKEN to a "
        "token with write permission. Nothing of the run is lost; push it later with: hf-transfer push runs/probe\n"
    )


def test_training__goes_on_and_ends_whole_while_every_push_fails(hub, told):
    done = told["training"]
    assert done["status"] == 1
    said = "runs/broken could not be pushed: the Hub has a problem of its own (This fault was asked for)."
    assert f"warning: step 2: {said} Training goes on\n" in done["stderr"]
    assert f"error: {said} Nothing of the run is lost; push it later with: hf-transfer push runs/broken" in done["stderr"]
    run = hub[0] / "runs/broken"
    whole = [
        "metrics.json",
        "README.md",
        "report.html",
        "model/model.safetensors",
        "predictions/test.parquet",
        "plots/curves.png",
    ]
    for name in whole:
        assert (run / name).is_file(), name
    assert not (run / ".hub-push").exists()
    assert "test" in done["stdout"]  # the figures are told all the same


def test_training__resumed_where_only_the_push_is_missing(hub, told):
    resumed = told["resumed"]
    assert resumed["status"] == 0, resumed["stderr"]
    answer = json.loads(resumed["stdout"])
    assert answer["hub"]["commit"] == hub[1].commit("models", "ann/resumed")
    assert answer["metrics"] == json.loads((hub[0] / "runs/broken/metrics.json").read_text())


def test_training__without_a_network(hub):
    folder, _ = hub
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        environment = _environment(hub) | {"HF_ENDPOINT": url}
        words = ["run", "probe.json", *SMALL, "output_dir=runs/alone", "hub.push=true"]
        done = client.run_command(environment, words, folder)
    assert done.returncode == 1, done.stderr
    reason = f"the Hub ({url}) could not be reached when this process began, or HF_HUB_OFFLINE is set"
    assert f"warning: {reason}; the run goes on, and will say how to push it later\n" in done.stderr
    assert (
        f"error: runs/alone could not be pushed: {reason}. Nothing of the run is lost; push it later with: "
        "hf-transfer push runs/alone\n"
    ) in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "runs/alone/README.md").is_file()
    later = client.run_command(
        _environment(hub), ["run", "probe.json", *SMALL, "output_dir=runs/alone", "hub.push=true", "--resume"], folder
    )
    assert later.returncode == 0, later.stderr
    assert json.loads((folder / "runs/alone/hub.json").read_text())["repo_id"] == "ann/alone"


@pytest.mark.parametrize(("method", "path"), [("PUT", ""), ("POST", "/commit/")])
def test_push__killed_leaves_the_old_commit(hub, told, method, path):
    folder, server = hub
    repo_id = f"ann/killed-{method}"
    environment = _environment(hub) | {"PYTHONPATH": str(ROOT), "HF_HUB_DOWNLOAD_TIMEOUT": "60"}
    assert client.run_command(environment, ["push", "runs/broken", "--repo-id", repo_id], folder).returncode == 0
    before = server.commit("models", repo_id)
    fault = Fault(method=method, path=path, repo=repo_id, delay=30, times=1)
    server.faults.append(fault)
    words = [sys.executable, "-m", "hf_transfer.cli", "push", "runs/probe", "--repo-id", repo_id]
    process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not fault.hits and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert fault.hits == 1
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert server.commit("models", repo_id) == before
    done = client.run_command(environment, ["push", "runs/probe", "--repo-id", repo_id, "--json"], folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == server.commit("models", repo_id) != before


def test_token__is_in_no_file_and_no_message(hub, told):
    folder, _ = hub
    files = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    assert files
    said = json.dumps(told)
    for token in (repositories.TOKEN, READER, WRONG):
        assert not [path for path in files if token.encode() in path.read_bytes()]
        assert token not in said
