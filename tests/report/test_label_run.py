"""Everything that a run of several labels an image shows: pictures, page, card, summary, leaderboard; none says accuracy."""

import csv
import json
import re
from dataclasses import replace

import label_runs
import many_runs
import numpy as np
import pytest

from hf_transfer.errors import RunDirectoryError
from hf_transfer.report import write_model_card, write_plots, write_report
from hf_transfer.report.benchmark_table import benchmark_row, benchmark_text
from hf_transfer.report.card_metadata import check_metadata
from hf_transfer.report.leaderboard import build_leaderboard, csv_lines
from hf_transfer.report.leaderboard_card import leaderboard_card_text
from hf_transfer.report.leaderboard_table import leaderboard_markdown, leaderboard_text
from hf_transfer.report.run_entries import read_entries
from hf_transfer.report.run_overlay import read_runs
from hf_transfer.report.saved_run import SavedRun
from hf_transfer.report.step_summary import summarise_steps, summary_json, summary_markdown
from hf_transfer.report.study_page import write_study_report
from hf_transfer.report.summary import summary

PICTURES = ["curves", "label_errors", "per_class", "precision_recall", "reliability", "top_losses"]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its pictures, page and card; read only."""
    root = label_runs.write_label_run(tmp_path_factory.mktemp("one") / "run", groups=30)
    (root / "calibration.json").write_text("{}", encoding="utf-8")  # of an earlier time
    write_report(root, findings=write_plots(root))
    write_model_card(root)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two candidates of two seeds each, and their report; read only."""
    root = tmp_path_factory.mktemp("runs")
    for place, (backbone, skill) in enumerate((("timm:a", 3.0), ("timm:b", 1.0))):
        for seed in (0, 1):
            changed = {"model": {"backbone": backbone}, "seed": seed}
            label_runs.write_label_run(root / f"{place}_{seed}", skill=skill, seed=seed + 7 * place, recipe=changed)
    write_study_report(root)
    return root


def test_write_plots__pictures_of_labels(run):
    assert sorted(path.stem for path in (run / "plots").glob("*.png")) == PICTURES
    assert not (run / "calibration.json").exists()  # no temperature is fitted to sigmoids


def test_write_report__figures_labels_and_no_accuracy(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    test = read(run / "metrics.json")["test"]
    assert "Mean average precision (test)" in page and f"<b>{test['mean_average_precision']:.4f}</b>" in page
    assert "images ranked at random" in page and f"{test['random_baseline']:.4f}" in page
    assert "Missed and wrong labels (test)" in page and "said though not there" in page and "missed" in page
    assert "<b>tri</b>" not in page and "&lt;b&gt;tri&lt;/b&gt;" in page
    assert "Confusion" not in page and "(empty)" not in page
    assert not re.search("accuracy", page, re.IGNORECASE)


def test_write_model_card__metrics_thresholds_and_use(run):
    card = (run / "README.md").read_text(encoding="utf-8")
    metrics = read(run / "metrics.json")
    test = metrics["test"]
    assert check_metadata(card) == []
    assert "- type: mean_average_precision" in card and f"value: {test['mean_average_precision']!r}" in card
    assert "- type: f1" in card and "- multi-label" in card and "Multi-label image classification" in card
    assert f"Its mean average precision on the test split is **{test['mean_average_precision']:.4f}**" in card
    assert "in 30 groups" in card
    assert (
        f"| circle | {test['per_class']['circle']['average_precision']:.4f} | {metrics['thresholds']['circle']:.4f} |" in card
    )
    assert "the one with its best F1 on the validation split" in card
    assert 'classifier("image.jpg", function_to_apply="sigmoid", top_k=len(thresholds))' in card
    assert "model.config.thresholds" in card and "plots/precision_recall.png" in card
    wrong = round(120 * (1 - test["subset_accuracy"]))
    assert f"{wrong} of the 120 images of the test split have such a label." in card
    assert "| Split | Labels | Smallest class |" in card
    prose = card.replace("subset_accuracy", "")
    assert not re.search("accuracy|softmax", prose, re.IGNORECASE)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (0.4, "a class is said from a probability of 0.4 on"),
        ("validation", "a class is said from the probability on that has its best F1 on validation: "),
        ("checkpoint", "a class is said from the checkpoint's own threshold on: "),
    ],
)
def test_summary__figures_and_thresholds(tmp_path, by, said):
    run = label_runs.write_label_run(tmp_path / "run", thresholds_by="validation" if by == "checkpoint" else by)
    metrics = read(run / "metrics.json") | {"thresholds_by": by}
    test = metrics["test"]
    text = summary(run, metrics)
    low, high = test["mean_average_precision_ci95"]
    assert f"{test['mean_average_precision']:.4f} ({low:.4f} to {high:.4f})" in text
    assert "mAP (95 % interval)" in text and said in text and "accuracy" not in text
    assert f"{test['subset_accuracy']:.4f}" in text


def test_summary__nothing_to_find(tmp_path):
    run = label_runs.write_label_run(tmp_path / "run")
    metrics = read(run / "metrics.json")
    undefined = dict.fromkeys(("mean_average_precision", "macro_f1", "micro_f1", "random_baseline"))
    metrics["test"] |= undefined | {"mean_average_precision_ci95": [0.0, 1.0]}
    assert re.search(r"test +120 +\u2013 +\u2013 +\u2013 +0\.", summary(run, metrics))


def test_summary_and_tables__corruptions_and_further_test_sets(tmp_path):
    run = label_runs.write_label_run(tmp_path / "run")
    metrics = read(run / "metrics.json")
    scored = {"mean_average_precision": 0.5, "mean_average_precision_ci95": [0.4, 0.6]}
    undefined = {"mean_average_precision": None, "mean_average_precision_ci95": [0.0, 1.0]}
    metrics["test"]["robustness"] = {"jpeg": {"1": scored, "2": undefined}}
    shift = {"mean_average_precision": -0.1, "ci95": [-0.2, 0.05], "against": "test"}
    metrics["winter"] = metrics["validation"] | {"shift": shift}
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    text = summary(run, metrics)
    assert "mean average precision against test: -0.1000 (-0.2000 to +0.0500)" in text
    assert re.search(rf"jpeg +{metrics['test']['mean_average_precision']:.4f} +0\.5000 +\u2013", text)
    page, row = write_report(run).read_text(encoding="utf-8"), benchmark_row(run, tmp_path)
    assert "Shift in mAP" in page and "Mean average precision under corruption" in page and "0.500" in page
    assert row["corrupted.jpeg.mean_average_precision"] == 0.5 and row["extra.winter.shift"] == -0.1
    write_model_card(run)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "Mean average precision, with its 95 % interval, on the same images" in card and "Shift in mAP" in card


def test_card_and_page__without_a_saved_model_nor_predictions(tmp_path):
    run = label_runs.write_label_run(tmp_path / "run", history=False)
    for path in [*(run / "predictions").iterdir(), run / "model" / "config.json"]:
        path.unlink()
    assert write_plots(run) is None
    write_model_card(run)
    assert "mAP" in write_report(run).read_text(encoding="utf-8")


def test_build_leaderboard__ranks_by_mean_average_precision(folder):
    board = build_leaderboard(folder)
    (table,) = board.tables
    figures = [read(folder / run / "metrics.json")["test"]["mean_average_precision"] for run in table.rows["a"].runs]
    first = table.verdict.standings[0]
    assert first.name == table.verdict.leader == "a" and first.accuracy == pytest.approx(sum(figures) / 2)
    assert table.verdict.headline.title == "mAP"
    assert table.rows["a"].majority_baseline == read(folder / "0_0" / "metrics.json")["test"]["random_baseline"]
    text = leaderboard_text(board)
    assert "mAP" in text and "ranking the images at random gives" in text
    assert not re.search("accuracy", text + leaderboard_markdown(board), re.IGNORECASE)


def test_build_leaderboard__one_seed_has_the_interval_of_its_card(tmp_path):
    run = label_runs.write_label_run(tmp_path / "runs" / "one", groups=40)
    (standing,) = build_leaderboard(tmp_path / "runs").tables[0].verdict.standings
    assert list(standing.accuracy_ci95) == read(run / "metrics.json")["test"]["mean_average_precision_ci95"]


def test_leaderboard_json__has_no_accuracy(folder):
    found = read(folder / "leaderboard.json")
    (table,) = found["tables"]
    standing = table["verdict"]["standings"][0]
    assert {"mean_average_precision", "mean_average_precision_ci95", "validation_mean_average_precision"} <= set(standing)
    assert "random_baseline" in table["rows"]["a"]
    with (folder / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        (first, _) = csv.DictReader(file)
    assert float(first["mean_average_precision"]) == standing["mean_average_precision"]
    assert "accuracy" not in (folder / "leaderboard.csv").read_text(encoding="utf-8")


def test_write_study_report__no_page_says_accuracy(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search("accuracy", page.replace('"#accuracy"', "").replace('id="accuracy"', ""), re.IGNORECASE)
    assert "mAP and difference to the leader" in page and "Mean average precision</h3>" in page
    assert "Confusions" not in page
    assert (folder / "plots" / "mean_average_precision.png").is_file() and not (folder / "plots" / "accuracy.png").exists()


def test_leaderboard_card_text__explains_its_own_figures(folder):
    board = build_leaderboard(folder)
    runs = {run: f"runs/{run}" for table in board.tables for row in table.rows.values() for run in row.runs}
    card = leaderboard_card_text(folder, board, repo_id="me/board", revision=None, places=runs)
    assert "**mAP**: the mean average precision of the classes" in card and "120 test" in card
    assert not re.search("accura|McNemar|sign-flip", card, re.IGNORECASE)


def test_build_leaderboard__one_label_and_several_are_never_in_one_table(tmp_path):
    label_runs.write_label_run(tmp_path / "labels")
    many_runs.write_runs(tmp_path / "classes", 2, 60, seeds=1)
    board = build_leaderboard(tmp_path)
    assert [table.verdict.headline.title for table in board.tables] == ["Accuracy", "mAP"]
    text = leaderboard_text(board)
    assert (
        "Runs of one label an image and runs of several are in tables of their own: an accuracy and a mean average precision "
        "do not compare." in text
    )
    lines = csv_lines(board)
    assert [line["accuracy"] is None for line in lines] == [False, False, True]
    assert lines[2]["mean_average_precision"] is not None and list(lines[0]) == list(lines[2])


def test_read_entries__predictions_of_another_task_are_left_out(tmp_path):
    run = label_runs.write_label_run(tmp_path / "a")
    label_runs.write_label_run(tmp_path / "b")
    environment = read(run / "environment.json") | {"task": "single_label"}
    (run / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    found = read_entries(tmp_path)
    assert [entry.path.name for entry in found.runs] == ["b"]
    assert found.left_out == {run: "its predictions are of another task than the run: one label an image, and several"}


def test_build_leaderboard__test_images_that_show_nothing_are_left_out(tmp_path):
    from hf_transfer.evaluation.predictions import Predictions

    run = label_runs.write_label_run(tmp_path / "a")
    file = run / "predictions" / "test.parquet"
    found = Predictions.read(file)
    replace(found, labels=np.zeros_like(found.labels)).write(file)
    board = build_leaderboard(tmp_path)
    assert not board.tables
    assert board.left_out == {"a": "none of its test images shows any class: there is no mean average precision"}


def test_read_entries__classes_are_matched_by_name(tmp_path):
    from hf_transfer.evaluation.predictions import Predictions

    label_runs.write_label_run(tmp_path / "a")
    other = label_runs.write_label_run(tmp_path / "b")
    file = other / "predictions" / "test.parquet"
    found = Predictions.read(file)
    turned = [4, 2, 0, 1, 3]
    names = [found.class_names[place] for place in turned]
    columns = (found.labels[:, turned], found.predicted[:, turned], found.logits[:, turned])
    Predictions(found.sample_ids, found.paths, *columns, names, None, found.thresholds[turned]).write(file)
    first, second = read_entries(tmp_path).runs
    assert first.images == second.images and (first.ranking.scores == second.ranking.scores).all()


def test_summarise_steps__the_step_of_the_best_mean_average_precision(folder):
    runs = read_runs(folder, build_leaderboard(folder))
    found = summarise_steps(runs)
    line = summary_json(found)["validation"][0]
    assert (line["step"], line["mean_average_precision"]) == (50, 0.88)
    assert line["best_mean_average_precision_not_selectable"] == 0.88 and not any("accuracy" in key for key in line)
    text = summary_markdown(found)
    assert "mAP there" in text and "The runs logged no mean average precision on this split, only its loss." in text


def test_benchmark_text__a_table_for_each_task(tmp_path):
    label_runs.write_label_run(tmp_path / "labels")
    many_runs.write_runs(tmp_path / "classes", 1, 60, seeds=1)
    rows = [benchmark_row(tmp_path / name, tmp_path) for name in ("labels", "classes/run_000")]
    labels, classes = benchmark_text(rows, []).split("\n\n")
    assert "mAP" in labels and "Accuracy" not in labels and "Accuracy" in classes and "mAP" not in classes
    assert not any("accuracy" in key for key in rows[0] if key not in ("subset_accuracy", "hamming_accuracy"))


def test_saved_run__thresholds_are_no_split(run):
    saved = SavedRun.read(run)
    assert list(saved.splits) == ["train", "validation", "test"] and saved.multi_label
    with pytest.raises(RunDirectoryError):
        SavedRun.read(run / "plots")
