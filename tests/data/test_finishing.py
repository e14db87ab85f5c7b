"""Batches of bytes become inputs: normalised, erased and mixed, wherever that happens."""

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import Collate, ImageDataset
from hf_transfer.data.finishing import Finishing
from hf_transfer.data.mixing import Mixing
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.transforms import Preprocessing

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.fixture(scope="module")
def table():
    return read_package("textile").tables["train"].select(np.array([3, 700, 1999, 1200, 5, 42]))


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(ViTImageProcessor(size={"height": 32, "width": 48}, **IMAGENET))


@pytest.fixture(scope="module")
def basic(preprocessing):
    return build_train_transform("basic", preprocessing)


def batches(table, transform, workers=0, order=None):
    dataset = ImageDataset(table, transform, seed=7, keys=True)
    return list(DataLoader(dataset, batch_size=3, sampler=order, num_workers=workers, collate_fn=Collate()))


@pytest.mark.parametrize("channels_last", [False, True])
def test_finishing__normalises_in_the_layout_asked_for(table, basic, preprocessing, channels_last):
    finish = Finishing(preprocessing, channels_last)
    for batch in batches(table, basic):
        finished = finish(batch)
        assert set(finished) == {"pixel_values", "labels"}
        found = finished["pixel_values"]
        assert found.dtype == torch.float32
        assert found.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert found.is_contiguous() != channels_last
        statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
        torch.testing.assert_close(found, (batch["pixel_values"] / 255 - mean) / std, atol=1e-5, rtol=0)


def test_finishing__leaves_the_batch_and_what_is_finished_alone(table, basic, preprocessing):
    batch = batches(table, basic)[0]
    before = batch["pixel_values"].clone()
    Finishing(preprocessing)(batch)
    assert torch.equal(batch["pixel_values"], before)
    evaluated = Collate()([ImageDataset(table, preprocessing)[index] for index in range(4)])
    found = Finishing(preprocessing, mixing=Mixing(0.4, 0.4, seed=7))(evaluated)
    assert found["pixel_values"] is evaluated["pixel_values"]
    assert set(found) == {"pixel_values", "labels"}


@pytest.mark.parametrize("channels_last", [False, True])
def test_finishing__erases_what_was_drawn_and_nothing_else(table, preprocessing, channels_last):
    finish = Finishing(preprocessing, channels_last)
    plain, erasing = (build_train_transform("basic", preprocessing, erasing=probability) for probability in (0.0, 0.4))
    count = 0
    for without, drawn in zip(batches(table, plain), batches(table, erasing), strict=True):
        assert torch.equal(without["pixel_values"], drawn["pixel_values"])
        boxes = drawn["erased"]
        for expected, found, box in zip(finish(without)["pixel_values"], finish(drawn)["pixel_values"], boxes, strict=True):
            if box is not None:
                top, left, height, width = box
                expected[:, top : top + height, left : left + width] = 0
                count += 1
            assert torch.equal(found, expected)
    assert 0 < count < 6


def test_finishing__mixes_batches_that_have_keys(table, basic, preprocessing):
    for batch in batches(table, basic):
        plain = Finishing(preprocessing, channels_last=True)(batch)
        found = Finishing(preprocessing, channels_last=True, mixing=Mixing(0.4, 0.0, seed=7))(batch)
        assert set(found) == {"pixel_values", "labels", "partner", "share"}
        assert torch.equal(found["labels"], plain["labels"])
        assert found["pixel_values"].is_contiguous(memory_format=torch.channels_last)
        images, share = plain["pixel_values"], found["share"][:, None, None, None]
        torch.testing.assert_close(found["pixel_values"], share * images + (1 - share) * images[found["partner"]])
        assert not torch.equal(found["pixel_values"], images)


@pytest.mark.parametrize("mixing", [Mixing(0.4, 0.0, seed=7), Mixing(0.0, 1.0, seed=7)], ids=["mixup", "cutmix"])
def test_finishing__follows_the_images_of_a_batch_not_the_worker(table, basic, preprocessing, mixing):
    finish = Finishing(preprocessing, mixing=mixing)
    first = [finish(batch) for batch in batches(table, basic)]
    torch.manual_seed(random.randrange(1000))
    again = [finish(batch) for batch in batches(table, basic, workers=2)]
    # nor what was mixed before: the second batch alone, as after a resume
    resumed = [finish(batch) for batch in batches(table, basic, order=[3, 4, 5])]
    for found, expected in ((again[0], first[0]), (again[1], first[1]), (resumed[0], first[1])):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert first[0]["share"][0] != first[1]["share"][0]


@pytest.mark.parametrize("preset", ["none", "crop_pad_flip_rotate"])
def test_finishing__presets_without_crops_are_finished_already(table, preprocessing, preset):
    transform = build_train_transform(preset, preprocessing, erasing=0.5)
    for batch in batches(table, transform):
        assert torch.equal(Finishing(preprocessing)(batch)["pixel_values"], batch["pixel_values"])


def test_finishing__goes_to_processes_that_share_no_memory(table, basic, preprocessing):
    batch = batches(table, basic)[0]
    finish = Finishing(preprocessing, mixing=Mixing(0.4, 1.0, seed=7))
    found, expected = pickle.loads(pickle.dumps(finish))(batch), finish(batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
