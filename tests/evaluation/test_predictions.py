from dataclasses import replace

import numpy as np
import pytest

from hf_transfer.data.build import build_splits
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
