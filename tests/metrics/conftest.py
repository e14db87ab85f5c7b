"""Samples of a plausible classifier: right about two times in three, every kind of confidence."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def logits_and_labels(rng):
    """Logits float32 [500, 10] and labels int64 [500], classes of unequal size."""
    labels = rng.choice(10, size=500, p=np.arange(1, 11) / 55)
    logits = rng.normal(scale=2.0, size=(500, 10)).astype(np.float32)
    logits[np.arange(500), labels] += 3.0
    return logits, labels
