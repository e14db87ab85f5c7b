"""Augmentation presets: what each training image goes through before it is put into a batch.

Every random number comes from torch's global generator, which the data set seeds for each sample: what an image becomes is a
pure function of that seed. A crop is drawn from the size that the file's header tells, and only what it needs is decoded.
Colours work on the 8-bit Pillow image; on a CPU torchvision's kernels for tensors take longer there (1.8 times for `strong`).
Normalisation and erasing work on batches, see `finishing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from .decoding import Box, DecodedPicture, Picture
from .transforms import Preprocessing

AUGMENTATION_VERSION = 2
"""What is kept of augmented images is kept by this number: it grows when a seed no longer gives the same pixels."""


class CropAugmentation:
    """A random resized crop and a horizontal flip, then changes of the 8-bit image, then what a batch goes through at once.

    Args:
        preprocessing: size, interpolation and statistics.
        smallest: the least share of the area that a crop keeps.
        distorted: what changes the cropped Pillow image, in order.
        erasing: probability of random erasing.

    Attributes:
        preprocessing, smallest: as given.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        smallest: float,
        distorted: Sequence[Callable[[Any], Any]] = (),
        erasing: float = 0.0,
    ) -> None:
        from torchvision.transforms import v2

        self.preprocessing = preprocessing
        self.smallest = smallest
        self._crop = v2.RandomResizedCrop(preprocessing.size, scale=(smallest, 1.0), ratio=(3 / 4, 4 / 3))
        self._distorted = tuple(distorted)
        self._erasing = v2.RandomErasing(erasing, value=0.0) if erasing > 0 else None
        self._input = torch.empty((3, *preprocessing.size), device="meta")

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return one image's input, float32 [3, height, width]: what its pixels become in a batch."""
        pixels, erased = self.draw(DecodedPicture(image))
        found = self.preprocessing.normalize(pixels.permute(2, 0, 1))
        erase(found, erased)
        return found

    def draw(self, picture: Picture) -> tuple[torch.Tensor, Box | None]:
        """Draw a view of an image: uint8 [height, width, 3], and what is to be erased of it after the normalisation."""
        drawn = self._crop.make_params([torch.empty((3, *picture.size), device="meta")])
        box = Box(drawn["top"], drawn["left"], drawn["height"], drawn["width"])
        pixels = picture.crop(box, self.preprocessing.size, self.preprocessing.interpolation)
        if torch.rand(1) < 0.5:
            pixels = pixels.flip(1)
        if self._distorted:
            image = Image.fromarray(pixels.numpy())
            for change in self._distorted:
                image = change(image)
            pixels = torch.from_numpy(np.array(image))
        return pixels, self._draw_erased()

    @property
    def erases(self) -> bool:
        """Whether anything may be erased."""
        return self._erasing is not None

    def _draw_erased(self) -> Box | None:
        if self._erasing is None or torch.rand(1) >= self._erasing.p:
            return None
        drawn = self._erasing.make_params([self._input])
        return None if drawn["v"] is None else Box(drawn["i"], drawn["j"], drawn["h"], drawn["w"])


class InputAugmentation:
    """The evaluation transform, then changes of its result.

    Args:
        preprocessing: the evaluation transform.
        steps: what changes the float32 input, in order.
    """

    def __init__(self, preprocessing: Preprocessing, steps: Sequence[Callable[[torch.Tensor], torch.Tensor]]) -> None:
        self.preprocessing = preprocessing
        self._steps = tuple(steps)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return one image's input, float32 [3, height, width]."""
        return self.change(self.preprocessing(image))

    def change(self, evaluated: torch.Tensor) -> torch.Tensor:
        """Return what becomes of an evaluation's input, float32 [3, height, width]."""
        for step in self._steps:
            evaluated = step(evaluated)
        return evaluated


AnyTransform = Preprocessing | CropAugmentation | InputAugmentation
"""What `build_train_transform` returns: a function of an RGB image, and what it consists of."""


def erase(pixels: torch.Tensor, box: Box | None) -> None:
    """Set a part of an image to 0, in place; None for nothing of it.

    Args:
        pixels: [3, height, width].
        box: the part.
    """
    if box is not None:
        pixels[:, box.top : box.top + box.height, box.left : box.left + box.width] = 0


def build_train_transform(preset: str, preprocessing: Preprocessing, erasing: float = 0.0) -> AnyTransform:
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

    if preset in _SMALLEST:
        return CropAugmentation(preprocessing, _SMALLEST[preset], _distortions(preset, preprocessing), erasing)
    steps: list[Callable[[Any], Any]] = []
    if preset == "crop_pad_flip_rotate":
        height, width = preprocessing.size
        steps = [
            v2.RandomCrop((height, width), padding=[round(width / 8), round(height / 8)]),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomRotation(15, InterpolationMode.BILINEAR),
        ]
    elif preset != "none":
        raise ValueError(f"unknown augmentation preset '{preset}'")
    if erasing > 0:
        steps.append(v2.RandomErasing(erasing, value=0.0))
    return InputAugmentation(preprocessing, steps) if steps else preprocessing


# The least share of the area that a preset's crops keep.
_SMALLEST = {"basic": 0.5, "strong": 0.3, "randaugment": 0.5, "trivial": 0.5}


def _distortions(preset: str, preprocessing: Preprocessing) -> list[Callable[[Any], Any]]:
    """Return what a preset does to the cropped 8-bit image."""
    from torchvision.transforms import v2

    # Turned and sheared pixels are interpolated bilinearly: Pillow and torchvision do so whatever the checkpoint resizes with.
    moved = {"interpolation": InterpolationMode.BILINEAR, "fill": _mean_colour(preprocessing)}
    if preset == "strong":
        jitter = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05)
        return [v2.RandomApply([jitter], p=0.8), v2.RandomApply([v2.RandomAffine(degrees=15, shear=5, **moved)], p=0.5)]
    if preset == "randaugment":
        return [v2.RandAugment(num_ops=2, magnitude=9, **moved)]
    return [v2.TrivialAugmentWide(**moved)] if preset == "trivial" else []


def _mean_colour(preprocessing: Preprocessing) -> list[int]:
    """Return the 8-bit RGB colour that becomes an input of about 0."""
    return preprocessing.mean.clamp(0, 1).mul(255).round().int().tolist()
