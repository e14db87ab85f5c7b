"""Presets: what they do to images, and that a seed decides it."""

import pickle
import random
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import BitImageProcessor, ViTImageProcessor

from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import Collate, ImageDataset
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.recipe.schema import AugmentPreset

PRESETS = get_args(AugmentPreset)
RANDOM = [name for name in PRESETS if name != "none"]
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def preprocessing_for(height=64, width=64, **settings):
    return Preprocessing(ViTImageProcessor(size={"height": height, "width": width}, **settings))


@pytest.fixture(scope="module")
def table():
    return read_package("textile").tables["train"].select(np.arange(0, 2000, 80))


@pytest.fixture(scope="module")
def photographs(table):
    return [decode_rgb(table.encoded(index)) for index in range(len(table))]


@pytest.fixture(scope="module")
def preprocessing():
    return preprocessing_for(64, 48, **IMAGENET)


def views(transform, image, count, seed=0):
    """Return float32 [count, 3, height, width]: what one image becomes under successive seeds."""
    seen = []
    for number in range(count):
        torch.manual_seed(1000 * seed + number)
        seen.append(transform(image))
    return torch.stack(seen)


# What holds for each preset


@pytest.mark.parametrize("erasing", [0.0, 1.0])
@pytest.mark.parametrize("preset", PRESETS)
def test_build_train_transform__gives_what_the_model_takes(preset, erasing, preprocessing, photographs):
    transform = build_train_transform(preset, preprocessing, erasing)
    low, high = (bound[:, None, None] for bound in (preprocessing.low, preprocessing.high))
    for image in photographs[:8]:
        view = transform(image)
        assert view.shape == (3, 64, 48)
        assert view.dtype == torch.float32
        assert view.is_contiguous()
        assert ((view >= low - 1e-5) & (view <= high + 1e-5)).all()


@pytest.mark.parametrize("preset", RANDOM)
def test_build_train_transform__a_seed_decides(preset, preprocessing, photographs):
    transform = build_train_transform(preset, preprocessing, erasing=0.5)
    first = views(transform, photographs[0], 12)
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), np.random.get_state()[1].copy()
    assert torch.equal(first, views(transform, photographs[0], 12))
    assert random.getstate() == before[0]  # torch's generator is the only one that is asked
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert len({view.numpy().tobytes() for view in first}) == 12


@pytest.mark.parametrize("preset", PRESETS)
def test_build_train_transform__the_same_in_worker_processes(preset, preprocessing, table):
    data = ImageDataset(table.select(np.arange(8)), build_train_transform(preset, preprocessing, erasing=0.5), seed=7)
    here, there = (
        torch.cat([batch["pixel_values"] for batch in DataLoader(data, 4, num_workers=workers, collate_fn=Collate())])
        for workers in (0, 2)
    )
    assert torch.equal(here, there)


@pytest.mark.parametrize("preset", PRESETS)
def test_build_train_transform__goes_to_processes_that_share_no_memory(preset, preprocessing, photographs):
    transform = build_train_transform(preset, preprocessing, erasing=0.5)
    copied = pickle.loads(pickle.dumps(transform))
    assert torch.equal(views(copied, photographs[0], 3), views(transform, photographs[0], 3))


@pytest.mark.parametrize("preset", PRESETS)
def test_build_train_transform__leaves_image_and_evaluation_alone(preset, photographs):
    preprocessing, image = preprocessing_for(), photographs[1].copy()
    expected = preprocessing(image)
    views(build_train_transform(preset, preprocessing, erasing=1.0), image, 3)
    assert torch.equal(preprocessing(image), expected)
    assert image == photographs[1]


# How many times as far as in the plain photographs, flat grey cloth, pixels spread: equalising stretches the contrast of those.
SPREADS = {
    "none": (0.999, 1.001),
    "basic": (0.9, 1.1),
    "strong": (1.1, 1.8),
    "randaugment": (1.1, 2.2),
    "trivial": (1.1, 2.2),
    "crop_pad_flip_rotate": (0.75, 1.0),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_build_train_transform__real_images_keep_their_statistics(preset, photographs):
    preprocessing = preprocessing_for(**IMAGENET)
    transform = build_train_transform(preset, preprocessing)
    plain = torch.stack([preprocessing(image) for image in photographs])
    augmented = torch.cat([views(transform, image, 8, seed=number) for number, image in enumerate(photographs)])
    shift = augmented.mean(dim=(0, 2, 3)) - plain.mean(dim=(0, 2, 3))
    spread = augmented.std(dim=(0, 2, 3)) / plain.std(dim=(0, 2, 3))
    least, most = SPREADS[preset]
    assert shift.abs().max() < 0.15  # in standard deviations of ImageNet's pixels
    assert spread.min() > least
    assert spread.max() < most


def test_build_train_transform__an_unknown_preset(preprocessing):
    with pytest.raises(ValueError, match="unknown augmentation preset 'wild'"):
        build_train_transform("wild", preprocessing)


# none, basic


def test_build_train_transform__none_is_the_evaluation_transform(preprocessing):
    assert build_train_transform("none", preprocessing) is preprocessing


def test_build_train_transform__basic_keeps_at_least_half_and_flips_half():
    """Columns of an image count up from 0: the first and last of a view tell what was kept, and whether it was flipped."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    transform = build_train_transform("basic", preprocessing_for(do_normalize=False))
    seen = views(transform, Image.fromarray(ramp), 300)
    left, right = seen[:, 0, :, 0].mean(dim=1), seen[:, 0, :, -1].mean(dim=1)
    flipped, widths = (left > right).float().mean(), (left - right).abs()
    assert 0.42 < flipped < 0.58
    assert widths.min() > np.sqrt(0.5 * 3 / 4) - 0.05
    assert 0.8 < widths.mean() < 0.95


def test_build_train_transform__basic_of_one_colour_is_the_evaluation_transform(preprocessing):
    """Whatever is cropped and flipped, training sees what evaluation sees."""
    image = Image.new("RGB", (90, 70), (200, 30, 60))
    torch.testing.assert_close(build_train_transform("basic", preprocessing)(image), preprocessing(image), atol=1e-5, rtol=0)


# strong, randaugment, trivial


def test_build_train_transform__strong_changes_colours_and_turns(preprocessing):
    image = Image.new("RGB", (90, 70), (200, 30, 60))
    plain = preprocessing(image)
    seen = views(build_train_transform("strong", preprocessing), image, 300)
    centre = seen[:, :, 32, 24] - plain[:, 32, 24]
    unchanged = (centre.abs().amax(dim=1) < 1e-5).float().mean()
    assert 0.13 < unchanged < 0.27
    # what a rotation moves into the corner is of the mean colour
    outside = (seen[:, :, 0, 0].abs().amax(dim=1) < 0.01).float().mean()
    assert 0.4 < outside < 0.6


def test_build_train_transform__strong_crops_down_to_three_tenths():
    """Of 32 black and white stripes the middle row shows as many as the crop is wide, whatever becomes of the colours."""
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, np.arange(256) % 16 < 8] = 255
    widths = {}
    for preset in ("basic", "strong"):
        row = views(build_train_transform(preset, preprocessing_for()), Image.fromarray(stripes), 200)[:, 0, 32]
        bright = row > row.mean(dim=1, keepdim=True)
        widths[preset] = (bright[:, 1:] != bright[:, :-1]).sum(dim=1) / 32
    assert np.sqrt(0.3 * 3 / 4) - 0.05 < widths["strong"].min() < 0.57
    assert widths["basic"].min() > np.sqrt(0.5 * 3 / 4) - 0.05
    assert widths["strong"].mean() < widths["basic"].mean() - 0.05


@pytest.mark.parametrize(("preset", "least", "most"), [("randaugment", 0.0, 0.06), ("trivial", 0.07, 0.25)])
def test_build_train_transform__operations_follow_basics_crop(preset, least, most, preprocessing, photographs):
    """Of 14 operations one is the identity: drawn twice it is rare, drawn once it leaves what basic makes of the image."""
    plain = views(build_train_transform("basic", preprocessing), photographs[0], 200)
    found = views(build_train_transform(preset, preprocessing), photographs[0], 200)
    unchanged = (found == plain).flatten(1).all(dim=1).float().mean()
    assert least <= unchanged < most


@pytest.mark.parametrize("preset", ["randaugment", "trivial"])
def test_build_train_transform__operations_fill_with_the_mean_colour(preset, preprocessing):
    image = Image.new("RGB", (90, 70), (255, 255, 255))
    seen = views(build_train_transform(preset, preprocessing), image, 200)
    border = torch.cat([seen[:, :, 0], seen[:, :, -1], seen[:, :, :, 0], seen[:, :, :, -1]], dim=2)
    assert 0.1 < (border.abs().amax(dim=1) < 0.01).any(dim=1).float().mean() < 0.9


# crop_pad_flip_rotate


@pytest.mark.parametrize("size", [(32, 32), (64, 32)])
def test_build_train_transform__crop_pad_flip_rotate_moves_by_an_eighth_and_turns_by_15_degrees(size):
    """A bar in the middle, its left half brighter, on the mean colour: centroid, axis and skew tell shift, angle and flip."""
    height, width = size
    pixels = np.full((height, width, 3), 100, dtype=np.uint8)
    middle, half = height // 2, width // 4
    pixels[middle - 1 : middle + 1, width // 2 - half : width // 2 + half] = 180
    pixels[middle - 1 : middle + 1, width // 2 - half : width // 2] = 255
    transform = build_train_transform("crop_pad_flip_rotate", preprocessing_for(height, width, image_mean=[100 / 255] * 3))

    seen = views(transform, Image.fromarray(pixels), 300)[:, 0]
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    weights = (seen > 0.1).float()
    weights /= weights.sum(dim=(1, 2), keepdim=True)
    x, y = ((weights * places).sum(dim=(1, 2), keepdim=True) for places in (columns, rows))
    dx, dy = columns - x, rows - y
    xx, yy, xy = ((weights * product).sum(dim=(1, 2)) for product in (dx**2, dy**2, dx * dy))
    angle = torch.rad2deg(0.5 * torch.atan2(2 * xy, xx - yy))
    across, down, skew = x - width / 2, y - height / 2, (seen * dx).sum(dim=(1, 2))
    assert angle.abs().max() < 17
    assert angle.min() < -12
    assert angle.max() > 12
    turned = np.cos(np.pi / 12), np.sin(np.pi / 12)  # the shift comes first, and is turned with the image
    for found, side, other in ((across, width, height), (down, height, width)):
        assert 0.8 * side / 8 < found.abs().max() < turned[0] * side / 8 + turned[1] * other / 8 + 0.7
        assert found.mean().abs() < side / 40
    assert 0.42 < (skew > 0).float().mean() < 0.58


def test_build_train_transform__crop_pad_flip_rotate_fills_with_the_mean(preprocessing):
    white = Image.new("RGB", (90, 70), (255, 255, 255))
    seen = views(build_train_transform("crop_pad_flip_rotate", preprocessing), white, 50)
    assert seen.min() >= 0
    assert 0.1 < (seen == 0).float().mean() < 0.3
    assert torch.allclose(seen.amax(dim=(0, 2, 3)), preprocessing.high)


def test_build_train_transform__crop_pad_flip_rotate_keeps_the_evaluations_crop():
    """What evaluation cuts away is not seen in training either: a white border around a black middle."""
    image = Image.new("RGB", (100, 100), (255, 255, 255))
    image.paste((0, 0, 0), (20, 20, 80, 80))
    cropping = Preprocessing(
        BitImageProcessor(size={"shortest_edge": 100}, crop_size={"height": 48, "width": 48}, image_mean=[0.5] * 3)
    )
    seen = views(build_train_transform("crop_pad_flip_rotate", cropping), image, 50)
    assert seen.max() <= 0


# Random erasing


def test_build_train_transform__erases_a_rectangle_and_nothing_else(preprocessing):
    image = Image.new("RGB", (90, 70), (200, 30, 60))
    plain = preprocessing(image)
    seen = views(build_train_transform("none", preprocessing, erasing=1.0), image, 300)
    erased = (seen == 0).all(dim=1)
    assert torch.equal(seen, torch.where(erased[:, None], torch.zeros(()), plain))
    rectangle = erased.any(dim=2).sum(dim=1) * erased.any(dim=1).sum(dim=1)
    assert torch.equal(erased.sum(dim=(1, 2)), rectangle)
    share = rectangle / (64 * 48)
    assert 0.015 < share.min() < 0.06
    assert 0.28 < share.max() < 0.34
    assert 0.15 < share.mean() < 0.2


@pytest.mark.parametrize(("erasing", "least", "most"), [(0.0, 0.0, 0.0), (0.3, 0.22, 0.38), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("preset", ["none", "basic"])
def test_build_train_transform__erases_with_the_probability_asked_for(preset, erasing, least, most, preprocessing):
    image = Image.new("RGB", (90, 70), (200, 30, 60))
    seen = views(build_train_transform(preset, preprocessing, erasing), image, 300)
    assert least <= (seen == 0).flatten(1).any(dim=1).float().mean() <= most


@pytest.mark.parametrize("preset", PRESETS)
def test_build_train_transform__erasing_comes_last(preset, preprocessing, photographs):
    """Under one seed all else is drawn first, so an image differs from its unerased self in zeros only."""
    plain = views(build_train_transform(preset, preprocessing), photographs[3], 20)
    erased = views(build_train_transform(preset, preprocessing, erasing=1.0), photographs[3], 20)
    changed = (erased != plain).any(dim=1)
    assert (erased[changed[:, None].expand_as(erased)] == 0).all()
    assert changed.flatten(1).any(dim=1).all()
