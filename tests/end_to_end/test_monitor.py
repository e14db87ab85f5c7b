"""Splits that are watched while a model trains, through the whole program: history, marks, reports, two processes."""

import csv
import json
import os
import socket
from pathlib import Path

import pytest

from hf_transfer.cli import main

TRAINING = {
    "learning_rate": 0.01,
    "per_device_train_batch_size": 16,
    "dataloader_num_workers": 0,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "logging_steps": 2,
    "max_steps": 6,
}
MONITOR = ["test", "train_20", "validation_10"]
SENTENCE = "The test split was scored 3 times while training; it chose nothing, but whoever watched it may have."


def write_recipe(path, checkpoint, monitor, **sections):
    raw = {
        "data": {
            "source": "package:digits",
            "test_fraction": 0.2,
            "max_train_samples": 48,
            "max_validation_samples": 21,
            "max_test_samples": 21,
        },
        "model": {"backbone": str(checkpoint)},
        "augment": {"preset": "none"},
        "evaluation": {"monitor": monitor},
        "training": TRAINING,
    }
    path.write_text(json.dumps(raw | sections))
    return str(path)


def rows_of(run):
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(checkpoints, tmp_path_factory):
    """Two runs, which differ in their seed."""
    root = tmp_path_factory.mktemp("watched")
    recipe = write_recipe(root / "recipe.json", checkpoints / "resnet", MONITOR)
    for seed in (0, 1):
        assert main(["run", recipe, f"output_dir={root}/runs/seed_{seed}", f"seed={seed}"]) == 0
    return root / "runs"


def test_monitor__rows_at_every_evaluation_and_the_run_is_marked(folder):
    run = folder / "seed_0"
    rows = [row for row in rows_of(run) if row["split"]]
    expected = [(str(step), split) for step in (2, 4, 6) for split in ("train", "validation", *MONITOR)]
    assert [(row["step"], row["split"]) for row in rows] == expected
    assert all(row["loss"] and row["accuracy"] and row["macro_f1"] for row in rows if row["split"] != "train")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["monitored"] == {"train_20": 3, "test": 3, "validation_10": 3}
    assert set(metrics) == {"train", "validation", "test", "cost", "monitored"}
    card = (run / "README.md").read_text()
    assert SENTENCE in card
    assert "these splits were watched as well, without a say in it: test, train_20, validation_10." in card.replace("\\", "")
    assert SENTENCE in (run / "report.html").read_text()


def test_monitor__test_row_of_the_best_step_is_the_test_figure(folder):
    """In float32 the weights that are kept are scored alike while training and afterwards."""
    for run in folder.iterdir():
        rows = rows_of(run)
        best = max((row for row in rows if row["split"] == "validation"), key=lambda row: float(row["accuracy"]))
        (row,) = [row for row in rows if (row["step"], row["split"]) == (best["step"], "test")]
        test = json.loads((run / "metrics.json").read_text())["test"]
        assert float(row["accuracy"]) == pytest.approx(test["accuracy"])
        assert float(row["loss"]) == pytest.approx(test["nll"], abs=1e-4)


def test_monitor__printed_summary_carries_the_sentence(folder, checkpoints, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "recipe.json", checkpoints / "resnet", ["test_3"], training={**TRAINING, "max_steps": 2})
    assert main(["run", recipe, f"output_dir={tmp_path}/run"]) == 0
    said = "warning: The first 3 images of the test split were scored once while training; they chose nothing, "
    assert said + "but whoever watched them may have." in capsys.readouterr().out


def test_monitor__summary_and_report_of_a_folder_show_the_splits(folder, capsys):
    assert main(["report", str(folder), "--summary", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert list(summary) == ["train", "validation", *MONITOR]
    for line in summary["test"]:
        rows = rows_of(folder / line["run"])
        validation = [row for row in rows if row["split"] == "validation"]
        chosen = max(validation, key=lambda row: (float(row["accuracy"]), -int(row["step"])))
        test = {int(row["step"]): float(row["accuracy"]) for row in rows if row["split"] == "test"}
        assert (line["step"], line["accuracy"]) == (int(chosen["step"]), test[int(chosen["step"])])
        assert line["best_accuracy_not_selectable"] == max(test.values())
    assert main(["report", str(folder), "--overlay", "seed_*"]) == 0
    said = "Test images were scored while 2 of the 2 runs trained: they chose nothing, but whoever watched them may have."
    assert said in json.loads((folder / "leaderboard.json").read_text())["tables"][0]["warnings"]
    assert '"splits":["validation","test","train_20","validation_10","train"]' in (folder / "report.html").read_text()
    drawn = (folder / "plots" / "overlay.svg").read_text()
    assert all(f"<!-- {split} -->" in drawn for split in MONITOR)  # in the legend


def test_monitor__a_range_test_needs_nothing_of_what_is_watched(checkpoints, tmp_path):
    evaluation = {"monitor": ["more", "train_9999"], "extra": {"more": "package:digits"}}
    recipe = write_recipe(tmp_path / "recipe.json", checkpoints / "resnet", [], evaluation=evaluation)
    words = ["--steps", "12", "--low", "1e-3", "--high", "1e-1", "--plot", str(tmp_path / "rates.png")]
    assert main(["find-lr", recipe, *words]) == 0


@pytest.mark.parametrize(
    ("monitor", "sections", "message"),
    [
        (
            ["train_200", "test_50"],
            {},
            "evaluation.monitor: 'train_200': expected at most the 48 images that train has; 'test_50': expected at most "
            "the 21 images that test has",
        ),
        (
            ["test"],
            {"strategy": "linear_probe", "training": {"use_cpu": True, "bf16": False, "dataloader_num_workers": 0}},
            "evaluation.monitor: strategy 'linear_probe' fits its head on features that are computed once, and evaluates "
            "nothing meanwhile; leave it out, or set features.cache to false for a training with evaluations",
        ),
    ],
)
def test_monitor__what_cannot_be_watched_is_said_before_anything_is_written(
    checkpoints, tmp_path, capsys, monitor, sections, message
):
    recipe = write_recipe(tmp_path / "recipe.json", checkpoints / "resnet", monitor, **sections)
    for words in (["run", recipe, f"output_dir={tmp_path}/run"], ["check", "--data", recipe]):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_monitor__a_study_with_cells_that_cannot_be_watched_begins_none(checkpoints, tmp_path, capsys):
    base = json.loads(Path(write_recipe(tmp_path / "recipe.json", checkpoints / "resnet", ["test"])).read_text())
    base.pop("output_dir", None)
    axes = {"strategy": ["full", "linear_probe"]}
    base["training"] = {"num_train_epochs": 1}
    (tmp_path / "study.json").write_text(json.dumps({"base": base, "axes": axes, "output_dir": str(tmp_path / "study")}))
    assert main(["study", str(tmp_path / "study.json")]) == 2
    assert "evaluation.monitor: strategy 'linear_probe' fits its head on features" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_monitor__under_two_processes_every_image_once(checkpoints, tmp_path, launch):
    """Weights that hardly move are scored alike by one process and by two, also where the images do not go up in batches."""
    found = []
    for processes in (1, 2):
        place = tmp_path / str(processes)
        place.mkdir()
        recipe = write_recipe(
            place / "recipe.json",
            checkpoints / "vit",
            ["train", "train_7", "test", "validation_5"],
            output_dir=str(place / "run"),
            training={
                **TRAINING,
                "learning_rate": 1e-12,
                "per_device_train_batch_size": 16 // processes,
                "per_device_eval_batch_size": 4,
            },
        )
        if processes == 1:
            assert main(["run", recipe]) == 0
        else:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            launcher = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
            launcher += ["--main_process_port", str(port)]
            done = launch(*launcher, "hf_transfer/run.py", recipe, env={**os.environ, "OMP_NUM_THREADS": "1"})
            assert done.returncode == 0, done.stderr[-3000:]
        found.append([row for row in rows_of(place / "run") if row["split"] not in ("", "train", "validation")])
        metrics = json.loads((place / "run" / "metrics.json").read_text())
        assert metrics["monitored"] == {"train_all": 3, "train_7": 3, "test": 3, "validation_5": 3}
        last = {row["split"]: row for row in found[-1]}
        for row, split in (("train_all", "train"), ("test", "test")):
            assert float(last[row]["accuracy"]) == pytest.approx(metrics[split]["accuracy"])
            assert float(last[row]["loss"]) == pytest.approx(metrics[split]["nll"], abs=1e-5)
    one, two = found
    assert len(one) == len(two) == 12
    for row, other in zip(one, two, strict=True):
        assert (row["step"], row["split"], row["accuracy"]) == (other["step"], other["split"], other["accuracy"])
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), abs=1e-6)
