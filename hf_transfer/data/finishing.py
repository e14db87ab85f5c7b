"""What batches of training images go through at once, where the model computes: normalisation, random erasing, mixing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .augmentation import erase
from .dataset import Batch
from .decoding import Box
from .transforms import Preprocessing


class Finishing:
    """Make 8-bit batches the model's inputs.

    Pixels cross the boundary to this process as bytes, a quarter of what inputs take, and are normalised in one pass. All that
    is random has been drawn with the images, so nothing depends on where this happens.

    Args:
        preprocessing: the checkpoint's statistics.
        channels_last: lay images out as NHWC in memory.
        mixing: what becomes of batches with keys, those of training; see `mixing.Mixing`.
    """

    def __init__(
        self, preprocessing: Preprocessing, channels_last: bool = False, mixing: Callable[[Batch], Batch] | None = None
    ) -> None:
        self.preprocessing = preprocessing
        self.channels_last = channels_last
        self.mixing = mixing

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch as the model takes it; one of evaluation, of float32 pixels and without keys, is that already.

        Args:
            batch: of `Collate`, on any device.

        Returns:
            {"pixel_values": float32 [n, 3, height, width], "labels": as they were}, and what mixing adds.
        """
        finished = {name: value for name, value in batch.items() if name not in ("erased", "keys")}
        if batch["pixel_values"].dtype == torch.uint8:
            finished["pixel_values"] = self.preprocessing.normalize(batch["pixel_values"], self.channels_last)
            for image, box in zip(finished["pixel_values"], batch.get("erased", ()), strict=False):
                erase(image, box and Box(*box))
        if self.mixing is None or "keys" not in batch:
            return finished
        return self.mixing({**finished, "keys": batch["keys"]})
