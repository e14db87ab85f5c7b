"""Does a prediction made with 80 % confidence come true 8 times in 10?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class CalibrationBins(NamedTuple):
    """What a reliability diagram shows, each an array [M] over the bins.

    Args:
        counts: int64, samples in the bin.
        confidence: float64, mean confidence of the bin's samples; NaN in an empty bin.
        accuracy: float64, share of the bin's samples that are right; NaN in an empty bin.
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, over equal-width bins.

    With B_m the samples whose confidence lies in ((m - 1) / M, m / M], for m = 1..M (a confidence of 0 joins B_1):

        ECE = sum over m of |B_m| / n * |accuracy(B_m) - mean confidence(B_m)|

    It is a biased estimate: on few samples even a perfectly calibrated model scores above 0.

    Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017,
    equation 3.

    Args:
        confidence: real numbers [n], the probability given to the predicted class, 0 <= confidence <= 1.
        correct: booleans [n], whether the predicted class is the label.
        n_bins: number of bins M, at least 1.

    Returns:
        A value between 0 and 1.

    Raises:
        ValueError: as `calibration_bins`.
    """
    counts, mean_confidence, accuracy = calibration_bins(confidence, correct, n_bins)
    gaps = np.abs(accuracy - mean_confidence)[counts > 0]
    return float((counts[counts > 0] * gaps).sum() / counts.sum())


def calibration_bins(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> CalibrationBins:
    """Return how many samples each equal-width bin of the confidence holds, how sure they are and how often right.

    Args:
        confidence: real numbers [n], the probability given to the predicted class, 0 <= confidence <= 1.
        correct: booleans [n], whether the predicted class is the label.
        n_bins: number of bins M, at least 1; bin m holds confidences in ((m - 1) / M, m / M], the first one 0 as well.

    Raises:
        ValueError: arrays of the wrong shape, type or length, no sample, a confidence outside [0, 1] or NaN, or
            `n_bins` below 1.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct)
    if confidence.ndim != 1 or not len(confidence):
        raise ValueError(f"expected confidence of shape [samples] with at least one sample, found {confidence.shape}")
    if correct.shape != confidence.shape or correct.dtype != np.bool_:
        found = f"{correct.dtype} of shape {correct.shape}"
        raise ValueError(f"expected correct to be booleans of shape {confidence.shape}, found {found}")
    outside = int((~((confidence >= 0) & (confidence <= 1))).sum())
    if outside:
        raise ValueError(f"expected confidence between 0 and 1, found {outside} of {len(confidence)} values outside")
    if n_bins < 1:
        raise ValueError(f"expected at least one bin, found n_bins = {n_bins}")
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    counts = np.bincount(bins, minlength=n_bins)
    sums = (np.bincount(bins, weights=values, minlength=n_bins) for values in (confidence, correct))
    empty = np.full(n_bins, np.nan)
    return CalibrationBins(counts, *(np.divide(total, counts, out=empty.copy(), where=counts > 0) for total in sums))
