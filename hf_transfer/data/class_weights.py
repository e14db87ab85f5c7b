"""Weights of classes as a recipe gives them: by name, each class once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import Problem, RecipeError, listed, nearest
from .class_names import composed


def weights_in_order(key: str, weights: Mapping[str, float], class_names: Sequence[str]) -> list[float]:
    """Return the user's weights in the order of the classes.

    Args:
        key: the recipe's key, for the message.
        weights: class name to a number above 0.
        class_names: the classes of the data set.

    Raises:
        RecipeError: listing every name that is no class, every class without a weight, every weight that is not above 0.
    """
    weights = {composed(name): weight for name, weight in weights.items()}
    messages = [
        f"'{name}' is not a class of the data set{nearest(name, class_names)}" for name in weights if name not in class_names
    ]
    if missing := [f"'{name}'" for name in class_names if name not in weights]:
        messages.append(f"expected a weight for every class; found none for {listed(missing)}")
    messages += [
        f"expected a number above 0 for '{name}', found {weight:g}"
        for name, weight in weights.items()
        if not 0 < weight < math.inf
    ]
    if messages:
        raise RecipeError([Problem(key, message) for message in messages])
    return [weights[name] for name in class_names]


def sampling_weights(sampling: str | Mapping[str, float], class_names: Sequence[str], class_counts: np.ndarray) -> np.ndarray:
    """Return float64 [C]: how often an image of each class is drawn, in proportion.

    Args:
        sampling: "balanced", which draws all classes equally often (1 / images of the class), or a weight for each class: an
            image of a class of weight 2 is drawn twice as often as one of weight 1.
        class_names: the C classes.
        class_counts: int64 [C], training images of each; none is 0.

    Raises:
        RecipeError: when the weights do not fit the classes.
    """
    if isinstance(sampling, str):
        return 1.0 / np.asarray(class_counts, dtype=np.float64)
    return np.array(weights_in_order("data.sampling", sampling, class_names), dtype=np.float64)
