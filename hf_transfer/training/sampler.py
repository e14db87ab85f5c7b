"""The batches of training images, epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..data.dataset import ImageDataset
from ..data.order import Order, batch_sizes


class EpochBatches(torch.utils.data.Sampler):
    """The batches of an epoch for all processes, in turn: the first is of the first process, the second of the second.

    The samplers of torch and accelerate count the epochs that they were told of, which is not the same after a resume; and
    accelerate fills an epoch's last batches with images of its first. Here every draw is in one batch.

    Args:
        data: knows the epoch.
        order: which image follows which.
        batch_size: images of a full batch.
        processes: how many train together.
        drop_last: leave out what fills no step.
    """

    # It has no attribute `batch_size` on purpose: accelerate, told so, takes batches of any size as they are.

    def __init__(self, data: ImageDataset, order: Order, batch_size: int, processes: int = 1, drop_last: bool = False) -> None:
        self.data = data
        self.order = order
        self.images = batch_size
        self.processes = processes
        self.leave_out = drop_last

    def __len__(self) -> int:
        return len(batch_sizes(self.order.count, self.images, self.processes, drop_last=self.leave_out))

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.order.batches(self.data.epoch, self.images, self.processes, drop_last=self.leave_out)
        return (batch.tolist() for batch in batches)
