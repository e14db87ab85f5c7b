"""Folders of IDX files, the format of MNIST."""

import gzip
import struct

import datasets
import numpy as np
import pytest
from reading import message, read

from hf_transfer.data.images import decode_rgb


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Keep prepared images in a folder of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")


def write(path, values):
    """Write an array of bytes in the IDX format."""
    content = struct.pack(f">2x2B{values.ndim}I", 8, values.ndim, *values.shape) + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def numbers(*values):
    return np.array(values, dtype=np.uint8)


@pytest.mark.parametrize("ending", ["-ubyte", "-ubyte.gz"])
def test_read_idx__as_mnist(tmp_path, ending):
    images = pixels(200, 70, 150)  # more than is read at a time
    write(tmp_path / f"train-images-idx3{ending}", images[:198])
    write(tmp_path / f"train-labels-idx1{ending}", numbers(*[10, 9, 0] * 66))
    write(tmp_path / f"t10k-images-idx3{ending}", images[198:])
    write(tmp_path / f"t10k-labels-idx1{ending}", numbers(9, 0))
    found = read(tmp_path)
    train, test = found.tables["train"], found.tables["test"]
    assert (found.class_names, found.split_by_source) == (["0", "9", "10"], True)
    assert (train.labels[:3].tolist(), test.labels.tolist()) == ([2, 1, 0], [1, 0])
    assert test.sample_ids.tolist() == ["test/0", "test/1"]
    for row in (0, 98, 99, 100, 197):
        assert (np.asarray(decode_rgb(train.encoded(row))) == images[row][:, :, None]).all()
    assert (np.asarray(decode_rgb(test.encoded(1))) == images[199][:, :, None]).all()


def test_read_idx__colour_and_other_names(tmp_path):
    images = pixels(3, 4, 6, 3)
    write(tmp_path / "emnist-letters-test-images.idx4-ubyte", images)
    write(tmp_path / "emnist-letters-test-labels.idx1-ubyte", numbers(1, 2, 1))
    table = read(tmp_path).tables["test"]
    assert (np.asarray(decode_rgb(table.encoded(2))) == images[2]).all()


def test_read_idx__the_plain_file_comes_before_the_compressed_one(tmp_path):
    write(tmp_path / "train-images-idx3-ubyte", pixels(2, 3, 3))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not read")
    write(tmp_path / "train-labels-idx1-ubyte", numbers(0, 1))
    assert len(read(tmp_path).tables["train"]) == 2


def test_read_idx__what_is_wrong_is_named(tmp_path):
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    write(images, pixels(2, 3, 3))
    assert message(tmp_path) == (
        f"data.source: expected a file of images and one of labels for each split in {tmp_path}, such as "
        "train-images-idx3-ubyte and train-labels-idx1-ubyte; missing: labels of train"
    )
    write(labels, numbers(0, 1, 1))
    assert message(tmp_path) == f"data.source: expected as many labels as images; found 3 in {labels} and 2 in {images}"
    assert message(tmp_path, group_column="patient") == (
        "data.group_column: IDX files say nothing of images that belong together; leave it out"
    )
    whole = images.read_bytes()
    write(labels, numbers(0, 1))
    for content, said in (
        (
            b"\x89PNG" + whole[4:],
            f"expected an IDX file of unsigned bytes in 3 or 4 dimensions, found another head in {images}",
        ),
        (whole[:9], f"{images} ends within its head"),
        (whole[:-1], f"{images} should hold 2 images and ends after 1"),
        (whole + b"x", f"{images} goes on after its 2 images"),
        (struct.pack(">2x2B4I", 8, 4, 2, 3, 3, 2), f"expected images of one or three channels, found [3, 3, 2] in {images}"),
        (
            struct.pack(">2x2B3I", 8, 3, 9, 4**15, 4**15),
            f"expected images, found [{4**15}, {4**15}] as the size of each in {images}",
        ),
    ):
        images.write_bytes(content)
        assert message(tmp_path) == f"data.source: {said}"
    labels.write_bytes(labels.read_bytes()[:-1])
    assert message(tmp_path) == f"data.source: {labels} should hold 2 labels and holds 1"
    write(tmp_path / "fashion-train-images-idx3-ubyte", pixels(2, 3, 3))
    assert "expected the IDX files of one data set" in message(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(bytes(4000))[:-9]])
def test_read_idx__broken_compression(tmp_path, content):
    write(tmp_path / "train-images-idx3-ubyte.gz", pixels(2, 3, 3))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(content)
    assert message(tmp_path).startswith("data.source: ")
    assert "train-labels-idx1-ubyte.gz" in message(tmp_path)
