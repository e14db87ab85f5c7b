"""A real study, pushed with its models and read back: the real client, a loopback Hub."""

import json
import re
import socket
import subprocess
import sys
from types import SimpleNamespace

import client
import loopback_card
import loopback_hub
import pytest
import repositories

from hf_transfer.report.leaderboard import build_leaderboard, csv_lines

PLANTED = "hf_" + "OfAnnWhichMustNotBeSeen" + "x" * 8
STUDY = {
    "output_dir": "runs/board",
    "description": "Does the seed of random weights matter?",
    "base": {
        "data": {
            "source": "package:digits",
            "test_fraction": 0.2,
            "max_train_samples": 20,
            "max_validation_samples": 20,
            "max_test_samples": 20,
        },
        "model": {"backbone": "vit"},
        "strategy": "linear_probe",
    },
    "axes": {"model.backbone": ["vit", "other"], "seed": [0, 1]},
    "exclude": [{"model.backbone": "other", "seed": 1}],
}
READ = """
import json, sys
import datasets
from huggingface_hub import DatasetCard, HfApi, hf_hub_download

datasets.disable_progress_bars()
api = HfApi()
info = api.dataset_info("ann/board")
text = open(hf_hub_download("ann/board", "README.md", repo_type="dataset"), encoding="utf-8").read()
told = json.load(open(hf_hub_download("ann/board", "leaderboard.json", repo_type="dataset")))
rows = datasets.load_dataset("ann/board", split="train")
models = {place: api.model_info(model["repo_id"], revision=model["commit"]) for place, model in told["models"].items()}
print(json.dumps({
    "private": info.private, "files": [file.rfilename for file in info.siblings], "sha": info.sha, "card": text,
    "data": DatasetCard(text).data.to_dict(), "told": told, "rows": rows.to_list(),
    "models": {place: [info.id, info.private, info.sha] for place, info in models.items()},
}))
"""


def push(*words):
    return {"job": "command", "words": ["push", *words]}


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    """Carry out a study, push it with its models while one of them cannot be, and push it again."""
    folder = tmp_path_factory.mktemp("board")
    repositories.write_tokens(folder / "hub")
    repositories.write_card(folder / "hub/datasets/ann/animals", "license: mit")
    (folder / "hub/datasets/ann/animals/animals.csv").write_text("a,b\n1,2\n")
    repositories.write_card(folder / "hub/datasets/ann/open", "license: mit")
    repositories.write_vit(folder / "vit", seed=7)
    repositories.write_vit(folder / "other", seed=8)
    (folder / "study.json").write_text(json.dumps(STUDY))
    with loopback_hub.LoopbackHub(folder / "hub") as server:
        environment = client.client_environment(server.url, folder / "home", repositories.TOKEN)
        server.faults.append(loopback_hub.Fault(path="/models/ann/board-other-0-[0-9a-f]{8}/commit/", status=500, times=1))
        server.faults.append(loopback_hub.Fault(path="/datasets/ann/broken/commit/", status=500, times=1))
        carried_out = client.run_jobs(environment, {"study": {"job": "command", "words": ["study", "study.json"]}}, folder)
        assert carried_out["study"]["status"] == 0, carried_out["study"]["stderr"]
        root = folder / "runs/board"
        for path in [root / "study.json", *root.glob("cells/*/recipe.json")]:
            found = json.loads(path.read_text())
            path.write_text(json.dumps(found | {"description": f"{found['description']} See {folder}/notes, {PLANTED}"}))
        jobs = {
            "alone": push("runs/board", "--repo-id", "ann/alone", "--revision", "next/try"),
            "first": push("runs/board", "--with-models"),
            "second": push("runs/board", "--with-models", "--json"),
            "third": push("runs/board", "--with-models"),
            "proposal": push("runs/board", "--repo-id", "ann/alone", "--create-pr", "--json"),
            "broken": push("runs/board", "--repo-id", "ann/broken", "--with-models"),
            "later": push("runs/board", "--repo-id", "ann/broken"),
            "foreign": push("runs/board", "--repo-id", "ann/animals", "--public"),
            "open": push("runs/board", "--repo-id", "ann/open"),
            "public": push("runs/board", "--repo-id", "ann/open", "--public"),
            "shown": push("runs/board"),  # hub.json names this repository again
        }
        said = client.run_jobs(environment, jobs, folder)
        done = subprocess.run(
            [sys.executable, "-c", READ],
            cwd=folder,
            env=client.client_environment(server.url, folder / "new home", repositories.TOKEN),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        yield SimpleNamespace(
            folder=folder, root=root, server=server, said=said, read=json.loads(done.stdout), environment=environment
        )


def test_validate_card__of_a_data_set():
    def said(**data):
        return loopback_card.validate_card(f"---\n{json.dumps(data)}\n---\n# Card", "dataset")

    assert said(task_categories=["image-classification"], configs=[{"config_name": "a", "data_files": "a.csv"}]) == ([], [])
    assert said(configs="a.csv")[0] == ['"configs" must be an array']
    assert said(configs=[{"data_files": "a.csv"}])[0] == ['"configs[0].config_name" is required']
    assert said(size_categories=[5])[0] == ['"size_categories" must be a string or an array of strings']
    errors, (warning,) = said(task_categories=["sorting"])
    assert errors == [] and warning.startswith('The task_categories "sorting" is not in the official list: biology, ')


def files(trip, name, revision="main"):
    return trip.server.hub.repository("datasets", name).resolve(revision)[1]


def test_push__failures_of_a_model_do_not_keep_the_others(trip):
    first = trip.said["first"]
    assert first["status"] == 1
    assert re.search(r"model \d of 3: cells/other-0-(\w{8}) -> ann/board-other-0-\1\n", first["stderr"])
    assert re.search(
        r"error: cells/other-0-\w{8}: runs/board/cells/other-0-\w{8} could not be pushed: the Hub has a problem of its own .*"
        r"push it later with: hf-transfer push runs/board/cells/other-0-\w{8} --repo-id ann/board-other-0-\w{8}\n",
        first["stderr"],
    )
    assert first["stdout"].startswith(f"pushed to {trip.server.url}/datasets/ann/board (private; main at ")


def test_push__again_publishes_what_is_missing_and_nothing_twice(trip):
    second, third = trip.said["second"], trip.said["third"]
    assert (second["status"], third["status"]) == (0, 0), second["stderr"]
    assert second["stderr"].count("model 1 of 1: cells/other-0-") == 1
    assert json.loads(second["stdout"])["failed"] == {}
    assert "model 1 of" not in third["stderr"]
    assert third["stdout"].startswith("nothing has changed since the last push to ")
    written = {name: json.loads((trip.root / "hub.json").read_text())[name] for name in ("repo_id", "revision", "commit")}
    assert written == {"repo_id": "ann/board", "revision": "main", "commit": trip.server.commit("datasets", "ann/board")}


def test_push__is_read_back_by_the_real_client(trip):
    found, cells = trip.read, sorted(path.name for path in (trip.root / "cells").iterdir())
    assert found["private"]
    assert set(found["files"]) == {
        ".gitattributes", "README.md", "leaderboard.csv", "leaderboard.json", "report.html", "study.json",
        *(f"runs/{cell}/{name}.json" for cell in cells for name in ("recipe", "metrics")),
    }  # fmt: skip
    assert found["data"]["configs"] == [{"config_name": "default", "data_files": "leaderboard.csv"}]
    expected = csv_lines(build_leaderboard(trip.root))
    for row, line in zip(found["rows"], expected, strict=True):
        assert {key: row[key] for key in ("name", "accuracy", "seeds", "leader", "n")} == {
            key: line[key] for key in ("name", "accuracy", "seeds", "leader", "n")
        }
    assert sum(len(row["models"].split()) for row in found["rows"]) == 3


def test_push__links_lead_to_the_models(trip):
    found = trip.read
    assert len(found["models"]) == 3
    for place, (repo_id, private, sha) in found["models"].items():
        of_run = json.loads((trip.root / place.replace("runs/", "cells/") / "hub.json").read_text())
        assert (repo_id, private, sha) == (of_run["repo_id"], True, of_run["commit"])
        assert f"]({trip.server.url}/{repo_id})" in found["card"]
        assert repo_id == f"ann/board-{place.removeprefix('runs/')}"
        assert "model.safetensors" in trip.server.hub.repository("models", repo_id).resolve("main")[1]


def test_push__a_branch_without_models(trip):
    assert trip.said["alone"]["status"] == 0, trip.said["alone"]["stderr"]
    assert "README.md" not in files(trip, "ann/alone")
    card = files(trip, "ann/alone", "next/try")["README.md"].read_text()
    assert "None of the models is published." in card
    assert 'load_dataset("ann/alone", split="train", revision="next/try")' in card


def test_push__a_pull_request(trip):
    told = json.loads(trip.said["proposal"]["stdout"])
    assert told["revision"] == "refs/pr/1"
    assert told["url"] == f"{trip.server.url}/datasets/ann/alone/discussions/1"
    assert "leaderboard.csv" in files(trip, "ann/alone", "refs/pr/1") and "leaderboard.csv" not in files(trip, "ann/alone")


def test_push__what_failed_at_the_commit_can_be_pushed_later(trip):
    broken = trip.said["broken"]
    assert broken["status"] == 1
    assert broken["stderr"].endswith(
        "Nothing of the study is lost; push it later with: hf-transfer push runs/board --repo-id ann/broken --with-models\n"
    )
    assert trip.said["later"]["status"] == 0


def test_push__never_into_a_data_set(trip):
    found = trip.said["foreign"]
    assert (found["status"], found["stderr"]) == (
        2,
        "error: push: the dataset repository ann/animals holds something else than a leaderboard (animals.csv); nothing was "
        "pushed. Choose another --repo-id\n",
    )
    assert set(files(trip, "ann/animals")) == {"README.md", "animals.csv"}


def test_push__a_public_repository_and_its_own_card(trip):
    assert trip.said["open"]["status"] == 2
    assert "ann/open is public, and a private repository was asked for; nothing was pushed" in trip.said["open"]["stderr"]
    found = trip.said["public"]
    assert found["status"] == 0
    assert "the card of ann/open was written or edited by hand; it stays as it is." in found["stderr"]
    assert files(trip, "ann/open")["README.md"].read_text() == "---\nlicense: mit\n---\n# A card\n"
    assert "leaderboard.csv" in files(trip, "ann/open")


def test_push__no_token_and_no_path_of_this_machine(trip):
    told = [trip.folder / "hub/datasets/ann", trip.folder / "hub/models/ann"]
    found = [path for root in told for path in root.rglob("*") if path.is_file()]
    assert len(found) > 50
    for path in found:
        content = path.read_bytes()
        for secret in (PLANTED, repositories.TOKEN, str(trip.folder)):
            assert secret.encode() not in content, path
    said = json.dumps(trip.said)
    assert repositories.TOKEN not in said and PLANTED not in said


def test_push__without_a_network(trip):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = client.run_command(trip.environment | {"HF_ENDPOINT": url}, ["push", "runs/board", "--with-models"], trip.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: runs/board could not be pushed: the Hub ({url}) could not be reached when this process began, or "
        "HF_HUB_OFFLINE is set. Nothing of the study is lost; push it later with: hf-transfer push runs/board --with-models\n"
    )


def test_push__a_grown_study_replaces_and_an_edited_card_stays(trip):
    """Edit the card on the Hub and remove a run here; of the old files only those of the run go, then the new card comes."""
    there = trip.folder / "hub/datasets/ann/board"
    (there / "README.md").write_text(trip.read["card"].replace("Does the seed", "Tell me, does the seed"))
    (there / "notes.txt").write_text("mine")
    (gone,) = (trip.root / "cells").glob("other-0-*")
    gone.rename(trip.folder / "gone")
    first = client.run_command(trip.environment, ["push", "runs/board"], trip.folder)
    assert first.returncode == 0, first.stderr
    assert "the card of ann/board was written or edited by hand; it stays as it is." in first.stderr
    found = files(trip, "ann/board")
    assert not [name for name in found if name.startswith(f"runs/{gone.name}/")]
    assert "notes.txt" in found and len([name for name in found if name.startswith("runs/")]) == 4
    assert found["README.md"].read_text().count("Tell me") == trip.read["card"].count("Does the seed")
    (there / "README.md").unlink()
    second = client.run_command(trip.environment, ["push", "runs/board"], trip.folder)
    assert second.returncode == 0 and second.stderr == ""
    assert "1 has no finished run: other-0-" in files(trip, "ann/board")["README.md"].read_text()
