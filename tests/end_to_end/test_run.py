"""One recipe through the whole way: what is in the run directory, and whether it is true."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.data.images import decode_rgb
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.recipe import load_recipe
from hf_transfer.run_directory import RunDirectory


def test_run__directory_is_complete(finished_run):
    root, _ = finished_run
    expected = {
        "recipe.json",
        "environment.json",
        "metrics.json",
        "history.csv",
        "predictions",
        "model",
        "README.md",
        "report.html",
        "calibration.json",
        "plots",
        "tensorboard",
        "checkpoints",
    }
    assert {path.name for path in root.iterdir()} == expected
    assert {path.name for path in (root / "predictions").iterdir()} == {"validation.parquet", "test.parquet"}
    assert {path.name for path in (root / "plots").iterdir()} == {
        "curves.png",
        "confusion_matrix.png",
        "per_class.png",
        "reliability.png",
        "top_losses.png",
        "confused_pairs.png",
    }
    assert {path.name for path in (root / "model").iterdir()} == {"config.json", "model.safetensors"}
    assert any((root / "tensorboard").iterdir())
    assert not list(root.rglob("training_args.bin"))
    assert not list(root.rglob("*.tmp"))
    assert RunDirectory(root).is_finished


def test_run__metrics_have_every_key_of_the_contract(metrics):
    assert set(metrics) == {"train", "validation", "test", "cost"}
    keys = {
        "accuracy",
        "accuracy_ci95",
        "balanced_accuracy",
        "macro_f1",
        "per_class",
        "nll",
        "ece",
        "majority_baseline",
        "n",
        "skipped",
    }
    for split, n in (("train", 48), ("validation", 24), ("test", 24)):
        assert set(metrics[split]) == keys  # three classes: no top-5 accuracy
        assert metrics[split]["n"] == n
        assert metrics[split]["skipped"] == 0
        assert metrics[split]["majority_baseline"] == 0.5
        assert set(metrics[split]["per_class"]) == {"global", "local", "nominal"}
    assert set(metrics["cost"]) == {
        "train_seconds",
        "total_seconds",
        "parameters",
        "trainable_parameters",
        "peak_memory_mb",
        "images_per_second",
        "device",
        "precision",
    }
    assert metrics["cost"]["trainable_parameters"] == {"full": metrics["cost"]["parameters"]}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_run__figures_are_those_of_the_saved_model(finished_run, metrics, split):
    root, _ = finished_run
    model = AutoModelForImageClassification.from_pretrained(root / "model").eval()
    processor = AutoImageProcessor.from_pretrained(root / "model")
    predictions = Predictions.read(root / "predictions" / f"{split}.parquet")
    images = [decode_rgb(Path(path).read_bytes()) for path in predictions.paths]
    with torch.no_grad():
        logits = model(**processor(images, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(logits, predictions.logits, atol=1e-4)
    assert (logits.argmax(axis=1) == predictions.labels).mean() == pytest.approx(metrics[split]["accuracy"])
    assert [model.config.id2label[i] for i in range(3)] == predictions.class_names


def test_run__pipeline_in_a_process_that_never_heard_of_us(finished_run, launch):
    root, _ = finished_run
    predictions = Predictions.read(root / "predictions" / "test.parquet")
    script = (
        "import json, sys\n"
        "from transformers import pipeline\n"
        "classifier = pipeline('image-classification', model=sys.argv[1])\n"
        "labels = [answer[0]['label'] for answer in classifier(json.load(sys.stdin), top_k=1)]\n"
        "assert not any(name.startswith('hf_transfer') for name in sys.modules)\n"
        "print(json.dumps(labels))\n"
    )
    done = launch("-c", script, str(root / "model"), input=json.dumps(predictions.paths))
    assert done.returncode == 0, done.stderr
    labels = json.loads(done.stdout.splitlines()[-1])
    assert labels == [predictions.class_names[i] for i in predictions.predicted]


def test_run__loads_in_timm(finished_run):
    import timm

    root, _ = finished_run
    network = timm.create_model(f"local-dir:{root / 'model'}", pretrained=True).eval()
    stock = AutoModelForImageClassification.from_pretrained(root / "model").eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(network(image), stock(pixel_values=image).logits)


def test_run__the_kept_model_is_the_best_on_validation(finished_run):
    root, _ = finished_run
    with (root / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluations = [row for row in rows if row["split"] == "validation"]
    assert [float(row["epoch"]) for row in evaluations] == [1.0, 2.0]
    best = max(evaluations, key=lambda row: float(row["accuracy"]))
    state = json.loads(next((root / "checkpoints").glob(f"checkpoint-{best['step']}/trainer_state.json")).read_text())
    assert state["best_global_step"] == int(best["step"])
    saved = AutoModelForImageClassification.from_pretrained(root / "model").state_dict()
    kept = AutoModelForImageClassification.from_pretrained(root / "checkpoints" / f"checkpoint-{best['step']}").state_dict()
    assert saved.keys() == kept.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, kept[name]), name


def test_run__resolved_recipe_repeats_the_run(finished_run):
    root, _ = finished_run
    recipe = load_recipe(root / "recipe.json")
    assert recipe.output_dir == str(root)
    assert recipe.training["per_device_train_batch_size"] == 16
    assert recipe.training["eval_strategy"] == "epoch"
    assert recipe.data.max_train_samples == 48


def test_run__environment_tells_where_figures_come_from(finished_run):
    root, _ = finished_run
    environment = json.loads((root / "environment.json").read_text())
    assert environment["class_counts"]["test"] == {"global": 6, "local": 6, "nominal": 12}
    assert environment["backbone_license"] == "apache-2.0"
    assert environment["data_hub_id"] is None
    assert {"torch", "transformers", "timm"} <= environment["versions"].keys()
    assert len(environment["data_fingerprint"]) == 32


def test_run__summary_is_printed(finished_run, metrics):
    root, done = finished_run
    line = next(line for line in done.stdout.splitlines() if line.startswith("test"))
    assert f"{metrics['test']['accuracy']:.4f}" in line
    assert f"run directory: {root}" in done.stdout


def test_run__interval_surrounds_the_accuracy(metrics):
    low, high = metrics["test"]["accuracy_ci95"]
    assert 0 <= low < metrics["test"]["accuracy"] < high <= 1 or metrics["test"]["accuracy"] in (0, 1)
    assert math.isfinite(metrics["test"]["nll"])


def test_run__a_finished_run_is_not_touched(finished_run, launch):
    root, _ = finished_run
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    done = launch("hf_transfer/run.py", "recipes/quickstart.json", f"output_dir={root}")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: output_dir: {root} holds a finished run; nothing was touched. Choose another output_dir, or start anew "
        "with --overwrite."
    )
    done = launch("hf_transfer/run.py", str(root / "recipe.json"), "--resume")
    assert done.returncode == 0, "a finished run has nothing to resume, which is no mistake"
    assert f"run directory: {root}" in done.stdout
    done = launch("hf_transfer/run.py", str(root / "recipe.json"), "training.learning_rate=0.5", "--resume")
    assert done.returncode == 2
    assert "training.learning_rate: was 0.001, is 0.5" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
