"""The predictions file: written once per split, read by every metric, plot and test of significance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.table import ImageTable
from ..errors import RunDirectoryError
from ..run_directory import replacing

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Predictions:
    """What a model said about each image of a split.

    Args:
        sample_ids: text [n].
        paths: file of each image, None for images stored in a data set.
        labels: int64 [n]; or bool [n, C], which classes each image shows.
        predicted: int64 [n], -1 where no class of the data set has any probability; or bool [n, C].
        logits: float32 [n, C]; under a label map, logarithms of the summed probabilities.
        class_names: names of the C classes in label order.
        groups: which images belong together [n], as the data say; None where they say nothing.
        thresholds: float64 [C], the sigmoid probability from which each class is predicted; None where an image has one label.
    """

    sample_ids: list[str]
    paths: list[str | None]
    labels: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray
    class_names: list[str]
    groups: list[str] | None = None
    thresholds: np.ndarray | None = None

    @property
    def multi_label(self) -> bool:
        """Whether an image may show several classes, or none."""
        return self.labels.ndim == 2

    @classmethod
    def of(
        cls,
        table: ImageTable,
        logits: np.ndarray,
        predicted: np.ndarray,
        class_names: list[str],
        thresholds: np.ndarray | None = None,
    ) -> Predictions:
        """Return the predictions for a table's images, in its order."""
        return cls(
            sample_ids=[str(sample_id) for sample_id in table.sample_ids],
            paths=[table.path(index) for index in range(len(table))],
            labels=table.labels,
            predicted=predicted if table.multi_label else predicted.astype(np.int64),
            logits=logits.astype(np.float32),
            class_names=class_names,
            groups=None if table.groups is None else [str(group) for group in table.groups],
            thresholds=thresholds,
        )

    def write(self, path: Path) -> None:
        """Write a parquet file: sample_id, path, label, predicted, logits, group where known; class names in its metadata.

        Where an image may show several classes, `labels` and `predicted` are lists of classes, and the metadata hold the
        thresholds, too.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = self.logits.shape[1]
        logits = pa.ListArray.from_arrays(
            pa.array(np.arange(0, self.logits.size + 1, width, dtype=np.int32)), pa.array(self.logits.reshape(-1))
        )
        columns = {
            "sample_id": pa.array(self.sample_ids, pa.string()),
            "path": pa.array(self.paths, pa.string()),
            "labels" if self.multi_label else "label": _classes_column(self.labels),
            "predicted": _classes_column(self.predicted),
            "logits": logits,
        }
        if self.groups is not None:
            columns["group"] = pa.array(self.groups, pa.string())
        metadata = {"class_names": json.dumps(self.class_names)}
        if self.thresholds is not None:
            metadata["thresholds"] = json.dumps(self.thresholds.tolist())
        table = pa.table(columns).replace_schema_metadata(metadata)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Read a predictions file.

        Raises:
            RunDirectoryError: when it is missing, or is no such file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata or {}
            class_names = json.loads(metadata[b"class_names"])
            flat = table["logits"].combine_chunks().values.to_numpy()
            several = "labels" in table.column_names
            labels, predicted = (
                _flags(table[name], len(class_names)) if several else table[name].to_numpy()
                for name in ("labels" if several else "label", "predicted")
            )
            return cls(
                sample_ids=table["sample_id"].to_pylist(),
                paths=table["path"].to_pylist(),
                labels=labels,
                predicted=predicted,
                logits=flat.reshape(len(table), len(class_names)),
                class_names=[str(name) for name in class_names],
                groups=table["group"].to_pylist() if "group" in table.column_names else None,
                thresholds=np.array(json.loads(metadata[b"thresholds"])) if several else None,
            )
        except FileNotFoundError:
            raise RunDirectoryError(f"{path}: no such file") from None
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise RunDirectoryError(f"{path}: is not a predictions file: {error}") from None


def _classes_column(classes: np.ndarray) -> pa.Array:
    """Return int64 [n] as such, and bool [n, C] as the list of the classes that are true in each row."""
    import pyarrow as pa

    if classes.ndim == 1:
        return pa.array(classes, pa.int64())
    bounds = np.append(0, classes.sum(axis=1).cumsum()).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(bounds), pa.array(np.nonzero(classes)[1].astype(np.int64)))


def _flags(column: pa.ChunkedArray, num_classes: int) -> np.ndarray:
    """Return lists of classes as bool [n, C]."""
    flags = np.zeros((len(column), num_classes), dtype=bool)
    lists = column.combine_chunks()
    sizes = np.diff(lists.offsets.to_numpy())
    flags[np.arange(len(column)).repeat(sizes), lists.flatten().to_numpy()] = True
    return flags
