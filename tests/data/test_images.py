"""Every kind of image becomes the same upright RGB."""

import io

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from hf_transfer.data.images import decode_rgb, plain_jpeg_size, to_rgb

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4  # 0 to 252
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data):
    image = decode_rgb(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def gray(values):
    return np.repeat(np.asarray(values, dtype=np.uint8)[..., None], 3, axis=-1)


def alpha(*channels):
    return np.dstack([*channels, np.full((8, 8), 7, dtype=np.uint8)])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.fromarray(COLOURS)), COLOURS),
        (encoded(Image.fromarray(RAMP)), gray(RAMP)),
        (encoded(Image.fromarray(alpha(RAMP))), gray(RAMP)),
        (encoded(Image.fromarray(alpha(COLOURS))), COLOURS),
        (encoded(Image.fromarray(RAMP > 100)), gray((RAMP > 100) * 255)),
        (encoded(Image.fromarray(COLOURS).quantize(64)), COLOURS),
        (encoded(Image.fromarray(COLOURS).quantize(64), transparency=3), COLOURS),
        (encoded(Image.fromarray(COLOURS).quantize(64), transparency=bytes(range(0, 256, 4))), COLOURS),
        (encoded(Image.fromarray(COLOURS).quantize(64), "GIF"), COLOURS),
        (encoded(Image.fromarray(COLOURS), "BMP"), COLOURS),
        (encoded(Image.fromarray(COLOURS), "TIFF"), COLOURS),
        (encoded(Image.fromarray(COLOURS), "WEBP", lossless=True), COLOURS),
        (encoded(Image.fromarray(COLOURS).convert("CMYK"), "TIFF"), COLOURS),
    ],
    ids=[
        *("RGB", "gray", "gray+alpha", "RGBA", "1-bit", "palette", "palette+transparent", "palette+alphas"),
        *("gif", "bmp", "tiff", "webp", "cmyk-tiff"),
    ],
)
def test_decode_rgb__keeps_the_colours(data, expected):
    np.testing.assert_array_equal(pixels(data), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "1", "P", "CMYK"])
def test_decode_rgb__is_what_transformers_loads(mode, tmp_path):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    path = tmp_path / f"image.{kind.lower()}"
    path.write_bytes(encoded(Image.fromarray(COLOURS).convert(mode), kind))
    np.testing.assert_array_equal(pixels(path.read_bytes()), np.asarray(load_image(str(path))))


def test_decode_rgb__fully_transparent_pixels_keep_their_colour():
    image = Image.new("RGBA", (4, 4), (200, 30, 60, 0))
    np.testing.assert_array_equal(pixels(encoded(image)), np.broadcast_to((200, 30, 60), (4, 4, 3)))


@pytest.mark.parametrize("colour", [(200, 30, 60), (255, 255, 255), (0, 0, 0), (10, 120, 250)])
def test_decode_rgb__cmyk_jpeg_is_not_inverted(colour):
    image = Image.new("RGB", (16, 16), colour).convert("CMYK")
    np.testing.assert_allclose(pixels(encoded(image, "JPEG", quality=95)).mean(axis=(0, 1)), colour, atol=3)


@pytest.mark.parametrize("factor", [257, 1])  # the whole range, and an image darker than 256 of 65,535
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_decode_rgb__sixteen_bits_are_scaled_not_clipped(kind, factor):
    values = RAMP.astype(np.uint16) * factor
    if kind == "PPM":
        data = b"P5 8 8 65535\n" + values.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(values), kind)
    np.testing.assert_array_equal(pixels(data), gray(np.rint(values / 257)))


def test_decode_rgb__thirty_two_bits():
    small = Image.fromarray(RAMP.astype(np.int32))
    large = Image.fromarray(RAMP.astype(np.int32) * 257)
    real = Image.fromarray(RAMP.astype(np.float32))
    for image in (small, large, real):
        np.testing.assert_array_equal(pixels(encoded(image, "TIFF")), gray(RAMP))


def test_to_rgb__sixteen_bits_that_pillow_calls_32():
    """Older versions of Pillow open a 16-bit PNG in mode I."""
    dark = Image.fromarray(RAMP.astype(np.int32))
    assert np.asarray(to_rgb(dark, sixteen_bit=True)).max() == 1
    assert np.asarray(to_rgb(dark)).max() == 252


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_decode_rgb__stands_upright(orientation, kind):
    stored = np.zeros((8, 16, 3), dtype=np.uint8)
    stored[:, :8, 0] = 255
    stored[4:, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = pixels(encoded(Image.fromarray(stored), kind, exif=exif, **options))
    np.testing.assert_allclose(found, UPRIGHT[orientation](stored), atol=3 if kind == "JPEG" else 0)


def test_decode_rgb__palette_stands_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(COLOURS).quantize(64), exif=exif, transparency=3)
    np.testing.assert_array_equal(pixels(data), np.rot90(COLOURS, -1))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_decode_rgb__takes_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 30, 60), (0, 0, 255), (0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(pixels(data), np.broadcast_to((200, 30, 60), (8, 8, 3)))


def test_to_rgb__an_rgb_image_is_itself():
    image = Image.fromarray(COLOURS)
    assert to_rgb(image) is image


def test_decode_rgb__does_not_stretch_or_crop():
    image = Image.fromarray(np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3))
    assert decode_rgb(encoded(image)).size == (9, 5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is text",
        encoded(Image.fromarray(COLOURS))[:60],
        encoded(Image.fromarray(np.tile(COLOURS, (8, 8, 1))), "JPEG")[:-300],
    ],
    ids=["empty", "text", "truncated PNG", "truncated JPEG"],
)
def test_decode_rgb__no_complete_image(data):
    with pytest.raises((OSError, ValueError, SyntaxError)):
        decode_rgb(data)


def jpeg_of(mode="RGB", **options):
    picture = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 4), np.uint8)
    Image.fromarray(pixels[..., :3]).convert(mode).save(picture, "jpeg", **options)
    return picture.getvalue()


def test_plain_jpeg_size__tells_the_size_of_what_needs_no_second_look():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain_jpeg_size(jpeg_of()) == plain_jpeg_size(jpeg_of(progressive=True, comment=b"words")) == (37, 53)
    for telling in (jpeg_of(exif=exif), jpeg_of("L"), jpeg_of("CMYK"), jpeg_of(xmp=b"<x/>"), b"", b"\xff\xd8", b"\x89PNG"):
        assert plain_jpeg_size(telling) is None


def test_plain_jpeg_size__survives_any_bytes():
    whole, random = jpeg_of(), np.random.default_rng(1)
    for end in range(len(whole)):
        assert plain_jpeg_size(whole[:end]) in (None, (37, 53))
    for _ in range(2000):
        changed = bytearray(whole[:700])
        changed[int(random.integers(2, 700))] = int(random.integers(256))
        plain_jpeg_size(bytes(changed))
