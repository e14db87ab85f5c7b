"""Runs side by side, finished or not: whose they are, how far they are, their curves."""

import json

import many_runs
import pytest

from hf_transfer.errors import UserError
from hf_transfer.report.leaderboard import build_leaderboard
from hf_transfer.report.run_overlay import choose_runs, colours_of, curves_of, draw_overlay, read_runs
from hf_transfer.report.study_figures import save_picture


@pytest.fixture
def folder(tmp_path):
    """Two candidates: five seeds of one, two of the other, the last of them still training."""
    root = tmp_path / "runs"
    many_runs.write_runs(root, 7, 60)
    (root / "run_006/metrics.json").unlink()
    return root


def runs_of(root):
    return read_runs(root, build_leaderboard(root))


def test_read_runs__in_the_order_of_the_leaderboard_and_the_unfinished_under_their_candidate(folder):
    runs = runs_of(folder)
    assert [run.name for run in runs] == [f"run_{number:03d}" for number in range(7)]
    assert [(run.candidate, run.seed, run.finished) for run in runs[4:]] == [
        ("backbone_0", 4, True),
        ("backbone_1", 0, True),
        ("backbone_1", 1, False),
    ]


def test_read_runs__nothing_finished(folder):
    for path in folder.iterdir():
        (path / "README.md").unlink()
    assert [(run.candidate, run.finished) for run in runs_of(folder)][:2] == [("run_000", False), ("run_001", False)]


def test_read_runs__cells_of_a_study_and_what_they_failed_of(folder):
    cells = {f"run_{number:03d}": {"model.backbone": f"timm:net{number // 5}", "seed": number % 5} for number in range(7)}
    folder = folder.rename(folder.parent / "cells").parent
    (folder / "study.json").write_text(json.dumps({"cells": cells}))
    (folder / "failed").mkdir()
    (folder / "failed/run_006.json").write_text(json.dumps({"error": "out of memory"}))
    last = runs_of(folder)[-1]
    assert (last.candidate, last.problem) == ("net1", "failed: out of memory")


def test_read_runs__damaged_files_are_said(folder):
    (folder / "run_006/history.csv").write_text("a,b\n1,2\n")
    (folder / "run_006/environment.json").write_text("{")
    last = runs_of(folder)[-1]
    assert last.saved.history == []
    assert "environment.json: cannot be read" in last.problem
    assert "history.csv: expected the columns step and split" in last.problem


def test_last_step__of_an_unfinished_run_as_planned(folder):
    history = folder / "run_006/history.csv"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:56]))  # up to step 500 of 2,000
    runs = runs_of(folder)
    assert runs[-1].saved.history[-1].step == 500
    assert [run.last_step for run in runs[-2:]] == [2000, 2000]


def test_choose_runs__patterns_on_directories(folder):
    runs = runs_of(folder)
    assert choose_runs(runs, []) == runs
    assert [run.name for run in choose_runs(runs, ["*_00[12]", "run_006"])] == ["run_001", "run_002", "run_006"]


def test_choose_runs__no_match_names_the_runs(folder):
    with pytest.raises(UserError) as caught:
        choose_runs(runs_of(folder)[:2], ["run_001", "vit*", "swin*"])
    assert str(caught.value) == "--overlay: no run matches vit*, swin*; the runs are run_000, run_001"


def test_curves_of__a_line_for_each_split_and_metric_validation_first(folder):
    curves = curves_of(runs_of(folder)[:1])
    assert [(curve.split, curve.metric) for curve in curves] == [
        ("validation", "accuracy"),
        ("validation", "loss"),
        ("train", "loss"),
    ]
    assert curves[0].points[0][:2] == (100, 1.0)


def test_curves_of__long_curves_keep_their_ends_and_extremes(folder):
    history = folder / "run_000/history.csv"
    rows = "".join(f"{step},,full,train,{9 if step == 3333 else step % 2},,,1\n" for step in range(1, 5001))
    history.write_text("step,epoch,phase,split,loss,accuracy,macro_f1,trainable_parameters\n" + rows)
    (curve,) = curves_of(runs_of(folder)[:1], most=40)
    steps = [step for step, _, _ in curve.points]
    assert len(steps) <= 40 and steps == sorted(steps)
    assert (steps[0], steps[-1]) == (1, 5000)
    assert (3333, None, 9.0) in curve.points


def test_colours_of__seeds_share_one(folder):
    runs = runs_of(folder)
    colours = colours_of(runs)
    assert list(colours) == ["backbone_0", "backbone_1"]
    assert colours["backbone_0"] != colours["backbone_1"]


def test_draw_overlay__accuracy_and_loss_of_every_run(folder, tmp_path):
    runs = runs_of(folder)
    figure = draw_overlay(runs, colours_of(runs))
    accuracy, loss = figure.axes
    assert (accuracy.get_ylabel(), loss.get_ylabel(), loss.get_xlabel()) == ("accuracy", "loss", "step")
    assert (len(accuracy.lines), len(loss.lines)) == (7, 14)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "backbone_0",
        "backbone_1",
        "validation",
        "train",
    ]
    first = [path.read_bytes() for path in save_picture(lambda: draw_overlay(runs, colours_of(runs)), tmp_path / "overlay")]
    again = [path.read_bytes() for path in save_picture(lambda: draw_overlay(runs, colours_of(runs)), tmp_path / "overlay")]
    assert first == again
    assert first[0].startswith(b"\x89PNG") and b"<svg" in first[1]


def test_draw_overlay__forty_candidates_on_one_panel(tmp_path):
    many_runs.write_runs(tmp_path / "runs", 40, 30, seeds=1)
    for path in (tmp_path / "runs").glob("*/history.csv"):
        path.write_text("step,split,loss\n1,a very long name of a monitored split,1\n2,train,0.5\n")
    runs = runs_of(tmp_path / "runs")
    figure = draw_overlay(runs, colours_of(runs))
    assert [text.get_text() for text in figure.legends[0].get_texts()][20] == "and 20 more"
    save_picture(lambda: draw_overlay(runs, colours_of(runs)), tmp_path / "overlay")  # a layout without room would warn


def test_draw_overlay__monitored_splits_are_told_apart(folder):
    splits = ("validation", "test", "train_200")
    lines = [f"{step},{split},0.5\n" for step in (1, 2, 3) for split in splits]
    for path in folder.glob("*/history.csv"):
        path.write_text("step,split,accuracy\n" + "".join(lines))
    runs = runs_of(folder)[:1]
    figure = draw_overlay(runs, colours_of(runs))
    named = {handle.get_label(): handle.get_linestyle() for handle in figure.legends[0].legend_handles[1:]}
    assert list(named) == ["validation", "test", "train_200"]
    assert len(set(named.values())) == 3
    drawn = [line.get_linestyle() for line in figure.axes[0].lines]
    assert drawn == list(named.values())


def test_draw_overlay__nothing_logged(folder):
    for path in folder.glob("*/history.csv"):
        path.unlink()
    runs = runs_of(folder)
    with pytest.raises(ValueError, match="expected at least one run that logged a loss or an accuracy, found none"):
        draw_overlay(runs, colours_of(runs))
