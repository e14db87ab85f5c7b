"""Decoding for a purpose: a crop of an image at the size that is wanted, from no more pixels than it takes.

A JPEG of which a crop is made four times smaller need not be decoded in full: libjpeg decodes at 1/2, 1/4 or 1/8 of the size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from ..errors import DataError
from .images import EncodedImage

Decoder = Callable[[bytes], Image.Image]

# How many times the input's sides an image keeps at least that evaluation decodes at a reduced size.
_EVALUATION_MARGIN = 2
# The kernels behind torchvision's antialiased resizing, called so that they write interleaved pixels.
_KERNELS = {
    InterpolationMode.BILINEAR: torch.ops.aten._upsample_bilinear2d_aa.out,
    InterpolationMode.BICUBIC: torch.ops.aten._upsample_bicubic2d_aa.out,
}
_PILLOW = {
    InterpolationMode.NEAREST: Image.Resampling.NEAREST,
    InterpolationMode.NEAREST_EXACT: Image.Resampling.NEAREST,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    InterpolationMode.BOX: Image.Resampling.BOX,
    InterpolationMode.HAMMING: Image.Resampling.HAMMING,
    InterpolationMode.LANCZOS: Image.Resampling.LANCZOS,
}


class Box(NamedTuple):
    """A part of an image, in pixels of the upright original."""

    top: int
    left: int
    height: int
    width: int


class Picture(Protocol):
    """An image of which one part is wanted, wherever its pixels come from.

    Attributes:
        size: (height, width) of the upright original.
    """

    size: tuple[int, int]

    def crop(self, box: Box, size: tuple[int, int], interpolation: InterpolationMode) -> torch.Tensor:
        """Return a part of the image at a size (height, width): uint8 [height, width, 3]."""
        ...


class UndecodableError(Exception):
    """Bytes that are no complete image; the cause says why."""


def unreadable(name: str, error: BaseException | None) -> DataError:
    """Return what is said of an image that cannot be read.

    Args:
        name: of the image.
        error: why.
    """
    reason = str(error) or type(error).__name__
    return DataError(
        f"data: cannot read the image {name}: {reason}. "
        "Mend or remove it, or set data.on_bad_image to 'skip'; 'hf-transfer check --data' lists all such images."
    )


class DecodedPicture:
    """A picture that is in memory.

    Args:
        image: RGB.
    """

    def __init__(self, image: Image.Image) -> None:
        self.size = (image.size[1], image.size[0])
        self._image = image

    def crop(self, box: Box, size: tuple[int, int], interpolation: InterpolationMode) -> torch.Tensor:
        """Return a part; see `Picture`."""
        part = self._image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        return resized(np.array(part), size, interpolation)


class EncodedPicture:
    """A picture that is decoded when it is known which part of it is wanted, and at what size.

    A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 of its size at which the part still has the size that is wanted.
    Reduced, pixels differ from those of full decoding by 0.4 to 1.5 levels of 255 on average, by 3 where the image is nothing
    but fine cloth; where they are does not change.

    Args:
        encoded: the bytes of an image file.

    Raises:
        UndecodableError: when they are no image.
    """

    def __init__(self, encoded: bytes) -> None:
        try:
            self._encoded = EncodedImage(encoded)
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            raise UndecodableError from error
        self.size = self._encoded.size

    def crop(self, box: Box, size: tuple[int, int], interpolation: InterpolationMode) -> torch.Tensor:
        """Return a part, once; see `Picture`.

        Raises:
            UndecodableError: when the bytes are no complete image.
        """
        factor = reduction((box.height, box.width), size)
        try:
            pixels = self._encoded.decode_interleaved() if factor == 1 else None
            if pixels is not None:
                rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
                return resized(pixels[rows, columns], size, interpolation)
            image = self._encoded.decode(factor)
        except Exception as error:
            raise UndecodableError from error
        height, width = self.size
        if factor == 1 or image.size == (width, height):  # other formats are decoded in full
            return DecodedPicture(image).crop(box, size, interpolation)
        # The last row and column of what is decoded stand for fewer pixels; in a mirrored image they are the first.
        mirrored = self._encoded.mirrored
        left = (box.left + mirrored[1] * (factor * image.size[0] - width)) / factor
        top = (box.top + mirrored[0] * (factor * image.size[1] - height)) / factor
        right, bottom = min(left + box.width / factor, image.size[0]), min(top + box.height / factor, image.size[1])
        part = image.resize((size[1], size[0]), _PILLOW[interpolation], box=(left, top, right, bottom))
        return torch.from_numpy(np.array(part))


def reduction(wanted: tuple[int, int], size: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4 and 8 by which a part can be divided and is still not smaller than a size.

    Args:
        wanted: (height, width) of the part in pixels.
        size: (height, width) it will be resized to.
    """
    ratio = min(wanted[0] / size[0], wanted[1] / size[1])
    return next((factor for factor in (8, 4, 2) if ratio >= factor), 1)


def resized(pixels: np.ndarray, size: tuple[int, int], interpolation: InterpolationMode) -> torch.Tensor:
    """Return pixels at another size, antialiased: uint8 [height, width, 3].

    Bilinear and bicubic resizing is torch's on bytes, five times as fast as Pillow's; a pixel in a hundred is one or two
    levels of 255 from it. The other kinds are Pillow's.

    Args:
        pixels: uint8 [H, W, 3], writeable or not.
        size: (height, width).
        interpolation: how.
    """
    if pixels.shape[:2] == size:
        return torch.from_numpy(pixels)
    kernel = _KERNELS.get(interpolation)
    if kernel is None:
        image = Image.fromarray(pixels).resize((size[1], size[0]), _PILLOW[interpolation])
        return torch.from_numpy(np.array(image))
    result = torch.empty((*size, 3), dtype=torch.uint8)
    # To torch both are [1, 3, height, width] in the layout channels_last.
    kernel(torch.from_numpy(pixels).permute(2, 0, 1)[None], list(size), False, None, None, out=result.permute(2, 0, 1)[None])
    return result


@dataclass(frozen=True)
class ReducedDecoder:
    """Decode a JPEG for evaluation at 1/2, 1/4 or 1/8 of its size where it stays twice as large as the input.

    Args:
        size: (height, width) of the input.
    """

    size: tuple[int, int]

    def __call__(self, encoded: bytes) -> Image.Image:
        """Return the image as `decode_rgb` does, possibly smaller."""
        image = EncodedImage(encoded)
        shortest = min(image.size)
        least = _EVALUATION_MARGIN * max(self.size)
        return image.decode(reduction((shortest, shortest), (least, least)))


def evaluation_decoder(decoding: str, size: tuple[int, int]) -> Decoder | None:
    """Return how evaluation images are decoded by `data.decoding`; None for `decode_rgb`.

    Args:
        decoding: "full" or "reduced".
        size: (height, width) of the input.
    """
    return ReducedDecoder(size) if decoding == "reduced" else None
