"""The arrays that metrics are computed from: scores [n, C], labels [n] and predicted classes [n].

The checks live here, so that a metric is only its formula. An error names what was expected and what was received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import listed

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]

NO_PREDICTION = -1
"""The predicted class of a sample none of whose classes has a score: it equals no label, so it counts as wrong."""

_ROW_SUM_TOLERANCE = 1e-3
"""How far above 1 a row of probabilities may add up to: room for a softmax computed in half precision."""


def label_array(labels: ArrayLike, *, n_classes: int | None = None, n: int | None = None) -> IntArray:
    """Return labels as a checked int64 array.

    Args:
        labels: integers [n], 0 <= label < n_classes.
        n_classes: number of classes C; None leaves the upper end open.
        n: the number of samples there must be; None accepts any number but zero.

    Returns:
        The labels, int64 [n].

    Raises:
        ValueError: not one-dimensional, not integers, no sample, another number than `n`, or labels outside the
            classes.
    """
    array = _index_array(labels, "labels")
    if n is not None and len(array) != n:
        raise ValueError(f"expected one label per row of scores, found {len(array)} labels for {n} rows")
    outside = array < 0 if n_classes is None else (array < 0) | (array >= n_classes)
    if outside.any():
        allowed = "0 or more" if n_classes is None else f"between 0 and {n_classes - 1}"
        count, first = outside.sum(), array[outside][0]
        raise ValueError(f"expected labels {allowed}, found {count} of {len(array)} outside (the first is {first})")
    return array


def label_matrix(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which classes each sample shows, as a checked array of booleans.

    Args:
        labels: booleans [n, C], or numbers that are 0 or 1.
        shape: that of the scores they belong to.

    Raises:
        ValueError: another shape, or other values.
    """
    array = np.asarray(labels)
    if array.shape != shape:
        raise ValueError(f"expected a label for each score, {list(shape)}, found labels of shape {list(array.shape)}")
    flags = array.astype(np.bool_, copy=False)
    if array.dtype.kind not in "biuf" or (array.dtype.kind != "b" and (flags != array).any()):
        raise ValueError(f"expected labels that are true or false, or 0 or 1, found dtype {array.dtype} with other values")
    return flags


def check_class_names(class_names: Sequence[str], n_classes: int) -> None:
    """Stop unless there is one name for each class, each once.

    Raises:
        ValueError: saying what is there instead.
    """
    if len(class_names) != n_classes:
        raise ValueError(f"expected one name per class, found {len(class_names)} names for {n_classes} classes")
    repeated = [name for name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise ValueError(f"expected each class name once, found repeated: {listed(repeated)}")


def prediction_array(predicted: ArrayLike, *, n: int) -> IntArray:
    """Return predicted classes as a checked int64 array.

    Args:
        predicted: integers [n]; a class, or `NO_PREDICTION` (-1) for none.
        n: the number of samples there must be.

    Returns:
        The predicted classes, int64 [n].

    Raises:
        ValueError: not one-dimensional, not integers, another number than `n`, or a value below -1.
    """
    array = _index_array(predicted, "predicted classes")
    if len(array) != n:
        raise ValueError(f"expected one predicted class per label, found {len(array)} predicted classes for {n} labels")
    if (array < NO_PREDICTION).any():
        raise ValueError(f"expected predicted classes of {NO_PREDICTION} (none) or more, found {array.min()}")
    return array


def score_array(scores: ArrayLike, *, name: str = "scores", finite: bool = False) -> FloatArray:
    """Return class scores as a checked floating-point array, in the precision they came in.

    Args:
        scores: real numbers [n, C], larger is likelier; -inf marks a class that can't be predicted.
        name: what to call them in an error.
        finite: refuse -inf too, as logits must.

    Returns:
        The scores, floating point [n, C].

    Raises:
        ValueError: not two-dimensional, not real numbers, no sample or no class, or rows that hold NaN or infinite
            values (the message says how many).
    """
    array = np.asarray(scores)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"expected {name} to be real numbers, found dtype {array.dtype}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"expected {name} of shape [samples, classes] with at least one of each, found {array.shape}")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    # NaN fails every comparison, so one test covers it too.
    sound = np.isfinite(array) if finite else array < np.inf
    bad_rows = np.flatnonzero(~sound.all(axis=1))
    if len(bad_rows):
        raise ValueError(
            f"{name}: {len(bad_rows)} of {len(array)} rows hold NaN or infinite values, the first is row {bad_rows[0]} "
            "(counted from 0); the model has diverged, or overflowed in half precision"
        )
    return array


def probability_array(probabilities: ArrayLike) -> FloatArray:
    """Return class probabilities as a checked floating-point array.

    Args:
        probabilities: real numbers [n, C], each 0 or more; a row adds up to at most 1 (within 0.001). A row may add up
            to less: what is missing belongs to outcomes that are none of the C classes.

    Returns:
        The probabilities, floating point [n, C].

    Raises:
        ValueError: as `score_array`, or a negative value, or a row that adds up to more than 1.
    """
    array = score_array(probabilities, name="probabilities", finite=True)
    negative = int((array < 0).any(axis=1).sum())
    if negative:
        raise ValueError(f"probabilities: {negative} of {len(array)} rows hold negative values; pass logits as logits")
    sums = array.sum(axis=1, dtype=np.float64)
    above = int((sums > 1 + _ROW_SUM_TOLERANCE).sum())
    if above:
        raise ValueError(
            f"probabilities: {above} of {len(array)} rows add up to more than 1 (up to {sums.max():.6g}); pass logits as logits"
        )
    return array


def predicted_classes(scores: ArrayLike) -> IntArray:
    """Return the class with the highest score; among equals, the first.

    Args:
        scores: real numbers [n, C]; -inf marks a class that can't be predicted.

    Returns:
        int64 [n]; `NO_PREDICTION` (-1) for a sample all of whose scores are -inf.

    Raises:
        ValueError: as `score_array`.
    """
    array = score_array(scores)
    best = array.argmax(axis=1)
    best[np.isneginf(array[np.arange(len(array)), best])] = NO_PREDICTION
    return best.astype(np.int64, copy=False)


def _index_array(values: ArrayLike, name: str) -> IntArray:
    """Return a non-empty one-dimensional array of integers as int64; `name` is for the error."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"expected {name} of shape [samples], found {array.shape}")
    if not len(array):
        raise ValueError(f"expected {name} of at least one sample, found none")
    if array.dtype.kind not in "iu":
        raise ValueError(f"expected {name} to be integers, found dtype {array.dtype}")
    return array.astype(np.int64, copy=False)
