import pytest

from hf_transfer.errors import RunDirectoryError
from hf_transfer.report.saved_run import SavedRun


def test_splits__cost_speed_and_plain_values_are_none(make_run):
    shift = {"accuracy": 0.5, "shift": {"accuracy": -0.1, "ci95": [-0.2, 0.0], "against": "test"}}
    run = SavedRun.read(make_run(further={"camera_b": shift, "speed": {"latency_ms": 3.0}, "monitored": {"test": 5}}))
    run.metrics["temperature"] = 1.5
    assert list(run.splits) == ["train", "validation", "test", "camera_b"]
    assert run.further_test_sets == ["camera_b"]
    assert run.headline_split == "test"
    assert run.speed == {"latency_ms": 3.0}
    assert run.cost["device"] == "NVIDIA H100"


def test_splits__further_test_sets_are_no_headline(make_run):
    run = SavedRun.read(make_run(splits=("camera_b",)))
    assert run.headline_split is None
    assert run.speed == {}


def test_read__no_run(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"expected the directory of a finished run, found no recipe\.json in it\."):
        SavedRun.read(tmp_path)
