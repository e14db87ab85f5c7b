"""Mixup and CutMix: each image of a batch is mixed with its neighbour, by a draw that belongs to the batch's images.

Labels are not mixed here: a batch says which image was mixed in and in what share, and the loss weighs the two labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from .dataset import Batch, random_stream


class Mixing:
    """Mix the images of a batch by mixup or CutMix.

    One share is drawn for a batch from Beta(alpha, alpha); where both are on, one of the two is drawn first, each with
    probability 1/2. The partner of an image is the one before it in the batch, whose order is random already. All is drawn from
    the seed and the keys of the batch's images in their order: the same images are mixed in the same way by any number of
    loader processes, and after a resume.

    Args:
        mixup: alpha of mixup (Zhang et al. 2017, arXiv 1710.09412); 0 is off.
        cutmix: alpha of CutMix (Yun et al. 2019, arXiv 1905.04899); 0 is off.
        seed: seed of the run.
    """

    def __init__(self, mixup: float, cutmix: float, seed: int) -> None:
        if mixup < 0 or cutmix < 0 or mixup == cutmix == 0:
            raise ValueError(f"expected mixup or cutmix above 0, none below; found {mixup} and {cutmix}")
        self.mixup = mixup
        self.cutmix = cutmix
        self.seed = seed

    def __call__(self, batch: Batch) -> Batch:
        """Return the mixed batch; the memory layout of its images is kept, and the batch given stays as it is.

        Args:
            batch: {"pixel_values": float32 [n, 3, height, width], "labels": int64 [n] or float32 [n, C], "keys": n integers},
                the keys those of `ImageDataset`; they stay on the CPU, so that a GPU is not waited for.

        Returns:
            {"pixel_values": the mixed images, "labels": as they were, "partner": int64 [n], where in the batch the image stands
            that was mixed in, "share": float32 [n], the share of the image's own label}. An image alone is not mixed: share 1.
        """
        pixels, count = batch["pixel_values"], len(batch["labels"])
        partner, share = torch.arange(count, device=pixels.device).roll(1), 1.0
        if count > 1:
            with random_stream(_batch_seed(self.seed, batch["keys"])):
                cut = not self.mixup or (self.cutmix > 0 and bool(torch.rand(()) < 0.5))
                alpha = self.cutmix if cut else self.mixup
                share = float(torch.distributions.Beta(alpha, alpha).sample())
                if cut:
                    box = draw_box(pixels.shape[2], pixels.shape[3], share)
                    pixels, share = paste(pixels, partner, box)
                else:
                    pixels = blend(pixels, partner, share)
        shares = torch.full((count,), share, device=pixels.device)
        return {"pixel_values": pixels, "labels": batch["labels"], "partner": partner, "share": shares}


def blend(pixels: torch.Tensor, partner: torch.Tensor, share: float) -> torch.Tensor:
    """Return share x image + (1 - share) x partner's image for each image: mixup's formula.

    Args:
        pixels: float32 [n, 3, height, width].
        partner: int64 [n], where each image's partner stands.
        share: between 0 and 1.
    """
    return (pixels * share).add_(pixels[partner], alpha=1.0 - share)


def draw_box(height: int, width: int, share: float) -> tuple[slice, slice]:
    """Draw CutMix's box with torch's global generator: rows and columns of an image.

    Its sides are sqrt(1 - share) of the image's (rounded down to even pixels), its centre is uniform over the image, and what
    stands out is clipped off.
    """
    ratio = 0.5 * (1.0 - share) ** 0.5
    spans = []
    for side in (height, width):
        centre, half = int(torch.randint(side, ())), int(side * ratio)
        spans.append(slice(max(0, centre - half), min(side, centre + half)))
    return spans[0], spans[1]


def paste(pixels: torch.Tensor, partner: torch.Tensor, box: tuple[slice, slice]) -> tuple[torch.Tensor, float]:
    """Return each image with its partner's pixels in a box (CutMix), and the share of the pixels that are its own.

    Args:
        pixels: float32 [n, 3, height, width].
        partner: int64 [n], where each image's partner stands.
        box: rows and columns.
    """
    rows, columns = box
    pasted = pixels.clone()
    pasted[..., rows, columns] = pixels[..., rows, columns][partner]
    height, width = pixels.shape[2:]
    return pasted, 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def _batch_seed(seed: int, keys: Sequence[int]) -> int:
    """Return the 63-bit seed of one batch: BLAKE2b of the run's seed and the keys of its images in their order."""
    text = "\0".join(map(str, [seed, *keys]))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
