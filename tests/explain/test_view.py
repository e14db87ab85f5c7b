"""Inputs go back to pictures, and their pixels to the original's."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from transformers.models.timm_wrapper import TimmWrapperImageProcessor

from hf_transfer.data.transforms import Preprocessing
from hf_transfer.explain.view import View

STRETCHED = hf.ViTImageProcessor(size={"height": 32, "width": 48})
CROPPED = hf.BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (7, 9), (1000, 400)])
def test_in_original__stretched(size):
    view = View(Preprocessing(STRETCHED))
    x, y = view.in_original((12.0, 24.0), size)
    assert x == pytest.approx(size[0] / 4, abs=0.01 * size[0])
    assert y == pytest.approx(size[1] * 3 / 4, abs=0.01 * size[1])


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (1000, 400)])
def test_in_original__centre_crop(size):
    view = View(Preprocessing(CROPPED))
    width, height = size
    scale = min(size) / 40  # pixels of the original for one of the input
    x, y = view.in_original((4.0, 28.0), size)
    assert x == pytest.approx(width / 2 - 12 * scale, abs=0.015 * width)
    assert y == pytest.approx(height / 2 + 12 * scale, abs=0.015 * height)


def test_in_original__a_single_pixel():
    assert View(Preprocessing(STRETCHED)).in_original((24.0, 16.0), (1, 1)) == (0.5, 0.5)


def test_in_original__finds_a_dot():
    pixels = np.zeros((90, 120, 3), dtype=np.uint8)
    pixels[60:63, 30:33] = 255
    preprocessing = Preprocessing(CROPPED)
    row, column = divmod(int(preprocessing(Image.fromarray(pixels))[0].argmax()), 32)
    x, y = View(preprocessing).in_original((column + 0.5, row + 0.5), (120, 90))
    assert abs(x - 31.5) < 2
    assert abs(y - 61.5) < 2


BORDER = {"input_size": [3, 64, 64], "crop_pct": 1.0, "crop_mode": "border", "interpolation": "bicubic", "num_classes": 3}
STATISTICS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}


@pytest.mark.parametrize(("size", "point", "place"), [
    ((128, 64), (16, 24), (32, 16)),
    ((64, 128), (24, 16), (16, 32)),
    ((128, 64), (48, 40), (96, 48)),
    ((128, 64), (48, 2), (96, 0)),  # on the border above the image
    ((100, 100), (16, 48), (25, 75)),
])  # fmt: skip
@pytest.mark.parametrize("statistics", [STATISTICS, {"mean": [0.0] * 3, "std": [1.0] * 3}])
def test_in_original__padded(size, point, place, statistics):
    processor = TimmWrapperImageProcessor(pretrained_cfg=BORDER | statistics, architecture="resnet18")
    x, y = View(Preprocessing(processor)).in_original(point, size)
    assert (x, y) == pytest.approx(place, abs=0.01 * max(size))


def test_in_original__padded_below():
    def processor(image, return_tensors):
        canvas = Image.new("RGB", (64, 64), (120, 120, 120))
        canvas.paste(image.resize((64, 16)))
        return {"pixel_values": torch.from_numpy(np.array(canvas)).permute(2, 0, 1)[None] / 255}

    square = Preprocessing(hf.ViTImageProcessor(size={"height": 64, "width": 64}, do_normalize=False))
    square.processor = processor
    assert View(square).in_original((16.0, 4.0), (256, 64)) == pytest.approx((64, 16), abs=1.5)


BLUE_FIRST = hf.MobileViTImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.mark.parametrize("processor", [STRETCHED, CROPPED, BLUE_FIRST])
def test_picture__shows_the_colours_of_the_image(processor):
    preprocessing = Preprocessing(processor)
    image = Image.new("RGB", (64, 48), (200, 100, 20))
    found = View(preprocessing).picture(preprocessing(image))
    assert found.shape == (*preprocessing.size, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[10:20, 10:20].mean(axis=(0, 1)), np.array([200, 100, 20]) / 255, atol=0.01)
