"""Crops from no more pixels than they take: where they are, what they look like, and that the draw is torchvision's."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from transformers import ViTImageProcessor

from hf_transfer.data import images
from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import ImageDataset
from hf_transfer.data.decoding import (
    Box,
    DecodedPicture,
    EncodedPicture,
    ReducedDecoder,
    UndecodableError,
    evaluation_decoder,
    reduction,
    resized,
)
from hf_transfer.data.images import EncodedImage, decode_rgb
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.transforms import Preprocessing

BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC


@pytest.fixture(scope="module")
def photograph():
    """A textile photograph, enlarged, with a gradient: it has a direction and structure of every size."""
    table = read_package("textile").tables["train"]
    image = decode_rgb(table.encoded(3)).resize((1200, 900), Image.Resampling.BICUBIC)
    ramp = np.linspace(-60, 60, 1200)[None, :, None] + np.linspace(-40, 40, 900)[:, None, None]
    return Image.fromarray(np.clip(np.asarray(image) + ramp, 0, 255).astype(np.uint8))


def jpeg(image, **settings):
    file = io.BytesIO()
    image.save(file, "JPEG", **({"quality": 90} | settings))
    return file.getvalue()


def turned(image, orientation):
    """A JPEG that EXIF data turns upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    transpose = Image.Transpose
    back = {
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }
    return jpeg(image if orientation == 1 else image.transpose(back[orientation]), exif=exif)


def levels(first, second):
    """Mean and largest difference in levels of 255."""
    difference = np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int))
    return difference.mean(), difference.max()


# Header and reduced decoding


@pytest.mark.parametrize("orientation", range(1, 9))
def test_encoded_image__knows_the_upright_size_from_the_header(photograph, orientation):
    assert EncodedImage(turned(photograph, orientation)).size == (900, 1200)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_encoded_image__of_other_formats_is_decoded_in_full(photograph, kind):
    file = io.BytesIO()
    photograph.resize((120, 90)).save(file, kind)
    image = EncodedImage(file.getvalue())
    assert image.size == (90, 120)
    assert np.array_equal(np.asarray(image.decode(8)), np.asarray(decode_rgb(file.getvalue())))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_encoded_image__reduced_is_the_average_of_the_pixels(photograph, mode, factor):
    encoded = jpeg(photograph.convert(mode))
    found = EncodedImage(encoded).decode(factor)
    assert found.size == (1200 // factor, -(-900 // factor))
    mean, largest = levels(found, decode_rgb(encoded).reduce(factor))
    assert mean < 1.0
    assert largest < 40


def test_encoded_image__sides_are_rounded_up():
    encoded = jpeg(Image.new("RGB", (101, 67)))
    assert [EncodedImage(encoded).decode(factor).size for factor in (1, 2, 4, 8)] == [(101, 67), (51, 34), (26, 17), (13, 9)]


def test_reduction__is_the_largest_that_leaves_the_size():
    assert [reduction((side, 5000), (224, 224)) for side in (100, 447, 448, 895, 896, 1791, 1792, 9000)] == [
        *(1, 1, 2, 2, 4, 4, 8, 8)
    ]
    assert reduction((5000, 448), (224, 224)) == 2


# Resizing


@pytest.mark.parametrize("interpolation", [BILINEAR, BICUBIC])
@pytest.mark.parametrize("size", [(224, 224), (100, 300), (1000, 1300)])
def test_resized__is_pillows_to_two_levels(photograph, interpolation, size):
    pixels = np.array(photograph)[100:700, 50:900]
    kind = {BILINEAR: Image.Resampling.BILINEAR, BICUBIC: Image.Resampling.BICUBIC}[interpolation]
    expected = Image.fromarray(pixels).resize((size[1], size[0]), kind)
    found = resized(pixels, size, interpolation)
    assert found.shape == (*size, 3)
    assert found.is_contiguous()
    mean, largest = levels(found, expected)
    assert largest <= 2
    assert mean < 0.02


@pytest.mark.parametrize("kind", ["LANCZOS", "NEAREST", "BOX"])
def test_resized__other_kinds_are_pillows(photograph, kind):
    pixels = np.array(photograph)[:300, :400]
    expected = Image.fromarray(pixels).resize((60, 50), Image.Resampling[kind])
    assert np.array_equal(resized(pixels, (50, 60), InterpolationMode[kind]), np.asarray(expected))


def test_resized__of_the_same_size_changes_nothing(photograph):
    assert np.array_equal(resized(np.array(photograph), (900, 1200), BILINEAR), np.asarray(photograph))


# Crops


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("size", "mean_at_most"),
    [(900, 0.0), (300, 0.0), (224, 1.0), (112, 2.5), (56, 3.5)],
    ids=["whole", "1", "1/2", "1/4", "1/8"],
)
def test_crop__shows_the_part_that_was_asked_for(photograph, orientation, size, mean_at_most):
    """Decoded in full the pixels are equal; reduced they differ by 1 level on average, 3 where threads are pixels."""
    encoded = turned(photograph, orientation)
    box = Box(203, 301, 460 if size < 900 else 600, 500 if size < 900 else 611)
    found = EncodedPicture(encoded).crop(box, (size, size), BILINEAR)
    expected = DecodedPicture(decode_rgb(encoded)).crop(box, (size, size), BILINEAR)
    mean, largest = levels(found, expected)
    assert mean <= mean_at_most
    assert largest <= (0 if mean_at_most == 0 else 40)


def test_crop__a_truncated_image_is_never_half_shown(photograph):
    encoded = jpeg(photograph)
    for size in (900, 56):
        with pytest.raises(UndecodableError):
            EncodedPicture(encoded[:-2000]).crop(Box(0, 0, 900, 900), (size, size), BILINEAR)
    with pytest.raises(UndecodableError):
        EncodedPicture(b"no image")


@pytest.mark.parametrize("settings", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 50}])
def test_decode_interleaved__pixels_are_pillows(photograph, settings):
    """With simplejpeg or without it, an image is the same image."""
    pytest.importorskip("simplejpeg")
    for size in ((500, 375), (499, 333), (33, 17), (3, 1)):
        encoded = jpeg(photograph.resize(size), **settings)
        assert np.array_equal(EncodedImage(encoded).decode_interleaved(), np.asarray(decode_rgb(encoded)))


def test_decode_interleaved__leaves_what_is_no_plain_photograph_to_pillow(photograph):
    small = photograph.resize((60, 40))
    for encoded in (turned(small, 6), jpeg(small.convert("L")), jpeg(small.convert("CMYK"))):
        assert EncodedImage(encoded).decode_interleaved() is None
    file = io.BytesIO()
    small.save(file, "PNG")
    assert EncodedImage(file.getvalue()).decode_interleaved() is None


def test_crop__is_the_same_without_simplejpeg(photograph, monkeypatch):
    pytest.importorskip("simplejpeg")
    encoded, box = jpeg(photograph), Box(203, 301, 460, 500)
    fast = EncodedPicture(encoded).crop(box, (300, 300), BILINEAR)
    monkeypatch.setattr(images, "simplejpeg", None)
    assert torch.equal(EncodedPicture(encoded).crop(box, (300, 300), BILINEAR), fast)


# The draw


@pytest.mark.parametrize("interpolation", [2, 3])
def test_draw__is_torchvisions_crop_and_flip(photograph, interpolation):
    """Under one seed the same box and the same flip as torchvision's transforms of the decoded image."""
    preprocessing = Preprocessing(ViTImageProcessor(size={"height": 300, "width": 280}, resample=interpolation))
    kind = {2: BILINEAR, 3: BICUBIC}[interpolation]
    crop = v2.RandomResizedCrop((300, 280), scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), interpolation=kind)
    theirs = v2.Compose([crop, v2.RandomHorizontalFlip(0.5), v2.PILToTensor()])
    ours = build_train_transform("basic", preprocessing)
    small = photograph.resize((500, 375))  # too small for reduced decoding
    encoded = jpeg(small)
    flips = set()
    for seed in range(12):
        torch.manual_seed(seed)
        expected = theirs(decode_rgb(encoded))
        torch.manual_seed(seed)
        found, erased = ours.draw(EncodedPicture(encoded))
        mean, largest = levels(found.permute(2, 0, 1), expected)
        assert erased is None
        assert largest <= 2
        assert mean < 0.02
        flips.add(bool(expected[0, :, 0].float().mean() > expected[0, :, -1].float().mean()))
    assert flips == {True, False}


def test_draw__of_a_large_jpeg_is_the_same_view(photograph):
    """Reduced decoding changes pixels a little, never what is seen of the image."""
    preprocessing = Preprocessing(ViTImageProcessor(size={"height": 112, "width": 112}))
    transform, encoded = build_train_transform("basic", preprocessing), jpeg(photograph)
    for seed in range(8):
        views = []
        for picture in (EncodedPicture(encoded), DecodedPicture(decode_rgb(encoded))):
            torch.manual_seed(seed)
            views.append(transform.draw(picture)[0])
        assert levels(*views)[0] < 2


# Evaluation


def test_evaluation_decoder__full_is_the_decoding_of_everyone(photograph):
    assert evaluation_decoder("full", (224, 224)) is None
    assert evaluation_decoder("reduced", (224, 224)) == ReducedDecoder((224, 224))


def test_reduced_decoder__keeps_twice_the_input(photograph):
    encoded = jpeg(photograph)
    sizes = {side: ReducedDecoder((side, side))(encoded).size for side in (500, 226, 225, 112, 56, 20)}
    assert sizes == {
        500: (1200, 900),
        226: (1200, 900),
        225: (600, 450),
        112: (300, 225),
        56: (150, 113),
        20: (150, 113),
    }


def test_reduced_decoder__inputs_differ_little(photograph, tmp_path):
    """On fine cloth two thirds of a level of 255 on average after resizing, fewer than 10 at most."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(jpeg(photograph))
    table = read_class_folders(tmp_path).tables["train"]
    preprocessing = Preprocessing(ViTImageProcessor(size={"height": 112, "width": 112}, do_normalize=False))
    full = ImageDataset(table, preprocessing)[0]["pixel_values"]
    reduced = ImageDataset(table, preprocessing, decoder=evaluation_decoder("reduced", (112, 112)))[0]["pixel_values"]
    difference = (full - reduced).abs() * 255
    assert 0 < difference.mean() < 0.8
    assert difference.max() < 10


def test_decoding__needs_no_simplejpeg():
    assert images.simplejpeg is None or images.simplejpeg is sys.modules["simplejpeg"]
