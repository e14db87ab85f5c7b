"""Images in blocks: what is fetched, what is kept, in threads and in other processes."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
from loopback_files import Fault, LoopbackFiles
from reading import read
from shard_files import Numbers, contents, jpeg, samples, write_tar
from torch.utils.data import DataLoader

from hf_transfer.data.dataset import ImageDataset
from hf_transfer.data.sources import filesystems
from hf_transfer.data.sources.shards import ShardedImages
from hf_transfer.data.table import BlockedImages


@pytest.fixture
def numbers():
    blocks = Numbers()
    return ShardedImages(np.repeat(np.arange(10), 5), blocks), blocks


def test_sharded_images__are_images_in_blocks(numbers):
    assert isinstance(numbers[0], BlockedImages)
    assert (len(numbers[0]), numbers[0].path(0)) == (50, None)


def test_encoded__each_block_is_read_once(numbers):
    images, blocks = numbers
    assert [images.encoded(row) for row in (0, 4, 5, 49, 1)] == [b"0", b"4", b"5", b"49", b"1"]
    assert blocks.read_groups == [[0], [1], [9]]
    with pytest.raises(OSError, match="there is no image in this row"):
        images.encoded(7)


def test_prefetch__neighbours_together(numbers):
    images, blocks = numbers
    images.at_a_time = 1
    images.prefetch([48, 3, 9, 0, 12, 16, 47])
    assert images.encoded(48) == b"48"
    assert blocks.read_groups[0] == [9]  # what is needed first
    assert [images.encoded(row) for row in (3, 9, 12, 16)] == [b"3", b"9", b"12", b"16"]
    assert blocks.read_groups == [[9], [0, 1, 2], [3]]
    images.prefetch([])
    assert images.encoded(3) == b"3"
    assert len(blocks.read_groups) == 3


def test_prefetch__the_blocks_used_last_are_kept(numbers):
    images, blocks = numbers
    images.blocks_kept = 2
    for row in (0, 5, 0, 10):  # blocks 0, 1, 0, 2
        images.prefetch([row])
        images.encoded(row)
    assert blocks.read_groups == [[0], [1], [2]]
    images.prefetch([0])
    images.prefetch([5])
    assert images.encoded(5) == b"5"
    assert blocks.read_groups == [[0], [1], [2], [1]]


def test_prefetch__a_batch_is_kept_whatever_the_limits(numbers):
    images, blocks = numbers
    images.blocks_kept, images.bytes_kept = 0, 0
    rows = list(range(0, 50, 5))
    images.prefetch(rows)
    assert [images.encoded(row + 1) for row in rows] == [b"%d" % (row + 1) for row in rows]
    assert sum(map(len, blocks.read_groups)) == 10
    images.prefetch([0])
    images.encoded(0)
    images.prefetch([5])
    images.encoded(5)
    assert sum(map(len, blocks.read_groups)) == 10 + 1  # of the batch before, block 0 was kept, block 1 was not


def test_encoded__a_failure_is_told_and_tried_again_later(numbers):
    images, blocks = numbers
    blocks.fails = True
    images.prefetch([0, 5])
    with pytest.raises(OSError, match="the connection failed"):
        images.encoded(5)
    blocks.fails = False
    assert images.encoded(5) == b"5"


def test_encoded__from_many_threads_each_block_once(numbers):
    images, blocks = numbers
    together = threading.Barrier(8)

    def all_of(_):
        together.wait()
        return [images.encoded(row) for row in range(50) if row != 7]

    images.prefetch([0])  # so that there is one pool
    with ThreadPoolExecutor(8) as pool:
        assert all(found == [b"%d" % row for row in range(50) if row != 7] for found in pool.map(all_of, range(8)))
    assert sum(map(len, blocks.read_groups)) == 10


def test_sharded_images__copies_for_other_processes_hold_nothing(numbers):
    images, _ = numbers
    images.blocks_kept = 3
    assert images.encoded(0) == b"0"
    copy = pickle.loads(pickle.dumps(images))
    assert (copy.blocks_kept, copy.encoded(49)) == (3, b"49")


def test_sharded_images__in_loader_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(filesystems, "WAITS", (0.01, 0.01))
    write_tar(tmp_path / "served" / "x.tar", samples(range(40)))
    with LoopbackFiles(tmp_path / "served") as server:
        table = read(f"{server.url}/x.tar", streaming=True).tables["train"]
        assert contents(table)["x.tar:0007"] == jpeg(7)  # this process has connections and threads of its own
        server.gets()
        server.faults.append(Fault("/x.tar", status=503, times=1))
        loader = DataLoader(ImageDataset(table, np.asarray), batch_size=8, num_workers=2, collate_fn=list)
        batches = list(loader)
    assert [item["labels"] for batch in batches for item in batch] == table.labels.tolist()
    assert len(server.gets("/x.tar")) <= 2 * 2 + 1  # two blocks in each of two processes, and one that failed
