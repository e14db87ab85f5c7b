"""With a token: private and gated repositories. Without a connection: a run from the cache, a quick word where it is empty.

And a Hub that fails in the middle of it.
"""

import json
import shutil
from types import SimpleNamespace

import client
import loopback_hub
import pytest
import repositories
from datasets import ClassLabel, Image

RECIPE = {
    "output_dir": "run",
    "data": {"source": "ann/animals", "validation_fraction": 0.25},
    "model": {"backbone": "ann/vit"},
    "strategy": "linear_probe",
    "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "use_cpu": True, "dataloader_num_workers": 0},
}


@pytest.fixture(scope="module")
def stopped_hub(tmp_path_factory):
    """A Hub that has stopped: its address, the cache and the results of a process that had ann's token, commits, requests."""
    folder = tmp_path_factory.mktemp("access")
    root, home = folder / "hub", folder / "home"
    repositories.write_tokens(root)
    labels = {"train": {"label": [0, 1, 2] * 4}, "test": {"label": [0, 1, 2] * 2}}
    features = {"image": Image(), "label": ClassLabel(names=repositories.CLASSES)}
    repositories.write_parquet(root / "datasets/ann/animals/data", features, labels)
    repositories.write_vit(root / "models/ann/vit")
    repositories.write_card(root / "models/ann/vit", "license: apache-2.0")
    for kind, name in (("datasets", "animals"), ("models", "vit")):
        shutil.copytree(root / kind / "ann" / name, root / kind / "ann/gated")
        repositories.write_access(root / kind / "ann" / name, private=True)
        repositories.write_access(root / kind / "ann/gated", gated="manual")
    with loopback_hub.LoopbackHub(root) as server:
        model = {"job": "backbone", "classes": repositories.CLASSES}
        jobs = {
            "private data": {"job": "splits", "data": RECIPE["data"]},
            "gated data": {"job": "splits", "data": {**RECIPE["data"], "source": "ann/gated"}},
            "private model": {**model, "model": RECIPE["model"]},
            "gated model": {**model, "model": {"backbone": "ann/gated"}},
            "local model": {**model, "model": {"backbone": str(root / "models/ann/vit")}},
        }
        results = client.run_jobs(client.client_environment(server.url, home, repositories.TOKEN), jobs, folder)
        wrong = client.client_environment(server.url, folder / "empty", "hf_OfNobody")
        results |= client.run_jobs(wrong, {"wrong token": jobs["private data"]}, folder)
        commits = {
            "private data": server.commit("datasets", "ann/animals"),
            "gated data": server.commit("datasets", "ann/gated"),
            "private model": server.commit("models", "ann/vit"),
            "gated model": server.commit("models", "ann/gated"),
        }
    return SimpleNamespace(url=server.url, home=home, results=results, commits=commits, requests=server.requests)


@pytest.mark.parametrize("name", ["private data", "gated data", "private model", "gated model"])
def test_token__opens_what_its_owner_may_read(stopped_hub, name):
    found = stopped_hub.results[name]
    assert found["revision"] == stopped_hub.commits[name]
    if name.endswith("data"):
        assert found["class_names"] == repositories.CLASSES
        assert found["tables"]["test"]["labels"] == [0, 1, 2] * 2
    else:
        assert found["weights"] == stopped_hub.results["local model"]["weights"]
    assert not [request for request in stopped_hub.requests if request["user"] is None and request["status"] < 400]


def test_wrong_token__is_told(stopped_hub):
    assert stopped_hub.results["wrong token"]["error"] == (
        "data.source: the Hub refused the access token when asked for ann/animals; log in anew with 'hf auth login', "
        "or correct HF_TOKEN"
    )


@pytest.fixture(scope="module")
def failing_hub(tmp_path_factory):
    """What bob, who has been let in nowhere, is told by a Hub that fails when it is asked for some files."""
    folder = tmp_path_factory.mktemp("failing")
    models, sets = folder / "hub/models/ann", folder / "hub/datasets/ann"
    repositories.write_tokens(folder / "hub")
    (folder / "hub/.tokens.json").write_text(json.dumps({repositories.TOKEN: "ann", "hf_OfBob": "bob"}))
    features = {"image": Image(), "label": ClassLabel(names=repositories.CLASSES)}
    repositories.write_vit(models / "gated")
    repositories.write_parquet(sets / "gated/data", features, {"train": {"label": [0, 1, 2] * 4}})
    for repository in (models / "gated", sets / "gated"):
        repositories.write_card(repository, "license: mit")
    for name in FAULTS:
        kind, _, repo = name.partition(" ")
        shutil.copytree((models if kind == "model" else sets) / "gated", (models if kind == "model" else sets) / repo)
    for repository in (models / "gated", sets / "gated"):
        repositories.write_access(repository, gated="manual")
    with loopback_hub.LoopbackHub(folder / "hub") as server:
        for name, (fault, _) in FAULTS.items():
            server.faults.append(loopback_hub.Fault(repo=f"ann/{name.partition(' ')[2]}/resolve", **fault))
        jobs = {
            name: {"job": "backbone", "classes": repositories.CLASSES, "model": {"backbone": f"ann/{name.partition(' ')[2]}"}}
            if name.startswith("model")
            else {"job": "splits", "data": {"source": f"ann/{name.partition(' ')[2]}"}}
            for name in ["model gated", "data gated", *FAULTS]
        }
        results = client.run_jobs(client.client_environment(server.url, folder / "home", "hf_OfBob"), jobs, folder)
        assert all(fault.hits for fault in server.faults)
    return SimpleNamespace(results=results, url=server.url, home=folder / "home")


BROKEN = "could not be loaded: the Hub ({url}) has a problem of its own ({detail}); try again later"
REFUSED = (
    "the Hub refuses access to {name} ({detail}); log in with 'hf auth login', or set HF_TOKEN to a token that may read it"
)
SILENT = (
    "is neither a local {local} nor in the cache ({home}/{cache}), and the Hub ({url}) cannot be reached ({detail}). To work"
)
DISABLED = "Access to this resource is disabled."
# A repository, what goes wrong with which of its files, and what is told.
FAULTS = {
    "model weights-500": ({"path": "safetensors", "method": "GET", "status": 500, "message": "Oh"}, "{name} " + BROKEN),
    "model weights-403": ({"path": "safetensors", "method": "GET", "status": 403, "message": "No"}, REFUSED),
    "model weights-dropped": ({"path": "safetensors", "method": "HEAD", "drop": "before"}, "{name} " + SILENT),
    "model processor-dropped": ({"path": "preprocessor", "method": "HEAD", "drop": "before"}, "{name} " + SILENT),
    "model disabled": ({"status": 403, "message": DISABLED}, REFUSED),
    "model silent": ({"path": "config.json", "method": "HEAD", "drop": "before"}, "{name} " + SILENT),
    "data file-500": ({"path": "parquet", "method": "GET", "status": 500, "message": "Oh"}, "{name} " + BROKEN),
    "data file-403": ({"path": "parquet", "method": "GET", "status": 403, "message": "No"}, REFUSED),
    "data file-dropped": ({"path": "parquet", "method": "GET", "drop": "before"}, "{name} " + SILENT),
    "data disabled-set": ({"status": 403, "message": DISABLED}, REFUSED),
    "data silent": ({"path": "README", "method": "HEAD", "drop": "before"}, "{name} " + SILENT),
}


@pytest.mark.parametrize("name", FAULTS)
def test_failing_hub__is_told_for_what_it_is(failing_hub, name):
    """Whichever file it was: never in the words of a library that has not got what it asked for."""
    kind, _, repo = name.partition(" ")
    fault, text = FAULTS[name]
    words = {
        "name": f"ann/{repo}",
        "url": failing_hub.url,
        "home": failing_hub.home,
        "detail": fault.get("message", "Server disconnected without sending a response").rstrip("."),
        "local": "directory" if kind == "model" else "folder",
        "cache": "hub" if kind == "model" else "datasets",
    }
    key = "model.backbone" if kind == "model" else "data.source"
    assert failing_hub.results[name]["error"].startswith(f"{key}: {text.format(**words)}")


@pytest.mark.parametrize(("name", "key"), [("model gated", "model.backbone"), ("data gated", "data.source")])
def test_gated__one_who_is_logged_in_is_not_told_to_log_in(failing_hub, name, key):
    assert failing_hub.results[name]["error"] == (
        f"{key}: ann/gated is gated: this access token's owner has not been let in. Accept its terms on its Hub page, wait "
        "where they are to be approved, and see that the token may read gated repositories"
    )


def test_run__from_a_warm_cache(stopped_hub, tmp_path):
    environment = client.client_environment(stopped_hub.url, stopped_hub.home)
    status, said, _ = client.run_recipe(environment, RECIPE, tmp_path)
    assert status == 0, said
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["data_hub_id"] == "ann/animals"
    assert environment["data_revision"] == stopped_hub.commits["private data"]
    assert environment["backbone_hub_id"] == "ann/vit"
    assert environment["backbone_revision"] == stopped_hub.commits["private model"]
    assert environment["backbone_license"] == "apache-2.0"
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["n"] == 6


@pytest.mark.parametrize("missing", ["data", "model"])
def test_run__from_a_cold_cache_says_so_soon_and_writes_nothing(stopped_hub, tmp_path, missing):
    repositories.write_image_folder(tmp_path / "images", {"train": 4, "test": 2})
    (tmp_path / "work").mkdir()
    recipe = RECIPE if missing == "data" else {**RECIPE, "data": {"source": str(tmp_path / "images")}}
    environment = client.client_environment(stopped_hub.url, tmp_path / "home")
    status, said, seconds = client.run_recipe(environment, recipe, tmp_path / "work")
    what = "data.source: ann/animals" if missing == "data" else "model.backbone: ann/vit"
    assert status == 2
    assert said.startswith(f"error: {what} is neither a ")
    assert f"and the Hub ({stopped_hub.url}) cannot be reached" in said
    assert "To work offline: " in said
    assert said.count("\n") == 1  # the client would tell of each of its retries, which take 25 seconds
    assert seconds < 60  # nearly all of it imports: 5 for the data, 7 for the model on a processor of its own
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["recipe.json"]
