"""Folders of small images, and tables without images where only labels and ids count."""

import itertools

import numpy as np
import pytest
from PIL import Image

from hf_transfer.data.table import ImageTable


@pytest.fixture(scope="session")
def noise():
    """Return distinct RGB images, one a call: noise(height, width)."""
    rng = np.random.default_rng(0)

    def make(height=12, width=12):
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make


@pytest.fixture
def grow(tmp_path, noise):
    """Write distinct images into class folders, such as grow({"cat": 3, "dog": 4}); return the folder."""
    number = itertools.count()

    def make(counts, root=None):
        root = tmp_path / "images" if root is None else root
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for _ in range(count):
                noise().save(root / name / f"{next(number):03}.png")
        return root

    return make


@pytest.fixture(scope="session")
def labelled():
    """Return a table of these labels whose images are never looked at; ids are of another order than rows."""

    def make(labels, ids=None):
        labels = np.array(labels, dtype=np.int64)
        ids = np.array([f"image/{index}" for index in range(len(labels))]) if ids is None else np.array(ids)
        return ImageTable(images=None, rows=np.arange(len(labels)), labels=labels, sample_ids=ids)

    return make
