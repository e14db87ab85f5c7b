"""How further test sets differ from the test split."""

from hf_transfer.evaluation.evaluate import add_shifts
from hf_transfer.metrics.intervals import newcombe_difference


def test_add_shifts__against_test_or_else_validation():
    metrics = {"validation": {"accuracy": 0.5, "n": 10}, "winter": {"accuracy": 0.25, "n": 20}}
    add_shifts(metrics, ["winter"])
    assert metrics["winter"]["shift"] == {
        "accuracy": -0.25,
        "ci95": list(newcombe_difference(5, 20, 5, 10)),
        "against": "validation",
    }
    metrics["test"] = {"accuracy": 0.75, "n": 8}
    add_shifts(metrics, ["winter"])
    assert metrics["winter"]["shift"]["accuracy"] == -0.5
    assert metrics["winter"]["shift"]["against"] == "test"


def test_add_shifts__nothing_to_differ_from():
    metrics = {"winter": {"accuracy": 0.25, "n": 20}}
    add_shifts(metrics, ["winter"])
    assert "shift" not in metrics["winter"]
