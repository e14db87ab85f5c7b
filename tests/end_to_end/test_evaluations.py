"""Evaluation without training: further test sets, views, corruptions, speed, several checkpoints at once, calibration."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_transfer.cli import main
from hf_transfer.data.build import build_splits
from hf_transfer.data.images import decode_rgb
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics.intervals import newcombe_difference
from hf_transfer.metrics.temperature import fit_temperature
from hf_transfer.recipe.schema import Data


def read_metrics(root):
    return json.loads((root / "metrics.json").read_text())


@pytest.fixture(scope="module")
def trained(checkpoints, tmp_path_factory):
    """A run on 120 digits, good enough to be right now and then; its recipe asks for nothing but the test split."""
    root = tmp_path_factory.mktemp("trained")
    raw = {
        "output_dir": str(root / "run"),
        "data": {"source": "package:digits", "test_fraction": 0.2, "max_train_samples": 200, "max_test_samples": 100},
        "model": {"backbone": str(checkpoints / "resnet")},
        "evaluation": {"splits": ["test"]},
        "training": {"num_train_epochs": 5, "learning_rate": 0.02, "disable_tqdm": True, "report_to": []},
    }
    (root / "recipe.json").write_text(json.dumps(raw))
    assert main(["run", str(root / "recipe.json")]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def dark(tmp_path_factory):
    """Another camera: thirty test digits at half the brightness, of three classes only, in folders."""
    root = tmp_path_factory.mktemp("dark")
    table = build_splits(Data(source="package:digits", test_fraction=0.2), ["test"], training=False).tables["test"]
    for label in (1, 4, 7):
        (root / str(label)).mkdir()
        for index in np.flatnonzero(table.labels == label)[:10]:
            pixels = np.asarray(decode_rgb(table.encoded(int(index)))) // 2
            Image.fromarray(pixels).save(root / str(label) / f"{index}.png")
    return root


def test_extra__is_scored_beside_the_test_split_of_every_strategy(recipe, dark, tmp_path, capsys):
    for strategy in ("full", "linear_probe", "knn"):
        output = tmp_path / strategy
        path = recipe(output_dir=str(output), strategy=strategy, evaluation={"splits": ["test"], "extra": {"dark": str(dark)}})
        if strategy == "knn":
            raw = json.loads(Path(path).read_text())
            raw["training"] = {}
            Path(path).write_text(json.dumps(raw))
        assert main(["run", path]) == 0
        metrics = read_metrics(output)
        found, base = metrics["dark"], metrics["test"]
        assert found["n"] == 30 and found["per_class"]["0"]["n"] == 0
        assert found["shift"]["against"] == "test"
        assert found["shift"]["accuracy"] == found["accuracy"] - base["accuracy"]
        right = [round(scores["accuracy"] * scores["n"]) for scores in (found, base)]
        assert found["shift"]["ci95"] == list(newcombe_difference(right[0], 30, right[1], 40))
        predictions = Predictions.read(output / "predictions" / "dark.parquet")
        assert sorted(set(predictions.labels.tolist())) == [1, 4, 7]
        assert float((predictions.predicted == predictions.labels).mean()) == found["accuracy"]
        assert "dark" in capsys.readouterr().out


def test_extra__of_other_classes_is_refused(recipe, tmp_path, dark, capsys):
    (tmp_path / "more" / "kiwi").mkdir(parents=True)
    (tmp_path / "more" / "1").mkdir()
    for name in ("kiwi", "1"):
        Image.new("RGB", (8, 8)).save(tmp_path / "more" / name / "x.png")
    assert main(["run", recipe(evaluation={"extra": {"fruit": str(tmp_path / "more")}})]) == 2
    assert capsys.readouterr().err == (
        "error: evaluation.extra.fruit: expected classes of the data set (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), matched by name; "
        "found kiwi besides\n"
    )
    assert not (tmp_path / "run").exists()


def test_extra__that_is_not_there(recipe, tmp_path, capsys):
    assert main(["run", recipe(evaluation={"extra": {"winter": "./nowhere"}})]) == 2
    assert "error: evaluation.extra.winter: data.source: no such folder: ./nowhere" in capsys.readouterr().err


def test_evaluate__on_the_data_of_the_run_itself(trained, tmp_path, capsys):
    assert main(["evaluate", str(trained), "--output-dir", str(tmp_path / "again"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["test"] == read_metrics(trained)["test"]
    speed = found["speed"]
    assert 0 < speed["latency_ms"] <= speed["latency_p95_ms"]
    assert speed["images_per_second"] > 0 and speed["batch_size"] >= 1 and speed["flops"] > 0
    assert speed["parameters"] == found["cost"]["parameters"]


def test_evaluate__on_training_images_says_so(trained, tmp_path, capsys):
    output = tmp_path / "all"
    assert (
        main(["evaluate", str(trained), "--data", "package:digits", "--output-dir", str(output), "evaluation.speed=false"]) == 0
    )
    assert (
        "warning: 200 of the 1797 images of test were training images of this model: its figures there say how well it "
        "remembers" in capsys.readouterr().err
    )
    assert json.loads((output / "environment.json").read_text())["seen_in_training"] == {"test": 200}


def test_evaluate__views_and_corruptions(trained, tmp_path, capsys):
    output = tmp_path / "views"
    small = ["evaluation.speed=false", "data.max_test_samples=40"]
    arguments = ["evaluate", str(trained), "--corruptions", "gaussian_noise", "brightness", *small]
    assert main([*arguments, "--tta", "flip", "--output-dir", str(output)]) == 2
    assert "evaluation.tta: corrupted images are scored in one view" in capsys.readouterr().err
    assert main([*arguments, "--output-dir", str(output)]) == 0
    metrics = read_metrics(output)
    robustness = metrics["test"]["robustness"]
    assert list(robustness) == ["gaussian_noise", "brightness"]
    for severities in robustness.values():
        assert list(severities) == ["1", "2", "3", "4", "5"]
        for found in severities.values():
            assert found["accuracy_ci95"][0] <= found["accuracy"] <= found["accuracy_ci95"][1]
    assert "speed" not in metrics
    output = tmp_path / "turned"
    assert main(["evaluate", str(trained), "--tta", "flip", "--output-dir", str(output), *small]) == 0
    probabilities = np.exp(Predictions.read(output / "predictions" / "test.parquet").logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)


def test_evaluate__never_over_the_model_that_it_evaluates(trained, capsys):
    assert main(["evaluate", str(trained), "--output-dir", str(trained), "--overwrite"]) == 2
    assert capsys.readouterr().err == (
        f"error: output_dir: {trained} holds the model that is evaluated; nothing was touched. Choose another one.\n"
    )
    assert (trained / "model" / "model.safetensors").is_file()


def test_evaluate__a_split_that_the_run_did_not_score(trained, capsys):
    assert main(["evaluate", str(trained), "--split", "train"]) == 2
    assert capsys.readouterr().err == (
        f"error: evaluate: {trained} scored no train split; choose another with --split, or say --data SOURCE\n"
    )


def test_evaluate__without_data_needs_a_run(checkpoints, trained, capsys):
    assert main(["evaluate", str(trained), str(checkpoints / "vit")]) == 2
    assert capsys.readouterr().err == (
        "error: evaluate: expected --data SOURCE; only the directory of a training run says what to evaluate on, and "
        f"{checkpoints / 'vit'} is none\n"
    )


def test_benchmark__every_checkpoint_on_every_data_set(trained, checkpoints, dark, tmp_path, capsys):
    root = tmp_path / "benchmark"
    arguments = [str(trained), str(checkpoints / "vit"), "--data", "package:digits", str(dark), "--output-dir", str(root)]
    arguments.append("evaluation.speed=false")
    assert main(["evaluate", *arguments, "data.max_test_samples=30"]) == 2, "an override of a list is refused"
    assert "cannot be set: 'data' is a list" in capsys.readouterr().err
    assert not root.exists()

    # The ViT has seven classes of its own and the dark digits three of ten: three of the four pairs cannot be scored.
    assert main(["evaluate", *arguments, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["data"], row["n"]) for row in told["rows"]] == [(str(trained), "package:digits", 1797)]
    assert [(item["model"], item["data"]) for item in told["failed"]] == [
        (str(checkpoints / "vit"), "package:digits"),
        (str(trained), str(dark)),
        (str(checkpoints / "vit"), str(dark)),
    ]
    assert all("the classes of the data set and of the checkpoint differ" in item["error"] for item in told["failed"])
    saved = json.loads((root / "benchmark.json").read_text())
    assert saved["rows"] == told["rows"] and saved["failed"] == told["failed"]
    row = next(csv.DictReader((root / "benchmark.csv").read_text().splitlines()))
    assert float(row["accuracy_low"]) <= float(row["accuracy"]) <= float(row["accuracy_high"])
    text = (root / "benchmark.md").read_text()
    assert f"| {trained} | package:digits | test | 1,797 |" in text.replace("\\", "")
    assert "200 of the 1797 images were its training images" in text.replace("\\", "")

    assert main(["evaluate", *arguments]) == 2, "a benchmark that is there is not touched"
    assert "holds a benchmark; nothing was touched" in capsys.readouterr().err
    assert main(["evaluate", str(trained / "model"), str(trained), "--data", str(dark), "--output-dir", str(root)]) == 2
    assert json.loads((root / "benchmark.json").read_text()) == saved
    capsys.readouterr()
    before = (root / "package-digits" / "run" / "metrics.json").stat().st_mtime_ns
    assert main(["evaluate", *arguments, "--resume"]) == 2, "what could not be scored is tried again"
    assert (root / "package-digits" / "run" / "metrics.json").stat().st_mtime_ns == before
    assert "not scored:" in capsys.readouterr().out
    weights = trained / "model" / "config.json"
    weights.write_text(weights.read_text() + " ")
    try:
        assert main(["evaluate", *arguments, "--resume"]) == 2
        assert "which has changed since" in capsys.readouterr().err
    finally:
        weights.write_text(weights.read_text().rstrip(" "))


def test_benchmark__from_a_recipe(trained, checkpoints, tmp_path, capsys):
    raw = {
        "mode": "evaluate",
        "description": "Two runs on the digits",
        "output_dir": str(tmp_path / "b"),
        "data": {"source": "package:digits", "test_fraction": 0.2, "max_test_samples": 50},
        "model": [{"backbone": str(trained)}, {"backbone": str(trained / "model")}],
        "evaluation": {"label_map": "cifar10_imagenet", "speed": False},
    }
    path = tmp_path / "b.json"
    path.write_text(json.dumps(raw))
    assert main(["check", str(path), "--data"]) == 0
    assert main(["run", str(path)]) == 0, "a label map for other classes leaves checkpoints of these classes alone"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 10 classes; images: test 50"
    assert [line.split()[0] for line in lines[3:5]] == [str(trained), str(trained / "model")]
    rows = json.loads((tmp_path / "b" / "benchmark.json").read_text())["rows"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]


def test_benchmark__foreign_directory_is_not_touched(trained, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    arguments = [str(trained), str(trained / "model"), "--data", "package:digits", "--output-dir", str(tmp_path / "mine")]
    assert main(["evaluate", *arguments, "--overwrite"]) == 2
    assert "is not empty and holds no benchmark (thesis.tex); nothing was touched" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("strategy", ["full", "linear_probe"])
def test_calibrate__scales_the_logits_and_moves_no_prediction(recipe, tmp_path, strategy):
    found = {}
    for calibrate in (False, True):
        output = tmp_path / str(calibrate)
        sections = {"output_dir": str(output), "strategy": strategy, "training": {"num_train_epochs": 4}}
        assert main(["run", recipe(**sections, evaluation={"calibrate": calibrate})]) == 0
        found[calibrate] = read_metrics(output), Predictions.read(output / "predictions" / "test.parquet")
    plain, scaled = found[False], found[True]
    temperature = scaled[0]["temperature"]
    assert temperature > 0 and abs(temperature - 1) > 0.01 and "temperature" not in plain[0]
    np.testing.assert_allclose(scaled[1].logits * temperature, plain[1].logits, rtol=1e-3, atol=1e-3)
    assert (scaled[1].predicted == plain[1].predicted).all()
    validation = Predictions.read(tmp_path / "True" / "predictions" / "validation.parquet")
    assert fit_temperature(validation.logits, validation.labels) == pytest.approx(1.0, abs=2e-3)
    assert scaled[0]["validation"]["nll"] < plain[0]["validation"]["nll"]
    assert scaled[0]["validation"]["accuracy"] == plain[0]["validation"]["accuracy"]
