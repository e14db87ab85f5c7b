"""The order of training images."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..data.dataset import ImageDataset, sample_seed


class EpochSampler(torch.utils.data.Sampler):
    """A random order of a data set for each epoch, from (seed, epoch) alone.

    The samplers of torch and accelerate count the epochs that they were told of, which is not the same after a resume.

    Args:
        data: knows the epoch.
        seed: seed of the run.
    """

    def __init__(self, data: ImageDataset, seed: int) -> None:
        self.data = data
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(sample_seed(self.seed, self.data.epoch, "order"))
        return iter(torch.randperm(len(self.data), generator=generator).tolist())
