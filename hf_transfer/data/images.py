"""Encoded bytes in, an RGB image out: the one place where images are decoded."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image, ImageFile, ImageOps

try:
    import simplejpeg  # type: ignore[import-not-found, import-untyped, unused-ignore]  # where it has wheels, see setup.cfg
except ImportError:
    simplejpeg = None

_ORIENTATION = 0x0112  # the EXIF tag
_LYING = (5, 6, 7, 8)  # its values that exchange width and height
_MIRRORED = (3, 4, 7, 8), (2, 3, 6, 7)  # those at which the upright image begins where the stored one ends: rows, columns
_JPEG = ("JPEG", "MPO")  # what telephones write may be called MPO
_SCAN, _FRAMES, _TELLING = 0xDA, (0xC0, 0xC1, 0xC2), (0xE1, 0xEE)  # markers in a JPEG's header


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
        self._decoded: Image.Image | None = None
        plain = plain_jpeg_size(encoded) if simplejpeg is not None else None
        self._interleaves = plain is not None
        if plain is not None and plain[0] * plain[1] <= (Image.MAX_IMAGE_PIXELS or math.inf):
            self.size, self.mirrored = plain, (False, False)  # Pillow takes longer to read a header than all the rest
            return
        file = self._file
        if file.format not in _JPEG:
            self._decoded = self._upright()
        width, height = file.size if self._decoded is None else self._decoded.size
        orientation = 1 if self._decoded is not None else file.getexif().get(_ORIENTATION, 1)
        self._interleaves = simplejpeg is not None and self._decoded is None and orientation == 1 and file.mode == "RGB"
        self.mirrored = (orientation in _MIRRORED[0], orientation in _MIRRORED[1])
        self.size = (width, height) if orientation in _LYING else (height, width)

    @functools.cached_property
    def _file(self) -> ImageFile.ImageFile:
        return Image.open(io.BytesIO(self._bytes))

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
        return simplejpeg.decode_jpeg(self._bytes, colorspace="RGB") if self._interleaves and self._decoded is None else None

    def _upright(self) -> Image.Image:
        with self._file as image:
            image.load()
            # Some versions of Pillow call 16 bits "I" as they call 32; in these formats "I" always is 16.
            sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
            # An image that stands upright is not copied.
            ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image._new(image.im), sixteen_bit=sixteen_bit)


def plain_jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG whose header says nothing that has to be looked into.

    Args:
        encoded: the bytes of a file.

    Returns:
        None for anything but a JPEG of 3 x 8 bits without segments that may turn it (APP1: EXIF, XMP) or say what its channels
        are (APP14: Adobe).
    """
    place, size = 2, None
    if encoded[:2] != b"\xff\xd8":
        return None
    while encoded[place : place + 1] == b"\xff" and place + 10 <= len(encoded):
        marker, length = encoded[place + 1], int.from_bytes(encoded[place + 2 : place + 4], "big")
        if marker == _SCAN:
            return size
        if marker in _TELLING or length < 2:
            return None
        if marker in _FRAMES:
            height, width = (int.from_bytes(encoded[place + at : place + at + 2], "big") for at in (5, 7))
            if encoded[place + 4] != 8 or encoded[place + 9] != 3 or not height or not width:
                return None
            size = (height, width)
        place += 2 + length
    return None


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
