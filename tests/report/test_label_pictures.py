"""Pictures of runs of several labels an image: what is in them, drawn from files alone."""

import label_runs
import numpy as np
import pytest
from PIL import Image

from hf_transfer.report.formats import NOTHING
from hf_transfer.report.label_curves import draw_precision_recall, plot_precision_recall
from hf_transfer.report.label_findings import LabelFindings
from hf_transfer.report.label_reliability import draw_label_reliability
from hf_transfer.report.label_scores import LabelScores
from hf_transfer.report.label_sheets import draw_label_errors, draw_top_label_losses
from hf_transfer.report.saved_run import SavedRun


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels")
    return SavedRun.read(label_runs.write_label_run(root / "run", images=root / "images"))


def texts(figure):
    found = [text.get_text() for axis in figure.axes for text in axis.texts]
    return found + [text.get_text() for text in figure.texts]


def test_draw_precision_recall__a_curve_and_a_dot_for_each_class_that_is_there(run):
    (axis,) = draw_precision_recall(LabelScores.read(run, "test")).axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    per_class = run.splits["test"]["per_class"]
    named = [name for name in label_runs.CLASSES if per_class[name]["n"]]
    assert [label.partition("\n")[0] for label in labels] == named  # nothing of the class that no image shows
    assert labels[0].endswith(f"AP {per_class['circle']['average_precision']:.3f}, of {per_class['circle']['n']} images")
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == pytest.approx([per_class[name]["recall"] for name in named])
    assert [dot.get_ydata()[0] for dot in dots] == pytest.approx([per_class[name]["precision"] for name in named])


def test_draw_precision_recall__of_many_classes_the_worst():
    rng = np.random.default_rng(0)
    labels = rng.random((80, 20)) < 0.3
    logits = (rng.normal(size=(80, 20)) + np.linspace(3, 0, 20) * labels).astype(np.float32)
    predictions = LabelScores.of(_predictions(labels, logits))
    (axis,) = draw_precision_recall(predictions).axes
    assert len(axis.get_legend().get_texts()) == 12
    assert axis.get_title() == "Precision and recall at every threshold\nthe 12 of 20 classes with the lowest average precision"
    assert "class 19" in axis.get_legend().get_texts()[-1].get_text()


def _predictions(labels, logits):
    from hf_transfer.evaluation.predictions import Predictions

    n, classes = labels.shape
    ids = [str(row) for row in range(n)]
    names = [f"class {label}" for label in range(classes)]
    return Predictions(ids, [None] * n, labels, logits >= 0, logits, names, None, np.full(classes, 0.5))


def test_plot_precision_recall__nothing_without_a_label(tmp_path):
    empty = LabelScores.of(_predictions(np.zeros((3, 2), dtype=bool), np.ones((3, 2), dtype=np.float32)))
    assert not plot_precision_recall(empty, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_draw_label_reliability__every_class_of_every_image_is_an_answer(run):
    scores = LabelScores.read(run, "test")
    upper, lower = draw_label_reliability(scores, "test").axes
    counted = sum(bar.get_height() for bar in lower.patches)
    assert counted == scores.probabilities.size == 120 * 5
    assert upper.get_title() == f"120 images, 5 classes (test)\nNLL {run.splits['test']['nll']:.4f}"
    shares = [bar.get_height() for bar in upper.patches]
    counts = [bar.get_height() for bar in lower.patches]
    assert sum(s * c for s, c in zip(shares, counts, strict=True)) == pytest.approx(scores.predictions.labels.sum())


def test_draw_top_label_losses__says_what_was_missed_and_wrong(run):
    found = LabelFindings.read(run, "test")
    said = texts(draw_top_label_losses(found.losses, found.images))
    assert len(found.images) == len(
        {e.sample_id for e in found.losses} | {x.sample_id for e in found.errors for x in e.examples}
    )
    worst = found.losses[0]
    assert f"missed: {', '.join(label.name for label in worst.missed) or NOTHING}" in said
    assert f"loss {worst.loss:.2f}" in said and "image not found" not in said


def test_draw_top_label_losses__images_that_are_gone_and_many_labels():
    labels = np.ones((1, 5), dtype=bool)
    scores = LabelScores.of(_predictions(labels, np.ones((1, 5), dtype=np.float32)))
    from hf_transfer.report.label_mistakes import top_label_losses

    said = texts(draw_top_label_losses(top_label_losses(scores, 1), {}))
    assert "image not found" in said
    assert "right: class 0 +4" in said and f"missed: {NOTHING}" in said


def test_draw_label_errors__a_row_for_each_mistake(run):
    found = LabelFindings.read(run, "test")
    said = texts(draw_label_errors(found.errors, found.images))
    first = found.errors[0]
    assert said[0] == first.label
    assert f"{first.count:,} of {first.of:,} images" in said
    assert {"missed", "said though not there"} == {text for text in said if text in ("missed", "said though not there")}
    assert any(text == "without it" for text in said)


def test_label_findings__read_the_images_from_their_files(run):
    found = LabelFindings.read(run, "test")
    assert all(isinstance(image, Image.Image) for image in found.images.values())
    assert found.split == "test" and len(found.losses) == 24 and len(found.errors) <= 10
