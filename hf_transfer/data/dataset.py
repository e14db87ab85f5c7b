"""The torch data set that decodes and transforms: one image, one sample id, one random stream."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..errors import DataError
from .images import decode_rgb
from .table import ImageTable
from .transforms import Preprocessing

Batch = dict[str, torch.Tensor]


class ImageDataset(Dataset):
    """Images of a table as model inputs.

    Randomness belongs to the sample: each image is transformed under a generator seeded with (seed, epoch, sample id), so
    workers, processes and resumes do not change what it looks like.

    Args:
        table: the images.
        transform: RGB image to float32 [3, height, width]; may draw from torch's global generator.
        seed: seed of the run; None for transforms that draw nothing, which saves the seeding.
        keys: let items carry the seed of their random stream as "key" too, for what is drawn once a batch; needs a seed.
    """

    def __init__(
        self,
        table: ImageTable,
        transform: Callable[[Image.Image], torch.Tensor],
        seed: int | None = None,
        keys: bool = False,
    ) -> None:
        if keys and seed is None:
            raise ValueError("keys are made from a seed: give one")
        self.table = table
        self.transform = transform
        self.seed = seed
        self.keys = keys
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.table)

    def image(self, index: int) -> Image.Image:
        """Return one image as RGB, upright.

        Raises:
            DataError: naming the image, when it cannot be read.
        """
        try:
            return decode_rgb(self.table.encoded(index))
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            raise DataError(
                f"data: cannot read the image {self.table.name(index)}: {error or type(error).__name__}. "
                "Mend or remove it, or set data.on_bad_image to 'skip'; 'hf-transfer check --data' lists all such images."
            ) from None

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return the items of a batch; images that are far away are fetched together."""
        self.table.prefetch([index % len(self.table) for index in indices])
        return [self[index] for index in indices]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {"pixel_values": float32 [3, height, width], "labels": int} of one image, and its "key" (int) if wanted.

        Where an image may show several classes its labels are float32 [C], 1 for each class that it shows.

        Args:
            index: `repeat * n + position`, so that an image that an epoch draws again has a random stream of its own each time.

        Raises:
            DataError: naming the image, when it cannot be read.
        """
        repeat, index = divmod(index, len(self.table))
        image = self.image(index)
        label = _label(self.table.labels[index])
        if self.seed is None:
            return {"pixel_values": self.transform(image), "labels": label}
        sample_id = str(self.table.sample_ids[index])
        key = sample_seed(self.seed, self.epoch, f"{sample_id}\0{repeat}" if repeat else sample_id)
        with random_stream(key):
            item = {"pixel_values": self.transform(image), "labels": label}
        return {**item, "key": key} if self.keys else item


def _label(label: np.ndarray | np.integer) -> int | torch.Tensor:
    return torch.from_numpy(label.astype(np.float32)) if isinstance(label, np.ndarray) else int(label)


def sample_seed(seed: int, epoch: int, sample_id: str) -> int:
    """Return the 63-bit seed of one image in one epoch: BLAKE2b of (seed, epoch, sample id)."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextlib.contextmanager
def random_stream(key: int) -> Iterator[None]:
    """Let torch's global CPU generator start from this key of 63 bits; afterwards it goes on as if nothing had been drawn.

    Generators of other devices are left alone (`torch.manual_seed` would seed them too): a model's dropout draws from them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)
        yield


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
        mixing: what becomes of batches whose items carry a key, those of training; see `mixing.Mixing`.
    """

    def __init__(self, channels_last: bool = False, mixing: Callable[[Batch], Batch] | None = None) -> None:
        self.channels_last = channels_last
        self.mixing = mixing

    def __call__(self, items: list[dict]) -> Batch:
        """Return {"pixel_values": float32 [n, 3, height, width], "labels": int64 [n]}, or what mixing makes of it.

        Labels are float32 [n, C] where an image may show several classes.
        """
        images = [item["pixel_values"] for item in items]
        pixels = torch.empty(
            (len(images), *images[0].shape),
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format,
        )
        torch.stack(images, out=pixels)
        batch = {"pixel_values": pixels, "labels": _stacked([item["labels"] for item in items])}
        if self.mixing is None or "key" not in items[0]:
            return batch
        return self.mixing({**batch, "keys": torch.tensor([item["key"] for item in items])})


def _stacked(labels: list[Any]) -> torch.Tensor:
    return torch.stack(labels) if isinstance(labels[0], torch.Tensor) else torch.tensor(labels)
