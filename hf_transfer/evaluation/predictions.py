"""The predictions file: written once per split, read by every metric, plot and test of significance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.table import ImageTable
from ..errors import RunDirectoryError
from ..run_directory import replacing


@dataclass(frozen=True)
class Predictions:
    """What a model said about each image of a split.

    Args:
        sample_ids: text [n].
        paths: file of each image, None for images stored in a data set.
        labels: int64 [n].
        predicted: int64 [n]; -1 where no class of the data set has any probability.
        logits: float32 [n, C]; under a label map, logarithms of the summed probabilities.
        class_names: names of the C classes in label order.
        groups: which images belong together [n], as the data say; None where they say nothing.
    """

    sample_ids: list[str]
    paths: list[str | None]
    labels: np.ndarray
    predicted: np.ndarray
    logits: np.ndarray
    class_names: list[str]
    groups: list[str] | None = None

    @classmethod
    def of(cls, table: ImageTable, logits: np.ndarray, predicted: np.ndarray, class_names: list[str]) -> Predictions:
        """Return the predictions for a table's images, in its order."""
        return cls(
            sample_ids=[str(sample_id) for sample_id in table.sample_ids],
            paths=[table.path(index) for index in range(len(table))],
            labels=table.labels,
            predicted=predicted.astype(np.int64),
            logits=logits.astype(np.float32),
            class_names=class_names,
            groups=None if table.groups is None else [str(group) for group in table.groups],
        )

    def write(self, path: Path) -> None:
        """Write a parquet file: sample_id, path, label, predicted, logits, group where known; class names in its metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = self.logits.shape[1]
        logits = pa.ListArray.from_arrays(
            pa.array(np.arange(0, self.logits.size + 1, width, dtype=np.int32)), pa.array(self.logits.reshape(-1))
        )
        columns = {
            "sample_id": pa.array(self.sample_ids, pa.string()),
            "path": pa.array(self.paths, pa.string()),
            "label": pa.array(self.labels, pa.int64()),
            "predicted": pa.array(self.predicted, pa.int64()),
            "logits": logits,
        }
        if self.groups is not None:
            columns["group"] = pa.array(self.groups, pa.string())
        table = pa.table(columns).replace_schema_metadata({"class_names": json.dumps(self.class_names)})
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
            class_names = json.loads((table.schema.metadata or {})[b"class_names"])
            flat = table["logits"].combine_chunks().values.to_numpy()
            return cls(
                sample_ids=table["sample_id"].to_pylist(),
                paths=table["path"].to_pylist(),
                labels=table["label"].to_numpy(),
                predicted=table["predicted"].to_numpy(),
                logits=flat.reshape(len(table), len(class_names)),
                class_names=[str(name) for name in class_names],
                groups=table["group"].to_pylist() if "group" in table.column_names else None,
            )
        except FileNotFoundError:
            raise RunDirectoryError(f"{path}: no such file") from None
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise RunDirectoryError(f"{path}: is not a predictions file: {error}") from None
