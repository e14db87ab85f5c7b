import json
import shutil

import numpy as np
import pytest
from PIL import Image

from hf_transfer.errors import RunDirectoryError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report import write_plots
from hf_transfer.report.confusion import plot_confusion_matrix

ALWAYS = ["confusion_matrix.png", "per_class.png", "reliability.png", "top_losses.png"]


def drawn(run_dir):
    return sorted(path.name for path in (run_dir / "plots").iterdir())


def test_write_plots(make_run):
    run_dir = make_run()
    write_plots(run_dir)
    assert drawn(run_dir) == sorted([*ALWAYS, "confused_pairs.png", "curves.png"])
    for path in (run_dir / "plots").iterdir():
        with Image.open(path) as image:
            assert image.width >= 900
    assert json.loads((run_dir / "calibration.json").read_text())["fitted_on"] == "validation"


@pytest.mark.parametrize(("splits", "expected"), [(("validation", "test"), "test"), (("validation",), "validation")])
def test_write_plots__confusion_matrix_of_test_else_validation(make_run, tmp_path, splits, expected):
    run_dir = make_run(splits=splits)
    write_plots(run_dir)
    found = Predictions.read(run_dir / "predictions" / f"{expected}.parquet")
    plot_confusion_matrix(found.labels, found.predicted, found.class_names, tmp_path / "expected.png")
    assert (run_dir / "plots" / "confusion_matrix.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_write_plots__two_classes_have_threshold_curves(make_run):
    run_dir = make_run(classes=["yes", "no"])
    write_plots(run_dir)
    assert "binary_curves.png" in drawn(run_dir)


def test_write_plots__257_classes_of_few_images(make_run):
    run_dir = make_run(classes=[f"{i:03}.thing" for i in range(257)], splits=("test",))
    write_plots(run_dir)
    assert drawn(run_dir) == sorted([*ALWAYS, "confused_pairs.png", "curves.png"])
    assert not (run_dir / "calibration.json").exists()


def test_write_plots__images_that_are_nowhere(make_run):
    run_dir = make_run(images=False)
    write_plots(run_dir)
    with Image.open(run_dir / "plots" / "top_losses.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert not (pixels == (0, 0, 255)).all(axis=2).any()


def test_write_plots__history_without_rows_or_none(make_run):
    run_dir = make_run(history=False)
    write_plots(run_dir)
    assert "curves.png" not in drawn(run_dir)
    (run_dir / "history.csv").write_text("step,epoch,phase,split,loss\n")
    shutil.rmtree(run_dir / "predictions")
    shutil.rmtree(run_dir / "plots")
    write_plots(run_dir)
    assert not (run_dir / "plots").exists()


def test_write_plots__removes_pictures_of_an_earlier_time_and_no_others(make_run):
    run_dir = make_run()
    (run_dir / "plots").mkdir()
    for name in ("binary_curves.png", "explanations.png", "mine.png"):
        (run_dir / "plots" / name).write_bytes(b"old")
    write_plots(run_dir)
    assert "binary_curves.png" not in drawn(run_dir)
    assert {"explanations.png", "mine.png"} <= set(drawn(run_dir))


def test_write_plots__damaged_history(make_run):
    run_dir = make_run()
    (run_dir / "history.csv").write_text("what,is,this\n")
    with pytest.raises(RunDirectoryError, match=r"history\.csv"):
        write_plots(run_dir)
