"""Encoded bytes in, an RGB image out: the one place where images are decoded."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

try:
    import simplejpeg  # type: ignore[import-not-found, import-untyped, unused-ignore]  # where it has wheels, see setup.cfg
except ImportError:
    simplejpeg = None

_ORIENTATION = 0x0112  # the EXIF tag
_LYING = (5, 6, 7, 8)  # its values that exchange width and height
_MIRRORED = (3, 4, 7, 8), (2, 3, 6, 7)  # those at which the upright image begins where the stored one ends: rows, columns
_JPEG = ("JPEG", "MPO")  # what telephones write may be called MPO


def decode_rgb(encoded: bytes) -> Image.Image:
    """Decode an image to RGB, upright.

    EXIF orientation is applied. Gray, palette, CMYK and 16-bit images become 8-bit RGB; transparency is dropped as
    `PIL.Image.convert("RGB")` drops it, which is what `transformers.pipeline` does too, so both see the same pixels.

    Args:
        encoded: the bytes of a file in any format Pillow reads; of an animation the first frame is taken.

    Returns:
        The decoded image, mode RGB.

    Raises:
        OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError: when the bytes are no complete image.
    """
    return EncodedImage(encoded).decode()


class EncodedImage:
    """An image whose header has been read.

    Args:
        encoded: the bytes of a file in any format Pillow reads; it is decoded once.

    Attributes:
        size: (height, width) of the upright image, for a JPEG known from the header, for other formats by decoding.
        mirrored: whether the upright image's first row, and column, is the last that is stored in a JPEG.

    Raises:
        OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError: when the bytes are no image.
    """

    def __init__(self, encoded: bytes) -> None:
        self._bytes = encoded
        self._file = Image.open(io.BytesIO(encoded))
        self._decoded = None if self._file.format in _JPEG else self._upright()
        width, height = self._file.size if self._decoded is None else self._decoded.size
        self._orientation = 1 if self._decoded is not None else self._file.getexif().get(_ORIENTATION, 1)
        self.mirrored = (self._orientation in _MIRRORED[0], self._orientation in _MIRRORED[1])
        self.size = (width, height) if self._orientation in _LYING else (height, width)

    def decode(self, reduction: int = 1) -> Image.Image:
        """Return the image as `decode_rgb` does, a JPEG at a fraction of its size.

        libjpeg makes blocks of fewer than 8 x 8 pixels from the low frequencies alone, which is faster than decoding all and
        resizing. A pixel stands for `reduction` x `reduction` pixels; sides are rounded up.

        Args:
            reduction: 1, 2, 4 or 8; formats other than JPEG are decoded in full whatever it is.

        Raises:
            OSError, ValueError, SyntaxError: when the bytes are no complete image.
        """
        if self._decoded is None:
            if reduction > 1:
                width, height = self._file.size
                self._file.draft(self._file.mode, (max(1, width // reduction), max(1, height // reduction)))
            self._decoded = self._upright()
        return self._decoded

    def decode_interleaved(self) -> np.ndarray | None:
        """Return the pixels that `decode` returns, uint8 [height, width, 3], by simplejpeg.

        Pillow and simplejpeg call the same library in the same way, and their pixels are equal; but Pillow's are copied twice
        before torch has them.

        Returns:
            None where there is no simplejpeg, or the image is no upright JPEG of three channels.

        Raises:
            ValueError: when the bytes are no complete image.
        """
        if simplejpeg is None or self._decoded is not None or self._orientation != 1 or self._file.mode != "RGB":
            return None
        return simplejpeg.decode_jpeg(self._bytes, colorspace="RGB")

    def _upright(self) -> Image.Image:
        with self._file as image:
            image.load()
            # Some versions of Pillow call 16 bits "I" as they call 32; in these formats "I" always is 16.
            sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
            # An image that stands upright is not copied.
            ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image._new(image.im), sixteen_bit=sixteen_bit)


def to_rgb(image: Image.Image, *, sixteen_bit: bool = False) -> Image.Image:
    """Return the image in mode RGB, 16-bit gray scaled (not clipped) to 8 bits.

    Args:
        image: an image of any mode.
        sixteen_bit: gray values go up to 65,535; otherwise that is so of 32-bit images whose maximum is above 255.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image).astype(np.float64)
        if sixteen_bit or pixels.max(initial=0.0) > 255:
            pixels = pixels / 257.0  # 65,535 becomes 255
        image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette with transparency keeps its colours only by this way
    return image.convert("RGB")
