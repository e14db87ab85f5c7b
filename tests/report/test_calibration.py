import json

import numpy as np
import pytest

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics.temperature import fit_temperature
from hf_transfer.report.calibration import write_calibration
from hf_transfer.report.saved_run import SavedRun


def test_write_calibration__file_holds_the_figures_before_and_after(make_run):
    run = SavedRun.read(make_run())
    found = write_calibration(run)
    assert json.loads((run.path / "calibration.json").read_text()) == found
    validation = Predictions.read(run.path / "predictions" / "validation.parquet")
    assert found["temperature"] == fit_temperature(validation.logits, validation.labels)
    assert (found["fitted_on"], found["n"]) == ("validation", 150)
    assert list(found["splits"]) == ["validation", "test"]
    for split, figures in found["splits"].items():
        assert figures["nll"] == pytest.approx(run.splits[split]["nll"], rel=1e-6)
        assert figures["ece"] == pytest.approx(run.splits[split]["ece"], abs=1e-6)
    assert found["splits"]["validation"]["nll_scaled"] < found["splits"]["validation"]["nll"]


def test_write_calibration__further_test_sets(make_run):
    run_dir = make_run(splits=("validation", "test", "camera_b"))
    assert list(write_calibration(SavedRun.read(run_dir))["splits"]) == ["validation", "test", "camera_b"]


@pytest.mark.parametrize(
    ("splits", "further"),
    [(("train", "test"), {}), (("validation", "test"), {"validation": {"unmapped_classes": ["healthy"]}})],
)
def test_write_calibration__nothing_to_fit(make_run, splits, further):
    run = SavedRun.read(make_run(splits=splits, further=further))
    (run.path / "calibration.json").write_text("{}")
    assert write_calibration(run) is None
    assert not (run.path / "calibration.json").exists()


def test_write_calibration__perfect_validation_changes_nothing(make_run):
    run = SavedRun.read(make_run())
    path = run.path / "predictions" / "validation.parquet"
    found = Predictions.read(path)
    logits = np.eye(3, dtype=np.float32)[found.labels] * 5
    Predictions(found.sample_ids, found.paths, found.labels, found.labels, logits, found.class_names).write(path)
    written = write_calibration(run)
    assert written["temperature"] == 1.0
    assert written["splits"]["test"]["nll_scaled"] == written["splits"]["test"]["nll"]
