"""A saved model over a table of images: float32, eval mode, every image once and in order, whatever the number of processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

from ..backbones.precision import full_precision
from ..backbones.streams import in_streams, stream_count
from ..data.dataset import own_part
from ..data.decoding import evaluation_decoder
from ..data.table import ImageTable
from ..data.transforms import Preprocessing
from .augmented import ViewCollate, ViewedImages
from .views import View, identity


def predict_logits(
    model: Any,
    preprocessing: Preprocessing,
    table: ImageTable,
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    channels_last: bool,
    description: str = "",
    decoding: str = "full",
) -> np.ndarray:
    """Return float32 logits [n, C] for the images of a table, on every process: `predict_views` of the images as they are."""
    logits = predict_views(
        model,
        preprocessing,
        table,
        (identity,),
        device=device,
        batch_size=batch_size,
        workers=workers,
        channels_last=channels_last,
        description=description,
        decoding=decoding,
    )
    return logits[:, 0]


def predict_views(
    model: Any,
    preprocessing: Preprocessing,
    table: ImageTable,
    views: Sequence[View],
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    channels_last: bool,
    description: str = "",
    decoding: str = "full",
) -> np.ndarray:
    """Return float32 logits [n, V, C] for V views of each image of a table, on every process; each image is decoded once.

    Full precision on purpose: the figures are to be those that anyone gets who loads the model. No more pixels are in memory
    than `batch_size` views, or all views of one image where they are more, on a CPU a few times that; the logits themselves
    take 4 n V C bytes.

    Args:
        model: a `PreTrainedModel`; it is put in eval mode on `device`.
        preprocessing: of the same checkpoint.
        table: the images.
        views: what is made of each image before preprocessing; at least one.
        device: where to compute.
        batch_size: views at a time on each process.
        workers: loader processes.
        channels_last: compute in NHWC memory layout.
        description: what the progress bar says.
        decoding: how images are decoded, see `evaluation_decoder`.

    Raises:
        DataError: naming an image that cannot be read.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from tqdm.auto import tqdm

    state = PartialState(cpu=device.type == "cpu")
    prepare_model(model, device, channels_last=channels_last)
    own = own_part(len(table), state.process_index, state.num_processes)
    images_at_a_time = max(1, batch_size // len(views))
    loader = DataLoader(
        Subset(ViewedImages(table, preprocessing, views, evaluation_decoder(decoding, preprocessing.size)), own),
        batch_size=images_at_a_time,
        num_workers=workers if len(own) > images_at_a_time else 0,
        collate_fn=ViewCollate(channels_last),
        pin_memory=device.type == "cuda",
    )
    progress = tqdm(loader, desc=description, leave=False, disable=None if state.is_main_process else True)
    pixels = (part for batch in progress for part in batch["pixel_values"].split(batch_size))
    parts = list(in_streams(lambda part: forward_logits(model, part, device), pixels, stream_count(device)))
    width = model.config.num_labels
    flat = np.concatenate(parts) if parts else np.empty((0, width), dtype=np.float32)
    logits = flat.reshape(len(own), len(views), width)
    gathered = gather_object([logits]) if state.num_processes > 1 else [logits]
    return np.concatenate(gathered)


def prepare_model(model: Any, device: torch.device, *, channels_last: bool) -> None:
    """Put a model in eval mode on a device, in float32 (a checkpoint may be saved in half) and the layout it computes in."""
    model.float().eval().to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)


def forward_logits(model: Any, pixels: torch.Tensor, device: torch.device) -> np.ndarray:
    """Return float32 logits [n, C] of one batch.

    Args:
        model: as `prepare_model` leaves it.
        pixels: float32 [n, 3, height, width], preprocessed.
        device: where the model is.
    """
    with torch.no_grad(), full_precision(device):
        return model(pixel_values=pixels.to(device, non_blocking=True)).logits.float().cpu().numpy()


def probabilities(logits: np.ndarray, config: Any) -> np.ndarray:
    """Return what a model says of each class: the softmax of its logits, or sigmoids where classes don't exclude each other.

    Sigmoids it is, as in `transformers.pipeline`, for a model of several labels an image and for one with a single logit.

    Args:
        logits: [n, C].
        config: the model's.

    Returns:
        float64 [n, C].
    """
    scores = torch.from_numpy(logits).double()
    independent = getattr(config, "problem_type", None) == "multi_label_classification" or scores.shape[1] == 1
    return (scores.sigmoid() if independent else scores.softmax(dim=1)).numpy()


def tta_scores(logits: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """Return what test-time augmentation says: the logarithm of the mean of the views' softmax probabilities.

    With V views, log p = logsumexp_v(log_softmax(logits_v)) - log V, computed in float64. Its softmax is the mean probability,
    so it takes the place of logits in every metric. Where an image may show several classes it is log p - log(1 - p) of the
    mean p of the views' sigmoids, whose sigmoid is that mean.

    Args:
        logits: float32 [n, V, C].
        multi_label: whether an image may show several classes, or none.

    Returns:
        float32 [n, C].
    """
    scores = torch.from_numpy(logits).double()
    if multi_label:
        shown, absent = (functional.logsigmoid(sign * scores).logsumexp(dim=1) for sign in (1, -1))
        return (shown - absent).float().numpy()
    log_probabilities = scores.log_softmax(dim=2)
    return (log_probabilities.logsumexp(dim=1) - math.log(logits.shape[1])).float().numpy()
