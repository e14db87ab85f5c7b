"""Sheets of tiles: colours by value, foreign text taken literally, equal sheets equal bytes."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hf_transfer.explain.overlay import Row, Tile, draw_sheet, overlaid


@pytest.fixture
def picture():
    return np.full((40, 40, 3), 0.5, dtype=np.float32)


@pytest.fixture
def spot():
    """A map with its peak at (30, 10)."""
    rows, columns = np.mgrid[:40, :40]
    return np.exp(-((rows - 10) ** 2 + (columns - 30) ** 2) / 40).astype(np.float32)


def drawn(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_overlaid__the_picture_stays_in_gray_where_the_map_is_zero(picture):
    picture[20, 20] = (1.0, 0.0, 0.0)
    heat = np.zeros((40, 40), dtype=np.float32)
    heat[0, 0] = 1.0
    found = overlaid(picture, heat)
    np.testing.assert_allclose(found[1:20], picture[1:20], atol=1e-6)
    np.testing.assert_allclose(found[20, 20], 0.299, atol=1e-6)
    expected = 0.25 * 0.5 + 0.75 * np.array(matplotlib.colormaps["inferno"](1.0)[:3])
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-6)
    assert found.dtype == np.float32


def test_draw_sheet__colours_stand_where_the_map_is_large(tmp_path, picture, spot):
    draw_sheet([Row("", [Tile(picture, "seen"), Tile(picture, "map", spot)])], "one image", tmp_path / "sheet.png")
    pixels = drawn(tmp_path / "sheet.png")
    yellow = (pixels[..., 0] - pixels[..., 2] > 80)[:, : -75 - 1]  # without the scale on the right
    columns = np.nonzero(yellow)[1]
    width = pixels.shape[1]
    assert width / 2 < columns.min()  # nothing on the first tile
    left, right = np.quantile(columns, [0.1, 0.9])
    second = pixels.shape[1] - 75 - 315 - 15  # a tile is 2.1 inches of 150 dots, 0.1 of gap, 0.5 for the scale
    assert abs((left + right) / 2 - (second + 315 * 30.5 / 40)) < 8


def test_draw_sheet__a_blank_map_is_said_not_drawn(tmp_path, picture):
    remark = "the map is constant: every place has the value 0"
    draw_sheet([Row("", [Tile(picture, "map", None, None, remark)])], "one image", tmp_path / "blank.png")
    draw_sheet([Row("", [Tile(picture, "map")])], "one image", tmp_path / "plain.png")
    blank, plain = drawn(tmp_path / "blank.png"), drawn(tmp_path / "plain.png")
    assert blank.shape == plain.shape
    tile = (slice(-300, -30), slice(40, 300))
    assert np.median(blank[tile]) > np.median(plain[tile]) + 60  # faded
    red = (blank[..., 0] - blank[..., 1] > 80) & (blank[..., 0] - blank[..., 2] > 80)
    assert red.sum() > 200  # the words


@pytest.mark.parametrize("text", ["$x^", "cost_$5_$", "a\\nb\x00c", "\u732b", "x" * 300, ""])
def test_draw_sheet__foreign_text_is_literal(tmp_path, picture, spot, text):
    draw_sheet([Row(text, [Tile(picture, text, spot, (3.0, 4.0))])], text, tmp_path / "sheet.png")
    pixels = drawn(tmp_path / "sheet.png")
    assert pixels.shape[1] < 700
    assert pixels.shape[0] < 500


def test_draw_sheet__equal_sheets_are_equal_bytes_whatever_the_users_settings(tmp_path, picture, spot):
    rows = [Row("cat", [Tile(picture, "seen"), Tile(picture, "map", spot, (30.5, 10.5))]), Row("dog", [Tile(picture, "seen")])]
    draw_sheet(rows, "two", tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "image.cmap": "jet"}):
        draw_sheet(rows, "two", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
