"""What a network saw of an image: the input as a picture, and where its pixels lie in the original image."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..data.transforms import Preprocessing

Line = tuple[float, float]


class View:
    """The way between original images and the inputs that a checkpoint's preprocessing makes of them.

    Nothing is known about the processor. It is shown white and black of an image's size, and where the input shows the image is
    read off; it is shown ramps, and the part of the image that it keeps is read off; it is shown red, and the order of its
    channels is read off.

    Args:
        preprocessing: of the checkpoint.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._lines: dict[tuple[int, int], tuple[Line, Line]] = {}
        red = self._seen(np.broadcast_to(np.array([255, 0, 0], dtype=np.uint8), (32, 32, 3)))
        self._reversed = bool(red[2].mean() > red[0].mean())  # some processors deliver blue, green, red

    def picture(self, pixels: torch.Tensor) -> np.ndarray:
        """Return an input [3, H, W] as a picture: float32 [H, W, 3], values 0 to 1, normalisation undone."""
        shown = self._pictured(pixels).transpose(1, 2, 0)
        return np.ascontiguousarray(shown[..., ::-1] if self._reversed else shown)

    def in_original(self, point: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
        """Return where a point of the input lies in the original image, to about half a 255th of the image's side.

        Args:
            point: (x, y) in pixels of the input; the first pixel's centre is (0.5, 0.5).
            size: (width, height) of the original image, upright.

        Returns:
            (x, y) in pixels of the original image, inside it.
        """
        if size not in self._lines:
            shown = self._shows_image(size)
            self._lines[size] = (self._line(size, shown, axis=0), self._line(size, shown, axis=1))
        lines = self._lines[size]
        x, y = (line[0] * value + line[1] for line, value in zip(lines, point, strict=True))
        return min(max(x, 0.0), float(size[0])), min(max(y, 0.0), float(size[1]))

    def _shows_image(self, size: tuple[int, int]) -> np.ndarray:
        """Return which pixels of the input show the image and nothing of what a processor pads with: bool [H, W]."""
        black = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        return (self._seen(black + np.uint8(255)) - self._seen(black)).mean(axis=0) > 1 - 1 / 255

    def _line(self, size: tuple[int, int], shown: np.ndarray, axis: int) -> Line:
        """Return slope and intercept of: place in the original = slope * place in the input + intercept; axis 0 is x."""
        length = size[axis]
        shares = (np.arange(length) + 0.5) / length
        ramp = np.rint(255 * shares).astype(np.uint8)
        ramp = ramp[None, :, None] if axis == 0 else ramp[:, None, None]
        values = self._seen(np.broadcast_to(ramp, (size[1], size[0], 3))).mean(axis=0)
        count = shown.sum(axis=axis)
        seen = (values * shown).sum(axis=axis) / np.maximum(count, 1)
        places = np.arange(len(seen)) + 0.5
        # Beyond the centres of the outermost pixels the ramp goes on level.
        inside = (count > 0) & (seen > shares[0] + 1 / 255) & (seen < shares[-1] - 1 / 255)
        if inside.sum() < 2:
            return length / len(seen), 0.0
        slope, intercept = np.polyfit(places[inside], seen[inside] * length, 1)
        return float(slope), float(intercept)

    def _seen(self, pixels: np.ndarray) -> np.ndarray:
        """Return what becomes of an image, uint8 [height, width, 3]: float32 [3, H, W], values 0 to 1."""
        return self._pictured(self._preprocessing(Image.fromarray(np.ascontiguousarray(pixels))))

    def _pictured(self, pixels: torch.Tensor) -> np.ndarray:
        mean, std = self._preprocessing.mean[:, None, None], self._preprocessing.std[:, None, None]
        return (pixels.float().cpu() * std + mean).clamp(0, 1).numpy()
