"""Parquet files that are read where they are, in row groups."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback_files import Fault, LoopbackFiles
from reading import message, read
from shard_files import contents, jpeg, labels

from hf_transfer.data.images import decode_rgb
from hf_transfer.data.sources import filesystems


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(filesystems, "WAITS", (0.01, 0.01))
    return tmp_path / "kept"


@pytest.fixture
def server(tmp_path):
    with LoopbackFiles(tmp_path / "served") as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    """Files as `datasets` writes them: 30 and 20 training images in row groups of 8, and 6 of test."""
    found = tmp_path / "served"
    found.mkdir()
    names = datasets.ClassLabel(names=["emu", "cat", "dog"])
    features = datasets.Features({"photo": datasets.Image(), "kind": names, "camera": datasets.Value("int64")})
    for name, numbers in (
        ("train-00000-of-00002", range(30)),
        ("train-00001-of-00002", range(30, 50)),
        ("test-00000-of-00001", range(50, 56)),
    ):
        columns = {
            "photo": [{"bytes": jpeg(number, side=256), "path": None} for number in numbers],
            "kind": [number % 3 for number in numbers],
            "camera": [number // 10 for number in numbers],
        }
        made = datasets.Dataset.from_dict(columns, features=features)
        made.to_parquet(str(found / f"{name}.parquet"), batch_size=8)
    return found


PATTERN = "{train-0000{0,1}-of-00002,test-00000-of-00001}.parquet"


@pytest.mark.parametrize("place", ["far", "near"])
def test_read_parquet_shards__as_the_same_files_read_at_once(folder, server, place):
    source = f"{server.url}/{PATTERN}" if place == "far" else folder
    streamed, whole = read(source, streaming=True, group_column="camera"), read(folder, group_column="camera")
    assert streamed.class_names == whole.class_names == ["emu", "cat", "dog"]
    assert list(streamed.tables) == ["train", "test"]
    for split, table in streamed.tables.items():
        assert labels(streamed, split) == labels(whole, split)
        assert table.groups.tolist() == whole.tables[split].groups.tolist()
        assert contents(table) == contents(whole.tables[split])
    train = streamed.tables["train"]
    assert (
        train.images.block_of[train.rows].tolist()[:10]
        == [train.images.block_of[train.rows[0]]] * 8 + [train.images.block_of[train.rows[8]]] * 2
    )
    assert len(set(train.digests.tolist())) == 50


def test_read_parquet_shards__labels_cost_no_images(folder, server):
    sizes = sum(file.stat().st_size for file in folder.iterdir())
    found = read(f"{server.url}/{PATTERN}", streaming=True)
    assert sum(asked.sent for asked in server.gets()) < sizes / 2
    table = found.tables["train"]
    table.prefetch([0, 9, 1])
    assert [table.encoded(row) for row in (0, 9, 1)] == [jpeg(0, side=256), jpeg(9, side=256), jpeg(1, side=256)]
    asked = server.gets()
    assert {one.path for one in asked} == {"/train-00000-of-00002.parquet"}
    group = pq.ParquetFile(folder / "train-00000-of-00002.parquet").metadata.row_group(0).total_byte_size
    assert sum(one.sent for one in asked) < 2.2 * group
    images = table.images
    images.blocks_kept = 0
    images.prefetch([0])
    assert decode_rgb(table.encoded(0)).size == (256, 256)


def test_read_parquet_shards__a_changed_file_is_noticed(folder, server):
    source = f"{server.url}/train-00001-of-00002.parquet"
    assert set(labels(read(source, streaming=True)).values()) == {"emu", "cat", "dog"}
    table = pa.table({"image": [jpeg(1), jpeg(2)], "label": ["x", "y"]})
    pq.write_table(table, folder / "train-00001-of-00002.parquet")
    assert labels(read(source, streaming=True)) == {"train/0": "x", "train/1": "y"}


def test_read_parquet_shards__failures_name_the_address(folder, server):
    address = f"{server.url}/test-00000-of-00001.parquet"
    table = read(address, streaming=True).tables["test"]
    server.faults.append(Fault("/test-00000-of-00001.parquet", status=500))
    with pytest.raises(OSError) as caught:
        table.encoded(0)
    assert str(caught.value) == f"{address}: the server answers 500 Internal Server Error"
    server.faults.clear()
    assert table.encoded(0) == jpeg(50, side=256)
    (folder / "x.parquet").write_bytes(b"no parquet at all, but long enough to be one")
    assert message(f"{server.url}/x.parquet", streaming=True).startswith(
        f"data.source: cannot read {server.url}/x.parquet as a Parquet file: Parquet magic bytes not found"
    )
    server.ranges = False
    assert message(f"{server.url}/test-00000-of-00001.parquet?v=2", streaming=True) == (
        f"data.source: cannot read {address}: the server gives whole files only, and data.streaming needs parts: leave it out "
        "to have the files copied once"
    )


def test_read_parquet_shards__images_must_be_in_the_file(folder):
    file = folder / "paths.parquet"
    pq.write_table(pa.table({"image": ["a.jpg"], "label": ["x"]}), file)
    assert message(file, streaming=True) == (
        f"data.streaming: expected encoded images in 'image' of {file}, found paths; leave data.streaming out"
    )
    image = pa.array([{"bytes": jpeg(1), "path": "a.jpg"}, None, {"bytes": None, "path": "a.jpg"}])
    pq.write_table(pa.table({"image": image, "label": ["x", "x", "x"]}), file)
    table = read(file, streaming=True).tables["train"]
    assert table.encoded(0) == jpeg(1)
    for row in (1, 2):
        with pytest.raises(OSError, match="there is no image in this row"):
            table.encoded(row)


def test_read_columnar__far_away_files_are_copied_once(folder, server):
    found, near = read(f"{server.url}/{PATTERN}"), read(folder)
    assert {split: contents(table) for split, table in found.tables.items()} == {
        split: contents(table) for split, table in near.tables.items()
    }
    assert len(server.gets()) == 3
    read(f"{server.url}/{PATTERN}")
    assert server.gets() == []
    assert np.asarray(found.tables["test"].labels).tolist() == near.tables["test"].labels.tolist()
