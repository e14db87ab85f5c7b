from pathlib import Path

from hf_transfer.report.summary import summary


def split(**changes):
    found = {"accuracy": 0.9, "accuracy_ci95": [0.85, 0.94], "n": 200, "balanced_accuracy": 0.8, "macro_f1": 0.7}
    return found | {"nll": 0.3, "ece": 0.02, "majority_baseline": 0.5, "skipped": 0} | changes


def test_summary__splits_in_order():
    lines = summary(Path("runs/a"), {"test": split(), "train": split(skipped=2)}).splitlines()
    assert lines[0].split()[:2] == ["split", "n"]
    assert lines[1] == "train            200  0.9000 (0.8500 to 0.9400)      0.8000   0.7000  0.3000 0.0200   0.5000"
    assert lines[2].strip() == "2 unreadable images left out"
    assert lines[3].startswith("test             200")
    assert lines[4] == "run directory: runs/a"


def test_summary__further_test_sets_with_their_shift():
    shift = {"accuracy": -0.05, "ci95": [-0.1, 0.01], "against": "test"}
    metrics = {"a_camera_of_long_name": split(shift=shift), "test": split(), "speed": {"latency_ms": 1.0}, "temperature": 2.0}
    lines = summary(Path("runs/a"), metrics).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["test", "a_camera_of_long_name"]
    assert lines[1].index("200") == lines[2].index("200")
    assert lines[3].strip() == "accuracy against test: -0.0500 (-0.1000 to +0.0100)"
    assert len(lines) == 5


def test_summary__robustness():
    found = {"blur": {"1": {"accuracy": 0.8}, "3": {"accuracy": 0.6}}, "gaussian_noise": {"1": {"accuracy": 0.7}}}
    lines = summary(Path("runs/a"), {"test": split(robustness=found)}).splitlines()
    assert lines[2:5] == [
        "test, corrupted      none       1       3  (severity)",
        "blur               0.9000  0.8000  0.6000",
        "gaussian_noise     0.9000  0.7000        ",
    ]
