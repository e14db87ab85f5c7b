import numpy as np
import pytest
from PIL import Image

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report.figures import drawing
from hf_transfer.report.reliability import draw_reliability, plot_reliability
from hf_transfer.report.scores import Scores


def scores(confidence, correct):
    """Two classes, the first always predicted with this confidence."""
    confidence = np.asarray(confidence)
    logits = np.stack([np.log(confidence), np.log(1 - confidence)], axis=1).astype(np.float32)
    labels = np.where(correct, 0, 1)
    ids = [f"{i}" for i in range(len(labels))]
    return Scores.of(Predictions(ids, [None] * len(ids), labels, np.zeros(len(ids), dtype=int), logits, ["a", "b"]))


def draw(*arguments):
    with drawing():
        return draw_reliability(*arguments)


def test_draw_reliability__bars_are_accuracies_and_counts():
    figure = draw(scores([0.9] * 10 + [0.6] * 4, [True] * 8 + [False] * 2 + [True] * 4), None, "test")
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.patches] == pytest.approx([1.0, 0.8])
    assert [text.get_text() for text in lower.texts] == ["4", "10"]
    assert [bar.get_height() for bar in lower.patches if bar.get_height()] == [4, 10]
    # (10 * |0.8 - 0.9| + 4 * |1 - 0.6|) / 14
    assert upper.get_title().startswith("As saved (test)\nECE 0.1857, NLL ")


def test_draw_reliability__before_and_after():
    figure = draw(scores([0.9] * 10, [True] * 5 + [False] * 5), 4.0, "test")
    assert len(figure.axes) == 4
    assert [axis.get_title().partition("\n")[0] for axis in figure.axes[:2]] == ["As saved (test)", "Logits divided by 4"]


def test_plot_reliability__one_image_and_odd_split_name(tmp_path):
    plot_reliability(scores([0.7], [False]), 2.0, "$x$", tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.size == (1470, 840)
