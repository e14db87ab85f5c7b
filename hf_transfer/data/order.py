"""The order of training images: which of them an epoch draws, and how they are shared out into batches.

Everything is a function of the seed, the epoch and the layout (batch size, processes), never of loader processes, machines or
what was read before: every process computes the same order and takes its own batches of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..errors import DataError
from .dataset import sample_seed

_LANES = 8
"""How many loader processes can read shards side by side, none of them what another reads (2, 4 and 8 divide it)."""


@dataclass(frozen=True)
class Order:
    """How an epoch's images follow one another.

    Args:
        count: images of the data set, and draws of an epoch.
        seed: seed of the run.
        classes: int64 [count], the class of each image; only looked at with weights.
        weights: float64 [C], how often an image of each class is drawn, in proportion and with replacement; None draws each
            image once.
        blocks: int [count], the piece of a shard that each image is read with; the images of a block are drawn near one
            another. None where every image is read by itself.
        buffer: with blocks, among how many images the order is random at any time, on each process.
    """

    count: int
    seed: int
    classes: np.ndarray | None = None
    weights: np.ndarray | None = None
    blocks: np.ndarray | None = None
    buffer: int = 2048

    @property
    def lanes(self) -> int:
        """Streams of blocks that a process reads side by side; fewer where the buffer holds only a few blocks."""
        if self.blocks is None or not self.count:
            return 1
        largest = int(np.unique(self.blocks, return_counts=True)[1].max())
        return min(_LANES, max(1, self.buffer // largest))

    def open_blocks(self, readers: int = 1) -> int:
        """Return from about how many blocks each reader of a process reads at a time.

        Args:
            readers: loader processes, or 1.
        """
        if self.blocks is None or not self.count:
            return 0
        usual = int(np.median(np.unique(self.blocks, return_counts=True)[1]))
        lanes = self.lanes // math.gcd(self.lanes, max(1, readers))  # that a reader comes by
        return lanes * (math.ceil(self.buffer / self.lanes / usual) + 2)

    def batches(self, epoch: int, batch_size: int, processes: int = 1, *, drop_last: bool = False) -> list[np.ndarray]:
        """Return the batches of an epoch; number k is of process k % processes, and all processes have equally many.

        Every draw of the epoch is in one batch. What fills no step is shared out evenly: the last batches are smaller, or,
        where fewer images are left than there are processes, one image larger.

        Args:
            epoch: from 0.
            batch_size: images of a full batch.
            processes: how many train together.
            drop_last: leave out what fills no step.

        Returns:
            int64 arrays; a value is `repeat * count + position`, repeat 0 for the first time that an image is drawn in the
            epoch.

        Raises:
            DataError: when there are fewer images than processes.
        """
        sizes = batch_sizes(self.count, batch_size, processes, drop_last=drop_last)
        drawn = self._drawn(epoch)
        bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        if self.blocks is not None and len(sizes):
            drawn = self._streamed(drawn, epoch, bounds, processes)
        return [drawn[start:end] for start, end in pairwise(bounds)]

    def _drawn(self, epoch: int) -> np.ndarray:
        """Return the draws of an epoch in random order: int64 [count]."""
        order = torch.randperm(self.count, generator=self._generator(epoch, "order")).numpy()
        if self.weights is None or self.classes is None:
            return order
        counts = low_variance_counts(self.weights, self.classes, self._generator(epoch, "weights"))
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        positions = np.repeat(np.arange(self.count), counts)
        repeats = np.arange(self.count) - np.repeat(first, counts)
        return (repeats * self.count + positions)[order]

    def _streamed(self, drawn: np.ndarray, epoch: int, bounds: np.ndarray, processes: int) -> np.ndarray:
        """Return the draws in an order in which each lane of each process reads block after block of its own.

        Blocks come in random order and are dealt to the lanes; in a lane, each draw moves back by a random way of up to the
        lane's share of the buffer. Step s of a process takes its batch from lane s % lanes.
        """
        assert self.blocks is not None
        lanes = self.lanes
        generator = self._generator(epoch, "blocks")
        blocks = np.unique(self.blocks)
        rank = np.empty(len(blocks), dtype=np.int64)
        rank[torch.randperm(len(blocks), generator=generator).numpy()] = np.arange(len(blocks))
        sequence = drawn[np.argsort(rank[np.searchsorted(blocks, self.blocks[drawn % self.count])], kind="stable")]
        way = torch.rand(len(sequence), generator=generator, dtype=torch.float64).numpy() * (self.buffer / lanes)
        found = np.empty(bounds[-1], dtype=np.int64)
        batches = np.arange(len(bounds) - 1)
        start = 0
        for process in range(processes):
            for lane in range(lanes):
                own = batches[(batches % processes == process) & (batches // processes % lanes == lane)]
                places = np.concatenate([np.arange(bounds[k], bounds[k + 1]) for k in own]) if len(own) else own
                piece = slice(start, start + len(places))
                moved = np.argsort(np.arange(len(places)) + way[piece], kind="stable")
                found[places] = sequence[piece][moved]
                start += len(places)
        return found

    def _generator(self, epoch: int, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(sample_seed(self.seed, epoch, purpose))


def batch_sizes(count: int, batch_size: int, processes: int = 1, *, drop_last: bool = False) -> list[int]:
    """Return the size of each batch of an epoch; see `Order.batches`.

    Raises:
        DataError: when there are fewer images than processes, or than fill a step where the rest is left out.
    """
    steps, rest = divmod(count, batch_size * processes)
    sizes = [batch_size] * (steps * processes)
    if drop_last and not steps:
        raise DataError(
            f"data: expected at least {batch_size * processes} training images, which fill a step; found {count}, and "
            "training.dataloader_drop_last leaves them out"
        )
    if drop_last or not rest:
        return sizes
    if rest < processes:
        if not steps:
            raise DataError(f"data: expected at least one training image for each of the {processes} processes, found {count}")
        for process in range(rest):
            sizes[process - processes] += 1
        return sizes
    return sizes + [rest // processes + (process < rest % processes) for process in range(processes)]


def low_variance_counts(weights: np.ndarray, classes: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Return how often each image is drawn, int64 [n], n draws in all.

    Systematic resampling (Kitagawa 1996): class after class, its images in random order, one random number places n equally
    spaced marks on their summed weights. The expectation is that of independent draws; but each image is drawn the floor or
    the ceiling of it times, and each class as often as expected, up to one.

    Args:
        weights: float64 [C], of an image of each class, above 0.
        classes: int64 [n], the class of each image.
        generator: of the random order and the offset.
    """
    count = len(classes)
    shuffled = torch.randperm(count, generator=generator).numpy()
    shuffled = shuffled[np.argsort(classes[shuffled], kind="stable")]
    edges = np.cumsum(weights[classes[shuffled]])
    offset = float(torch.rand((), generator=generator, dtype=torch.float64))
    marks = np.floor(edges / edges[-1] * count + offset).astype(np.int64)
    marks[-1] = count  # whatever the rounding
    counts = np.empty(count, dtype=np.int64)
    counts[shuffled] = np.diff(marks, prepend=0)
    return counts
