import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_transfer.data.build import build_splits
from hf_transfer.data.table import ImageTable, StoredImages
from hf_transfer.errors import RunDirectoryError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.recipe.schema import Data


def test_predictions__round_trip(tmp_path):
    splits = build_splits(Data(source="package:digits", max_test_samples=12), ["test"], training=False)
    table = splits.tables["test"]
    logits = np.random.default_rng(0).normal(size=(12, 10)).astype(np.float32)
    logits[3, 4] = -np.inf
    written = Predictions.of(table, logits, logits.argmax(axis=1), splits.class_names)
    written.write(tmp_path / "predictions" / "test.parquet")
    read = Predictions.read(tmp_path / "predictions" / "test.parquet")
    assert read.sample_ids == [str(sample_id) for sample_id in table.sample_ids]
    assert read.paths == [None] * 12
    assert read.class_names == splits.class_names
    np.testing.assert_array_equal(read.labels, table.labels)
    np.testing.assert_array_equal(read.predicted, logits.argmax(axis=1))
    np.testing.assert_array_equal(read.logits, logits)
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["test.parquet"]


def test_predictions__paths_of_files(tmp_path):
    splits = build_splits(Data(source="package:textile", max_test_samples=6), ["test"], training=False)
    table = splits.tables["test"]
    found = Predictions.of(table, np.zeros((6, 3)), np.zeros(6), splits.class_names)
    assert all(path.endswith(sample_id) for path, sample_id in zip(found.paths, found.sample_ids, strict=True))


def test_read__damaged_or_missing(tmp_path):
    with pytest.raises(RunDirectoryError, match="no such file"):
        Predictions.read(tmp_path / "none.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RunDirectoryError, match="is not a predictions file"):
        Predictions.read(tmp_path / "a.parquet")


def test_predictions__groups_where_the_data_say_them(tmp_path):
    section = Data(source="package:textile", group_column=r"path:(\w+/textile_\d{3})", max_test_samples=6)
    splits = build_splits(section, ["test"], training=False)
    table = splits.tables["test"]
    Predictions.of(table, np.zeros((6, 3)), np.zeros(6), splits.class_names).write(tmp_path / "test.parquet")
    groups = table.groups.tolist()
    assert all(name.startswith(group) for name, group in zip(table.sample_ids, groups, strict=True))
    found = Predictions.read(tmp_path / "test.parquet")
    assert found.groups == groups
    assert dict(zip(found.sample_ids, found.groups, strict=True)) == dict(zip(table.sample_ids.tolist(), groups, strict=True))
    plain = replace(table, groups=None)
    Predictions.of(plain, np.zeros((6, 3)), np.zeros(6), splits.class_names).write(tmp_path / "plain.parquet")
    assert Predictions.read(tmp_path / "plain.parquet").groups is None


def several(count=4):
    """A table of images that show several classes, or none, and logits and thresholds for them."""
    labels = np.array([[True, True, False], [False] * 3, [False, False, True], [True] * 3])[:count]
    ids = np.array([f"{row}.png" for row in range(count)])
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * count})
    table = ImageTable(StoredImages(rows, "image"), np.arange(count), labels, ids)
    return table, np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32), np.array([0.5, 0.25, 0.1])


def test_predictions__several_labels_are_lists_of_classes(tmp_path):
    table, logits, thresholds = several()
    predicted = logits > 0
    Predictions.of(table, logits, predicted, ["a", "b", "c"], thresholds).write(tmp_path / "test.parquet")
    stored = pq.read_table(tmp_path / "test.parquet")
    assert stored.column_names == ["sample_id", "path", "labels", "predicted", "logits"]
    assert stored["labels"].to_pylist() == [[0, 1], [], [2], [0, 1, 2]]
    assert stored["predicted"].to_pylist() == [np.flatnonzero(row).tolist() for row in predicted]
    assert json.loads(stored.schema.metadata[b"thresholds"]) == [0.5, 0.25, 0.1]
    found = Predictions.read(tmp_path / "test.parquet")
    assert found.multi_label
    assert (found.labels.dtype, found.predicted.dtype) == (bool, bool)
    np.testing.assert_array_equal(found.labels, table.labels)
    np.testing.assert_array_equal(found.predicted, predicted)
    np.testing.assert_array_equal(found.logits, logits)
    np.testing.assert_array_equal(found.thresholds, thresholds)


def test_predictions__several_labels_none_of_which_is_shown(tmp_path):
    table, logits, thresholds = several()
    nothing = replace(table, labels=np.zeros((4, 3), dtype=bool))
    Predictions.of(nothing, logits, nothing.labels, ["a", "b", "c"], thresholds).write(tmp_path / "test.parquet")
    assert not Predictions.read(tmp_path / "test.parquet").labels.any()
