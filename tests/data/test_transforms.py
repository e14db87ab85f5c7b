"""One preprocessing object: the checkpoint's own, its statistics measured on it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from transformers import (
    BitImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
)
from transformers.models.timm_wrapper import TimmWrapperImageProcessor

from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.errors import BackboneError, DataError

HALF = ([0.5] * 3, [0.5] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def timm_processor(size=224, crop_pct=0.875, interpolation="bicubic"):
    config = {"input_size": [3, size, size], "crop_pct": crop_pct, "interpolation": interpolation, "num_classes": 10}
    return TimmWrapperImageProcessor(pretrained_cfg=config | {"mean": IMAGENET[0], "std": IMAGENET[1]}, architecture="resnet18")


SMALL = {"height": 64, "width": 64}
OF_BYTES = {"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}

# Processor, input size, statistics for pixels between 0 and 1, interpolation.
PROCESSORS = {
    "vit": (ViTImageProcessor(size=SMALL), (64, 64), HALF, "bilinear"),
    "vit not square": (ViTImageProcessor(size={"height": 64, "width": 48}), (64, 48), HALF, "bilinear"),
    "vit by Pillow": (ViTImageProcessorPil(size=SMALL), (64, 64), HALF, "bilinear"),
    "vit of bytes": (ViTImageProcessor(do_rescale=False, size=SMALL, **OF_BYTES), (64, 64), IMAGENET, "bilinear"),
    "vit not normalised": (ViTImageProcessor(do_normalize=False, size=SMALL), (64, 64), ([0.0] * 3, [1.0] * 3), "bilinear"),
    "bit": (BitImageProcessor(), (224, 224), CLIP, "bicubic"),
    "bit small": (BitImageProcessor(size={"shortest_edge": 64}, crop_size=SMALL), (64, 64), CLIP, "bicubic"),
    "convnext small": (ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875), (64, 64), HALF, "bicubic"),
    "convnext 384": (ConvNextImageProcessor(size={"shortest_edge": 384}), (384, 384), HALF, "bicubic"),
    # include_top, the default, divides by the standard deviation once more
    "efficientnet": (EfficientNetImageProcessor(size=SMALL), (64, 64), ([0.5] * 3, [0.25] * 3), "bicubic"),
    "efficientnet no top": (EfficientNetImageProcessor(include_top=False, size=SMALL), (64, 64), HALF, "bicubic"),
    "timm": (timm_processor(), (224, 224), IMAGENET, "bicubic"),
    "timm uncropped": (timm_processor(size=96, crop_pct=1.0, interpolation="bilinear"), (96, 96), IMAGENET, "bilinear"),
}
# Those that do nothing to the geometry of an image that already has the input size.
UNMOVED = [name for name in PROCESSORS if name not in ("convnext small", "timm")]


@pytest.fixture(scope="module")
def photographs():
    table = read_package("textile").tables["train"]
    return [decode_rgb(table.encoded(index)) for index in (0, 700, 1400)]


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def output(processor, image):
    return processor(image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing__is_the_processor_bit_for_bit(name, noise, photographs):
    processor = PROCESSORS[name][0]
    preprocessing = Preprocessing(processor)
    for image in (noise(50, 70), noise(150, 110), photographs[0]):
        found = preprocessing(image)
        assert found.dtype == torch.float32
        assert found.shape == (3, *preprocessing.size)
        assert torch.equal(found, output(processor, image))
        assert torch.equal(found, preprocessing(image))
    # and also within a batch, as transformers.pipeline may call it
    batch = processor(photographs, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch, torch.stack([preprocessing(image) for image in photographs]))


@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing__measures_size_statistics_and_interpolation(name):
    processor, size, (mean, std), interpolation = PROCESSORS[name]
    preprocessing = Preprocessing(processor)
    assert preprocessing.size == size
    assert preprocessing.mean.tolist() == pytest.approx(mean, abs=1e-5)
    assert preprocessing.std.tolist() == pytest.approx(std, abs=1e-5)
    assert preprocessing.interpolation == InterpolationMode(interpolation)


@pytest.mark.parametrize("name", UNMOVED)
def test_normalize__of_the_right_size_is_the_processors_output(name, noise):
    processor, size, _, _ = PROCESSORS[name]
    image = noise(*size)
    torch.testing.assert_close(Preprocessing(processor).normalize(tensor(image)), output(processor, image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("colour", [(10, 200, 30), (255, 0, 128)])
def test_normalize__of_one_colour_is_the_processors_output(name, colour):
    processor, (height, width), _, _ = PROCESSORS[name]
    image = Image.new("RGB", (width, height), colour)
    torch.testing.assert_close(Preprocessing(processor).normalize(tensor(image)), output(processor, image), atol=1e-5, rtol=0)


def test_normalize__is_contiguous_whatever_the_pixels_are(noise):
    preprocessing = Preprocessing(PROCESSORS["vit not square"][0])
    strided = tensor(noise(64, 48))
    assert not strided.is_contiguous()
    assert preprocessing.normalize(strided).is_contiguous()
    assert torch.equal(preprocessing.normalize(strided), preprocessing.normalize(strided.contiguous()))


def test_normalize__leaves_the_pixels_as_they_are(noise):
    pixels = tensor(noise(64, 48))
    before = pixels.clone()
    Preprocessing(PROCESSORS["vit not square"][0]).normalize(pixels)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("preset", ["none", "basic"])
def test_check_statistics__passes_on_photographs(name, preset, photographs):
    preprocessing = Preprocessing(PROCESSORS[name][0])
    transform = build_train_transform(preset, preprocessing)
    preprocessing.check_statistics(torch.stack([transform(image) for image in photographs]))


def test_check_statistics__passes_on_dark_and_bright_photographs(photographs):
    preprocessing = Preprocessing(ViTImageProcessor(size=SMALL))
    for scale, shift in ((0.1, 0), (0.1, 229)):
        images = [image.point(lambda value, scale=scale, shift=shift: int(value * scale + shift)) for image in photographs]
        preprocessing.check_statistics(torch.stack([preprocessing(image) for image in images]))


def statistics_message(processor, images, preset="none"):
    preprocessing = Preprocessing(processor)
    transform = build_train_transform(preset, preprocessing)
    with pytest.raises(DataError) as caught:
        preprocessing.check_statistics(torch.stack([transform(image) for image in images]))
    return str(caught.value)


@pytest.mark.parametrize("preset", ["none", "basic"])
def test_check_statistics__pixels_that_were_not_rescaled(preset):
    images = [
        Image.fromarray(np.array([[[0] * 3, [255] * 3]] * 2, dtype=np.uint8)).resize((224, 224), Image.Resampling.NEAREST)
    ]
    assert statistics_message(ViTImageProcessor(do_rescale=False), images) == (
        "model.backbone: the checkpoint's statistics (mean 0.5 0.5 0.5, std 0.5 0.5 0.5) give inputs between -1.00 and 1.00, "
        "found -1.00 to 509.00 in the first batch: 0-255 pixels were normalised with statistics for 0-1 pixels. "
        "Mend do_rescale / rescale_factor in its preprocessor_config.json."
    )


@pytest.mark.parametrize("preset", ["none", "basic"])
@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(rescale_factor=1 / 255 / 255, size=SMALL),
        BitImageProcessor(rescale_factor=1 / 255 / 255),
        # pixels between 0 and 1 under the statistics of bytes
        ViTImageProcessor(size=SMALL, **OF_BYTES),
    ],
    ids=["vit", "bit", "statistics of bytes"],
)
def test_check_statistics__pixels_that_were_rescaled_once_too_often(processor, preset, photographs):
    found = statistics_message(processor, photographs, preset)
    assert "the pixels were scaled down once too often, or every image of the batch is blank" in found
    assert "Mend do_rescale / rescale_factor in its preprocessor_config.json, or the images." in found


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(do_rescale=False, size=SMALL),
        BitImageProcessor(do_rescale=False),
        EfficientNetImageProcessor(do_rescale=False, size=SMALL),
        ViTImageProcessor(do_rescale=False, do_normalize=False, size=SMALL),
    ],
    ids=["vit", "bit", "efficientnet", "bytes"],
)
@pytest.mark.parametrize("preset", ["none", "basic"])
def test_check_statistics__photographs_that_were_not_rescaled(processor, preset, photographs):
    assert "0-255 pixels were normalised with statistics for 0-1 pixels" in statistics_message(processor, photographs, preset)


def test_check_statistics__blank_images():
    assert "every image of the batch is blank" in statistics_message(
        ViTImageProcessor(), [Image.new("RGB", (9, 9), (80, 80, 80))]
    )


def test_preprocessing__a_processor_that_sees_no_difference():
    with pytest.raises(BackboneError) as caught:
        Preprocessing(ViTImageProcessor(image_std=[-0.5] * 3))
    assert str(caught.value) == "model.backbone: its image processor maps black and white to the same values"
