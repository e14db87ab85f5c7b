"""Views of an image for test-time augmentation, and corruptions of it: what may come before the checkpoint's preprocessing.

A view is a function of an RGB image and its sample id alone: an image gives the same view in every process and every run.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from ..data.dataset import sample_seed
from ..data.transforms import Preprocessing

View = Callable[[Image.Image, str], Image.Image]  # RGB image and sample id to RGB image

SEVERITIES = (1, 2, 3, 4, 5)
_CROP_SHARE = 0.875
_PROBE_SIZE = 512
_SLANT = 0.3


def identity(image: Image.Image, sample_id: str) -> Image.Image:
    """Return the image as it is."""
    return image


def mirror(image: Image.Image, sample_id: str) -> Image.Image:
    """Return the image with left and right exchanged."""
    return ImageOps.mirror(image)


@dataclass(frozen=True)
class Turned:
    """The image turned or mirrored, no pixel changed.

    Args:
        how: Pillow's name of the operation.
    """

    how: Image.Transpose

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        """Return the turned image; of a quarter turn, width and height are exchanged."""
        return image.transpose(self.how)


@dataclass(frozen=True)
class Crop:
    """A rectangle of 7/8 of the image's width and height.

    Args:
        across: where it stands, from 0 (left) to 1 (right).
        down: from 0 (top) to 1 (bottom).
    """

    across: float
    down: float

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        """Return the rectangle."""
        width, height = (max(1, round(side * _CROP_SHARE)) for side in image.size)
        left, top = round((image.width - width) * self.across), round((image.height - height) * self.down)
        return image.crop((left, top, left + width, top + height))


# Test-time augmentation by name. The preprocessing that follows may cut a border away from each of the five crops again.
TTA: dict[str, tuple[View, ...]] = {
    "none": (identity,),
    "flip": (identity, mirror),
    "five_crop": (Crop(0.5, 0.5), Crop(0, 0), Crop(1, 0), Crop(0, 1), Crop(1, 1)),
    "dihedral": (identity, *(Turned(how) for how in Image.Transpose)),
}


def _gaussian_noise(pixels: np.ndarray, deviation: float, key: int) -> np.ndarray:
    return pixels + deviation * np.random.default_rng(key).standard_normal(pixels.shape, dtype=np.float32)


def _gaussian_blur(pixels: np.ndarray, deviation: float, key: int) -> np.ndarray:
    radius = round(4 * deviation)
    weights = torch.exp(-torch.arange(-radius, radius + 1).square() / (2 * deviation**2))
    weights /= weights.sum()
    channels = torch.from_numpy(pixels).permute(2, 0, 1)[:, None]
    padded = functional.pad(channels, (radius, radius, radius, radius), mode="replicate")
    blurred = functional.conv2d(functional.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    return blurred[:, 0].permute(1, 2, 0).numpy()


def _brightness(pixels: np.ndarray, added: float, key: int) -> np.ndarray:
    # The value of HSV is the largest channel; with hue and saturation kept, the others follow in proportion.
    value = pixels.max(axis=2, keepdims=True)
    raised = np.minimum(value + np.float32(added), 1.0)
    return np.divide(pixels * raised, value, out=np.broadcast_to(raised, pixels.shape).copy(), where=value > 0)


def _contrast(pixels: np.ndarray, kept: float, key: int) -> np.ndarray:
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * np.float32(kept) + mean


def _jpeg(pixels: np.ndarray, quality: float, key: int) -> np.ndarray:
    with io.BytesIO() as file:
        _to_image(pixels).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as decoded:
            return _to_pixels(decoded)


# Each: what it does to float32 pixels [height, width, 3] between 0 and 1, and its constant at severities 1 to 5.
_CORRUPTIONS: dict[str, tuple[Callable[[np.ndarray, float, int], np.ndarray], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),  # standard deviation
    "gaussian_blur": (_gaussian_blur, (1, 2, 3, 4, 6)),  # standard deviation in pixels
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),  # added to the value of HSV
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),  # share that is kept
    "jpeg": (_jpeg, (25, 18, 15, 10, 7)),  # quality
}
CORRUPTIONS = tuple(_CORRUPTIONS)


@dataclass(frozen=True)
class Corruption:
    """A common corruption at one severity.

    Source: D. Hendrycks and T. Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019 (arXiv 1903.12261), with the constants of its published code for images of 224 pixels. Gaussian blur is among
    its four extra corruptions. Other than there, the border that preprocessing cuts away is corrupted too, and the result is
    not stored as JPEG once more.

    Args:
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        shorter_side: images are first brought to this, the scale at which the network sees them.
        interpolation: how they are brought there.
        seed: of the noise, together with name, severity and sample id.
    """

    name: str
    severity: int
    shorter_side: int
    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    seed: int = 0

    def __call__(self, image: Image.Image, sample_id: str) -> Image.Image:
        """Return the corrupted image, its shorter side `shorter_side` pixels."""
        if min(image.size) != self.shorter_side:
            image = transforms.resize(image, [self.shorter_side], self.interpolation)
        corrupt, constants = _CORRUPTIONS[self.name]
        key = sample_seed(self.seed, self.severity, f"{self.name}/{sample_id}")
        return _to_image(corrupt(_to_pixels(image), constants[self.severity - 1], key))


def build_corruptions(
    preprocessing: Preprocessing,
    names: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
) -> dict[tuple[str, int], Corruption]:
    """Return corruptions at the scale of a checkpoint's input, by name and severity.

    Args:
        preprocessing: of the checkpoint; see `input_scale`.
        names: of `CORRUPTIONS`.
        severities: of 1 to 5.
        seed: of the noise.

    Raises:
        ValueError: for another name or severity.
    """
    unknown = [str(found) for found in (*names, *severities) if found not in (*CORRUPTIONS, *SEVERITIES)]
    if unknown:
        raise ValueError(f"expected {', '.join(CORRUPTIONS)} at severities 1 to 5, found {', '.join(unknown)}")
    scale = input_scale(preprocessing)
    return {
        (name, severity): Corruption(name, severity, scale, preprocessing.interpolation, seed)
        for name in names
        for severity in severities
    }


def input_scale(preprocessing: Preprocessing) -> int:
    """Return the shorter side, in pixels, to which the preprocessing brings a square image before it cuts a border away.

    It is input size / crop share, such as 256 for an input of 224 at a share of 0.875. As with the statistics, it is measured
    on the processor: it is shown ramps of colour, whose slope in the input tells how far the image was reduced.
    """
    # Both ramps are slanted, so that the rounding to 8 bits differs from line to line and leaves the mean slope alone.
    ramp = np.linspace(0, 255, _PROBE_SIZE)
    slanted = _SLANT * ramp[:, None] + (1 - _SLANT) * ramp[None, :]
    probe = np.rint(np.stack([slanted, slanted.T, np.zeros_like(slanted)], axis=2)).astype(np.uint8)
    inputs = preprocessing(Image.fromarray(probe))
    shares = (inputs - preprocessing.low[:, None, None]) / (preprocessing.high - preprocessing.low)[:, None, None]
    rises = []
    for line in (shares[0].mean(dim=0).numpy(), shares[1].mean(dim=1).numpy()):
        inner = slice(len(line) // 8, len(line) - len(line) // 8)  # resizing bends the ends
        rises.append(np.polyfit(np.arange(len(line))[inner], line[inner], 1)[0])
    # Reduced to n pixels, a ramp of 512 rises by (1 - slant) (512 / n) / 511 a pixel.
    return round(_PROBE_SIZE / (_PROBE_SIZE - 1) * (1 - _SLANT) / max(rises))


def _to_pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32) / 255


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
