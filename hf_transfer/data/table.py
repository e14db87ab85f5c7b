"""A split's images: where their encoded bytes are, their labels, and a stable id for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class ImageTable:
    """Labelled, still encoded images, selected by row without copying them.

    Args:
        images: data set whose column `column` is `datasets.Image(decode=False)`.
        column: name of that column.
        rows: int64 [n], the rows of `images` that belong to this table.
        labels: int64 [n], index into the class names.
        sample_ids: text [n], unique: a path relative to the source's root, or `split/row`.
        digests: bytes "S16" [n], BLAKE2b-128 of each image's encoded bytes; None before the images have been read.
        groups: text [n], images of equal value belong together (one patient, one burst); None where nothing says so.
    """

    images: datasets.Dataset
    column: str
    rows: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    digests: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: np.ndarray) -> ImageTable:
        """Return the table of these positions, in their order."""
        digests = None if self.digests is None else self.digests[indices]
        groups = None if self.groups is None else self.groups[indices]
        return replace(
            self,
            rows=self.rows[indices],
            labels=self.labels[indices],
            sample_ids=self.sample_ids[indices],
            digests=digests,
            groups=groups,
        )

    def path(self, index: int) -> str | None:
        """Return the file of one image, or None for an image that is stored inside the data set."""
        stored = self.images[int(self.rows[index])][self.column]
        return stored["path"] if stored is not None and stored["bytes"] is None else None

    def encoded(self, index: int) -> bytes:
        """Return the encoded bytes of one image, exactly as stored.

        Raises:
            OSError: when its file cannot be read.
        """
        stored = self.images[int(self.rows[index])][self.column]
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise OSError("there is no image in this row")
        if stored["bytes"] is not None:
            return stored["bytes"]
        return Path(stored["path"]).read_bytes()

    def name(self, index: int) -> str:
        """Return what a message calls one image: its file where it has one, its sample id otherwise."""
        return self.path(index) or str(self.sample_ids[index])

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Return int64 [num_classes]: images of each class."""
        return np.bincount(self.labels, minlength=num_classes)
