import colorsys
import io
import pickle
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from transformers import ConvNextImageProcessor, DeiTImageProcessor, ViTImageProcessor

from hf_transfer.data.transforms import Preprocessing
from hf_transfer.evaluation.views import CORRUPTIONS, SEVERITIES, TTA, Corruption, build_corruptions, input_scale
from hf_transfer.recipe import schema


@pytest.fixture(scope="module")
def photograph():
    """A picture with edges, colours, black and white, of odd size."""
    down, across = np.mgrid[0:61, 0:81]
    pixels = np.stack([3 * across, 4 * down, 120 + 100 * np.sin(across / 5)], axis=2)
    pixels[10:30, 20:50] = (200, 40, 90)
    pixels[40:50, 5:15] = 0
    pixels[0:8, 60:80] = 255
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def pixels_of(image):
    return np.asarray(image).astype(float)


def corrupted(image, name, severity, **arguments):
    return pixels_of(Corruption(name, severity, min(image.size), **arguments)(image, "a"))


def test_tta__names_are_those_of_recipes():
    assert tuple(TTA) == get_args(schema.TestTimeAugmentation)


def test_corruptions__names_are_those_of_recipes():
    assert get_args(schema.Corruption) == CORRUPTIONS


def test_tta__flip_is_the_image_and_its_mirror(photograph):
    as_it_is, mirrored = (pixels_of(view(photograph, "a")) for view in TTA["flip"])
    np.testing.assert_array_equal(as_it_is, pixels_of(photograph))
    np.testing.assert_array_equal(mirrored, pixels_of(photograph)[:, ::-1])


def test_tta__dihedral_is_every_orientation_once(photograph):
    pixels = pixels_of(photograph)
    quarter_turns = [np.rot90(pixels, turns) for turns in range(4)]
    expected = {turned.tobytes() for turned in (*quarter_turns, *(turned[:, ::-1] for turned in quarter_turns))}
    found = {pixels_of(view(photograph, "a")).tobytes() for view in TTA["dihedral"]}
    assert found == expected
    assert len(TTA["dihedral"]) == len(expected) == 8
    assert TTA["dihedral"][0](photograph, "a") is photograph


def test_tta__five_crop_is_the_centre_and_the_corners(photograph):
    pixels = pixels_of(photograph)
    height, width = 53, 71  # 7/8 of 61 and 81
    crops = [pixels_of(view(photograph, "a")) for view in TTA["five_crop"]]
    expected = [
        pixels[4 : 4 + height, 5 : 5 + width],
        pixels[:height, :width],
        pixels[:height, -width:],
        pixels[-height:, :width],
        pixels[-height:, -width:],
    ]
    for found, wanted in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", TTA)
def test_tta__an_image_of_one_pixel_stays_one(name):
    assert {view(Image.new("RGB", (1, 1)), "a").size for view in TTA[name]} == {(1, 1)}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption__grows_with_severity(photograph, name):
    distances = [np.abs(corrupted(photograph, name, severity) - pixels_of(photograph)).mean() for severity in SEVERITIES]
    assert distances[0] > 1
    assert distances == sorted(distances)
    assert len(set(distances)) == len(SEVERITIES)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption__is_the_same_again_and_in_another_process(photograph, name):
    view = Corruption(name, 3, 61)
    first = view(photograph, "a")
    np.random.default_rng(1).normal(size=10)
    np.testing.assert_array_equal(pixels_of(pickle.loads(pickle.dumps(view))(photograph, "a")), pixels_of(first))
    assert (first.mode, first.size) == (photograph.mode, photograph.size)


def test_corruption__noise_belongs_to_seed_sample_and_severity(photograph):
    gray = Image.new("RGB", (64, 64), (128, 128, 128))
    noises = [
        pixels_of(Corruption("gaussian_noise", severity, 64, seed=seed)(gray, sample_id)) - 128
        for seed, sample_id, severity in ((0, "a", 1), (0, "b", 1), (1, "a", 1), (0, "a", 2))
    ]
    for one in range(len(noises)):
        for other in range(one):
            assert abs(np.corrcoef(noises[one].ravel(), noises[other].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.08), (2, 0.12), (3, 0.18)])
def test_gaussian_noise__has_the_published_deviation(severity, deviation):
    gray = Image.new("RGB", (200, 200), (128, 128, 128))
    noise = corrupted(gray, "gaussian_noise", severity) / 255 - 128 / 255
    assert noise.mean() == pytest.approx(0, abs=0.002)
    assert noise.std() == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6)])
def test_gaussian_blur__is_scipys_filter(photograph, severity, deviation):
    expected = gaussian_filter(pixels_of(photograph), (deviation, deviation, 0), mode="nearest", truncate=4)
    np.testing.assert_allclose(corrupted(photograph, "gaussian_blur", severity), expected, atol=0.51)


@pytest.mark.parametrize(("severity", "added"), [(1, 0.1), (3, 0.3), (5, 0.5)])
def test_brightness__raises_the_value_of_hsv(photograph, severity, added):
    def brighter(red, green, blue):
        hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        return [255 * channel for channel in colorsys.hsv_to_rgb(hue, saturation, min(1, value + added))]

    expected = [[brighter(*pixel) for pixel in row] for row in pixels_of(photograph)]
    np.testing.assert_allclose(corrupted(photograph, "brightness", severity), expected, atol=0.51)


@pytest.mark.parametrize(("severity", "kept"), [(1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1), (5, 0.05)])
def test_contrast__draws_each_channel_towards_its_mean(photograph, severity, kept):
    pixels = pixels_of(photograph)
    mean = pixels.mean(axis=(0, 1))
    np.testing.assert_allclose(corrupted(photograph, "contrast", severity), mean + kept * (pixels - mean), atol=0.51)


@pytest.mark.parametrize(("severity", "quality"), [(1, 25), (2, 18), (3, 15), (4, 10), (5, 7)])
def test_jpeg__is_a_file_of_the_published_quality(photograph, severity, quality):
    file = io.BytesIO()
    photograph.save(file, "JPEG", quality=quality)
    np.testing.assert_array_equal(corrupted(photograph, "jpeg", severity), pixels_of(Image.open(file)))


@pytest.mark.parametrize(("size", "expected"), [((300, 200), (96, 64)), ((200, 301), (64, 96)), ((40, 30), (85, 64))])
def test_corruption__brings_images_to_the_scale_of_the_input(size, expected):
    assert Corruption("contrast", 1, 64)(Image.new("RGB", size), "a").size == expected


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption__takes_an_image_smaller_than_its_filters(name):
    assert Corruption(name, 5, 2)(Image.new("RGB", (3, 2), (9, 9, 9)), "a").size == (3, 2)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (ViTImageProcessor(), 224),
        (ViTImageProcessor(size={"height": 8, "width": 8}), 8),
        (ViTImageProcessor(size={"height": 600, "width": 600}), 600),
        (ViTImageProcessor(size={"height": 384, "width": 128}), 128),
        (ViTImageProcessor(do_rescale=False, do_normalize=False), 224),
        (DeiTImageProcessor(), 256),
        (DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}), 40),
        (ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875), 256),
        (ConvNextImageProcessor(size={"shortest_edge": 384}), 384),
    ],
)
def test_input_scale__is_measured_on_the_processor(processor, expected):
    assert input_scale(Preprocessing(processor)) == expected


def test_build_corruptions__are_at_the_scale_and_interpolation_of_the_checkpoint():
    preprocessing = Preprocessing(DeiTImageProcessor())
    found = build_corruptions(preprocessing, ["jpeg", "contrast"], [1, 5], seed=3)
    assert list(found) == [("jpeg", 1), ("jpeg", 5), ("contrast", 1), ("contrast", 5)]
    assert found["jpeg", 5] == Corruption("jpeg", 5, 256, preprocessing.interpolation, seed=3)
    assert len(build_corruptions(preprocessing)) == 25


def test_build_corruptions__unknown_names_and_severities_are_all_told():
    with pytest.raises(ValueError, match=r"at severities 1 to 5, found fog, 0$"):
        build_corruptions(Preprocessing(ViTImageProcessor()), ["fog", "jpeg"], [0, 1])
