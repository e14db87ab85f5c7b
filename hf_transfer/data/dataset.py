"""The torch data set that decodes and transforms: one image, one sample id, one random stream."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..errors import DataError
from .images import decode_rgb
from .table import ImageTable
from .transforms import Preprocessing


class ImageDataset(Dataset):
    """Images of a table as model inputs.

    Randomness belongs to the sample: each image is transformed under a generator seeded with (seed, epoch, sample id), so
    workers, processes and resumes do not change what it looks like.

    Args:
        table: the images.
        transform: RGB image to float32 [3, height, width]; may draw from torch's global generator.
        seed: seed of the run; None for transforms that draw nothing, which saves the seeding.
    """

    def __init__(self, table: ImageTable, transform: Callable[[Image.Image], torch.Tensor], seed: int | None = None) -> None:
        self.table = table
        self.transform = transform
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {"pixel_values": float32 [3, height, width], "labels": int} of one image.

        Raises:
            DataError: naming the image, when it cannot be read.
        """
        try:
            image = decode_rgb(self.table.encoded(index))
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            raise DataError(
                f"data: cannot read the image {self.table.name(index)}: {error or type(error).__name__}. "
                "Mend or remove it, or set data.on_bad_image to 'skip'; 'hf-transfer check --data' lists all such images."
            ) from None
        if self.seed is None:
            pixels = self.transform(image)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(sample_seed(self.seed, self.epoch, str(self.table.sample_ids[index])))
                pixels = self.transform(image)
        return {"pixel_values": pixels, "labels": int(self.table.labels[index])}


def sample_seed(seed: int, epoch: int, sample_id: str) -> int:
    """Return the 63-bit seed of one image in one epoch: BLAKE2b of (seed, epoch, sample id)."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def check_first_batch(preprocessing: Preprocessing, table: ImageTable, count: int = 16) -> None:
    """Stop when images spread over a table do not fit the checkpoint's statistics; see `Preprocessing.check_statistics`."""
    preprocessing.check_statistics(spread_images(ImageDataset(table, preprocessing), count)[1])


def spread_images(data: ImageDataset, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images spread evenly over a data set: their int64 positions and float32 pixels [n, 3, height, width]."""
    rows = torch.linspace(0, len(data) - 1, min(count, len(data))).long()
    return rows, torch.stack([data[row]["pixel_values"] for row in rows.tolist()])


def own_part(count: int, process: int, processes: int) -> range:
    """Return the positions, of `count`, that one of several processes works on: contiguous, and in the order of processes."""
    bounds = np.linspace(0, count, processes + 1).astype(int)
    return range(bounds[process], bounds[process + 1])


class Collate:
    """Stack items into a batch, in the memory layout the model computes in.

    Args:
        channels_last: lay images out as NHWC in memory (the shape stays NCHW), once, where the batch is built.
    """

    def __init__(self, channels_last: bool = False) -> None:
        self.channels_last = channels_last

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """Return {"pixel_values": float32 [n, 3, height, width], "labels": int64 [n]}."""
        images = [item["pixel_values"] for item in items]
        pixels = torch.empty(
            (len(images), *images[0].shape),
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format,
        )
        torch.stack(images, out=pixels)
        return {"pixel_values": pixels, "labels": torch.tensor([item["labels"] for item in items])}
