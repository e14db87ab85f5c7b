"""Decoding, the random stream of each sample, and batches."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import Collate, ImageDataset, random_stream, sample_seed
from hf_transfer.data.finishing import Finishing
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.errors import DataError, message_of


@pytest.fixture(scope="module")
def table():
    return read_package("textile").tables["train"].select(np.array([3, 700, 1999, 1200, 5, 42]))


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(ViTImageProcessor(size={"height": 32, "width": 32}))


@pytest.fixture(scope="module")
def basic(preprocessing):
    return build_train_transform("basic", preprocessing)


def views(dataset, order=None, workers=0, epoch=0):
    """Return sample id to input, as a loader with this order delivers them."""
    dataset.epoch = epoch
    order = list(range(len(dataset))) if order is None else order
    loader = DataLoader(dataset, batch_size=2, sampler=order, num_workers=workers, collate_fn=Collate())
    pixels = torch.cat([batch["pixel_values"] for batch in loader])
    return {str(dataset.table.sample_ids[index]): pixels[position] for position, index in enumerate(order)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Items


def test_getitem__is_the_transformed_image_and_its_label(table, preprocessing):
    dataset = ImageDataset(table, preprocessing)
    assert len(dataset) == 6
    for index in range(6):
        item = dataset[index]
        assert torch.equal(item["pixel_values"], preprocessing(decode_rgb(table.encoded(index))))
        assert item["labels"] == table.labels[index]
        assert type(item["labels"]) is int


@pytest.mark.parametrize("seed", [None, 7])
def test_getitem__evaluation_is_deterministic(table, preprocessing, seed):
    dataset = ImageDataset(table, preprocessing, seed)
    first = views(dataset)
    torch.manual_seed(99)
    assert same(first, views(dataset, order=[5, 3, 1, 0, 2, 4], workers=2, epoch=4))


def test_getitem__augmentation_follows_the_sample_not_the_order_or_the_worker(table, basic):
    dataset = ImageDataset(table, basic, seed=7)
    first = views(dataset)
    for workers, order in ((0, [5, 3, 1, 0, 2, 4]), (2, None), (2, [4, 2, 0, 1, 5, 3])):
        torch.manual_seed(random.randrange(1000))
        assert same(first, views(dataset, order, workers))
    # nor the rows it is stored in
    moved = table.select(np.array([5, 0, 3, 1, 4, 2]))
    assert same(first, views(ImageDataset(moved, basic, seed=7)))
    # nor what was drawn before: an image alone, as after a resume
    assert torch.equal(dataset[4]["pixel_values"], first[str(table.sample_ids[4])])


@pytest.mark.parametrize("workers", [0, 2])
def test_getitem__another_epoch_or_seed_is_another_view(table, basic, workers):
    first = views(ImageDataset(table, basic, seed=7), workers=workers)
    dataset = ImageDataset(table, basic, seed=7)
    second = views(dataset, workers=workers, epoch=1)
    other = views(ImageDataset(table, basic, seed=8), workers=workers)
    for name in first:
        assert not torch.equal(first[name], second[name])
        assert not torch.equal(first[name], other[name])
    assert same(first, views(dataset, workers=workers, epoch=0))


def test_getitem__equal_images_are_augmented_each_in_its_own_way(table, basic):
    twice = table.select(np.array([0, 0]))
    twice = type(twice)(twice.images, twice.rows, twice.labels, np.array(["first", "second"]))
    first, second = views(ImageDataset(twice, basic, seed=7)).values()
    assert not torch.equal(first, second)


def test_getitem__leaves_the_global_random_state_alone(table, basic, preprocessing):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for dataset in (ImageDataset(table, basic, seed=7), ImageDataset(table, preprocessing)):
        for index in range(len(dataset)):
            dataset[index]
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


# Keys


def test_getitem__a_key_is_the_seed_of_the_images_stream(table, basic):
    plain, keyed = ImageDataset(table, basic, seed=7), ImageDataset(table, basic, seed=7, keys=True)
    plain.epoch = keyed.epoch = 3
    for index in range(len(table)):
        item, expected = keyed[index], plain[index]
        assert set(expected) == {"pixel_values", "labels"}
        assert item["key"] == sample_seed(7, 3, str(table.sample_ids[index]))
        assert type(item["key"]) is int
        assert torch.equal(item["pixel_values"], expected["pixel_values"])
        assert item["labels"] == expected["labels"]


def test_getitem__a_transform_that_draws_nothing_has_keys_too(table, preprocessing):
    keyed = ImageDataset(table, preprocessing, seed=7, keys=True)
    assert torch.equal(keyed[2]["pixel_values"], ImageDataset(table, preprocessing)[2]["pixel_values"])
    assert len({keyed[index]["key"] for index in range(len(table))}) == len(table)


def test_image_dataset__keys_need_a_seed(table, preprocessing):
    with pytest.raises(ValueError, match="keys are made from a seed: give one"):
        ImageDataset(table, preprocessing, keys=True)


# Seeds


def test_random_stream__is_that_of_a_freshly_seeded_generator():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with random_stream(2**63 - 1):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(2**63 - 1)))


def test_random_stream__leaves_other_devices_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: pytest.fail("dropout on a GPU would start over"))
    with random_stream(5):
        torch.rand(3)


def test_sample_seed__never_changes_between_versions():
    assert sample_seed(0, 0, "cat/1.png") == 4594607453006302382
    assert sample_seed(0, 1, "cat/1.png") != sample_seed(1, 0, "cat/1.png")


def test_sample_seed__tells_all_apart_and_fits_torch():
    seeds = [sample_seed(seed, epoch, f"{name}") for seed in range(12) for epoch in range(12) for name in range(12)]
    assert len(set(seeds)) == 12**3
    assert all(0 <= seed < 2**63 for seed in seeds)


# Unreadable images


@pytest.fixture
def truncated(tmp_path, noise):
    """A folder whose second image breaks off: its header is whole."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        noise(64, 64).save(tmp_path / name / "1.jpg", quality=90)
    path = tmp_path / "b" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-1000])
    with Image.open(path):
        pass
    return read_class_folders(tmp_path).tables["train"], path


@pytest.mark.parametrize("workers", [0, 2])
def test_getitem__a_truncated_image_is_named(truncated, preprocessing, workers):
    table, path = truncated
    loader = DataLoader(ImageDataset(table, preprocessing), batch_size=1, num_workers=workers, collate_fn=Collate())
    with pytest.raises(DataError) as caught:
        list(loader)
    found = message_of(caught.value)
    assert found.startswith(f"data: cannot read the image {path}: image file is truncated")
    assert found.endswith(
        "Mend or remove it, or set data.on_bad_image to 'skip'; 'hf-transfer check --data' lists all such images."
    )
    assert "\n" not in found
    assert "Traceback" not in found


def test_getitem__a_file_that_went_away_is_named(truncated, preprocessing):
    table, path = truncated
    path.unlink()
    with pytest.raises(DataError) as caught:
        ImageDataset(table, preprocessing)[1]
    assert str(caught.value).startswith(f"data: cannot read the image {path}: ")
    assert "No such file or directory" in str(caught.value)


def test_getitem__a_mistake_of_ours_is_no_data_error(table):
    def broken(image):
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match="ours"):
        ImageDataset(table, broken)[0]


# Batches


@pytest.mark.parametrize("channels_last", [False, True])
def test_collate__stacks_in_the_layout_asked_for(channels_last):
    items = [{"pixel_values": torch.rand(3, 5, 7), "labels": label} for label in (2, 0, 1, 1)]
    batch = Collate(channels_last)(items)
    assert set(batch) == {"pixel_values", "labels"}
    pixels = batch["pixel_values"]
    assert pixels.shape == (4, 3, 5, 7)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, torch.stack([item["pixel_values"] for item in items]))
    assert pixels.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert pixels.is_contiguous() == (not channels_last)
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [2, 0, 1, 1]


def test_collate__keeps_its_layout_through_worker_processes(table, preprocessing):
    loader = DataLoader(ImageDataset(table, preprocessing), batch_size=3, num_workers=2, collate_fn=Collate(channels_last=True))
    for batch in loader:
        assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)


def test_collate__bytes_are_stacked_once_and_lists_go_with_them(table, basic):
    dataset = ImageDataset(table, basic, seed=7, keys=True)
    items = [dataset[index] for index in range(3)]
    for channels_last in (False, True):
        batch = Collate(channels_last)(items)
        assert set(batch) == {"pixel_values", "labels", "keys"}
        assert batch["pixel_values"].dtype == torch.uint8
        assert batch["pixel_values"].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch["pixel_values"], torch.stack([item["pixel_values"] for item in items]))
        assert batch["keys"] == [item["key"] for item in items]


def test_getitem__of_crops_the_transform_is_what_the_finished_batch_shows(table):
    preprocessing = Preprocessing(ViTImageProcessor(size={"height": 128, "width": 128}))  # too large for reduced decoding
    for preset, erasing in (("basic", 0.0), ("strong", 0.9)):
        transform = build_train_transform(preset, preprocessing, erasing)
        dataset = ImageDataset(table, transform, seed=7)
        batch = Finishing(preprocessing, channels_last=True)(Collate()([dataset[index] for index in range(6)]))
        for index in range(6):
            with random_stream(sample_seed(7, 0, str(table.sample_ids[index]))):
                expected = transform(dataset.image(index))
            torch.testing.assert_close(batch["pixel_values"][index], expected, atol=1e-6, rtol=0)
