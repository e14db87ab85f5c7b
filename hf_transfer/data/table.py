"""A split's images: where their encoded bytes are, their labels, and a stable id for each."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import datasets


class EncodedImages(Protocol):
    """Encoded images by row, wherever they are; instances go to loader processes."""

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of one image, exactly as stored.

        Raises:
            OSError: when they cannot be read.
        """
        ...

    def path(self, row: int) -> str | None:
        """Return the file of one image, or None for an image that is stored inside the data set; nothing is read."""
        ...

    def prefetch(self, rows: Sequence[int]) -> None:
        """Get ready to read these rows next, in this order: images far away are fetched together."""
        ...


def read_file(path: str) -> bytes:
    """Return the bytes of a file; what is none (a pipe, a device) is never waited for, nor read without end.

    Raises:
        OSError: when it cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is a pipe or a device, and no file")
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@runtime_checkable
class BlockedImages(EncodedImages, Protocol):
    """Images that are read in blocks, such as pieces of shards: an image costs as much as its whole block.

    Attributes:
        block_of: int [rows], the block of each row; the rows of a block follow one another.
        blocks_kept: how many blocks a process holds at a time.
    """

    block_of: np.ndarray
    blocks_kept: int


@dataclass(frozen=True)
class StoredImages:
    """The images of a data set of `datasets`.

    Args:
        stored: data set whose column `column` is `datasets.Image(decode=False)`.
        column: name of that column.
    """

    stored: datasets.Dataset
    column: str

    def encoded(self, row: int) -> bytes:
        """Return the encoded bytes of one image; see `EncodedImages`."""
        stored = self._stored(row)
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise OSError("there is no image in this row")
        if stored["bytes"] is not None:
            return bytes(stored["bytes"])
        return read_file(stored["path"])

    def path(self, row: int) -> str | None:
        """Return the file of one image, or None for an image that is stored inside the data set."""
        stored = self._stored(row)
        return None if stored is None or stored["bytes"] is not None else stored["path"]

    def prefetch(self, rows: Sequence[int]) -> None:
        """Do nothing: the images are on this machine."""

    def _stored(self, row: int) -> dict[str, Any] | None:
        if self.stored._indices is not None:  # rows that datasets has selected, or moved
            return self.stored[int(row)][self.column]
        # What datasets does for a row takes ten times as long as reading it, and more where images are decoded in between.
        return self.stored.data.column(self.column)[int(row)].as_py()


@dataclass(frozen=True)
class ImageTable:
    """Labelled, still encoded images, selected by row without copying them.

    Args:
        images: where the bytes are.
        rows: int64 [n], the rows of `images` that belong to this table.
        labels: int64 [n], index into the class names; or bool [n, C], which of the C classes each image shows.
        sample_ids: text [n], unique: a path relative to the source's root, or `split/row`.
        digests: bytes "S16" [n], BLAKE2b-128 of each image's encoded bytes; None before the images have been read.
        groups: text [n], images of equal value belong together (one patient, one burst); None where nothing says so.
    """

    images: EncodedImages
    rows: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    digests: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def multi_label(self) -> bool:
        """Whether an image may show several classes, or none."""
        return self.labels.ndim == 2

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
        return self.images.path(int(self.rows[index]))

    def encoded(self, index: int) -> bytes:
        """Return the encoded bytes of one image, exactly as stored.

        Raises:
            OSError: when its file cannot be read.
        """
        return self.images.encoded(int(self.rows[index]))

    def prefetch(self, indices: Sequence[int]) -> None:
        """Get ready to read these positions next."""
        self.images.prefetch([int(self.rows[index]) for index in indices])

    def name(self, index: int) -> str:
        """Return what a message calls one image: its file where it has one, its sample id otherwise."""
        return self.path(index) or str(self.sample_ids[index])

    def classes_of(self, index: int) -> list[int]:
        """Return the classes that one image shows, in label order."""
        return [int(c) for c in np.flatnonzero(self.labels[index])] if self.multi_label else [int(self.labels[index])]

    def shows(self, label: int) -> np.ndarray:
        """Return whether each image shows a class, bool [n]."""
        found: np.ndarray = self.labels[:, label] if self.multi_label else self.labels == label
        return found

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Return int64 [num_classes]: images of each class."""
        if self.multi_label:
            return self.labels.sum(axis=0, dtype=np.int64)
        return np.bincount(self.labels, minlength=num_classes)
