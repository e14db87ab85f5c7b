"""Folders that `save_to_disk` wrote."""

import json

import datasets
import numpy as np
import pytest
from reading import message, read

from hf_transfer.data.images import decode_rgb

NAMES = datasets.ClassLabel(names=["wolf", "10", "9"])
FEATURES = datasets.Features({"photo": datasets.Image(), "kind": NAMES, "dog": datasets.Value("int64")})


@pytest.fixture
def made(noise):
    """Make a data set of distinct images with these labels."""

    def make(labels, features=FEATURES):
        rows = {"photo": [noise() for _ in labels], "kind": labels, "dog": [10 * label for label in labels]}
        return datasets.Dataset.from_dict(rows, features=features)

    return make


def test_read_saved_dataset__splits(tmp_path, made, caplog):
    parts = {"train": made([2, 0, 1]), "valid": made([1]), "extra": made([0])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    written = sorted((tmp_path / "set").rglob("*"))
    found = read(tmp_path / "set", group_column="dog")
    train = found.tables["train"]
    assert (list(found.tables), found.class_names, found.split_by_source) == (
        ["train", "validation"],
        ["wolf", "10", "9"],
        True,
    )
    assert (train.labels.tolist(), train.groups.tolist()) == ([2, 0, 1], ["20", "0", "10"])
    assert train.sample_ids.tolist() == ["train/0", "train/1", "train/2"]
    for row, image in enumerate(parts["train"]["photo"]):
        assert (np.asarray(decode_rgb(train.encoded(row))) == np.asarray(image)).all()
    assert sorted((tmp_path / "set").rglob("*")) == written
    assert f"left out the split extra of {tmp_path}/set: it is not called train, validation or test" in caplog.text


def test_read_saved_dataset__one_data_set_that_was_selected_from_and_formatted(tmp_path, made):
    whole = made([0, 1, 2, 0])
    whole.select([3, 1]).with_format("torch").save_to_disk(str(tmp_path / "set"))
    table = read(tmp_path / "set").tables["train"]
    assert table.labels.tolist() == [0, 1]
    assert (np.asarray(decode_rgb(table.encoded(0))) == np.asarray(whole[3]["photo"])).all()


def test_read_saved_dataset__a_column_for_splits(tmp_path, made):
    made([0, 1, 2]).add_column("split", ["test", "train", "test"]).save_to_disk(str(tmp_path / "set"))
    tables = read(tmp_path / "set").tables
    assert {split: table.labels.tolist() for split, table in tables.items()} == {"train": [1], "test": [0, 2]}
    assert tables["test"].sample_ids.tolist() == ["test/0", "test/1"]
    parts = datasets.ClassLabel(names=["dev", "train"])
    numbered = made([0, 1, 2]).add_column("split", [1, 0, 1]).cast_column("split", parts)
    numbered.save_to_disk(str(tmp_path / "numbered"))
    tables = read(tmp_path / "numbered").tables
    assert {split: table.labels.tolist() for split, table in tables.items()} == {"train": [0, 2], "validation": [1]}


def test_read_saved_dataset__what_is_wrong_is_named(tmp_path, made):
    root = tmp_path / "set"
    datasets.DatasetDict({"train": made([0, 1])}).save_to_disk(str(root))
    assert message(root, label_column="kin").startswith("data.label_column: no column 'kin' (did you mean 'kind'?)")
    (root / "dataset_dict.json").write_text('{"splits": ["../elsewhere"]}')
    assert message(root) == (
        f"data.source: expected names of folders under 'splits' in {root}/dataset_dict.json, found ['../elsewhere']"
    )
    (root / "dataset_dict.json").write_text('{"splits": ["fold"]}')
    assert message(root) == f"data.source: expected a split called train, validation or test in {root}; found fold"
    (root / "dataset_dict.json").write_text("{")
    assert message(root).startswith(f"data.source: cannot read {root}/dataset_dict.json: Expecting")
    state = json.loads((root / "train" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../../secret.arrow"}]
    (root / "train" / "state.json").write_text(json.dumps(state))
    assert message(root / "train") == (
        f"data.source: expected names of files in the folder under '_data_files' in {root}/train/state.json, "
        "found ['../../secret.arrow']"
    )
    state["_data_files"] = [{"filename": "lost.arrow"}]
    (root / "train" / "state.json").write_text(json.dumps(state))
    assert message(root / "train").startswith(f"data.source: cannot read {root}/train as a saved data set: ")


def test_read_saved_dataset__rows_that_hold_no_image(tmp_path):
    form = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}, "label": NAMES})
    rows = [{"bytes": b"x", "path": None}, {"bytes": None, "path": "../secret.png"}]
    datasets.Dataset.from_dict({"image": rows, "label": [0, 1]}, features=form).save_to_disk(str(tmp_path / "set"))
    assert message(tmp_path / "set") == (
        f"data.source: expected an image in every row of 'image' of {tmp_path}/set; row 1 has the path '../secret.png'"
    )


def test_read_saved_dataset__several_labels(tmp_path, noise):
    features = datasets.Features({"photo": datasets.Image(), "kinds": datasets.List(NAMES)})
    rows = {"photo": [noise() for _ in range(3)], "kinds": [[2, 0], [], [1]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    found = read(tmp_path / "set", task="multi_label")
    shown = [[True, False, True], [False] * 3, [False, True, False]]
    assert (found.class_names, found.tables["train"].labels.tolist()) == (["wolf", "10", "9"], shown)
