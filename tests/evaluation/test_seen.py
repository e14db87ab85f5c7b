"""Training images among those that are evaluated."""

import json

import pytest

from hf_transfer.data.build import build_splits
from hf_transfer.evaluation.seen import seen_in_training
from hf_transfer.recipe.schema import Data

DATA = Data(source="package:digits", test_fraction=0.2, max_train_samples=50)


@pytest.fixture
def run(tmp_path):
    """A run directory as far as its recipe goes."""
    recipe = {"mode": "train", "data": DATA.model_dump(mode="json"), "evaluation": {"splits": ["test"]}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    return str(tmp_path)


def test_seen_in_training__its_own_test_split_has_none(run):
    assert seen_in_training(run, [DATA.source], build_splits(DATA, ["test"], training=False)) == {}


def test_seen_in_training__the_whole_source_has_all(run):
    everything = Data(source="package:digits")
    found = seen_in_training(run, [everything.source], build_splits(everything, ["test"], training=False))
    assert found == {"test": 50}


def test_seen_in_training__other_sources_and_checkpoints_say_nothing(run, tmp_path):
    everything = Data(source="package:digits")
    splits = build_splits(everything, ["test"], training=False)
    assert seen_in_training("timm:resnet18", [everything.source], splits) == {}
    assert seen_in_training(run, ["elsewhere"], splits) == {}
    other = {"mode": "evaluate", "data": {"source": "package:digits"}, "evaluation": {"splits": ["test"]}}
    (tmp_path / "recipe.json").write_text(json.dumps(other))
    assert seen_in_training(run, [everything.source], splits) == {}
    (tmp_path / "recipe.json").write_text("{")
    assert seen_in_training(run, [everything.source], splits) == {}


def test_seen_in_training__a_further_test_set_counts_too(run, grow_digits):
    folder = grow_digits(build_splits(DATA, ["train"], training=True).tables["train"], 7)
    section = Data(source=str(folder))
    splits = build_splits(DATA, ["test"], training=False, extra={"again": str(folder)})
    assert seen_in_training(run, [DATA.source, section.source], splits) == {"again": 7}


def test_seen_in_training__a_source_that_has_changed(run, tmp_path):
    splits = build_splits(Data(source="package:digits"), ["test"], training=False)
    fingerprint = build_splits(DATA, ["train"], training=True).fingerprint
    (tmp_path / "environment.json").write_text(json.dumps({"data_fingerprint": fingerprint}))
    assert seen_in_training(run, ["package:digits"], splits) == {"test": 50}
    (tmp_path / "environment.json").write_text(json.dumps({"data_fingerprint": "another"}))
    assert seen_in_training(run, ["package:digits"], splits) is None


@pytest.fixture
def grow_digits(tmp_path):
    """Write the first images of a table into a class folder; return the folder."""

    def write(table, count):
        (tmp_path / "again" / "1").mkdir(parents=True)
        for index in range(count):
            (tmp_path / "again" / "1" / f"{index}.png").write_bytes(table.encoded(index))
        return tmp_path / "again"

    return write
