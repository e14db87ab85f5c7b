import numpy as np
import pytest

from hf_transfer.report.class_scores import draw_class_scores, plot_class_scores, worst_first
from hf_transfer.report.figures import drawing


def figures(f1, n=10):
    return {"precision": f1, "recall": f1, "f1": f1, "n": n}


def draw(per_class):
    with drawing():
        figure = draw_class_scores(per_class)
        figure.canvas.draw()
    return figure


def names(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def assert_inside(figure):
    with drawing():
        box = figure.get_tightbbox()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() + 0.01
    assert box.y1 <= figure.get_figheight() + 0.01


def test_draw_class_scores__values_and_counts():
    figure = draw({"a": {"precision": 0.9, "recall": 0.3, "f1": 0.45, "n": 1234}, "b": figures(1.0)})
    axis = figure.axes[0]
    assert names(figure) == ["a", "b"]
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines["precision"].get_xdata()) == [0.9, 1.0]
    assert list(lines["recall"].get_xdata()) == [0.3, 1.0]
    assert list(lines["F1"].get_xdata()) == [0.45, 1.0]
    assert [text.get_text() for text in axis.texts] == ["1,234", "10"]
    assert axis.get_xlim() == (0, 1)


def test_draw_class_scores__high_scores_are_drawn_apart():
    assert draw({"a": figures(0.97), "b": figures(0.94)}).axes[0].get_xlim() == (0.9, 1)
    assert draw({"a": figures(0.97), "b": figures(0.9)}).axes[0].get_xlim() == (0.8, 1)


def test_draw_class_scores__undefined_values_have_no_mark():
    figure = draw({"a": {"precision": None, "recall": None, "f1": None, "n": 0}, "b": figures(0.2)})
    assert {line.get_label(): len(line.get_xdata()) for line in figure.axes[0].lines}["F1"] == 1


def test_draw_class_scores__of_many_the_worst():
    per_class = {f"class {i}": figures(i / 256, n=2) for i in range(257)}
    figure = draw(per_class)
    assert names(figure) == [f"class {i}" for i in range(30)]
    assert figure.axes[0].get_xlabel() == "the 30 of 257 classes with the lowest F1"
    assert len(names(draw(dict(list(per_class.items())[:40])))) == 40


@pytest.mark.parametrize("n_classes", [1, 2, 3, 40, 257])
@pytest.mark.parametrize("name", ["c{}", "American Staffordshire terrier, number {} of a breed", "花{}"])
def test_draw_class_scores__nothing_is_cut_off(n_classes, name):
    rng = np.random.default_rng(0)
    assert_inside(draw({name.format(i): figures(rng.random(), n=123456) for i in range(n_classes)}))


@pytest.mark.parametrize("name", ["$x^2$", "<script>", "مرحبا", "\ud800", "a\nb", "", "x" * 500])
def test_plot_class_scores__any_name(name, tmp_path):
    plot_class_scores({name: figures(0.5), "other": figures(0.6)}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_worst_first__classes_without_f1_are_left_out():
    per_class = {"a": figures(0.5), "b": {"f1": None}, "c": figures(0.1)}
    assert worst_first(per_class, 5) == ["c", "a"]
    with pytest.raises(ValueError, match="at least one class"):
        draw_class_scores({})


def test_draw_class_scores__average_precision_is_a_bar_and_decides_which_classes_are_worst():
    per_class = {
        f"class {place}": {"average_precision": place / 100, "precision": 0.5, "recall": 0.5, "f1": 1 - place / 100, "n": 9}
        for place in range(50)
    }
    per_class["class 0"]["average_precision"] = None
    axis = draw_class_scores(per_class).axes[0]
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert shown == [f"class {place}" for place in range(1, 31)]
    assert [bar.get_width() for bar in axis.patches] == [place / 100 for place in range(1, 31)]
    assert axis.get_xlabel() == "the 30 of 50 classes with the lowest average precision" and axis.get_xlim() == (0.0, 1.0)
