"""A leaderboard of synthetic runs: who is compared with whom, by what, and what is said of it."""

import csv
import json

import numpy as np
import pytest

from hf_transfer.backbones.shortlist import shortlist
from hf_transfer.errors import UserError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report.leaderboard import build_leaderboard, write_leaderboard
from hf_transfer.report.leaderboard_table import leaderboard_markdown, leaderboard_text

N = 400


@pytest.fixture
def write_run(tmp_path):
    def write(
        name, accuracy, *, seed=0, n=N, validation=None, backbone="timm:resnet18", strategy="full", seconds=10.0, **recipe
    ):
        run = tmp_path / "study" / name
        (run / "predictions").mkdir(parents=True)
        recipe = {
            "seed": seed,
            "data": {"source": "cats"},
            "model": {"backbone": backbone},
            "strategy": {"name": strategy},
            **recipe,
        }
        (run / "recipe.json").write_text(json.dumps(recipe))
        # Which images are hard is the same for every run; a seed moves the border a little.
        difficulty = np.random.default_rng(1).permutation(n) / n
        wrong = difficulty + np.random.default_rng([seed, len(name)]).normal(0, 0.02, n) > accuracy
        labels = np.arange(n) % 2
        predicted = np.where(wrong, 1 - labels, labels)
        order = np.random.default_rng(seed).permutation(n)  # files list images in any order
        ids = [f"{place:04d}.png" for place in range(n)]
        Predictions(
            [ids[place] for place in order],
            [None] * n,
            labels[order],
            predicted[order].astype(np.int64),
            np.eye(2, dtype=np.float32)[predicted][order],
            ["cat", "dog"],
        ).write(run / "predictions" / "test.parquet")
        metrics = {
            "validation": {"accuracy": accuracy},
            "test": {"accuracy": float(1 - wrong.mean()), "n": n, "majority_baseline": 0.5},
            "cost": {
                "train_seconds": seconds,
                "parameters": 1000,
                "trainable_parameters": {"head": 10, "all": 1000},
                "device": "CPU",
            },
        }
        (run / "metrics.json").write_text(json.dumps(metrics))
        (run / "README.md").write_text("# Card")
        return run

    return write


def test_build_leaderboard__seeds_of_a_candidate_in_one_row_and_the_verdict(write_run, tmp_path):
    for seed in range(3):
        write_run(f"a{seed}", 0.90, seed=seed, backbone="timm:resnet50", seconds=30.0 + seed)
        write_run(f"bb{seed}", 0.89, seed=seed, backbone="timm:resnet18", seconds=10.0)
        write_run(f"ccc{seed}", 0.60, seed=seed, backbone="package:efficientnet_lite0", seconds=1.0)
    board = build_leaderboard(tmp_path / "study")
    (table,) = board.tables
    assert set(table.rows) == {"resnet50", "resnet18", "efficientnet_lite0"}
    assert table.rows["resnet50"].seeds == (0, 1, 2)
    assert table.rows["resnet50"].runs == ("a0", "a1", "a2")
    assert table.rows["resnet50"].costs["train_seconds"] == 32.0
    assert table.rows["resnet50"].costs["trainable_parameters"] == 1000
    assert table.rows["resnet50"].majority_baseline == 0.5
    assert (table.verdict.leader, table.verdict.cheapest) == ("resnet50", "resnet18")
    assert set(table.verdict.tied) == {"resnet50", "resnet18"}
    outcomes = {comparison.name: comparison.outcome for comparison in table.verdict.comparisons}
    assert outcomes == {"resnet18": "tied", "efficientnet_lite0": "worse"}
    assert table.warnings == (
        "Every fine-tuned candidate had the same learning rate (untuned): part of a difference may be whom that rate suits.",
    )


def test_build_leaderboard__runs_on_other_images_stand_apart(write_run, tmp_path):
    write_run("a", 0.9, backbone="timm:resnet50")
    write_run("b", 0.9, backbone="timm:resnet18")
    write_run("c", 0.9, backbone="timm:resnet18", n=100)
    board = build_leaderboard(tmp_path / "study")
    assert [(len(table.rows), table.verdict.images) for table in board.tables] == [(2, 400), (1, 100)]


def test_build_leaderboard__says_what_is_not_in_it(write_run, tmp_path):
    write_run("whole", 0.9)
    (write_run("cut", 0.9, seed=1) / "README.md").unlink()
    (write_run("broken", 0.9, seed=2) / "predictions/test.parquet").unlink()
    board = build_leaderboard(tmp_path / "study")
    assert board.unfinished == ("cut",)
    assert list(board.left_out) == ["broken"]
    text = leaderboard_text(board)
    assert "Not finished: cut." in text and "Left out: broken: " in text


def test_build_leaderboard__what_makes_a_comparison_unfair_is_said(write_run, tmp_path):
    run = write_run("a", 0.9, backbone="timm:resnet50")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["cost"]["device"] = "NVIDIA H100"
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "environment.json").write_text(json.dumps({"class_counts": {"train": {"cat": 5, "dog": 5}}}))
    (run / "model").mkdir()
    (run / "model/config.json").write_text(json.dumps({"pretrained_cfg": {"input_size": [3, 288, 288]}}))
    for seed in range(2):
        write_run(f"b{seed}", 0.9, seed=seed, backbone="timm:resnet18", training={"learning_rate": 0.1})
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert table.warnings == (
        "Not all candidates have the same number of seeds; fewer have: resnet50.",
        "The times come from different machines (CPU; NVIDIA H100) and cannot be compared.",
        "The networks see images of different sizes: part of a difference may be the resolution.",
        "The candidates were trained on different numbers of images.",
    )


def test_build_leaderboard__other_keys_tell_runs_apart_where_need_be(write_run, tmp_path):
    write_run("a", 0.9, training={"learning_rate": 0.1, "dataloader_num_workers": 1})
    write_run("b", 0.9, training={"learning_rate": 0.2, "dataloader_num_workers": 2}, description="other")
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert {name: row.values for name, row in table.rows.items()} == {
        "0.1": {"training.learning_rate": 0.1},
        "0.2": {"training.learning_rate": 0.2},
    }


def test_build_leaderboard__nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"expected run directories in .*, found none"):
        build_leaderboard(tmp_path)


def test_write_leaderboard__json_csv_and_markdown_hold_the_same_figures(write_run, tmp_path):
    root = tmp_path / "study"
    for seed in range(2):
        write_run(f"a{seed}", 0.9, seed=seed, backbone="timm:resnet50")
        write_run(f"b{seed}", 0.7, seed=seed, backbone="timm:<b>net|x")
    board = build_leaderboard(root)
    write_leaderboard(root, board, leaderboard_markdown(board, "Which one, on /home/ann/cats?"))
    with (root / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    saved = json.loads((root / "leaderboard.json").read_text())
    standings = saved["tables"][0]["verdict"]["standings"]
    assert [line["name"] for line in lines] == [standing["name"] for standing in standings] == ["resnet50", "<b>net|x"]
    assert [float(line["accuracy"]) for line in lines] == [standing["accuracy"] for standing in standings]
    assert [line["leader"] for line in lines] == ["True", "False"]
    text = (root / "leaderboard.md").read_text()
    assert "Which one, on cats?" in text and "&lt;b&gt;net\\|x" in text
    assert f"{standings[0]['accuracy']:.4f}" in text and board.tables[0].verdict.words.split(":")[0] in text


def test_build_leaderboard__published_imagenet_accuracy_is_a_share_as_the_others_are(write_run, tmp_path):
    listed = next(entry for entry in shortlist() if entry.imagenet_top1 is not None)
    write_run("a", 0.9, backbone=listed.name)
    (table,) = build_leaderboard(tmp_path / "study").tables
    (row,) = table.rows.values()
    assert row.imagenet_top1 == listed.imagenet_top1 / 100
    assert row.pretraining == listed.pretraining
