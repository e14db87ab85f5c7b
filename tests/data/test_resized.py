"""Images kept as resized pixels: equal to those that are decoded, found again, and never trusted when damaged."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import BitImageProcessor, ViTImageProcessor

from hf_transfer.data import resized
from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.dataset import Collate, ImageDataset
from hf_transfer.data.decoding import Box
from hf_transfer.data.resized import keep_for_evaluation, keep_for_training, scaled_box
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.data.transforms import Preprocessing
from hf_transfer.errors import DataError, UserError, message_of

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def with_digests(table):
    digests = [hashlib.blake2b(table.encoded(index), digest_size=16).digest() for index in range(len(table))]
    return replace(table, digests=np.array(digests, dtype="S16"))


@pytest.fixture(scope="module")
def table():
    return with_digests(read_package("textile").tables["train"].select(np.arange(0, 2000, 100)))


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(ViTImageProcessor(size={"height": 64, "width": 64}, **IMAGENET))


@pytest.fixture(scope="module")
def basic(preprocessing):
    return build_train_transform("basic", preprocessing)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(resized, "_IMAGES", 4)


@pytest.fixture
def decoded(table, monkeypatch):
    """The positions whose bytes are read, in this process."""
    found = []
    read = type(table).encoded
    monkeypatch.setattr(type(table), "encoded", lambda self, index: found.append(index) or read(self, index))
    return found


def shards(root):
    return sorted(root.rglob("shard-*.safetensors"))


def batches(data, workers=0):
    return torch.cat([batch["pixel_values"] for batch in DataLoader(data, 4, num_workers=workers, collate_fn=Collate())])


# What is kept


def test_keep_for_training__the_shorter_side_serves_the_smallest_crop(table, basic, tmp_path):
    kept = keep_for_training(table, basic, None, 0, tmp_path)
    for index in range(len(table)):
        pixels, size = kept.read(index)
        assert pixels.shape == (91, 91, 3)  # 64 / sqrt(0.5)
        assert pixels.dtype == np.uint8
        assert size == (250, 250)


def test_keep_for_training__small_images_are_kept_as_they_are(tmp_path):
    for name, size in (("a", (60, 40)), ("b", (300, 50))):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "1.png")
    table = with_digests(read_class_folders(tmp_path / "images").tables["train"])
    basic = build_train_transform("basic", Preprocessing(ViTImageProcessor(size={"height": 64, "width": 64})))
    kept = keep_for_training(table, basic, None, 0, tmp_path / "cache")
    for index in range(2):
        assert np.array_equal(kept.read(index)[0], np.asarray(Image.open(table.path(index))))
    # so every view is the same to the bit
    data, cached = ImageDataset(table, basic, seed=3), ImageDataset(table, basic, seed=3, kept=kept)
    for epoch in range(3):
        data.epoch = cached.epoch = epoch
        assert torch.equal(batches(data), batches(cached))


def test_keep_for_training__views_are_those_of_decoded_images(table, basic, tmp_path):
    """The same crops, flips and keys: shrunk twice instead of once, cloth differs by a few levels, not by what is seen."""
    kept = keep_for_training(table, basic, None, 0, tmp_path)
    for epoch in range(2):
        data, cached = (ImageDataset(table, basic, seed=7, keys=True, kept=one) for one in (None, kept))
        data.epoch = cached.epoch = epoch
        for index in range(8):
            first, second = data[index], cached[index]
            assert first["key"] == second["key"]
            one, other = (item["pixel_values"].float().flatten() for item in (first, second))
            assert (one - other).abs().mean() < 8
            assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.8


@pytest.mark.parametrize("preset", ["none", "crop_pad_flip_rotate"])
def test_keep_for_training__presets_after_the_evaluation_transform_are_equal_to_the_bit(preset, table, preprocessing, tmp_path):
    transform = build_train_transform(preset, preprocessing, erasing=0.5)
    kept = keep_for_training(table, transform, None, 0, tmp_path)
    data, cached = ImageDataset(table, transform, seed=7), ImageDataset(table, transform, seed=7, kept=kept)
    assert torch.equal(batches(data), batches(cached))


PROCESSORS = {
    "squashed": ViTImageProcessor(size={"height": 64, "width": 48}, **IMAGENET),
    "bicubic centre crop": BitImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}, **IMAGENET),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_keep_for_evaluation__inputs_are_equal_to_the_bit(name, table, tmp_path):
    preprocessing = Preprocessing(PROCESSORS[name])
    kept = keep_for_evaluation(table, preprocessing, None, 0, tmp_path)
    assert torch.equal(batches(ImageDataset(table, preprocessing)), batches(ImageDataset(table, preprocessing, kept=kept)))


def test_keep_for_evaluation__of_timms_processors_too(table, tmp_path):
    from timm.data import create_transform

    class Timm:
        def __init__(self):
            self.data_config = {"interpolation": "bicubic", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
            self.val_transforms = create_transform((3, 64, 64), **self.data_config)

        def to_dict(self):
            return dict(self.data_config)

        def __call__(self, image, return_tensors):
            return {"pixel_values": self.val_transforms(image)[None]}

    preprocessing = Preprocessing(Timm())
    kept = keep_for_evaluation(table, preprocessing, None, 0, tmp_path)
    assert kept.read(0)[0].dtype == np.uint8
    assert torch.equal(batches(ImageDataset(table, preprocessing)), batches(ImageDataset(table, preprocessing, kept=kept)))


def test_keep_for_evaluation__nothing_of_a_processor_that_gives_no_bytes(table, tmp_path, caplog):
    class Odd:
        def to_dict(self):
            return {}

        def __call__(self, image, return_tensors, **_):
            return {
                "pixel_values": torch.from_numpy(np.asarray(image.resize((8, 8)), dtype=np.float32)).permute(2, 0, 1)[None] ** 2
            }

    assert keep_for_evaluation(table, Preprocessing(Odd()), None, 0, tmp_path) is None
    assert "does not resize to bytes" in caplog.text
    assert not shards(tmp_path)


def test_scaled_box__never_leaves_the_image_and_is_never_empty():
    for scale in (1 / 8, 0.3, 0.99):
        size = (round(900 * scale), round(1200 * scale))
        for box in (Box(0, 0, 900, 1200), Box(899, 1199, 1, 1), Box(13, 700, 500, 499)):
            found = scaled_box(box, (size[0] / 900, size[1] / 1200), size)
            assert found.height >= 1 and found.width >= 1
            assert 0 <= found.top <= size[0] - found.height
            assert 0 <= found.left <= size[1] - found.width
            assert abs(found.top - box.top * scale) <= 1.5


# What is found again


def test_keep__the_second_time_nothing_is_decoded(table, basic, preprocessing, tmp_path, decoded):
    for keep in (
        lambda: keep_for_training(table, basic, None, 0, tmp_path),
        lambda: keep_for_evaluation(table, preprocessing, None, 0, tmp_path),
    ):
        keep()
        assert sorted(decoded) == list(range(len(table)))
        decoded.clear()
        keep()
        assert not decoded
    batches(ImageDataset(table, basic, seed=7, kept=keep_for_training(table, basic, None, 0, tmp_path)))
    batches(ImageDataset(table, preprocessing, kept=keep_for_evaluation(table, preprocessing, None, 0, tmp_path)))
    assert not decoded


def test_keep__what_changes_pixels_is_another_folder(table, tmp_path):
    few = table.select(np.arange(2))
    for size, resample, preset in ((64, 2, "basic"), (48, 2, "basic"), (64, 3, "basic"), (64, 2, "strong"), (64, 2, "none")):
        one = Preprocessing(ViTImageProcessor(size={"height": size, "width": size}, resample=resample))
        keep_for_training(few, build_train_transform(preset, one), None, 0, tmp_path)
    assert len(list(tmp_path.glob("*/space.json"))) == 5
    # randaugment's crops are basic's, and the statistics are no matter
    other = Preprocessing(ViTImageProcessor(size={"height": 64, "width": 64}, **IMAGENET))
    keep_for_training(few, build_train_transform("randaugment", other), None, 0, tmp_path)
    assert len(list(tmp_path.glob("*/space.json"))) == 5


def test_keep__a_changed_image_is_kept_anew_and_equal_ones_once(table, basic, tmp_path, decoded):
    keep_for_training(table.select(np.array([0, 1, 1, 2])), basic, None, 0, tmp_path)
    assert len(decoded) == 3
    decoded.clear()
    keep_for_training(table.select(np.array([2, 3, 0])), basic, None, 0, tmp_path)
    assert len(decoded) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_keep__by_any_number_of_loader_processes(table, basic, tmp_path, small_shards, workers):
    kept = keep_for_training(table, basic, None, workers, tmp_path)
    assert len(shards(tmp_path)) == 5
    here = keep_for_training(table, basic, None, 0, tmp_path / "other")
    assert all(np.array_equal(kept.read(index)[0], here.read(index)[0]) for index in range(len(table)))


def test_kept_images__go_to_loader_processes(table, basic, tmp_path):
    kept = keep_for_training(table, basic, None, 0, tmp_path)
    kept.read(3)
    data = ImageDataset(table, basic, seed=7, kept=kept)
    assert torch.equal(batches(data), batches(data, workers=2))
    assert torch.equal(batches(data), batches(pickle.loads(pickle.dumps(data))))


def test_keep__a_table_without_digests(table, basic, tmp_path):
    with pytest.raises(UserError, match=r"data\.cache: expected 'none' for images that are read while training"):
        keep_for_training(replace(table, digests=None), basic, None, 0, tmp_path)


# Interrupted, damaged, full


def test_keep__an_interrupted_pass_goes_on(table, basic, tmp_path, small_shards, decoded, monkeypatch):
    write = resized.PixelFolder.write

    def killed(self, digests, images):
        if len(shards(tmp_path)) == 2:
            (self.path / ".shard-half.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        write(self, digests, images)

    monkeypatch.setattr(resized.PixelFolder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_for_training(table, basic, None, 0, tmp_path)
    assert len(shards(tmp_path)) == 2
    monkeypatch.setattr(resized.PixelFolder, "write", write)
    decoded.clear()
    kept = keep_for_training(table, basic, None, 0, tmp_path)
    assert sorted(decoded) == list(range(8, 20))
    assert all(kept.read(index) is not None for index in range(len(table)))
    assert not list(tmp_path.rglob("*.tmp"))


def _keep(table, basic, root, workers):
    keep_for_training(table, basic, None, workers, root)


def test_keep__several_processes_at_once(table, basic, tmp_path, small_shards):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_keep, args=(table, basic, tmp_path, 0)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(shards(tmp_path)) == 5  # each written once


def damaged_pixel(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def damaged_size(path):
    """A bit of the index: behind the header come checksums, digests, sizes."""
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[8 + length + 3] ^= 1
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize("damage", [truncated, damaged_size])
def test_keep__a_damaged_shard_is_made_again(table, basic, tmp_path, small_shards, decoded, capsys, damage):
    expected = batches(ImageDataset(table, basic, seed=7, kept=keep_for_training(table, basic, None, 0, tmp_path)))
    damage(shards(tmp_path)[2])
    decoded.clear()
    kept = keep_for_training(table, basic, None, 0, tmp_path)
    assert len(decoded) == 4
    assert "is damaged; its images are decoded again" in capsys.readouterr().err
    assert torch.equal(batches(ImageDataset(table, basic, seed=7, kept=kept)), expected)


def test_read__a_bit_that_flipped_is_noticed_and_the_image_is_decoded(table, basic, tmp_path, small_shards, decoded, capsys):
    kept = keep_for_training(table, basic, None, 0, tmp_path)
    path = shards(tmp_path)[1]
    damaged_pixel(path)
    found = keep_for_training(table, basic, None, 0, tmp_path)
    decoded.clear()
    missing = [index for index in range(len(table)) if found.read(index) is None]
    assert missing
    assert capsys.readouterr().err.count("is damaged") == 1
    assert not path.exists()
    plain, cached = ImageDataset(table, basic, seed=7), ImageDataset(table, basic, seed=7, kept=found)
    for index in missing:
        assert torch.equal(cached[index]["pixel_values"], plain[index]["pixel_values"])
    # and the next run keeps them again
    again = keep_for_training(table, basic, None, 0, tmp_path)
    assert all(again.read(index) is not None for index in range(len(table)))
    assert kept is not again


def test_keep__a_full_disk_is_told_and_what_was_kept_stays(table, basic, tmp_path, small_shards, monkeypatch):
    def full(number):
        if len(shards(tmp_path)) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as caught:
        keep_for_training(table, basic, None, 0, tmp_path)
    assert str(caught.value).startswith(f"cannot keep resized images in {shards(tmp_path)[0].parent}: No space left on device.")
    assert "set data.cache to 'none'; what was kept stays." in str(caught.value)
    assert len(shards(tmp_path)) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_keep__an_unreadable_image_is_named(tmp_path, noise, basic, small_shards, workers):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            noise(64, 64).save(tmp_path / name / f"{number}.jpg", quality=90 + number)
    path = tmp_path / "b" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-1000])
    table = with_digests(read_class_folders(tmp_path).tables["train"])
    with pytest.raises(DataError) as caught:
        keep_for_training(table, basic, None, workers, tmp_path / "cache")
    assert message_of(caught.value).startswith(f"data: cannot read the image {path}: ")
