import numpy as np
import pytest

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report.binary import draw_binary_curves, plot_binary_curves
from hf_transfer.report.figures import drawing


def predictions(labels, margin, names=("no", "yes")):
    logits = np.stack([np.zeros(len(labels)), np.asarray(margin, dtype=float)], axis=1)[:, : len(names)].astype(np.float32)
    ids = [f"{i}" for i in range(len(labels))]
    return Predictions(ids, [None] * len(ids), np.asarray(labels), logits.argmax(axis=1), logits, list(names))


def test_draw_binary_curves__auc_and_average_precision():
    # Of the 2 x 3 pairs of a yes and a no, 4 are in the right order.
    with drawing():
        figure = draw_binary_curves(predictions([1, 1, 0, 0, 0], [3, 0, 1, 0.5, -1]))
    roc, recall = figure.axes
    assert roc.get_title() == "ROC: AUC 0.6667"
    # yes: found first and fourth: (1/1 + 2/4) / 2; no: (1/1 + 2/3 + 3/4) / 3
    assert [text.get_text() for text in recall.get_legend().get_texts()] == ["yes\nAP 0.7500", "no\nAP 0.8056"]
    assert roc.get_xlabel() == "share of 'no' taken for 'yes'"


def test_plot_binary_curves__only_of_two_classes_that_have_images(tmp_path):
    path = tmp_path / "a.png"
    assert not plot_binary_curves(predictions([1, 1], [1, 2]), path)
    assert not plot_binary_curves(predictions([0, 0], [1, 2], names=("one",)), path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["$x^2$", "<script>", "مرحبا", "x" * 500])
def test_plot_binary_curves__any_name(name, tmp_path):
    assert plot_binary_curves(predictions([1, 0], [1, 2], names=(name, "b")), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_plot_binary_curves__scores_that_rule_a_class_out(tmp_path):
    found = predictions([1, 0, 1], [-np.inf, 2, 1])
    assert plot_binary_curves(found, tmp_path / "a.png")
