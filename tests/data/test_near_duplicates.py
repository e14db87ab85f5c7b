"""The near-duplicate search against comparing all with all, and on real images."""

import io
import itertools
from pathlib import Path

import networkx
import numpy as np
import pytest
from conformal_clip_data import textile_simulated_root
from PIL import Image, ImageEnhance

from hf_transfer.data.near_duplicates import (
    CORRELATION,
    RADIUS,
    difference_bits,
    is_blank,
    near_groups,
    small_gray,
)


def found(grays):
    """Return the groups of two and more, as sets of positions."""
    groups = near_groups(grays)
    return {frozenset(np.flatnonzero(groups == number).tolist()) for number in groups if (groups == number).sum() > 1}


def compared_with_all(grays):
    """Return the same by comparing every pair, and how many pairs are near duplicates."""
    bits = difference_bits(grays)
    flat = grays.reshape(len(grays), -1).astype(float)
    blank = is_blank(grays)
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(len(grays)), 2)
        if not (blank[i] or blank[j])
        and (bits[i] != bits[j]).sum() <= RADIUS
        and np.corrcoef(flat[i], flat[j])[0, 1] >= CORRELATION
    ]
    graph = networkx.Graph(pairs)
    return {frozenset(group) for group in networkx.connected_components(graph)}, len(pairs)


def test_difference_bits__compare_with_right_and_lower_neighbours():
    rising = np.tile(np.arange(9, dtype=np.uint8) * 10, (9, 1))
    assert difference_bits(rising[None]).tolist() == [[True] * 64 + [False] * 64]
    assert difference_bits(rising.T[None]).tolist() == [[False] * 64 + [True] * 64]
    assert not difference_bits(255 - rising[None]).any()


@pytest.mark.parametrize("kind", ["textures", "objects on white"])
def test_near_groups__none_is_missed(kind):
    rng = np.random.default_rng(0)
    grays = np.full((60, 9, 9), 255)
    low, high = (0, 9) if kind == "textures" else (2, 7)
    grays[:, low:high, low:high] = rng.integers(0, 256, (60, high - low, high - low))
    noise = np.zeros((240, 9, 9))
    noise[:, low:high, low:high] = rng.normal(size=(240, high - low, high - low)) * rng.choice([1, 4, 15, 30], (240, 1, 1))
    grays = np.concatenate([grays, np.tile(grays, (4, 1, 1)) + noise]).clip(0, 255).round().astype(np.uint8)
    distances = (difference_bits(grays[:60])[None] != difference_bits(grays[60:]).reshape(4, 60, 128)).sum(axis=2)
    assert (distances == RADIUS).any() and (distances == RADIUS + 1).any()  # the border is among them
    groups, pairs = compared_with_all(grays)
    assert found(grays) == groups
    assert len(groups) > 30 and 100 < pairs < 1000


def test_near_groups__many_equal_ones():
    rng = np.random.default_rng(0)
    grays = np.concatenate([np.tile(rng.integers(0, 256, (1, 9, 9)), (40, 1, 1)), rng.integers(0, 256, (20, 9, 9))])
    assert found(grays.astype(np.uint8)) == {frozenset(range(40))}


def test_near_groups__blank_images_are_like_none():
    black, white = np.zeros((1, 9, 9), np.uint8), np.full((1, 9, 9), 255, np.uint8)
    assert (difference_bits(black) == difference_bits(white)).all()
    assert found(np.concatenate([black, white, black])) == set()
    assert found(np.empty((0, 9, 9), np.uint8)) == set()


def test_near_groups__equal_gradients_of_unlike_shades_are_told_apart():
    one = np.arange(81, dtype=np.uint8).reshape(9, 9)
    other = np.repeat(np.array([0, 1, 2, 3, 4, 5, 6, 7, 200], np.uint8)[:, None], 9, axis=1) + np.arange(9, dtype=np.uint8)
    assert (difference_bits(one[None]) == difference_bits(other[None])).all()
    assert found(np.stack([one, other])) == set()


def test_near_groups__real_images_encoded_and_resized_anew():
    paths = sorted(Path(str(textile_simulated_root())).glob("*/*.jpg"))[::50]
    images = [Image.open(path) for path in paths]
    buffers = [io.BytesIO() for _ in images]
    for image, buffer in zip(images, buffers, strict=True):
        image.save(buffer, "JPEG", quality=50)
    grays = [small_gray(image) for image in images]
    encoded = [small_gray(Image.open(buffer)) for buffer in buffers]
    resized = [small_gray(image.resize((225, 225))) for image in images]
    count = len(images)
    same = {frozenset((i, i + count, i + 2 * count)) for i in range(count)}
    assert found(np.stack(grays)) == set()
    assert found(np.stack([*grays, *encoded, *resized])) == same


def test_near_groups__through_others():
    rng = np.random.default_rng(0)
    one, other, *strangers = rng.integers(0, 256, (53, 9, 9))
    film = [one + (other - one) * step / 60 for step in range(61)]
    grays = np.stack([*film, *strangers]).round().astype(np.uint8)
    groups, pairs = compared_with_all(grays)
    assert found(grays) == groups == {frozenset(range(61))}
    assert pairs < 61 * 60 / 4  # its first images and its last ones are no near duplicates


def test_near_groups__most_images_are_alike():
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (1, 9, 9)) + rng.normal(0, 2, (20_000, 9, 9))
    grays = np.concatenate([scene, rng.integers(0, 256, (5, 9, 9))]).clip(0, 255).round().astype(np.uint8)
    assert np.unique(near_groups(grays), return_counts=True)[1].tolist() == [20_000, 1, 1, 1, 1, 1]


def _encoded(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _cropped(image, share):
    width, height = image.size
    return image.crop((round(width * share / 2), round(height * share / 2), *(round(n * (1 - share / 2)) for n in image.size)))


def _with_banner(image):
    copy = image.copy()
    copy.paste("white", (0, round(image.height * 0.95), image.width, image.height))
    return copy


def test_near_groups__what_the_documentation_says_is_found_and_missed():
    """The figures of docs/data.md; another version of Pillow may find a few more or fewer."""
    images = [Image.open(path).convert("RGB") for path in sorted(Path(str(textile_simulated_root())).glob("*/*.jpg"))]
    originals = np.stack([small_gray(image) for image in images])
    assert (len(images), found(originals)) == (2000, set())
    copies = {
        "gray": (lambda image: image.convert("L"), 200),
        "contrast x 1.5": (lambda image: ImageEnhance.Contrast(image).enhance(1.5), 200),
        "resized to 90 %": (lambda image: image.resize((225, 225), Image.Resampling.BICUBIC), 200),
        "resized to 50 %": (lambda image: image.resize((125, 125), Image.Resampling.BICUBIC), 200),
        "resized to 224 x 112": (lambda image: image.resize((224, 112), Image.Resampling.BICUBIC), 200),
        "quality 50": (lambda image: _encoded(image, 50), 199),
        "quality 20": (lambda image: _encoded(image, 20), 199),
        "brightness x 1.2": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 199),
        "1 % cut off": (lambda image: _cropped(image, 0.01), 130),
        "2 % cut off": (lambda image: _cropped(image, 0.02), 74),
        "5 % cut off": (lambda image: _cropped(image, 0.05), 0),
        "turned by 1 degree": (lambda image: image.rotate(1, Image.Resampling.BICUBIC), 0),
        "turned by 90 degrees": (lambda image: image.transpose(Image.Transpose.ROTATE_90), 0),
        "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 0),
        "banner": (_with_banner, 0),
    }
    chosen = np.random.default_rng(0).permutation(2000)[:200]
    counts = {}
    for name, (copied, _) in copies.items():
        groups = found(np.concatenate([originals, np.stack([small_gray(copied(images[row])) for row in chosen])]))
        counts[name] = len(groups)
        assert groups <= {frozenset((int(row), 2000 + place)) for place, row in enumerate(chosen)}, name
    assert counts == {name: pytest.approx(expected, abs=5) for name, (_, expected) in copies.items()}
