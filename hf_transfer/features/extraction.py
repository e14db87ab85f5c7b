"""Images through a frozen backbone, each once: what enters its head, kept in the store."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..backbones.precision import full_precision
from ..backbones.streams import in_streams, stream_count
from ..data.dataset import ImageDataset, own_part
from ..errors import BackboneError
from .pixels import SharedBatch, SharedImages
from .store import FeatureFolder

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..data.table import ImageTable

Compute = Callable[[torch.Tensor], torch.Tensor]  # a batch of images to their features, both on the CPU

SHARD_ROWS = 256
_CPU_BATCH, _GPU_BATCH = 32, 128
# Compiling takes up to a minute, and where it saves anything, about a quarter of the forward pass.
_COMPILE_SECONDS, _COMPILE_SAVES, _NEVER_COMPILE_BELOW = 60.0, 0.25, 1000


def probe_layers(backbone: Backbone) -> list[str]:
    """Return the paths of the linear layers that a probe replaces: each head's only one, where the head ends in it.

    Raises:
        BackboneError: when a head is more than linear, so that no single feature vector decides.
    """
    paths = []
    for head in backbone.heads:
        module = backbone.model.get_submodule(head)
        linears = [name for name, layer in module.named_modules(prefix=head) if isinstance(layer, nn.Linear)]
        leaves = [name for name, layer in module.named_modules(prefix=head) if not any(layer.children())]
        if linears != leaves[-1:]:
            raise BackboneError(
                f"features.cache: expected a head with one linear layer at its end, found {type(module).__name__} with "
                f"{len(linears)} at {head}; set features.cache to false"
            )
        paths += linears
    return paths


class FeatureModel(nn.Module):
    """A backbone up to its head: float32 images [n, 3, height, width] to features [n, d].

    The features are what enters the head's linear layer in eval mode; of a model with several heads, which averages their
    logits, what enters each, side by side.

    Args:
        backbone: its model is put in eval mode; a hook stays on each head until `close`.
        autocast: dtype of autocast, None for float32.
    """

    def __init__(self, backbone: Backbone, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = backbone.model.eval()
        self.autocast = autocast
        # Each thread listens to its own forward pass; the same network may be in another FeatureModel, of another precision.
        self._own = threading.local()
        self._hooks = [self.model.get_submodule(head).register_forward_pre_hook(self._see) for head in probe_layers(backbone)]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the features of a batch, in the dtype the network computes them in."""
        entered: list[torch.Tensor] = []
        self._own.entered = entered
        with torch.autocast(pixels.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            self.model(pixel_values=pixels)
        self._own.entered = None
        return torch.cat(entered, dim=-1) if len(entered) > 1 else entered[0]

    def close(self) -> None:
        """Take the hooks off the model again."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if (entered := getattr(self._own, "entered", None)) is not None:
            entered.append(inputs[0])


@dataclass(frozen=True)
class Extractor:
    """How features are computed.

    Args:
        backbone: the network.
        device: where.
        autocast: dtype of autocast, None for float32.
        compiled: whether the forward pass is compiled.
        workers: loader processes; 0 where the CPU computes, since they would take its time (see `loader_workers`).
    """

    backbone: Backbone
    device: torch.device
    autocast: torch.dtype | None
    compiled: bool
    workers: int

    @property
    def batch_size(self) -> int:
        """Images at a time; every batch is full, so that each image meets the same arithmetic."""
        return _CPU_BATCH if self.device.type == "cpu" else _GPU_BATCH

    @property
    def streams(self) -> int:
        """Batches that are computed at a time."""
        return 1 if self.compiled else stream_count(self.device)

    @contextlib.contextmanager
    def ready(self) -> Iterator[Compute]:
        """Yield the forward pass: a batch on the CPU to features on the CPU."""
        module = FeatureModel(self.backbone, self.autocast)
        module.to(self.device)
        if self.backbone.is_convolutional:
            module.to(memory_format=torch.channels_last)
        forward: Compute = torch.compile(module, dynamic=False) if self.compiled else module

        # Float32 features stand for final figures: a GPU's convolutions are not to round them to TF32.
        exact = self.autocast is None

        def compute(pixels: torch.Tensor) -> torch.Tensor:
            # No inference mode anywhere: some networks keep tensors they compute (BEiT its positions) and are trained later.
            with torch.no_grad(), full_precision(self.device) if exact else contextlib.nullcontext():
                return forward(pixels.to(self.device, non_blocking=True)).cpu()

        try:
            yield compute
        finally:
            module.close()


def compiling_pays(extractor: Extractor, table: ImageTable, count: int) -> bool:
    """Return whether compiling the forward pass pays for itself on this many images.

    The eager pass is timed first. Only where a quarter of the whole time is more than the minute that compiling takes is the
    pass compiled and timed as well: the faster one is used.

    Args:
        extractor: not compiled.
        table: where the images of the trial come from.
        count: images of all processes together.
    """
    if count > _NEVER_COMPILE_BELOW:
        indices = np.arange(extractor.batch_size) % len(table)
        pixels = next(_batches(extractor, ImageDataset(table, extractor.backbone.preprocessing), indices))[0]
        eager = _seconds(extractor, pixels)
        if count * eager / len(pixels) * _COMPILE_SAVES > _COMPILE_SECONDS:
            return _seconds(replace(extractor, compiled=True), pixels) < eager
    return False


def _seconds(extractor: Extractor, pixels: torch.Tensor) -> float:
    """Return the seconds of one batch, the better of three after a warm-up."""
    with extractor.ready() as compute:
        compute(pixels)
        took = []
        for _ in range(3):
            began = time.perf_counter()
            compute(pixels)
            took.append(time.perf_counter() - began)
    return min(took)


def view_ids(table: ImageTable, view: int | None) -> np.ndarray:
    """Return "S16" [n], what the store calls the images of a table: of their bytes, and of the sample where a view is random.

    Args:
        table: images whose digests are known.
        view: number of the augmented view, which is keyed by sample and view; None for the evaluation transform.
    """
    if table.digests is None:
        raise ValueError("the images of this table have not been hashed")
    if view is None:
        return table.digests
    pairs = zip(table.digests.tolist(), table.sample_ids, strict=True)
    keyed = [hashlib.blake2b(b"%b\0%d\0%b" % (d, view, str(s).encode()), digest_size=16).digest() for d, s in pairs]
    return np.array(keyed, dtype="S16")


@dataclass(frozen=True)
class Job:
    """Images that a network is to be shown, and where what it makes of them is kept.

    Args:
        extractor: how to compute.
        compute: the extractor, `ready`; once for all data sets, so that nothing is compiled twice.
        folder: where features of this kind are kept.
        data: images and transform.
        ids: "S16" [n], what the store calls each image.
    """

    extractor: Extractor
    compute: Compute
    folder: FeatureFolder
    data: ImageDataset
    ids: np.ndarray


@dataclass(frozen=True)
class Extracted:
    """What became of a job.

    Args:
        computed: how many features were not in the store.
        features: float [n, d]; None on other processes than the main one, or where they were not asked for.
        alone_seconds: what computing all of them takes a run that computes nothing else and finds nothing in the store, as
            measured when each was computed (see `FeatureFolder.seconds`); None where that is not known.
    """

    computed: int
    features: torch.Tensor | None = None
    alone_seconds: float | None = None


def extract(jobs: Sequence[Job], *, read: bool = True, description: str = "") -> list[Extracted]:
    """Compute what the store lacks, each image decoded once for all jobs that lack it.

    The images that are missing in the store are shared among the processes in contiguous parts. What is computed is written
    every 256 images, so that memory does not grow with their number and an interruption costs little.

    Args:
        jobs: of one table, on one device; usually one.
        read: return the features, too.
        description: what the progress bar says.

    Raises:
        DataError: naming an image that cannot be read.
        UserError: when the store cannot be written.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    with contextlib.ExitStack() as locks:
        found = [np.empty((0, 0), dtype=bool)]
        if state.is_main_process:
            for _, folder in sorted({job.folder.path: job.folder for job in jobs}.items()):  # in one order everywhere
                locks.enter_context(folder.locked())
            found = [np.stack([_lacking(job) for job in jobs])]
        broadcast_object_list(found)
        lacking = found[0]  # [jobs, n]
        missing = np.flatnonzero(lacking.any(axis=0))
        if len(missing):
            own = missing[own_part(len(missing), state.process_index, state.num_processes)]
            _compute(jobs, lacking[:, own], own, state.num_processes, description if state.is_main_process else None)
            state.wait_for_everyone()
        counts = [int(count) for count in lacking.sum(axis=1)]
        if not (read and state.is_main_process):
            return [Extracted(count) for count in counts]
        return [
            Extracted(count, job.folder.read(job.ids), job.folder.seconds(job.ids))
            for job, count in zip(jobs, counts, strict=True)
        ]


def _lacking(job: Job) -> np.ndarray:
    """Return bool [n]: where the store lacks the features of an image; of equal ones only the first counts."""
    lacking = np.zeros(len(job.ids), dtype=bool)
    lacking[job.folder.missing(job.ids)] = True
    return lacking


def _compute(jobs: Sequence[Job], lacking: np.ndarray, own: np.ndarray, processes: int, description: str | None) -> None:
    """Compute this process's part of what is missing: images that the same jobs lack in one pass.

    Args:
        jobs: all of them.
        lacking: bool [jobs, m], which of them lack each image.
        own: int64 [m], the images' positions in the table.
        processes: how many compute at the same time.
        description: of the progress bar; None for no bar.
    """
    from tqdm.auto import tqdm

    patterns, which = np.unique(lacking, axis=1, return_inverse=True)
    quiet = True if description is None else None
    with tqdm(total=len(own), desc=description, unit="image", leave=False, disable=quiet) as bar:
        for number, pattern in enumerate(patterns.T):
            asked = [job for job, is_lacking in zip(jobs, pattern, strict=True) if is_lacking]
            _compute_pass(asked, own[which.reshape(-1) == number], processes, bar.update)


def _compute_pass(jobs: Sequence[Job], rows: np.ndarray, processes: int, advance: Callable[[int], object]) -> None:
    """Show each image to the networks of all jobs, and write every 256 images what they make of them."""
    kept: list[list[torch.Tensor]] = [[] for _ in jobs]
    seconds = [0.0] * len(jobs)
    first = held = 0  # position in `rows` of the first one that is not written yet, and how many follow it
    extractor = jobs[0].extractor
    streams = min(job.extractor.streams for job in jobs)
    images = SharedImages([job.data for job in jobs], [job.extractor.backbone.is_convolutional for job in jobs])

    def show(loaded: tuple[SharedBatch, int]) -> tuple[list[tuple[torch.Tensor, float]], int]:
        batch, count = loaded
        found = []
        for job, inputs in zip(jobs, images.inputs, strict=True):
            began = time.perf_counter()
            features = job.compute(batch.pixels[inputs])[:count]
            forward = time.perf_counter() - began
            prepared = batch.seconds[inputs]
            # Loader processes prepare the next batches meanwhile; streams share the processors with what prepares them.
            workers = extractor.workers
            if workers:
                alone = max(forward / streams, prepared / workers)
            else:
                alone = max(prepared, (forward + prepared) / streams)  # one thread prepares
            found.append((features, alone / processes))
        return found, count

    for found, count in in_streams(show, _loaded(extractor, images, rows), streams):
        for number, (features, alone) in enumerate(found):
            kept[number].append(features)
            seconds[number] += alone
        advance(count)
        held += count
        if held >= SHARD_ROWS or first + held == len(rows):
            written = rows[first : first + held]
            for number, job in enumerate(jobs):
                job.folder.write(job.ids[written], torch.cat(kept[number]), seconds[number])
            first, held, kept, seconds = first + held, 0, [[] for _ in jobs], [0.0] * len(jobs)


def _batches(extractor: Extractor, data: ImageDataset, indices: np.ndarray) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield full batches of one network's pixels, and how many of their images count."""
    for batch, count in _loaded(extractor, SharedImages([data], [extractor.backbone.is_convolutional]), indices):
        yield batch.pixels[0], count


def _loaded(extractor: Extractor, images: SharedImages, indices: np.ndarray) -> Iterator[tuple[SharedBatch, int]]:
    """Yield full batches, and how many of their images count; the last is filled up with its last image."""
    size = extractor.batch_size
    filled = np.concatenate([indices, np.repeat(indices[-1:], -len(indices) % size)])
    loader = DataLoader(
        Subset(images, filled.tolist()),
        size,
        num_workers=extractor.workers,
        collate_fn=images.collate,
        pin_memory=extractor.device.type == "cuda",
    )
    for number, batch in enumerate(loader):
        yield batch, min(size, len(indices) - number * size)
