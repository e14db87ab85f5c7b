"""What one image costs a backbone on this machine, measured in seconds and with random weights, before any are downloaded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.table import ImageTable

_BATCH = 32
_SECONDS = 1.0  # of each measurement
_DECODED = 16  # images that are decoded to time it


@dataclass(frozen=True)
class BackboneCost:
    """What one image costs.

    Args:
        name: of the backbone.
        parameters: with a classifier for the data's classes.
        convolutional: whether it is a convolutional network, not a transformer.
        input_size: (height, width) in pixels.
        latency_ms: median milliseconds of one image alone, in float32, without decoding.
        exact_seconds: of an image in a batch, in float32.
        fast_seconds: of an image in a batch, in the precision that features and training use here.
        decode_seconds: of reading and preprocessing an image.
    """

    name: str
    parameters: int
    convolutional: bool
    input_size: tuple[int, int]
    latency_ms: float
    exact_seconds: float
    fast_seconds: float
    decode_seconds: float


def measure_backbone(name: str, class_names: list[str], images: ImageTable) -> BackboneCost:
    """Measure a backbone on the device that a run would use; takes about three seconds.

    Args:
        name: as a recipe names it.
        class_names: of the data.
        images: from which some are decoded.

    Raises:
        UserError: when the backbone cannot be built.
    """
    from ..backbones.build import build_backbone
    from ..data.dataset import ImageDataset, spread_images
    from ..evaluation.speed import measure_speed
    from ..pipeline import process_state
    from ..recipe.schema import Model
    from ..training.arguments import feature_defaults, precision_name

    settings = feature_defaults({})
    device = process_state(settings).device
    backbone = build_backbone(Model(backbone=name, pretrained=False), class_names, 0)
    began = time.perf_counter()
    rows, _ = spread_images(ImageDataset(images, backbone.preprocessing), _DECODED)
    decode_seconds = (time.perf_counter() - began) / len(rows)
    exact = measure_speed(backbone, device=device, batch_sizes=[_BATCH], seconds=_SECONDS)
    precision = precision_name(bf16=bool(settings.get("bf16")), fp16=bool(settings.get("fp16")))
    fast = measure_speed(backbone, device=device, precision=precision, batch_sizes=[_BATCH], seconds=_SECONDS)
    return BackboneCost(
        name,
        parameters=backbone.parameter_count,
        convolutional=backbone.is_convolutional,
        input_size=exact.input_size,
        latency_ms=exact.latency_ms,
        exact_seconds=1 / exact.images_per_second,
        fast_seconds=1 / fast.images_per_second,
        decode_seconds=decode_seconds,
    )
