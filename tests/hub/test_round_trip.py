"""Train, push, forget everything, load from the Hub by every way there is: the same logits, image by image."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import client
import loopback_hub
import numpy as np
import pytest
import repositories
import torch
from huggingface_hub import ModelCard

from hf_transfer.evaluation.predictions import Predictions

ROOT = Path(__file__).resolve().parents[2]


SMALL = [
    "data.max_train_samples=48",
    "data.max_validation_samples=24",
    "data.max_test_samples=24",
    "training.disable_tqdm=true",
]
QUICK = [
    "recipes/quickstart.json",
    *SMALL,
    "training.num_train_epochs=2",
    "training.per_device_train_batch_size=8",
    "hub.push=true",
    "hub.repo_id=ann/quick",
    "hub.strategy=checkpoint",
]
TORCHVISION = {
    "output_dir": "runs/A squeeze, net",
    "data": {"source": "package:digits", "test_fraction": 0.2},
    "model": {"backbone": "torchvision:squeezenet1_1", "pretrained": False, "head": {"replace": "last"}},
    "strategy": "full",
    "hub": {"push": True, "revision": "next/try", "strategy": "all_checkpoints"},
}
VIT = {
    "output_dir": "runs/vit",
    "data": {"source": "package:digits", "test_fraction": 0.2},
    "model": {"backbone": "ann/vit"},
    "strategy": "linear_probe",
    "hub": {"push": True, "repo_id": "ann/vit-digits", "private": False},
}

WRONG_PROCESSOR = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1] * 3, "size": {"height": 32, "width": 32}}


def _command_lines(stop, found):
    """Note the command line of every process of this machine until told to stop."""
    while not stop.wait(0.2):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found.add(path.read_bytes())
            except OSError:
                continue


def _launch(environment, folder):
    """Run the quickstart on a few images as two processes; return what they said, and every command line seen meanwhile."""
    stop, lines = threading.Event(), set()
    watcher = threading.Thread(target=_command_lines, args=(stop, lines))
    watcher.start()
    try:
        launcher = [
            "accelerate.commands.launch",
            "--config_file",
            "accelerate_configs/cpu_2proc.yaml",
            "--main_process_port",
            "0",
        ]
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "hf_transfer/run.py", *QUICK, f"output_dir={folder / 'runs/quick'}"],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        stop.set()
        watcher.join()
    assert done.returncode == 0, done.stderr[-3000:]
    return done, lines


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trip")
    repositories.write_tokens(folder / "hub")
    repositories.write_vit(folder / "hub/models/ann/vit")
    repositories.write_card(folder / "hub/models/ann/vit", "license: mit\nlibrary_name: transformers")
    there = folder / "hub/models/ann/vit-digits"  # public, with files that are in the way and files that are not
    repositories.write_card(there, "license: mit")
    (there / "processor_config.json").write_text(json.dumps({"image_processor": WRONG_PROCESSOR}))
    for file in ("tf_model.h5", "extra.safetensors", "plots/mine.png", "plots/roc.png", "plots/per_class.png"):
        (there / file).parent.mkdir(exist_ok=True)
        (there / file).write_bytes(b"old")
    for name, recipe in {"torchvision": TORCHVISION, "vit": VIT}.items():
        (folder / f"{name}.json").write_text(json.dumps(recipe))
    with loopback_hub.LoopbackHub(folder / "hub") as server:
        environment = client.client_environment(server.url, folder / "home", repositories.TOKEN)
        launched, lines = _launch(environment, folder)
        jobs = {
            name: {"job": "command", "words": ["run", f"{name}.json", *SMALL, "training.num_train_epochs=1"]}
            for name in ("torchvision", "vit")
        }
        jobs |= {
            "again": {"job": "command", "words": ["push", "runs/quick", "--json"]},
            "proposal": {"job": "command", "words": ["push", "runs/vit", "--create-pr", "--without-images", "--json"]},
            "worse": {
                "job": "command",
                "words": ["push", "runs/A squeeze, net", "--repo-id", "ann/quick", "--revision", "worse"],
            },
        }
        ran = client.run_jobs(environment, jobs, folder)
        quick = folder / "runs/quick"
        images = Predictions.read(quick / "predictions/test.parquet").paths
        fresh = client.client_environment(server.url, folder / "new home", repositories.TOKEN)
        unfinished = server.hub.repository("models", "ann/quick").history("main")[1]["id"]
        jobs = {
            "unfinished": {"job": "backbone", "model": {"backbone": "ann/quick", "revision": unfinished}, "classes": None},
            "quick": {"job": "reload", "repo_id": "ann/quick", "images": list(images), "timm": True},
            "squeeze": {
                "job": "reload",
                "repo_id": "ann/A-squeeze-net",
                "images": list(images[:2]),
                "timm": False,
                "revision": "next/try",
            },
            **{
                f"evaluate {repo_id}": {
                    "job": "command",
                    "words": [
                        "evaluate",
                        f"ann/{repo_id}",
                        "--json",
                        "evaluation.speed=false",
                        f"output_dir=of/{repo_id}",
                        *more,
                    ],
                }
                for repo_id, more in {"quick": [], "A-squeeze-net": ["model.revision=next/try"], "vit-digits": []}.items()
            },
            "predict": {"job": "command", "words": ["predict", "ann/quick", images[0], "--json"]},
            "explain": {"job": "command", "words": ["explain", "ann/quick", images[0], "--output", "maps", "--json"]},
        }
        reloaded = client.run_jobs(fresh, jobs, folder)
        yield {
            "folder": folder,
            "server": server,
            "unfinished": unfinished,
            "launched": launched,
            "lines": lines,
            "ran": ran,
            "reloaded": reloaded,
        }


def _repository(trip, repo_id):
    return trip["server"].hub.repository("models", repo_id)


def _files(trip, repo_id, revision="main"):
    return {name: path.read_bytes() for name, path in _repository(trip, repo_id).resolve(revision)[1].items()}


def _saved(trip, run):
    return Predictions.read(trip["folder"] / "runs" / run / "predictions/test.parquet")


def test_quick__every_way_to_load_it_gives_the_logits_of_the_run(trip):
    saved, found = _saved(trip, "quick"), trip["reloaded"]["quick"]
    assert found["class"] == "TimmWrapperForImageClassification"
    assert found["labels"] == list(saved.class_names)
    for way in ("auto", "ours", "timm", "timm_same_input"):
        np.testing.assert_allclose(np.array(found[way]), saved.logits, rtol=0, atol=2e-5, err_msg=way)
    probabilities = torch.tensor(saved.logits).double().softmax(1).numpy()
    for scores, expected in zip(found["pipeline"], probabilities, strict=True):
        np.testing.assert_allclose([scores[name] for name in saved.class_names], expected, rtol=0, atol=2e-5)


def test_squeeze__a_model_of_ours_on_a_branch_loads_without_code_of_the_repository(trip):
    found = trip["reloaded"]["squeeze"]
    assert found["class"] == "TransferForImageClassification"
    np.testing.assert_allclose(np.array(found["auto"]), np.array(found["ours"]), rtol=0, atol=1e-5)
    config = json.loads(_files(trip, "ann/A-squeeze-net", "next/try")["config.json"])
    assert config["model_type"] == "hf_transfer" and "auto_map" not in config


@pytest.mark.parametrize(("run", "repo_id"), [("quick", "quick"), ("A squeeze, net", "A-squeeze-net"), ("vit", "vit-digits")])
def test_evaluate__reported_figures_are_reproduced_image_by_image(trip, run, repo_id):
    done = trip["reloaded"][f"evaluate {repo_id}"]
    assert done["status"] == 0, done["stderr"]
    reported = json.loads((trip["folder"] / "runs" / run / "metrics.json").read_text())["test"]
    assert json.loads(done["stdout"])["metrics"]["test"]["accuracy"] == reported["accuracy"]
    saved = _saved(trip, run)
    again = Predictions.read(trip["folder"] / "of" / repo_id / "predictions/test.parquet")
    assert list(again.sample_ids) == list(saved.sample_ids)
    np.testing.assert_allclose(again.logits, saved.logits, rtol=0, atol=2e-5)


def test_unfinished__a_push_while_training_went_on_is_a_model_that_says_so(trip):
    found = trip["reloaded"]["unfinished"]
    saved = _saved(trip, "quick")
    assert (found["labels"], found["revision"]) == (list(saved.class_names), trip["unfinished"])
    files = _files(trip, "ann/quick", trip["unfinished"])
    title = _repository(trip, "ann/quick").history("main")[1]["title"]
    step = int(title.rpartition(" ")[2])
    card = files["README.md"].decode()
    assert f"**Training is in progress: step {step} of 6.**" in card
    assert ModelCard(card).data.eval_results is None and "metrics.json" not in files
    assert files["model.safetensors"] == files["last-checkpoint/model.safetensors"]
    state = json.loads(files["last-checkpoint/trainer_state.json"])
    assert (state["global_step"], state["best_model_checkpoint"].partition("-")[0]) == (step, "checkpoint")
    mark = json.loads(files["last-checkpoint/complete.json"])["files"]
    assert mark == {
        name.removeprefix("last-checkpoint/"): len(content)
        for name, content in files.items()
        if name.startswith("last-checkpoint/") and not name.endswith("complete.json")
    }


def test_predict_and_explain__by_name(trip):
    for command in ("predict", "explain"):
        assert trip["reloaded"][command]["status"] == 0, trip["reloaded"][command]["stderr"]
    said = json.loads(trip["reloaded"]["predict"]["stdout"])["predictions"][0]["class"]
    saved = _saved(trip, "quick")
    assert said == saved.class_names[saved.logits[0].argmax()]


def test_repository__holds_what_a_run_publishes_and_nothing_else(trip):
    quick = _files(trip, "ann/quick")
    at_root = {name for name in quick if "/" not in name}
    assert at_root == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "recipe.json", "metrics.json", "environment.json",
        "history.csv",
    }  # fmt: skip
    assert {"plots/curves.png", "plots/confusion_matrix.png", "plots/explanations.png"} <= set(quick)
    assert {name.partition("/")[0] for name in quick if "/" in name} == {"plots", "last-checkpoint"}
    assert {"last-checkpoint/model.safetensors", "last-checkpoint/trainer_state.json"} <= set(quick)
    squeeze = _files(trip, "ann/A-squeeze-net", "next/try")
    assert {name.partition("/")[0] for name in squeeze if name.startswith("checkpoint-")} == {"checkpoint-2"}
    everything = quick | _files(trip, "ann/vit-digits") | _files(trip, "ann/A-squeeze-net", "next/try")
    assert not [name for name in everything if name.endswith("training_args.bin")]
    run = trip["folder"] / "runs/quick"
    for name in ("config.json", "model.safetensors"):
        assert quick[name] == (run / "model" / name).read_bytes()
    assert json.loads(quick["metrics.json"]) == json.loads((run / "metrics.json").read_text())
    assert json.loads(quick["recipe.json"])["output_dir"] == "quick"
    text = b"".join(content for name, content in everything.items() if name.endswith((".json", ".md", ".csv")))
    assert str(trip["folder"]).encode() not in text


def test_push__commits_of_one_process_and_what_they_are_called(trip):
    titles = [commit["title"] for commit in _repository(trip, "ann/quick").history("main")]
    saved = json.loads((trip["folder"] / "runs/quick/metrics.json").read_text())["test"]
    assert titles[0] == f"quick: test accuracy {saved['accuracy']:.4f}, n 24"
    assert set(titles[1:-1]) <= {"Training in progress, step 3", "Training in progress, step 6"}
    assert len(titles) == len(set(titles))  # two processes trained, one pushed
    published = json.loads((trip["folder"] / "runs/quick/hub.json").read_text())
    assert published["repo_id"] == "ann/quick" and published["private"] is True
    assert published["commit"] == trip["server"].commit("models", "ann/quick")


def test_push__visibility_branch_and_pull_request(trip):
    assert _repository(trip, "ann/quick").private
    assert not _repository(trip, "ann/vit-digits").private
    assert "next/try" in _repository(trip, "ann/A-squeeze-net").branches()
    assert set(_files(trip, "ann/A-squeeze-net")) == {".gitattributes"}
    proposal = json.loads(trip["ran"]["proposal"]["stdout"])
    assert proposal["revision"] == "refs/pr/1" and proposal["url"].endswith("/ann/vit-digits/discussions/1")
    images = {"plots/explanations.png", "plots/top_losses.png"}
    assert images <= set(_files(trip, "ann/vit-digits"))
    proposed = _files(trip, "ann/vit-digits", "refs/pr/1")
    assert not images & set(proposed) and "plots/confusion_matrix.png" in proposed
    assert not [name for name in images if name.encode() in proposed["README.md"]]


def test_push__removes_what_would_be_read_instead_and_nothing_else(trip):
    files = _files(trip, "ann/vit-digits")
    assert not {"processor_config.json", "tf_model.h5"} & set(files)
    kept = {name for name, content in files.items() if content == b"old"}
    assert kept == {"extra.safetensors", "plots/mine.png", "plots/roc.png"}
    commits = _repository(trip, "ann/vit-digits").history("main")
    said = f"the card of ann/vit-digits was written by other hands; it stays at revision {commits[1]['id']}\n"
    assert said in trip["ran"]["vit"]["stderr"]


def test_push__again_sends_nothing_and_says_so(trip):
    again = json.loads(trip["ran"]["again"]["stdout"])
    assert again["changed"] is False
    assert again["commit"] == json.loads((trip["folder"] / "runs/quick/hub.json").read_text())["commit"]


def test_push__warns_before_a_better_model_is_replaced(trip):
    accuracy = {
        run: json.loads((trip["folder"] / "runs" / run / "metrics.json").read_text())["test"]["accuracy"]
        for run in ("quick", "A squeeze, net")
    }
    assert accuracy["quick"] > accuracy["A squeeze, net"]
    worse = trip["ran"]["worse"]
    assert worse["status"] == 0, worse["stderr"]
    commit = trip["server"].commit("models", "ann/quick")
    assert (
        f"warning: ann/quick holds a model with accuracy {accuracy['quick']:.4f} on the test split of package:textile; the one "
        f"that replaces it has {accuracy['A squeeze, net']:.4f} on its test split. The other stays at revision {commit}\n"
    ) in worse["stderr"]
    assert "plots/explanations.png" in _files(trip, "ann/quick", "worse")
    assert "warning" not in trip["ran"]["vit"]["stderr"]


@pytest.mark.parametrize(
    ("repo_id", "revision", "facts"),
    [
        ("ann/quick", "main", {"library_name": "transformers", "base_model": None, "license": "apache-2.0"}),
        ("ann/A-squeeze-net", "next/try", {"library_name": "hf_transfer", "base_model": None}),
        ("ann/vit-digits", "main", {"library_name": "transformers", "base_model": "ann/vit", "license": "mit"}),
    ],
)
def test_card__is_what_the_hub_accepts_and_tells_the_figures(trip, repo_id, revision, facts):
    text = _files(trip, repo_id, revision)["README.md"].decode()
    data = ModelCard(text).data
    assert {name: data.get(name) for name in facts} == facts
    assert data.pipeline_tag == "image-classification"
    metrics = json.loads(_files(trip, repo_id, revision)["metrics.json"])["test"]
    accuracy = next(result for result in data.eval_results if result.metric_type == "accuracy")
    assert (accuracy.metric_value, accuracy.dataset_split) == (metrics["accuracy"], "test")
    assert accuracy.metric_args["confidence_interval_95"] == metrics["accuracy_ci95"]
    assert repo_id in text and "plots/explanations.png" in text
    if revision != "main":
        assert f'revision="{revision}"' in text


def test_token__is_nowhere(trip):
    token = repositories.TOKEN.encode()
    places = [
        path for top in ("runs", "of", "maps", "hub/models") for path in (trip["folder"] / top).rglob("*") if path.is_file()
    ]
    assert len(places) > 50
    assert not [path for path in places if token in path.read_bytes()]
    said = [trip["launched"].stdout, trip["launched"].stderr, json.dumps(trip["ran"]), json.dumps(trip["reloaded"])]
    assert not [text for text in said if repositories.TOKEN in text]
    assert any(b"hf_transfer/run.py" in line for line in trip["lines"])
    assert not [line for line in trip["lines"] if token in line]
