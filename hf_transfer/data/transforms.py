"""One preprocessing object, built from the checkpoint's own image processor.

Evaluation, prediction and saved models all call that processor, so they agree to the last bit with
`transformers.pipeline`. What training with augmentation needs besides (output size, statistics, interpolation) is measured
on the processor: it is shown a black and a white image, and the affine map from pixels to inputs is read off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from ..errors import BackboneError, DataError

_PROBE_SIZE = 320
_PIL_TO_TORCHVISION = {
    0: InterpolationMode.NEAREST,
    1: InterpolationMode.LANCZOS,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
}


class Preprocessing:
    """Images to model inputs, as the checkpoint wants them.

    Args:
        processor: the checkpoint's image processor.

    Attributes:
        size: (height, width) of the input.
        mean: float32 [3], statistics for pixels between 0 and 1.
        std: float32 [3].
        interpolation: how images are resized.
        low, high: float32 [3], what a black and a white pixel become.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        # A copy of one image: resizing a constant image leaves it constant, so only statistics are seen here.
        black, white = (self(Image.new("RGB", (_PROBE_SIZE, _PROBE_SIZE), (v, v, v))) for v in (0, 255))
        self.size: tuple[int, int] = (int(black.shape[1]), int(black.shape[2]))
        self.low, self.high = black.mean(dim=(1, 2)), white.mean(dim=(1, 2))
        span = self.high - self.low
        if not bool((span > 0).all()):
            raise BackboneError("model.backbone: its image processor maps black and white to the same values")
        self.std = 1.0 / span
        self.mean = -self.low * self.std
        self.interpolation = _interpolation(processor)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the input for one RGB image: float32 [3, height, width], deterministic."""
        # A processor that neither rescales nor normalises returns bytes.
        return self.processor(image, return_tensors="pt")["pixel_values"][0].to(torch.float32)

    def normalize(self, pixels: torch.Tensor, channels_last: bool = False) -> torch.Tensor:
        """Return float32 inputs for uint8 pixels that already have the right size.

        Args:
            pixels: [3, height, width] or [n, 3, height, width], on any device.
            channels_last: lay a batch out as NHWC in memory; contiguous otherwise.
        """
        scale, shift = (1.0 / (255.0 * self.std)).to(pixels.device), (-self.mean / self.std).to(pixels.device)
        if not channels_last:
            # Pillow's pixels are strided views (HWC in memory): laid out anew first, the arithmetic is four times as fast.
            inputs = pixels.to(torch.float32, memory_format=torch.contiguous_format)
            return inputs.mul_(scale[:, None, None]).add_(shift[:, None, None])
        rows = pixels.permute(0, 2, 3, 1).to(torch.float32, memory_format=torch.contiguous_format)
        width = rows.shape[2]  # whole rows of pixels: three values at a time take five times as long
        rows.view(-1, 3 * width).mul_(scale.repeat(width)).add_(shift.repeat(width))
        return rows.permute(0, 3, 1, 2)

    def check_statistics(self, batch: torch.Tensor) -> None:
        """Stop when a batch cannot come from 8-bit images under these statistics.

        Args:
            batch: float32 [n, 3, height, width], images as a loader delivers them.

        Raises:
            DataError: when 0-255 pixels met statistics for 0-1 pixels, or pixels were scaled down too often.
        """
        declared_mean, declared_std = _declared_statistics(self.processor)
        low = ((0.0 - declared_mean) / declared_std).min()
        top = 255.0 if declared_mean.max() > 1.0 else 1.0  # what the statistics take for white
        high = ((top - declared_mean) / declared_std).max()
        found_low, found_high = float(batch.min()), float(batch.max())
        shown = f"inputs between {low:.2f} and {high:.2f}, found {found_low:.2f} to {found_high:.2f} in the first batch"
        if max(abs(found_low), abs(found_high)) > 4 * max(abs(low), abs(high)):
            raise DataError(
                f"model.backbone: the checkpoint's statistics (mean {_shown(declared_mean)}, std {_shown(declared_std)}) give "
                f"{shown}: 0-255 pixels were normalised with statistics for 0-1 pixels. "
                "Mend do_rescale / rescale_factor in its preprocessor_config.json."
            )
        span = float((batch.amax(dim=(0, 2, 3)) - batch.amin(dim=(0, 2, 3))).max())  # of the liveliest channel
        if span < 0.02 * (top / declared_std).max():
            raise DataError(
                f"model.backbone: the checkpoint's statistics (mean {_shown(declared_mean)}, std {_shown(declared_std)}) give "
                f"{shown}: the pixels were scaled down once too often, or every image of the batch is blank. "
                "Mend do_rescale / rescale_factor in its preprocessor_config.json, or the images."
            )


def _declared_statistics(processor: Any) -> tuple[np.ndarray, np.ndarray]:
    config = getattr(processor, "data_config", None)  # timm's processors
    mean = config["mean"] if config else getattr(processor, "image_mean", None)
    std = config["std"] if config else getattr(processor, "image_std", None)
    if mean is None or std is None or getattr(processor, "do_normalize", True) is False:
        return np.zeros(3), np.ones(3)
    return np.atleast_1d(np.asarray(mean, dtype=float)), np.atleast_1d(np.asarray(std, dtype=float))


def _shown(values: np.ndarray) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def _interpolation(processor: Any) -> InterpolationMode:
    config = getattr(processor, "data_config", None)
    if config:
        return InterpolationMode(config["interpolation"])
    resample = getattr(processor, "resample", None)
    return _PIL_TO_TORCHVISION.get(int(resample) if resample is not None else 2, InterpolationMode.BILINEAR)
