"""Encoded bytes in, an RGB image out: the one place where images are decoded."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps


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
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        # Some versions of Pillow call 16 bits "I" as they call 32; in these formats "I" always is 16.
        sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
        upright = ImageOps.exif_transpose(image)
    return to_rgb(upright, sixteen_bit=sixteen_bit)


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
