"""What several networks see of one image is, bit for bit, what each would see alone."""

import pytest
import torch
from transformers import BitImageProcessor, ViTImageProcessor, ViTImageProcessorPil
from transformers.models.timm_wrapper import TimmWrapperImageProcessor

from hf_transfer.data import dataset
from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import ImageDataset, random_stream, sample_seed
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.features.pixels import SharedImages

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def timm_like(statistics, size=96, crop_pct=0.9, interpolation="bicubic"):
    config = {"input_size": (3, size, size), "crop_pct": crop_pct, "interpolation": interpolation, **statistics}
    return Preprocessing(TimmWrapperImageProcessor(config, architecture=f"of {len(str(statistics))}"))


def transformers_like(kind, statistics, **settings):
    return Preprocessing(kind(image_mean=statistics["mean"], image_std=statistics["std"], **settings))


def vit(kind, statistics, size=96):
    return transformers_like(kind, statistics, size={"height": size, "width": size})


def bit(statistics, **settings):
    edges = {"size": {"shortest_edge": 110}, "crop_size": {"height": 96, "width": 96}}
    return transformers_like(BitImageProcessor, statistics, **edges, **settings)


@pytest.fixture
def resized(monkeypatch):
    """Count what is resized, by whichever library."""
    from PIL import Image
    from torchvision.transforms.v2 import functional

    counted = []
    for module, name in ((Image.Image, "resize"), (functional, "resize")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, _original=original, **more: counted.append(1) or _original(*args, **more)
        )
    return counted


@pytest.mark.parametrize(
    ("preprocessings", "times"),
    [
        ([timm_like(IMAGENET), timm_like(HALF), timm_like(IMAGENET)], 1),
        ([timm_like(IMAGENET), timm_like(HALF, crop_pct=1.0)], 2),
        ([timm_like(IMAGENET), timm_like(HALF, size=64)], 2),
        ([timm_like(IMAGENET), timm_like(IMAGENET, interpolation="bilinear")], 2),
        ([vit(ViTImageProcessor, IMAGENET), vit(ViTImageProcessor, HALF)], 1),
        ([vit(ViTImageProcessorPil, IMAGENET), vit(ViTImageProcessorPil, HALF)], 1),
        ([vit(ViTImageProcessor, IMAGENET), vit(ViTImageProcessorPil, IMAGENET)], 2),
        ([bit(IMAGENET), bit(HALF), bit(HALF, do_normalize=False)], 1),
        ([bit(IMAGENET), timm_like(IMAGENET), vit(ViTImageProcessor, HALF), timm_like(HALF)], 3),
    ],
)
def test_shared_images__equal_bytes_and_resized_once_where_that_agrees(textile, preprocessings, times, resized):
    table = textile.tables["validation"]
    images = SharedImages([ImageDataset(table, one) for one in preprocessings], [False] * len(preprocessings))
    for index in (0, 7):
        resized.clear()
        found = images.collate([images[index]])
        assert len(resized) == times
        for position, preprocessing in zip(images.inputs, preprocessings, strict=True):
            expected = preprocessing(decode_rgb(table.encoded(index)))
            assert found.pixels[position].dtype == torch.float32
            assert torch.equal(found.pixels[position][0], expected)
            assert found.seconds[position] > 0


def test_shared_images__what_cannot_be_taken_apart_is_not_shared(textile):
    class Odd(ViTImageProcessor):
        """Normalises by what it finds in the image, so in two steps it is something else."""

        def resize(self, image, size, **more):
            return super().resize(image, size, **more).float() * 0.5

    one, other = vit(Odd, IMAGENET), vit(Odd, HALF)
    table = textile.tables["validation"]
    images = SharedImages([ImageDataset(table, preprocessing) for preprocessing in (one, other)], [False, False])
    image, found = decode_rgb(table.encoded(3)), images.collate([images[3]])
    assert torch.equal(found.pixels[images.inputs[0]][0], one(image))
    assert torch.equal(found.pixels[images.inputs[1]][0], other(image))


def test_shared_images__decoded_once_and_each_draws_from_its_own_stream(textile, monkeypatch):
    table = textile.tables["validation"]
    first, second = timm_like(IMAGENET), timm_like(HALF, size=64)
    data = [
        ImageDataset(table, first),
        *(ImageDataset(table, build_train_transform("basic", p), seed=5) for p in (first, second)),
    ]
    data[2].epoch = 1
    expected = [data[0][4]["pixel_values"]]
    for one in data[1:]:
        with random_stream(sample_seed(5, one.epoch, str(table.sample_ids[4]))):
            expected.append(one.transform(one.image(4)))
    decoded = []
    monkeypatch.setattr(dataset, "decode_rgb", lambda content: decoded.append(1) or decode_rgb(content))
    images = SharedImages(data, [False] * 3)
    found = images.collate([images[4]])
    assert len(decoded) == 1
    assert all(torch.equal(found.pixels[at][0], wanted) for at, wanted in zip(images.inputs, expected, strict=True))


def test_collate__one_batch_for_each_layout(textile):
    table = textile.tables["validation"]
    data = [ImageDataset(table, timm_like(statistics)) for statistics in (IMAGENET, IMAGENET, IMAGENET, HALF)]
    images = SharedImages(data, [True, True, False, True])
    batch = images.collate([images[index] for index in range(4)])
    assert images.inputs == [0, 0, 1, 2]
    assert [pixels.is_contiguous(memory_format=torch.channels_last) for pixels in batch.pixels] == [True, False, True]
    assert torch.equal(batch.pixels[0], batch.pixels[1])
    assert torch.equal(batch.pixels[2], torch.stack([data[3][index]["pixel_values"] for index in range(4)]))
    assert len(batch.seconds) == 3 and min(batch.seconds) > 0
