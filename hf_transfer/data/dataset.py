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

from .augmentation import CropAugmentation, InputAugmentation
from .decoding import Decoder, EncodedPicture, Picture, UndecodableError, unreadable
from .images import decode_rgb
from .resized import KeptImages, KeptPicture, Pixels
from .table import ImageTable
from .transforms import Preprocessing

Batch = dict[str, Any]


class ImageDataset(Dataset):
    """Images of a table as model inputs.

    Randomness belongs to the sample: each image is transformed under a generator seeded with (seed, epoch, sample id), so
    workers, processes and resumes do not change what it looks like.

    Args:
        table: the images.
        transform: RGB image to float32 [3, height, width]; may draw from torch's global generator. Of a `CropAugmentation` the
            part is taken that works on single images, and no more is decoded than a crop needs; `Finishing` does the rest.
        seed: seed of the run; None for transforms that draw nothing, which saves the seeding.
        keys: let items carry the seed of their random stream as "key" too, for what is drawn once a batch; needs a seed.
        decoder: how whole images are decoded, `decode_rgb` where nothing is said.
        kept: the same images, resized before; those that are not among them are decoded. None where none are kept.
    """

    def __init__(
        self,
        table: ImageTable,
        transform: Callable[[Image.Image], torch.Tensor],
        seed: int | None = None,
        keys: bool = False,
        decoder: Decoder | None = None,
        kept: KeptImages | None = None,
    ) -> None:
        if keys and seed is None:
            raise ValueError("keys are made from a seed: give one")
        self.table = table
        self.transform = transform
        self.seed = seed
        self.keys = keys
        self.decoder = decoder
        self.kept = kept
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.table)

    def image(self, index: int) -> Image.Image:
        """Return one image as RGB, upright.

        Raises:
            DataError: naming the image, when it cannot be read.
        """
        try:
            return (self.decoder or decode_rgb)(self.table.encoded(index))
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            raise unreadable(self.table.name(index), error) from None

    def label(self, index: int) -> int | torch.Tensor:
        """Return the label of one image; where it may show several classes float32 [C], 1 for each class that it shows."""
        label = self.table.labels[index]
        return torch.from_numpy(label.astype(np.float32)) if self.table.multi_label else int(label)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return the items of a batch; images that are far away are fetched together."""
        positions = [index % len(self.table) for index in indices]
        missing = [index for index in positions if self.kept is None or self.kept.rows[index] < 0]
        self.table.prefetch(missing)
        if not isinstance(self.transform, CropAugmentation):
            return [self[index] for index in indices]
        # All are read before any is decoded: what alternates with a decoder is thrown out of the processor's cache by it.
        encoded = {index: self._encoded(index) for index in dict.fromkeys(missing)}
        return [self._item(index, encoded.get(position)) for index, position in zip(indices, positions, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {"pixel_values": float32 [3, height, width], "labels": int} of one image, and its "key" (int) if wanted.

        Where an image may show several classes its labels are float32 [C], see `label`. Of a `CropAugmentation` the pixels are
        uint8, not normalised yet, and where anything may be erased "erased" is the box that is set to 0 after that, or None.

        Args:
            index: `repeat * n + position`, so that an image that an epoch draws again has a random stream of its own each time.

        Raises:
            DataError: naming the image, when it cannot be read.
        """
        return self._item(index, None)

    def _item(self, index: int, encoded: bytes | None) -> dict[str, Any]:
        repeat, index = divmod(index, len(self.table))
        label = self.label(index)
        if self.seed is None:
            return {**self._transformed(index, encoded), "labels": label}
        sample_id = str(self.table.sample_ids[index])
        key = sample_seed(self.seed, self.epoch, f"{sample_id}\0{repeat}" if repeat else sample_id)
        with random_stream(key):
            item = {**self._transformed(index, encoded), "labels": label}
        return {**item, "key": key} if self.keys else item

    def _transformed(self, index: int, encoded: bytes | None) -> dict[str, Any]:
        kept = None if self.kept is None else self.kept.read(index)
        if isinstance(self.transform, CropAugmentation):
            return self._drawn(self.transform, index, encoded, kept)
        if self.kept is None or kept is None:
            return {"pixel_values": self.transform(self.image(index))}
        evaluated = self.kept.evaluated(kept)
        changed = self.transform.change(evaluated) if isinstance(self.transform, InputAugmentation) else evaluated
        return {"pixel_values": changed}

    def _drawn(self, augmentation: CropAugmentation, index: int, encoded: bytes | None, kept: Pixels | None) -> dict[str, Any]:
        picture: Picture
        try:
            picture = EncodedPicture(encoded or self._encoded(index)) if kept is None else KeptPicture(*kept)
            pixels, erased = augmentation.draw(picture)
        except UndecodableError as error:
            raise unreadable(self.table.name(index), error.__cause__) from None
        item: dict[str, Any] = {"pixel_values": pixels.permute(2, 0, 1)}
        return {**item, "erased": erased} if augmentation.erases else item

    def _encoded(self, index: int) -> bytes:
        try:
            return self.table.encoded(index)
        except Exception as error:  # of a file system, of a server
            raise unreadable(self.table.name(index), error) from None


def sample_seed(seed: int, epoch: int, sample_id: str) -> int:
    """Return the 63-bit seed of one image in one epoch: BLAKE2b of (seed, epoch, sample id)."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextlib.contextmanager
def random_stream(key: int) -> Iterator[None]:
    """Let torch's global CPU generator start from this key of 63 bits; afterwards it goes on as if nothing had been drawn.

    Generators of other devices are left alone (`torch.manual_seed` would seed them too): a model's dropout draws from them.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


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
        channels_last: lay images out as NHWC in memory (the shape stays NCHW), once, where the batch is built; bytes, which
            `Finishing` lays out, always are.
    """

    def __init__(self, channels_last: bool = False) -> None:
        self.channels_last = channels_last

    def __call__(self, items: list[dict]) -> Batch:
        """Return {"pixel_values": float32 or uint8 [n, 3, height, width], "labels": int64 [n]}.

        Labels are float32 [n, C] where an image may show several classes. Lists "keys" and "erased" are there where items have
        a key or may be erased: lists, because numbers that the CPU needs have no place on a GPU.
        """
        images = [item["pixel_values"] for item in items]
        if images[0].dtype == torch.uint8:
            pixels = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
        else:
            layout = torch.channels_last if self.channels_last else torch.contiguous_format
            pixels = torch.empty((len(images), *images[0].shape), memory_format=layout)
            torch.stack(images, out=pixels)
        batch: Batch = {"pixel_values": pixels, "labels": _stacked([item["labels"] for item in items])}
        if "key" in items[0]:
            batch["keys"] = [item["key"] for item in items]
        if "erased" in items[0]:  # plain tuples: the Trainer makes anew what it moves to a device, and cannot so a Box
            batch["erased"] = [item["erased"] and tuple(item["erased"]) for item in items]
        return batch


def _stacked(labels: list[Any]) -> torch.Tensor:
    return torch.stack(labels) if isinstance(labels[0], torch.Tensor) else torch.tensor(labels)
