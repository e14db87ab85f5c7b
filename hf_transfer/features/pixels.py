"""Images as the inputs of several networks: decoded once, and resized once where only the normalisation differs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from ..data.dataset import Collate, ImageDataset, random_stream, sample_seed
from ..data.parted import NORMALISATION, Normalisation, Transform, agree, parted, settings
from ..data.transforms import Preprocessing


class SharedBatch(NamedTuple):
    """A batch as the inputs of several networks.

    Args:
        pixels: float32 [n, 3, height, width] each.
        seconds: what preparing each would have taken alone, its decoding included.
    """

    pixels: list[torch.Tensor]
    seconds: list[float]


@dataclass(frozen=True)
class _Step:
    """What is done to a decoded image once, and what is made of the result.

    Args:
        transform: RGB image to pixels.
        normalisations: pixels to inputs, each; None for the pixels themselves.
    """

    transform: Transform
    normalisations: tuple[Normalisation | None, ...]


class SharedImages(Dataset):
    """Images of one table, each decoded once for several data sets.

    Evaluation transforms with the same settings are carried out once, and so is the resizing and cropping of those that differ
    in their normalisation only, where that gives the very same bytes. Every other transform sees the decoded image; one that
    draws at random draws from the stream of its own data set.

    Args:
        data: data sets of the same table.
        channels_last: for each, whether its batches are laid out as NHWC in memory.

    Attributes:
        inputs: for each data set the position of its batch in `SharedBatch.pixels`.
    """

    def __init__(self, data: Sequence[ImageDataset], channels_last: Sequence[bool]) -> None:
        self.data = data
        # What is done to each decoded image, and the data set under whose random stream; None where nothing is drawn.
        self._steps: list[tuple[ImageDataset | None, _Step]] = []
        evaluations = [_evaluation(one) for one in data]
        names = [str(number) if found is None else settings(found) for number, found in enumerate(evaluations)]
        positions: dict[str, int] = {}  # where in the results of all steps a data set finds its own
        for served, step in _steps({name: found for name, found in zip(names, evaluations, strict=True) if found is not None}):
            self._steps.append((None, step))
            positions |= {name: len(positions) + place for place, name in enumerate(served)}
        for name, one in zip(names, data, strict=True):
            if name not in positions:
                self._steps.append((one, _Step(one.transform, (None,))))
                positions[name] = len(positions)
        wanted = [(positions[name], layout) for name, layout in zip(names, channels_last, strict=True)]
        self._batches = list(dict.fromkeys(wanted))
        self.inputs = [self._batches.index(pair) for pair in wanted]

    def __len__(self) -> int:
        return len(self.data[0])

    def __getitem__(self, index: int) -> SharedBatch:
        """Return one image in every way that is wanted, [3, height, width] each; `collate` makes batches of such.

        Raises:
            DataError: naming the image, when it cannot be read.
        """
        began = time.perf_counter()
        image = self.data[0].image(index)
        decoding = time.perf_counter() - began
        found, seconds = [], []
        for drawing, step in self._steps:
            began = time.perf_counter()
            pixels = step.transform(image) if drawing is None else _drawn(drawing, step.transform, image, index)
            transforming = time.perf_counter() - began
            for normalise in step.normalisations:
                began = time.perf_counter()
                found.append(pixels if normalise is None else normalise(pixels))
                seconds.append(decoding + transforming + time.perf_counter() - began)
        return SharedBatch(found, seconds)

    def collate(self, items: Sequence[SharedBatch]) -> SharedBatch:
        """Return the batch of some images, each input in the layout that is asked for."""
        batches, seconds = [], []
        for position, layout in self._batches:
            began = time.perf_counter()
            batch = Collate(layout)([{"pixel_values": item.pixels[position], "labels": 0} for item in items])
            batches.append(batch["pixel_values"])
            seconds.append(sum(item.seconds[position] for item in items) + time.perf_counter() - began)
        return SharedBatch(batches, seconds)


def _evaluation(data: ImageDataset) -> Preprocessing | None:
    """Return the checkpoint's own preprocessing, where that is all that happens to an image."""
    return data.transform if data.seed is None and isinstance(data.transform, Preprocessing) else None


def _drawn(data: ImageDataset, transform: Transform, image: Image.Image, index: int) -> torch.Tensor:
    if data.seed is None:
        return transform(image)
    with random_stream(sample_seed(data.seed, data.epoch, str(data.table.sample_ids[index]))):
        return transform(image)


def _steps(evaluations: dict[str, Preprocessing]) -> list[tuple[list[str], _Step]]:
    """Return what is done once to an image for different evaluation transforms, each step with whom it serves."""
    steps: list[tuple[list[str], _Step]] = []
    geometries: dict[str, list[str]] = {}
    for name, preprocessing in evaluations.items():
        geometries.setdefault(settings(preprocessing, NORMALISATION), []).append(name)
    for names in geometries.values():
        parts = [parted(evaluations[name]) for name in names] if len(names) > 1 else [None]
        alike = [(name, part) for name, part in zip(names, parts, strict=True) if part is not None]
        if len(alike) > 1:
            resize = alike[0][1][0]
            fitting = [(name, normalise) for name, (_, normalise) in alike if agree(evaluations[name], resize, normalise)]
            steps.append(([name for name, _ in fitting], _Step(resize, tuple(normalise for _, normalise in fitting))))
        served = {name for together, _ in steps for name in together}
        steps += [([name], _Step(evaluations[name], (None,))) for name in names if name not in served]
    return [step for step in steps if step[0]]
