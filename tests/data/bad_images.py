"""Real files of every kind that goes wrong, or seems to: what each is, and what is to be made of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4  # 0 to 252
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)
_GRAIN = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # large enough to be cut off

UNKNOWN = "not an image in a known format"
ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@dataclass(frozen=True)
class Odd:
    """A file that looks odd and is an image.

    Args:
        content: its bytes.
        pixels: uint8 [height, width, 3], what is to be decoded.
        tolerance: how much decoded values may differ, where the format is lossy.
        told: the lists of an inspection that have it, beside what it is.
    """

    content: bytes
    pixels: np.ndarray
    tolerance: int = 0
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bad:
    """A file that is no image.

    Args:
        content: its bytes, or what makes it at a path.
        reason: how the message begins.
        in_header: whether the fast pass finds it too.
    """

    content: bytes | Callable[[Path], None]
    reason: str
    in_header: bool = True

    def write(self, path: Path) -> None:
        """Make the file."""
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG, of which Pillow can write some kinds only.

    Args:
        width: in the header.
        height: in the header.
        rows: of pixels, each after a zero, not yet compressed.
        depth: bits of a channel.
        colour: 0 for gray, 2 for RGB.
    """

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gray(values: np.ndarray) -> np.ndarray:
    """Return uint8 [height, width, 3] of gray values."""
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=-1)


def _turned(kind: str, orientation: int) -> Odd:
    stored = np.zeros((8, 16, 3), dtype=np.uint8)
    stored[:, :8, 0] = 255
    stored[4:, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    told = ("rotated",) if orientation > 1 else ()
    content = encoded(Image.fromarray(stored), kind, exif=exif, **options)
    return Odd(content, ORIENTATIONS[orientation](stored), 3 if kind == "JPEG" else 0, told)


def _animated(kind: str) -> Odd:
    frames = [Image.fromarray(pixels) for pixels in (COLOURS, 255 - COLOURS, COLOURS[::-1])]
    options = {"lossless": True} if kind == "WEBP" else {}
    return Odd(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), COLOURS, told=("several_frames",))


def _grain(kind: str, **options: object) -> bytes:
    return encoded(Image.fromarray(_GRAIN), kind, **options)


def _damaged_png() -> bytes:
    whole = bytearray(_grain("PNG"))
    whole[2000:2100] = bytes(100)
    return bytes(whole)


def _sixteen_bit_colour() -> tuple[bytes, np.ndarray]:
    values = np.arange(8 * 8 * 3, dtype=np.uint16).reshape(8, 8, 3) * 300
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(8, 8, rows, depth=16), (values >> 8).astype(np.uint8)


def odd_images() -> dict[str, Odd]:
    """Return file names to files that are images, whatever is odd about them."""
    image, deep = Image.fromarray(COLOURS), RAMP.astype(np.uint16) * 257
    dark = RAMP.astype(np.uint16)  # darker than 256 of 65,535
    deep_colour, shown_colour = _sixteen_bit_colour()
    photograph = Image.new("RGB", (16, 16), (200, 30, 60))
    flat = np.broadcast_to(np.array((200, 30, 60), dtype=np.uint8), (16, 16, 3))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray_photograph = Image.new("L", (16, 16), 90)
    found = {
        "png_called.jpg": Odd(encoded(image), COLOURS, told=("wrong_suffix",)),
        "gray16.png": Odd(encoded(Image.fromarray(deep)), gray(RAMP)),
        "gray16.tif": Odd(encoded(Image.fromarray(deep), "TIFF"), gray(RAMP)),
        "gray16_dark.png": Odd(encoded(Image.fromarray(dark)), gray(np.rint(dark / 257)), told=("blank",)),
        "rgb16.png": Odd(deep_colour, shown_colour),
        "animated.gif": _animated("GIF"),
        "animated.webp": _animated("WEBP"),
        "animated.png": _animated("PNG"),
        "cmyk.jpg": Odd(encoded(photograph.convert("CMYK"), "JPEG", quality=95), flat, 3, ("blank",)),
        "palette.png": Odd(encoded(image.quantize(64), transparency=3), COLOURS),
        "one_bit.png": Odd(encoded(Image.fromarray(RAMP > 100)), gray((RAMP > 100) * 255)),
        "gray_alpha.png": Odd(encoded(Image.fromarray(np.dstack([RAMP, 255 - RAMP]))), gray(RAMP)),
        "float.tif": Odd(encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), gray(RAMP)),
        "gray_profile.jpg": Odd(encoded(gray_photograph, "JPEG", icc_profile=profile), np.full((16, 16, 3), 90), 1, ("blank",)),
        "trailing.jpg": Odd(encoded(photograph, "JPEG", quality=95) + b"\0\r\nappended" * 9, flat, 3, ("blank",)),
        "broken_exif.jpg": Odd(encoded(photograph, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff"), flat, 3, ("blank",)),
    }
    found |= {f"turned{number}.png": _turned("PNG", number) for number in ORIENTATIONS}
    return found | {f"turned{number}.jpg": _turned("JPEG", number) for number in ORIENTATIONS}


def bad_images() -> dict[str, Bad]:
    """Return file names to files that are no images, or no whole ones; those that only some systems have are left out."""
    bomb = "Image size (900000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb DOS attack."
    lifted = " If it is none: HF_TRANSFER_MAX_PIXELS sets how many pixels an image may have."
    rows = b"\0" * (2501 * 20_000)
    web_page = b"<!DOCTYPE html>\n<html><title>404</title></html>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    found = {
        "bomb_claimed.png": Bad(png(30_000, 30_000, b""), bomb + lifted),
        "bomb_real.png": Bad(png(20_000, 20_000, rows, depth=1, colour=0), bomb.replace("9", "4", 1) + lifted),
        "empty.jpg": Bad(b"", "the file is empty"),
        "truncated.jpg": Bad(_grain("JPEG")[:-300], "image file is truncated ("),
        "truncated.png": Bad(_grain("PNG")[:-4000], "image file is truncated"),
        "truncated.gif": Bad(_grain("GIF")[:-1000], "image file is truncated ("),
        "truncated.webp": Bad(_grain("WEBP")[:-400], "could not create decoder object"),
        "truncated.tif": Bad(_grain("TIFF")[:-1000], "image file is truncated ("),
        "truncated.bmp": Bad(_grain("BMP")[:-1000], "image file is truncated ("),
        "truncated.ppm": Bad(_grain("PPM")[:-1000], "image file is truncated ("),
        "damaged.png": Bad(_damaged_png(), "broken data stream when reading image file", in_header=False),
        "text.jpg": Bad(b"caf\xc3\xa9", UNKNOWN),
        "page.jpg": Bad(web_page, f"{UNKNOWN} (it begins with the text '<!DOCTYPE html>')"),
        "pointer.png": Bad(pointer, f"{UNKNOWN} (it begins with the text 'version https://git-lfs.github.com/spec/')"),
        "dangling.jpg": Bad(lambda path: path.symlink_to(path.parent / "nowhere.jpg"), "No such file or directory"),
    }
    if hasattr(os, "mkfifo"):
        found["pipe.jpg"] = Bad(os.mkfifo, "it is a pipe or a device, and no file")
    if os.name == "posix":
        found["device.jpg"] = Bad(lambda path: path.symlink_to("/dev/zero"), "it is a pipe or a device, and no file")
        if os.geteuid():  # to root no file is closed
            found["closed.jpg"] = Bad(_closed, "Permission denied")
    return found


def _closed(path: Path) -> None:
    path.write_bytes(_grain("PNG"))
    path.chmod(0)


STRANGE_NAMES = ("a b.png", "new\nline.png", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", "\N{CAT}.png", "%20#?.png")
"""Names of files that are legal, and get lost where someone splits lines or words."""
