"""Float32 that is float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.backends import cudnn


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Let float32 be float32: a GPU's convolutions, which torch lets round to TF32, do not."""
    with cudnn.flags(enabled=True, allow_tf32=False) if device.type == "cuda" else contextlib.nullcontext():
        yield
