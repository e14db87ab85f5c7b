"""Several labels an image through the whole way: real weights on pairs of real images, and every way to train."""

import json

import numpy as np
import pytest
from conformal_clip_data import textile_simulated_root
from PIL import Image
from sklearn.metrics import average_precision_score
from transformers import AutoModelForImageClassification
from transformers import pipeline as transformers_pipeline

from hf_transfer import pipeline
from hf_transfer.errors import BackboneError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics.multi_label import predicted_at, sigmoid
from hf_transfer.recipe import parse_recipe
from hf_transfer.report.history import read_history

CLASSES = ["global", "local", "nominal"]
PROBE = {"model": {"backbone": "package:efficientnet_lite0"}, "strategy": "linear_probe"}


def write_pairs(root, count, size=128, seed=0):
    """Write images that are two textile images side by side, and a listing whose labels are the classes of both."""
    root.mkdir()
    files = {name: sorted((textile_simulated_root() / name).glob("*.jpg")) for name in CLASSES}
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        pair = [str(name) for name in rng.choice(CLASSES, 2)]
        image = Image.new("RGB", (size, size))
        for place, name in enumerate(pair):
            with Image.open(files[name][rng.integers(len(files[name]))]) as half:
                image.paste(half.convert("RGB").resize((size // 2, size)), (place * size // 2, 0))
        image.save(root / f"{number:03}.jpg", quality=95)
        lines.append(json.dumps({"path": f"{number:03}.jpg", "label": sorted(set(pair))}))
    (root / "pairs.jsonl").write_text("\n".join(lines))
    return root / "pairs.jsonl"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs", 240)


@pytest.fixture(scope="module")
def run(launch, tmp_path_factory):
    """Carry out a recipe on a listing of several labels an image: its run directory, and what was said."""
    root = tmp_path_factory.mktemp("runs")

    def carry_out(name, source, *overrides, **sections):
        data = {"source": str(source), "task": "multi_label", "test_fraction": 0.25}
        recipe = {"output_dir": str(root / name), "data": data, **sections}
        (root / f"{name}.json").write_text(json.dumps(recipe))
        done = launch("hf_transfer/run.py", str(root / f"{name}.json"), *overrides)
        return root / name, done

    return carry_out


@pytest.fixture(scope="module")
def probe(run, pairs):
    further = write_pairs(pairs.parent.parent / "further", 30, seed=1)
    evaluation = {"splits": ["validation", "test"], "extra": {"further": str(further)}}
    root, done = run("probe", pairs, **PROBE, evaluation=evaluation)
    assert done.returncode == 0, done.stderr
    return root


def metrics_of(root):
    return json.loads((root / "metrics.json").read_text())


def test_probe__the_figures_are_those_of_the_predictions(probe):
    metrics, found = metrics_of(probe), Predictions.read(probe / "predictions" / "test.parquet")
    assert found.class_names == CLASSES
    assert (metrics["test"]["n"], metrics["thresholds_by"]) == (60, "validation")
    expected = [average_precision_score(found.labels[:, c], found.logits[:, c]) for c in range(3)]
    assert metrics["test"]["mean_average_precision"] == pytest.approx(np.mean(expected))
    assert list(metrics["thresholds"].values()) == found.thresholds.tolist()
    np.testing.assert_array_equal(found.predicted, predicted_at(found.logits, found.thresholds))
    low, high = metrics["test"]["mean_average_precision_ci95"]
    assert metrics["test"]["random_baseline"] < low < metrics["test"]["mean_average_precision"] < high
    shift = metrics["further"]["shift"]
    difference = metrics["further"]["mean_average_precision"] - metrics["test"]["mean_average_precision"]
    assert shift["mean_average_precision"] == pytest.approx(difference)
    assert shift["ci95"][0] < difference < shift["ci95"][1]
    assert json.loads((probe / "environment.json").read_text())["task"] == "multi_label"
    assert json.loads((probe / "probe.json").read_text())["selected_by"] == "mean_average_precision"
    assert "logme" not in (probe / "probe.json").read_text()


def test_probe__the_pipeline_of_the_saved_model_gives_the_same_probabilities(probe, pairs):
    found = Predictions.read(probe / "predictions" / "test.parquet")
    classify = transformers_pipeline("image-classification", model=str(probe / "model"), device="cpu")
    for row in range(4):
        scores = {answer["label"]: answer["score"] for answer in classify(str(pairs.parent / found.sample_ids[row]))}
        assert [scores[name] for name in CLASSES] == pytest.approx(sigmoid(found.logits[row]).tolist(), abs=2e-3)
    config = AutoModelForImageClassification.from_pretrained(probe / "model").config
    assert config.problem_type == "multi_label_classification"
    assert config.thresholds == found.thresholds.tolist()


def test_probe__an_evaluation_of_it_finds_the_same(run, probe, pairs):
    sections = {"mode": "evaluate", "model": {"backbone": str(probe)}, "evaluation": {"speed": False}}
    root, done = run("evaluation", pairs, **sections)
    assert done.returncode == 0, done.stderr
    assert "thresholds: those of the checkpoint, because validation is not among evaluation.splits" in done.stderr
    metrics, trained = metrics_of(root), metrics_of(probe)
    assert (metrics["thresholds"], metrics["thresholds_by"]) == (trained["thresholds"], "checkpoint")
    for name in ("mean_average_precision", "macro_f1", "subset_accuracy", "nll"):
        assert metrics["test"][name] == pytest.approx(trained["test"][name], abs=2e-3)


def test_evaluation__of_a_model_for_the_other_task(checkpoints, pairs, tmp_path):
    data = {"source": str(pairs), "task": "multi_label"}
    model = {"backbone": str(checkpoints / "resnet")}
    recipe = parse_recipe({"mode": "evaluate", "output_dir": str(tmp_path / "run"), "data": data, "model": model})
    with pytest.raises(BackboneError, match=r"data.task 'multi_label' needs a checkpoint of several labels an image"):
        pipeline.run(recipe)
    assert not (tmp_path / "run").exists()


TRAINING = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "disable_tqdm": True, "report_to": [], "use_cpu": True}
MIXED = {
    "loss": {"name": "focal", "class_weights": "balanced"},
    "augment": {"preset": "basic", "mixup": 0.2, "cutmix": 1.0},
    "ema": {"decay": 0.5},
    "early_stopping": {"patience": 5},
}
# Strategy to checkpoint and further sections.
WAYS = {
    "full": ("resnet", MIXED),
    "partial": ("resnet", {"strategy": {"name": "partial", "frozen_groups": 1}}),
    "two_phase": ("resnet", {}),
    "gradual": ("resnet", {"training": {**TRAINING, "num_train_epochs": 4}}),
    "discriminative": ("vit", {}),
    "complete": ("vit", {"training": {**TRAINING, "num_train_epochs": 4}}),
    "norm_only": ("resnet", {}),
    "lora": ("vit", {}),
    "custom": (
        "resnet",
        {
            "strategy": {
                "name": "custom",
                "phases": [{"name": "a", "train": ["head"], "epochs": 1}, {"name": "b", "train": ["*"]}],
            }
        },
    ),
    "linear_probe": ("vit", {"features": {"cache": False}}),
    "knn": ("vit", {"training": {"use_cpu": True}}),
    "hidden": ("resnet", {"strategy": "full", "hidden": [{"size": 8}]}),
}


def trained(run, checkpoints, source, way):
    checkpoint, sections = WAYS[way]
    hidden = {"head": {"hidden": sections["hidden"]}} if "hidden" in sections else {}
    sections = {name: value for name, value in sections.items() if name != "hidden"}
    model = {"backbone": str(checkpoints / checkpoint), **hidden}
    evaluation = {"splits": ["validation", "test"], **({"calibrate": True} if way != "knn" else {})}
    root, done = run(
        way, source, **({"model": model, "strategy": way, "training": TRAINING, "evaluation": evaluation} | sections)
    )
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(root)
    assert set(metrics["test"]) >= {"mean_average_precision", "subset_accuracy", "per_class", "random_baseline"}
    assert "accuracy" not in metrics["test"]
    if way != "knn":
        config = json.loads((root / "model" / "config.json").read_text())
        assert config["problem_type"] == "multi_label_classification"
        assert config["thresholds"] == list(metrics["thresholds"].values())
        assert metrics["temperature"] > 0
    return root


def test_training__focal_loss_of_mixed_images(run, checkpoints, tmp_path_factory):
    source = write_pairs(tmp_path_factory.mktemp("few") / "pairs", 40, size=32)
    root = trained(run, checkpoints, source, "full")
    assert read_history(root / "history.csv")[-1].phase == "full"


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "full"])
def test_training__every_way(run, checkpoints, tmp_path, way):
    trained(run, checkpoints, write_pairs(tmp_path / "pairs", 40, size=32), way)
