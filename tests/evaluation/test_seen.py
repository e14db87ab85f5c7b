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
    (tmp_path / "recipe.json").write_text(json.dumps({"mode": "train", "data": DATA.model_dump(mode="json")}))
    return str(tmp_path)


def test_seen_in_training__its_own_test_split_has_none(run):
    assert seen_in_training(run, DATA, build_splits(DATA, ["test"], training=False)) == {}


def test_seen_in_training__the_whole_source_has_all(run):
    everything = Data(source="package:digits")
    found = seen_in_training(run, everything, build_splits(everything, ["test"], training=False))
    assert found == {"test": 50}


def test_seen_in_training__other_sources_and_checkpoints_say_nothing(run, tmp_path):
    everything = Data(source="package:digits")
    splits = build_splits(everything, ["test"], training=False)
    assert seen_in_training("timm:resnet18", everything, splits) == {}
    assert seen_in_training(run, Data(source="elsewhere"), splits) == {}
    (tmp_path / "recipe.json").write_text(json.dumps({"mode": "evaluate", "data": {"source": "package:digits"}}))
    assert seen_in_training(run, everything, splits) == {}
    (tmp_path / "recipe.json").write_text("{")
    assert seen_in_training(run, everything, splits) == {}
