"""A leaderboard of synthetic runs: who is compared with whom, by what, and what is said of it."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from hf_transfer.backbones.shortlist import shortlist
from hf_transfer.errors import UserError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report.leaderboard import build_leaderboard, csv_lines, write_leaderboard
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
        "No fine-tuned candidate was tuned: part of a difference may be whom its learning rate suits.",
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


def _add(run, name, content):
    """Write a JSON file of a run, or add to the one that is there."""
    there = json.loads((run / name).read_text()) if (run / name).exists() else {}
    (run / name).write_text(json.dumps(there | content))


def test_build_leaderboard__a_network_that_was_timed_once_is_timed_for_all_its_rows(write_run, tmp_path):
    probe = write_run("probe", 0.8, strategy="linear_probe")
    write_run("tuned", 0.9, strategy="full")
    write_run("bytes", 0.9, strategy="quantized_probe")
    write_run("near", 0.9, strategy="knn")  # its search is not timed
    write_run("other", 0.9, strategy="full", backbone="timm:resnet50")
    _add(probe, "metrics.json", {"speed": {"latency_ms": 7.5}})
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert {row.strategy: row.costs["latency_ms"] for row in table.rows.values() if row.backbone == "timm:resnet18"} == {
        "linear_probe": 7.5,
        "full": 7.5,
        "quantized_probe": None,
        "knn": None,
    }
    assert "7.5 ms" in leaderboard_text(build_leaderboard(tmp_path / "study"))
    assert build_leaderboard(tmp_path / "study", cheapest_by="latency_ms").tables[0].verdict.cost == "latency_ms"


def test_build_leaderboard__the_trials_of_a_search_are_no_runs_of_the_study(write_run, tmp_path):
    write_run("cells/a", 0.9)
    write_run("tuning/a/trial-1", 0.8)
    (tmp_path / "study/study.json").write_text(json.dumps({"cells": {"a": {"model.backbone": "timm:resnet18"}}}))
    board = build_leaderboard(tmp_path / "study")
    assert [row.runs for row in board.tables[0].rows.values()] == [("cells/a",)]


def test_build_leaderboard__training_time_is_that_of_a_run_of_its_own(write_run, tmp_path):
    first = write_run("first", 0.9, strategy="linear_probe", seconds=21.0)
    second = write_run("second", 0.9, strategy="linear_probe", backbone="timm:resnet50", seconds=1.5)
    for run, spent in ((first, 20.0), (second, 0.5)):
        cost = json.loads((run / "metrics.json").read_text())["cost"]
        _add(run, "metrics.json", {"cost": cost | {"extraction_spent_seconds": spent, "extraction_seconds": 20.0}})
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert {row.backbone: row.costs["train_seconds"] for row in table.rows.values()} == {
        "timm:resnet18": 21.0,
        "timm:resnet50": 21.0,
    }


def test_build_leaderboard__a_search_is_shown_and_an_unequal_one_is_said(write_run, tmp_path):
    runs = [write_run(f"a{seed}", 0.9, seed=seed, backbone="timm:resnet50") for seed in range(2)]
    for rate, run in zip((0.1, 0.3), runs, strict=True):
        trials = [{"number": number} for number in range(4)]
        _add(run, "tuning.json", {"trials": trials, "chosen": {"training.learning_rate": rate}, "space": {}})
    write_run("b", 0.9)
    board = build_leaderboard(tmp_path / "study")
    (table,) = board.tables
    assert (table.rows["resnet50"].trials, table.rows["resnet18"].trials) == (4, None)
    assert table.rows["resnet50"].tuned == {"training.learning_rate": (0.1, 0.3)}
    assert table.warnings[-1] == (
        "The fine-tuned candidates were not given the same search: part of a difference may be how well each was tuned."
    )
    assert "Trials" in leaderboard_markdown(board)


def test_build_leaderboard__what_a_search_chose_makes_no_candidate_of_a_seed(write_run, tmp_path):
    """Also where runs of an earlier version of the study lie beside those of this one."""
    for seed, rate in enumerate((0.1, 0.3)):
        run = write_run(f"cells/new{seed}", 0.9, seed=seed, training={"learning_rate": rate, "num_train_epochs": 2})
        _add(run, "tuning.json", {"trials": [{}], "chosen": {"training.learning_rate": rate}, "space": {}})
    write_run("cells/old", 0.8, training={"num_train_epochs": 1})
    (tmp_path / "study/study.json").write_text(json.dumps({"cells": {"new0": {"seed": 0}, "new1": {"seed": 1}}}))
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert sorted(row.seeds for row in table.rows.values()) == [(0,), (0, 1)]


def test_build_leaderboard__what_would_have_picked_the_backbone(write_run, tmp_path):
    """Probe: a > b > c > d; fine-tuned: b best; LogME has it right; d was not fine-tuned."""
    probes = {"a": 0.8, "bb": 0.75, "ccc": 0.7, "dddd": 0.6}
    tuned = {"a": 0.85, "bb": 0.95, "ccc": 0.7}
    for place, (name, accuracy) in enumerate(probes.items()):
        run = write_run(f"{name}-probe", accuracy, strategy="linear_probe", backbone=f"timm:{name}")
        _add(run, "probe.json", {"logme": [0.1, 0.3, 0.0, -0.2][place]})
    for name, accuracy in tuned.items():
        write_run(f"{name}-full", accuracy, backbone=f"timm:{name}")
        write_run(f"{name}-worse", accuracy - 0.2, backbone=f"timm:{name}", strategy="partial")
    (tmp_path / "study/funnel.json").write_text(json.dumps({"finetune_top": 2}))
    board = build_leaderboard(tmp_path / "study")
    (table,) = board.tables
    selection = table.selection
    assert (selection.top, selection.fine_tuned, selection.known) == (2, 3, 4)
    found = {selector.name: selector for selector in selection.selectors}
    accuracy = {standing.name: standing.accuracy for standing in table.verdict.standings}
    lost = accuracy["bb full"] - accuracy["a full"]
    probe, logme = found["linear_probe on validation"], found["LogME"]
    assert (probe.pick, probe.regret, probe.regret_of_top) == ("a", pytest.approx(lost), 0.0)
    assert probe.tau == pytest.approx(1 / 3)  # of three pairs two agree
    assert (logme.pick, logme.regret, logme.tau) == ("bb", 0.0, pytest.approx(1.0))
    assert found["parameters (more)"].tau is None  # the same for all
    assert "ImageNet accuracy" not in found
    assert "Only 3 of 4 backbones were fine-tuned" in leaderboard_text(board)
    assert f"{100 * lost:.1f} points" in leaderboard_markdown(board)


def test_build_leaderboard__no_selection_without_two_fine_tuned_backbones(write_run, tmp_path):
    write_run("a", 0.8, strategy="linear_probe", backbone="timm:a")
    write_run("b", 0.8, strategy="linear_probe", backbone="timm:b")
    write_run("c", 0.8, backbone="timm:a")
    assert build_leaderboard(tmp_path / "study").tables[0].selection is None


def test_build_leaderboard__published_figures_stand_beside_the_measured_ones_with_their_source(write_run, tmp_path):
    write_run("a", 0.9, backbone="timm:a", reference={"test_accuracy": 0.8311, "source": "study R9: validation"})
    write_run("b", 0.8, backbone="timm:bb", reference={"source": "study R9: no figure"})
    write_run("c", 0.7, backbone="timm:ccc", reference=None)
    board = build_leaderboard(tmp_path / "study")
    rows = board.tables[0].rows
    assert {name: row.published for name, row in rows.items()} == {"a": 0.8311, "bb": None, "ccc": None}
    write_leaderboard(tmp_path, board, leaderboard_markdown(board))
    found = json.loads((tmp_path / "leaderboard.json").read_text())["tables"][0]["rows"]
    assert (found["a"]["published"], found["a"]["published_source"]) == (0.8311, "study R9: validation")
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        assert {line["name"]: line["published"] for line in csv.DictReader(file)} == {"a": "0.8311", "bb": "", "ccc": ""}
    for shown in (leaderboard_text(board), (tmp_path / "leaderboard.md").read_text()):
        assert "Published" in shown and "0.8311" in shown
        assert "Published figures, which no test compares with those here: study R9: validation." in shown


def test_build_leaderboard__nothing_is_said_of_published_figures_where_there_is_none(write_run, tmp_path):
    write_run("b", 0.8, reference={"source": "study R9: no figure"})
    assert "ublished" not in leaderboard_text(build_leaderboard(tmp_path / "study"))


# Images that belong together


def regroup(run, group_of):
    """Write the groups of its test images into a run's predictions, from the number in each image's name."""
    path = run / "predictions" / "test.parquet"
    found = Predictions.read(path)
    replace(found, groups=[group_of(int(name[:4])) for name in found.sample_ids]).write(path)


def test_build_leaderboard__groups_widen_intervals_and_tests(write_run, tmp_path):
    a, b = write_run("a", 0.9, backbone="timm:resnet50"), write_run("bb", 0.86, backbone="timm:resnet18")
    (plain,) = build_leaderboard(tmp_path / "study").tables
    # What one run was told of the images holds for all; how a group is called does not matter.
    hard = np.argsort(np.random.default_rng(1).permutation(N))  # images in the order of their difficulty
    place = {int(image): rank // 8 for rank, image in enumerate(hard)}
    regroup(a, lambda image: f"patient {place[image]}")
    board = build_leaderboard(tmp_path / "study")
    (table,) = board.tables
    assert (plain.verdict.groups, table.verdict.images, table.verdict.groups) == (None, 400, 50)
    for before, after in zip(plain.verdict.standings, table.verdict.standings, strict=True):
        assert before.accuracy == after.accuracy
        assert np.ptp(after.accuracy_ci95) > 1.5 * np.ptp(before.accuracy_ci95)
    assert table.verdict.comparisons[0].p_images > plain.verdict.comparisons[0].p_images
    assert "400 test images in 50 groups" in leaderboard_text(board)
    assert [line["groups"] for line in csv_lines(board)] == [50, 50]
    regroup(b, lambda image: f"p{100 - place[image]}")
    assert build_leaderboard(tmp_path / "study").tables == board.tables


def test_build_leaderboard__runs_that_were_told_different_groups(write_run, tmp_path):
    a, b = write_run("a", 0.9, backbone="timm:resnet50"), write_run("bb", 0.86, backbone="timm:resnet18")
    regroup(a, lambda image: str(image // 4))
    regroup(b, lambda image: str(image // 40))
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert table.verdict.groups == 10
    assert table.warnings[0] == (
        "The runs were told different groups of test images; the 10 of which there are fewest are taken."
    )


def test_build_leaderboard__test_images_of_a_single_group(write_run, tmp_path):
    a, _ = write_run("a", 0.9, backbone="timm:resnet50"), write_run("bb", 0.86, backbone="timm:resnet18")
    (plain,) = build_leaderboard(tmp_path / "study").tables
    regroup(a, lambda image: "ann")
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert table.verdict == plain.verdict
    assert table.warnings[0] == "All test images are of one group: what is said here holds for that group alone."


def test_build_leaderboard__a_run_that_was_told_a_single_group_does_not_cancel_the_others(write_run, tmp_path):
    a, b = write_run("a", 0.9, backbone="timm:resnet50"), write_run("bb", 0.86, backbone="timm:resnet18")
    regroup(a, lambda image: str(image // 40))
    (alone,) = build_leaderboard(tmp_path / "study").tables
    regroup(b, lambda image: "ann")
    (table,) = build_leaderboard(tmp_path / "study").tables
    assert table.verdict == alone.verdict and table.verdict.groups == 10
    assert table.warnings[0].startswith("The runs were told different groups of test images; the 10 of")
