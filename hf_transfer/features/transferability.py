"""What features promise before anything is fitted on them."""

from __future__ import annotations

import math

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ..metrics.logme import logme

# 2e10 multiplications and the eigenvalues take one to two seconds on one core.
ROWS, WORK = 10_000, 2e10


def training_logme(features: torch.Tensor, labels: np.ndarray) -> dict[str, float | int | None]:
    """Return "logme", the score of training features, and "logme_images", how many of them it was computed on.

    Of more than 10,000 images, or where the features are so wide that the decomposition would take minutes, a part is drawn
    with a fixed seed: at most 10,000 up to a width of 1,414, 4,768 at 2,048, 892 at 25,088. Compare scores of equally many. The
    score is None where it is not defined: where features are not finite or all 0, or the images drawn are of one class.

    Args:
        features: float [n, d].
        labels: int64 [n].
    """
    count, width = features.shape
    rows = np.arange(count)
    most = min(ROWS, _affordable(width))
    if count > most:
        rows = np.sort(np.random.default_rng(0).choice(count, most, replace=False))
    try:
        with threadpool_limits(1, user_api="blas"):  # torch's threads wait actively, and would take its processors from it
            score = logme(features[torch.from_numpy(rows)].float().numpy(), labels[rows])
    except ValueError:
        score = math.nan
    return {"logme": score if math.isfinite(score) else None, "logme_images": len(rows)}


def _affordable(width: int) -> int:
    """Return how many rows of this width are decomposed in seconds: the product takes rows x width x the smaller of both."""
    rows = WORK / width**2
    return int(rows if rows >= width else (WORK / width) ** 0.5)
