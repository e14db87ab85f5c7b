"""Images in shards that may be far away: fetched in blocks of neighbours, many at a time, the last ones kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Block = list[bytes | None]
"""The encoded images of a block in the order of their rows; None where there is none."""


class Blocks(Protocol):
    """What shards are read by: runs of neighbouring rows; instances go to loader processes."""

    def together(self, blocks: Sequence[int]) -> list[list[int]]:
        """Return these blocks, which ascend, in groups that are best fetched at once."""
        ...

    def read(self, blocks: Sequence[int]) -> list[Block]:
        """Return the images of blocks that `together` put into one group.

        Raises:
            OSError: naming the address, when they cannot be read.
        """
        ...


@dataclass
class _Kept:
    """The blocks that a process holds or is fetching, the ones used last at the end."""

    process: int
    pool: ThreadPoolExecutor
    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: OrderedDict[int, Future[Block]] = field(default_factory=OrderedDict)
    wanted: frozenset[int] = frozenset()


class ShardedImages:
    """Encoded images by row (`table.EncodedImages`), read in blocks; a row's block is fetched whole.

    Blocks that a `prefetch` asked for stay until the next one. Beyond these the ones used last stay, within the two limits.
    Each process has its own: instances may be pickled, and used after a fork.

    Args:
        block_of: int32 [n], the block that each row is in, ascending: rows of a block are neighbours.
        blocks: reads them.

    Attributes:
        blocks_kept: blocks to keep at most. With 0 each batch fetches its own: right where rows are read in order.
        bytes_kept: bytes of images to keep at most.
        at_a_time: fetches at the same time.
    """

    def __init__(self, block_of: np.ndarray, blocks: Blocks) -> None:
        self.block_of = block_of.astype(np.int32, copy=False)
        self.blocks_kept, self.bytes_kept, self.at_a_time = 128, 1 << 30, 8
        self._blocks = blocks
        self._first = np.flatnonzero(np.diff(self.block_of, prepend=-1))
        self._kept: _Kept | None = None

    def __len__(self) -> int:
        return len(self.block_of)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of one image; see `table.EncodedImages`."""
        block = int(self.block_of[row])
        kept = self._of_this_process()
        with kept.lock:
            if block not in kept.blocks:
                self._fetch(kept, [block])
            kept.blocks.move_to_end(block)
            found = kept.blocks[block]
        image = found.result()[row - int(self._first[block])]
        if image is None:
            raise OSError("there is no image in this row")
        return image

    def path(self, row: int) -> None:
        """Return None: images are inside of shards."""

    def prefetch(self, rows: Sequence[int]) -> None:
        """Begin to fetch the blocks of these rows; `encoded` waits for what it needs."""
        wanted = list(dict.fromkeys(self.block_of[np.asarray(rows, dtype=np.int64)].tolist()))
        kept = self._of_this_process()
        with kept.lock:
            kept.wanted = frozenset(wanted)
            for block in wanted:
                if block in kept.blocks:
                    kept.blocks.move_to_end(block)
            self._fetch(kept, [block for block in wanted if block not in kept.blocks])
            self._forget(kept)

    def _of_this_process(self) -> _Kept:
        """Return what this process holds; what a parent held before a fork is not shared, its threads are not here."""
        kept = self._kept
        if kept is None or kept.process != os.getpid():
            kept = self._kept = _Kept(os.getpid(), ThreadPoolExecutor(self.at_a_time, "shards"))
        return kept

    def _fetch(self, kept: _Kept, blocks: list[int]) -> None:
        """Begin to fetch blocks, the group of the one that is needed first at first; the lock is held."""
        order = {block: place for place, block in enumerate(blocks)}
        groups = self._blocks.together(sorted(blocks)) if blocks else []
        for group in sorted(groups, key=lambda group: min(order[block] for block in group)):
            futures: list[Future[Block]] = [Future() for _ in group]
            kept.blocks.update(zip(group, futures, strict=True))
            kept.pool.submit(self._read, kept, group, futures)

    def _read(self, kept: _Kept, group: list[int], futures: list[Future[Block]]) -> None:
        try:
            found = self._blocks.read(group)
        except BaseException as error:  # whoever waits for the images gets it
            with kept.lock:
                for block in group:
                    kept.blocks.pop(block, None)
            for future in futures:
                future.set_exception(error)
            return
        for future, images in zip(futures, found, strict=True):
            future.set_result(images)
        with kept.lock:
            self._forget(kept)

    def _forget(self, kept: _Kept) -> None:
        """Drop the blocks used longest ago until the limits are kept; the lock is held."""
        sizes = {block: _size(future) for block, future in kept.blocks.items()}
        number, total = len(sizes), sum(sizes.values())
        for block, size in sizes.items():
            if number <= self.blocks_kept and total <= self.bytes_kept:
                return
            if block not in kept.wanted and kept.blocks[block].done():
                del kept.blocks[block]
                number, total = number - 1, total - size


def _size(future: Future[Block]) -> int:
    return sum(len(image or b"") for image in future.result()) if future.done() else 0
