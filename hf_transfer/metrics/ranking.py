"""Mean average precision over test images drawn again: the bootstrap that its intervals and comparisons rest on.

Average precision is no mean over images: one more image moves the ranking of all. What another choice of images would have done
to it is therefore found by drawing them anew, whole groups where images come in groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .outcomes import group_index

DRAWS = 1000
_CELLS = 2**21  # weights held at once


def draw_images(n: int, groups: ArrayLike | None = None, *, draws: int = DRAWS, seed: int = 0) -> NDArray[np.int32]:
    """Return how often each image is in each draw of n images (or of all groups) with replacement, int32 [draws, n].

    Args:
        n: number of images.
        groups: one value an image [n]; a group's images are drawn together.
        draws: how many.
        seed: of the draws; equal seeds draw equal images, so that models are compared on the same.

    Raises:
        ValueError: no draw, or groups that are not one value an image, or a single one.
    """
    if draws < 1:
        raise ValueError(f"expected at least one draw, found {draws}")
    index = group_index(groups, n)
    units = n if index is None else int(index.max()) + 1
    times = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=draws).astype(np.int32)
    return times if index is None else times[:, index]


def drawn_mean_average_precision(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Return the mean average precision of each draw, float64 [draws]; NaN for a draw without a single positive.

    With the thresholds t_1 > t_2 > ... at the distinct scores of a class, P_k and R_k precision and recall of what is at least
    t_k, average precision is sum (R_k - R_{k-1}) P_k, without interpolation; the mean is that of the classes that have a
    positive in the draw.

    Args:
        scores: real numbers [n, C], larger is likelier; logits and probabilities rank alike.
        labels: booleans [n, C].
        weights: how often each image counts [draws, n]; ones for the figure itself.

    Raises:
        ValueError: arrays of other shapes, or labels that are no booleans.
    """
    ranks, truth, times = np.asarray(scores), np.asarray(labels), np.asarray(weights)
    if ranks.ndim != 2 or truth.shape != ranks.shape or truth.dtype != np.bool_:
        raise ValueError(
            f"expected scores [n, C] and booleans [n, C], found {list(ranks.shape)} and {truth.dtype} {list(truth.shape)}"
        )
    if times.ndim != 2 or times.shape[1] != len(ranks):
        raise ValueError(f"expected weights [draws, {len(ranks)}], found {list(times.shape)}")
    step = max(1, _CELLS // len(ranks))
    found = np.concatenate([_of_draws(ranks, truth, times[start : start + step]) for start in range(0, len(times), step)])
    return found


def reflected_interval(value: float, drawn: ArrayLike, units: float) -> tuple[float, float]:
    """Return the 95 % basic bootstrap interval, [2 v - q_high, 2 v - q_low] with quantiles q of the draws, within 0 to 1.

    Average precision of few positives is too high on average, and the draws are too high by about as much again: the quantiles
    themselves hold the truth far too seldom where classes are rare (docs/multi_label.md). It reaches to v +- 1.96 / n at least:
    of a ranking without a mistake every draw is perfect, too, and the next image may be its first.

    Source: A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997), section 5.2.

    Args:
        value: the figure of the images as they are, 0 to 1.
        drawn: the figure of each draw [draws]; NaN is left out.
        units: n, the images, or groups, that were drawn.
    """
    low, high = np.nanquantile(np.asarray(drawn, dtype=np.float64), [0.025, 0.975]).tolist()
    least = 1.96 / units
    return max(0.0, min(2 * value - high, value - least)), min(1.0, max(2 * value - low, value + least))


def _of_draws(scores: NDArray, labels: NDArray[np.bool_], weights: NDArray) -> NDArray[np.float64]:
    times = np.ascontiguousarray(weights.T, dtype=np.float32)  # an image's counts side by side; sums stay whole numbers
    total, classes = np.zeros(len(weights)), np.zeros(len(weights))
    for label in np.flatnonzero(labels.any(axis=0)):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked, places = scores[order, label], np.flatnonzero(labels[order, label])
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last image of each distinct score
        cuts = np.unique(ends[np.searchsorted(ends, places)])  # precision matters where a positive is
        starts = np.append(0, cuts[:-1] + 1)
        gained = np.add.reduceat(times[order[places]], np.searchsorted(places, starts), axis=0).astype(np.float64)
        above = np.add.reduceat(times[order[: cuts[-1] + 1]], starts, axis=0).cumsum(axis=0, dtype=np.float64)
        right = gained.cumsum(axis=0)
        positives = right[-1]
        average = (gained * (right / np.maximum(above, 1))).sum(axis=0) / np.maximum(positives, 1)
        known = positives > 0
        total += np.where(known, average, 0.0)
        classes += known
    return np.divide(total, classes, out=np.full(len(weights), np.nan), where=classes > 0)
