import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hf_transfer.errors import RunDirectoryError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report.confusion import draw_confusion_matrix, plot_confusion_matrix
from hf_transfer.report.figures import drawing


def draw(labels, predicted, class_names):
    with drawing():
        return draw_confusion_matrix(labels, predicted, class_names)


def names(axis, which):
    return [label.get_text() for label in getattr(axis, f"get_{which}ticklabels")()]


def numbers(axis):
    return [text.get_text() for text in axis.texts]


def predictions(n_classes, n=2000):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, n)
    return labels, np.where(rng.random(n) < 0.8, labels, rng.integers(0, n_classes, n))


def assert_inside(figure):
    """Nothing that is written is cut off at the figure's edge."""
    with drawing():
        figure.canvas.draw()
        box = figure.get_tightbbox()
    width, height = figure.get_size_inches() * figure.dpi
    assert box.x0 * figure.dpi >= -1
    assert box.y0 * figure.dpi >= -1
    assert box.x1 * figure.dpi <= width + 1
    assert box.y1 * figure.dpi <= height + 1


def test_draw_confusion_matrix__counts_and_shares():
    figure = draw([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0], ["a", "b", "c"])
    counts, shares = figure.axes
    assert numbers(counts) == ["2", "1", "0", "0", "2", "0", "1", "0", "0"]
    assert numbers(shares) == ["67", "33", "0", "0", "100", "0", "100", "0", "0"]
    assert names(counts, "x") == names(counts, "y") == names(shares, "x") == ["a", "b", "c"]
    assert counts.get_ylabel() == "true class"
    assert counts.get_xlabel() == shares.get_xlabel() == "predicted class"
    assert counts.get_title() == "Images (6 in all)"


def test_draw_confusion_matrix__small_shares_do_not_read_as_nothing():
    labels = np.zeros(1000, dtype=int)
    predicted = labels.copy()
    predicted[:2] = 1
    assert numbers(draw(labels, predicted, ["a", "b"]).axes[1]) == [">99", "<1", "", ""]


def test_draw_confusion_matrix__no_prediction_counts_as_wrong():
    figure = draw([0, 0, 1, 1], [0, -1, 1, 1], ["a", "b"])
    assert numbers(figure.axes[0]) == ["1", "0", "0", "2"]
    assert numbers(figure.axes[1]) == ["50", "0", "0", "100"]
    assert [text.get_text() for text in figure.texts] == ["1 of the 4 images were given no class; they have no column."]


@pytest.mark.parametrize(("n_classes", "panels", "cells"), [(2, 2, 4), (20, 2, 400), (21, 2, 0), (40, 2, 0), (41, 1, 0)])
def test_draw_confusion_matrix__numbers_up_to_20_counts_up_to_40(n_classes, panels, cells):
    figure = draw(*predictions(n_classes), [f"class {i}" for i in range(n_classes)])
    matrices = [axis for axis in figure.axes if axis.get_xlabel() == "predicted class"]
    assert len(matrices) == panels
    assert [len(axis.texts) for axis in matrices] == [cells] * panels


def test_draw_confusion_matrix__every_class_is_named_up_to_60():
    class_names = [f"class {i}" for i in range(41)]
    figure = draw(*predictions(41), class_names)
    assert names(figure.axes[0], "y") == names(figure.axes[0], "x") == class_names
    assert figure.axes[0].get_ylabel() == "true class"


@pytest.mark.parametrize("n_classes", [3, 12, 30, 60, 257])
@pytest.mark.parametrize("name", ["c{}", "American Staffordshire terrier, bull {}", "花{}"])
def test_draw_confusion_matrix__nothing_is_cut_off(n_classes, name):
    assert_inside(draw(*predictions(n_classes, 600), [name.format(i) for i in range(n_classes)]))


def test_plot_confusion_matrix__257_classes(tmp_path):
    class_names = [f"{i:03d}.object-{i}" for i in range(257)]
    labels, predicted = predictions(257, 5000)
    figure = draw(labels, predicted, class_names)
    assert names(figure.axes[0], "y") == class_names[::5]
    assert figure.axes[0].get_ylabel() == "true class (one in 5 is named)"
    plot_confusion_matrix(labels, predicted, class_names, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        width, height = figure.get_size_inches() * 150
        assert image.size == (pytest.approx(width, abs=1), pytest.approx(height, abs=1))
        assert 1500 < image.width < 2000
        # The diagonal is dark, the rest is not.
        assert 0.01 < (np.asarray(image.convert("L")) < 100).mean() < 0.1


def test_draw_confusion_matrix__long_names_are_cut_and_stay_distinct():
    class_names = [f"American Staffordshire terrier, number {i}" for i in range(4)]
    shown = names(draw(*predictions(4), class_names).axes[0], "y")
    assert len(set(shown)) == 4
    assert all("…" in name and len(name) <= 24 for name in shown)


@pytest.mark.parametrize(
    "name",
    ["$x^2$", "$\\frac{$", "\\$", "a_b^c", "花🌸", "مرحبا", "\ud800", "a\nb\x00", "", "\u202eabc", "\U000e0041", "᪥"],
)
def test_plot_confusion_matrix__any_name(name, tmp_path):
    figure = draw([0, 1], [0, 1], [name, "other"])
    label = figure.axes[0].get_yticklabels()[0]
    assert label._preprocess_math(label.get_text())[1] is False
    plot_confusion_matrix([0, 1], [0, 1], [name, "other"], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_draw_confusion_matrix__dollars_are_shown():
    label = draw([0, 1], [0, 1], ["$x^2$", "other"]).axes[0].get_yticklabels()[0]
    assert label._preprocess_math(label.get_text()) == ("$x^2$", False)


@pytest.mark.parametrize(
    ("labels", "predicted", "class_names", "message"),
    [
        ([], [], ["a"], "at least 1"),
        ([0], [0, 1], ["a", "b"], "same length"),
        ([2], [0], ["a", "b"], "labels from 0 to 1, found 2 to 2"),
        ([0.0], [0], ["a"], "whole numbers"),
        ([0], [0], [], "at least one class name"),
    ],
)
def test_plot_confusion_matrix__refused(labels, predicted, class_names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plot_confusion_matrix(labels, predicted, class_names, tmp_path / "a.png")


def test_read_predictions(make_run):
    found = Predictions.read(make_run() / "predictions" / "test.parquet")
    assert found.labels.shape == found.predicted.shape == (150,)
    assert found.class_names[0] == "healthy"


def test_read_predictions__damaged(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(RunDirectoryError, match="not a predictions file"):
        Predictions.read(tmp_path / "a.parquet")
    with pytest.raises(RunDirectoryError, match="no such file"):
        Predictions.read(tmp_path / "b.parquet")


def test_report__importing_it_imports_neither_matplotlib_nor_torch(tmp_path):
    script = (
        "import sys; import hf_transfer.report as report; assert 'matplotlib' not in sys.modules, 'at import';"
        "from pathlib import Path; report.plot_confusion_matrix([0, 1], [0, 1], ['a', 'b'], Path(sys.argv[1]));"
        "print([name for name in ('matplotlib.pyplot', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.png")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
