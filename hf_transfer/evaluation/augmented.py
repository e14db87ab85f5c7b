"""The torch data set of views: each image is decoded once, then everything that is to be made of it becomes model inputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from ..data.dataset import Batch, Collate, ImageDataset
from ..data.decoding import Decoder
from ..data.table import ImageTable
from ..data.transforms import Preprocessing
from .views import View


class ViewedImages(Dataset):
    """Several views of each image of a table, as model inputs.

    Args:
        table: the images.
        preprocessing: of the model's checkpoint; it follows every view.
        views: what is made of each image before.
        decoder: how images are decoded, see `ImageDataset`.
    """

    def __init__(
        self, table: ImageTable, preprocessing: Preprocessing, views: Sequence[View], decoder: Decoder | None = None
    ) -> None:
        self.images = ImageDataset(table, preprocessing, decoder=decoder)
        self.preprocessing = preprocessing
        self.views = tuple(views)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """Return {"pixel_values": float32 [3, height, width], "labels": as of the image} of each view of one image.

        Raises:
            DataError: naming the image, when it cannot be read.
        """
        image, label = self.images.image(index), self.images.label(index)
        sample_id = str(self.images.table.sample_ids[index])
        return [{"pixel_values": self.preprocessing(view(image, sample_id)), "labels": label} for view in self.views]


class ViewCollate:
    """Stack the views of several images into one batch, the views of an image beside each other.

    Args:
        channels_last: see `Collate`.
    """

    def __init__(self, channels_last: bool) -> None:
        self.collate = Collate(channels_last)

    def __call__(self, items: list[list[dict[str, Any]]]) -> Batch:
        """Return {"pixel_values": float32 [n V, 3, height, width], "labels": as `Collate` stacks them, [n V, ...]}."""
        return self.collate(list(itertools.chain.from_iterable(items)))
