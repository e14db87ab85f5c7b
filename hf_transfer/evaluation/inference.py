"""A saved model over a table of images: float32, eval mode, every image once and in order, whatever the number of processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from ..data.dataset import Collate, ImageDataset, own_part
from ..data.table import ImageTable
from ..data.transforms import Preprocessing


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
) -> np.ndarray:
    """Return float32 logits [n, C] for the images of a table, on every process.

    Full precision on purpose: the figures are to be those that anyone gets who loads the model.

    Args:
        model: a `PreTrainedModel`; it is put in eval mode on `device`.
        preprocessing: of the same checkpoint.
        table: the images.
        device: where to compute.
        batch_size: images at a time on each process.
        workers: loader processes.
        channels_last: compute in NHWC memory layout.
        description: what the progress bar says.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from tqdm.auto import tqdm

    state = PartialState(cpu=device.type == "cpu")
    model.eval().to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    own = own_part(len(table), state.process_index, state.num_processes)
    loader = DataLoader(
        Subset(ImageDataset(table, preprocessing), own),
        batch_size=batch_size,
        num_workers=workers if len(own) > batch_size else 0,
        collate_fn=Collate(channels_last),
        pin_memory=device.type == "cuda",
    )
    parts = []
    with torch.no_grad():
        for batch in tqdm(loader, desc=description, leave=False, disable=None if state.is_main_process else True):
            output = model(pixel_values=batch["pixel_values"].to(device, non_blocking=True))
            parts.append(output.logits.float().cpu().numpy())
    width = model.config.num_labels
    logits = np.concatenate(parts) if parts else np.empty((0, width), dtype=np.float32)
    gathered = gather_object([logits]) if state.num_processes > 1 else [logits]
    return np.concatenate(gathered)
