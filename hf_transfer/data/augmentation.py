"""Augmentation presets: what each training image goes through before it is put into a batch.

Every random number comes from torch's global generator, which the data set seeds for each sample: what an image becomes is a
pure function of that seed. Crops and colours work on the 8-bit Pillow image; on a CPU torchvision's kernels for tensors take
longer where colours change (1.8 times for `strong`). Normalisation and erasing work on the float32 input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from .transforms import Preprocessing


def build_train_transform(
    preset: str, preprocessing: Preprocessing, erasing: float = 0.0
) -> Callable[[Image.Image], torch.Tensor]:
    """Return what training images go through: contiguous float32 [3, height, width] from an RGB image.

    Presets:
        none: the evaluation transform.
        basic: a random resized crop of 50 to 100 % of the area (aspect ratio 3/4 to 4/3; of an image far longer than that,
            torchvision takes the middle) and a horizontal flip with probability 0.5.
        strong: a crop of 30 to 100 %, the flip; with probability 0.8 brightness, contrast and saturation change by up to
            30 % and the hue by up to 18 degrees; with probability 0.5 a rotation by up to 15 degrees and a shear by up to 5.
        randaugment: basic, then 2 random operations of magnitude 9 of 31 (RandAugment, Cubuk et al. 2019, arXiv 1909.13719).
        trivial: basic, then 1 random operation of random magnitude (TrivialAugment, Mueller & Hutter 2021, arXiv 2103.10158).
        crop_pad_flip_rotate: the evaluation transform, shifted by up to 1/8 of its size (a random crop after padding: 4 pixels
            at 32), flipped with probability 0.5 and rotated by up to 15 degrees.

    What moves in from outside an image has the checkpoint's mean colour, an input of 0 (where 8 bits round it, of nearly 0).

    Args:
        preset: name of the preset.
        preprocessing: the checkpoint's size, statistics and evaluation transform.
        erasing: probability that a rectangle of 2 to 33 % of the input's area is set to 0, after everything else (random
            erasing, Zhong et al. 2017, arXiv 1708.04896).

    Raises:
        ValueError: when there is no such preset.
    """
    from torchvision.transforms import v2

    steps = _steps(preset, preprocessing)
    if erasing > 0:
        steps.append(v2.RandomErasing(erasing, value=0.0))
    return steps[0] if len(steps) == 1 else v2.Compose(steps)


def _steps(preset: str, preprocessing: Preprocessing) -> list[Callable[[Any], Any]]:
    """Return the preset's transforms, in order, from the image to the input."""
    from torchvision.transforms import v2

    if preset == "none":
        return [preprocessing]
    if preset == "crop_pad_flip_rotate":
        height, width = preprocessing.size
        return [
            preprocessing,
            v2.RandomCrop((height, width), padding=[round(width / 8), round(height / 8)]),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomRotation(15, InterpolationMode.BILINEAR),
        ]
    # Turned and sheared pixels are interpolated bilinearly: Pillow and torchvision do so whatever the checkpoint resizes with.
    moved = {"interpolation": InterpolationMode.BILINEAR, "fill": _mean_colour(preprocessing)}
    if preset == "basic":
        smallest, distorted = 0.5, []
    elif preset == "strong":
        jitter = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05)
        affine = v2.RandomAffine(degrees=15, shear=5, **moved)
        smallest, distorted = 0.3, [v2.RandomApply([jitter], p=0.8), v2.RandomApply([affine], p=0.5)]
    elif preset == "randaugment":
        smallest, distorted = 0.5, [v2.RandAugment(num_ops=2, magnitude=9, **moved)]
    elif preset == "trivial":
        smallest, distorted = 0.5, [v2.TrivialAugmentWide(**moved)]
    else:
        raise ValueError(f"unknown augmentation preset '{preset}'")
    crop = v2.RandomResizedCrop(
        preprocessing.size,
        scale=(smallest, 1.0),
        ratio=(3 / 4, 4 / 3),
        interpolation=preprocessing.interpolation,
        antialias=True,
    )
    return [crop, v2.RandomHorizontalFlip(0.5), *distorted, v2.PILToTensor(), preprocessing.normalize]


def _mean_colour(preprocessing: Preprocessing) -> list[int]:
    """Return the 8-bit RGB colour that becomes an input of about 0."""
    return preprocessing.mean.clamp(0, 1).mul(255).round().int().tolist()
