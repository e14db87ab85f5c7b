"""A preprocessing in two steps: resizing and cropping, which gives bytes, and the normalisation of these."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize

from .transforms import Preprocessing

Transform = Callable[[Image.Image], torch.Tensor]
Normalisation = Callable[[torch.Tensor], torch.Tensor]

# What a processor's settings say of the normalisation alone, and what says nothing about pixels.
NORMALISATION = frozenset({"mean", "std", "image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor"})
_COSMETIC = frozenset({"_name_or_path", "architecture", "image_processor_type", "feature_extractor_type", "processor_class"})


def parted(preprocessing: Preprocessing) -> tuple[Transform, Normalisation] | None:
    """Return what a preprocessing does up to the normalisation, and the normalisation; None where they cannot be told apart."""
    processor = preprocessing.processor
    transforms = getattr(getattr(processor, "val_transforms", None), "transforms", None)
    if transforms is None:
        return _Resizing(processor), _Rescaling(processor)
    return (Compose(transforms[:-1]), transforms[-1]) if isinstance(transforms[-1], Normalize) else None  # timm's


@dataclass(frozen=True)
class _Resizing:
    """What a processor of transformers does to an image before the normalisation."""

    processor: Any

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]


@dataclass(frozen=True)
class _Rescaling:
    """The normalisation of a processor of transformers."""

    processor: Any

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.processor(
            pixels, do_resize=False, do_center_crop=False, input_data_format="channels_first", return_tensors="pt"
        )
        return found["pixel_values"][0].to(torch.float32)


def agree(preprocessing: Preprocessing, resize: Transform, normalise: Normalisation) -> bool:
    """Return whether a preprocessing in two steps gives the same bytes: seen on noise, larger and smaller than most inputs."""
    noise = np.random.default_rng(0)
    try:
        for height, width in ((320, 250), (90, 120)):
            image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
            if not torch.equal(normalise(resize(image)), preprocessing(image)):
                return False
    except Exception:  # a processor that cannot be called so; each has its own way to say it
        return False
    return True


def settings(preprocessing: Any, left_out: frozenset[str] = frozenset()) -> str:
    """Return the settings of a preprocessing as text: equal texts, equal pixels."""
    processor = preprocessing.processor
    settings = {"class": type(processor).__name__, **_without(processor.to_dict(), _COSMETIC | left_out)}
    return json.dumps(settings, sort_keys=True, default=str)


def _without(node: Any, left_out: frozenset[str]) -> Any:
    if isinstance(node, dict):
        return {str(key): _without(value, left_out) for key, value in node.items() if key not in left_out}
    return node


def eight_bit_parts(preprocessing: Preprocessing) -> tuple[Transform, Normalisation] | None:
    """Return a preprocessing as an image's uint8 pixels [3, height, width] and what makes the input of these.

    Both together give the very same bytes, or None is returned: of a processor that does not resize to bytes.
    """
    parts = parted(preprocessing)
    if parts is None:
        return None
    resize, normalise = parts
    for found in ((resize, normalise), (_Bytes(resize), _Unit(normalise))):
        if agree(preprocessing, *found) and found[0](Image.new("RGB", (64, 48))).dtype == torch.uint8:
            return found
    return None


@dataclass(frozen=True)
class _Bytes:
    """The bytes that a transform has divided by 255."""

    resize: Transform

    def __call__(self, image: Image.Image) -> torch.Tensor:
        return self.resize(image).mul(255.0).round().to(torch.uint8)


@dataclass(frozen=True)
class _Unit:
    """A normalisation of pixels between 0 and 1, of bytes."""

    normalise: Normalisation

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.normalise(pixels.to(torch.float32).div(255.0))
