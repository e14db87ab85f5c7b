import numpy as np
import pytest
from PIL import Image

from hf_transfer.report.figures import drawing
from hf_transfer.report.mistakes import ConfusedPair, Example
from hf_transfer.report.sheets import draw_confused_pairs, draw_top_losses, plot_confused_pairs, plot_top_losses

NAMES = ["cat", "$x^2$", "<script>", "مرحبا", "花" * 40, "x" * 500, ""]


def example(sample_id="a", label="cat", predicted="dog"):
    return Example(sample_id, None, label, predicted, confidence=0.9, own=0.05, loss=2.996)


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def assert_inside(figure):
    """No text reaches beyond the edge, and none into the tile to the right."""
    with drawing():
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert max(box.x1 for box in boxes) <= figure.bbox.width + 1
    assert min(box.y0 for box in boxes) >= 0


def draw(function, *arguments):
    with drawing():
        return function(*arguments)


def test_draw_top_losses__captions_and_empty_tiles():
    images = {"a": Image.new("RGB", (60, 30), "red")}
    figure = draw(draw_top_losses, [example("a"), example("b", predicted=None)], images)
    assert texts(figure) == [
        "true: cat",
        "given: dog",
        "p 0.900, loss 3.00",
        "image not found",
        "true: cat",
        "given: no class",
        "p 0.900, loss 3.00",
    ]
    assert len(figure.axes[0].images) == 1


def test_plot_top_losses__the_image_is_there(tmp_path):
    plot_top_losses([example("a")], {"a": Image.new("RGB", (60, 60), (0, 255, 0))}, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert (pixels == (0, 255, 0)).all(axis=2).mean() > 0.1


def test_draw_confused_pairs__a_row_each():
    pairs = [
        ConfusedPair("cat", "dog", 12, 1000, [example("a"), example("b")]),
        ConfusedPair("dog", "cat", 1, 5, [example("c")]),
    ]
    figure = draw(draw_confused_pairs, pairs, {})
    found = texts(figure)
    assert found[:4] == ["cat", "taken for", "dog", "12 of 1,000 images"]
    assert found.count("image not found") == 3


@pytest.mark.parametrize("name", NAMES)
def test_sheets__any_name_fits(name, tmp_path):
    examples = [example(str(i), name, name + "2") for i in range(7)]
    assert_inside(draw(draw_top_losses, examples, {}))
    pairs = [ConfusedPair(name, "dog", 1, 2, examples[:2])]
    assert_inside(draw(draw_confused_pairs, pairs, {}))
    plot_confused_pairs(pairs, {}, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1_000
