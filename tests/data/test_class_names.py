"""Names of classes from every kind of source: kept apart, put together and ordered as they should be."""

import json
import unicodedata

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encoded
from reading import message, read

from hf_transfer.data.build import build_splits
from hf_transfer.data.class_names import alike, composed, with_composed_names
from hf_transfer.data.folder_split import plan_split
from hf_transfer.data.sources.folders import SourceTables
from hf_transfer.data.table import ImageTable
from hf_transfer.errors import DataError
from hf_transfer.recipe.schema import Data

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
TAKEN_APART = unicodedata.normalize("NFD", CAFE)
NUMBERS = ["10", "007", "9", "7", "1e3", "-1", "0.5"]


def counts(source):
    return {
        split: dict(zip(source.class_names, table.class_counts(len(source.class_names)).tolist(), strict=True))
        for split, table in source.tables.items()
    }


@pytest.fixture
def rows(noise):
    """Write a table of images with one label each, in one of the forms; return the file."""

    def write(folder, labels, kind):
        folder.mkdir(exist_ok=True)
        images = [encoded(noise()) for _ in labels]
        if kind == "parquet":
            pq.write_table(pa.table({"image": images, "label": labels}), folder / "all.parquet")
            return folder / "all.parquet"
        for row, content in enumerate(images):
            (folder / f"{row}.png").write_bytes(content)
        if kind == "csv":
            lines = [f"{row}.png,{label}" for row, label in enumerate(labels)]
            (folder / "all.csv").write_text("\n".join(["file_name,label", *lines]), encoding="utf-8")
            return folder / "all.csv"
        lines = [json.dumps({"file_name": f"{row}.png", "label": label}) for row, label in enumerate(labels)]
        (folder / "all.jsonl").write_text("\n".join(lines))
        return folder / "all.jsonl"

    return write


def test_names_that_look_like_numbers__folders(grow):
    found = read(grow(dict.fromkeys(NUMBERS, 1)))
    assert sorted(found.class_names) == sorted(NUMBERS)
    assert [name for name in found.class_names if name.isdecimal()] == ["007", "7", "9", "10"]
    assert set(counts(found)["train"].values()) == {1}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_names_that_look_like_numbers__tables_of_text(tmp_path, rows, kind):
    found = read(rows(tmp_path / "t", NUMBERS, kind))
    assert sorted(found.class_names) == sorted(NUMBERS)
    assert [name for name in found.class_names if name.isdecimal()] == ["007", "7", "9", "10"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 0, 9], ["0", "9", "10"]),
        ([True, False, True], ["False", "True"]),
        ([3.0, 10.0], ["3", "10"]),
    ],
    ids=["integers", "booleans", "integers as floats"],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_labels_that_are_no_text(tmp_path, rows, labels, names, kind):
    found = read(rows(tmp_path / "t", labels, kind))
    assert found.class_names == names
    assert [found.class_names[label] for label in found.tables["train"].labels] == [
        str(int(label)) if isinstance(label, float) else str(label) for label in labels
    ]


def test_class_label__keeps_its_order_and_a_class_that_no_image_has(tmp_path, noise):
    names = ["zebra", "ant", "10", "9"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [noise() for _ in range(3)], "label": [0, 2, 3]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    found = read(tmp_path / "saved")
    assert found.class_names == names
    assert counts(found)["train"] == {"zebra": 1, "ant": 0, "10": 1, "9": 1}
    with pytest.raises(
        DataError, match=r"expected training images of every class; found none of ant\. Add training images of it"
    ):
        build_splits(Data(source=str(tmp_path / "saved"), validation_fraction=0.5), ["train"], training=True)


def test_empty_class_folder(grow):
    root = grow({"cat": 2, "dog": 2})
    (root / "emu").mkdir()
    assert message(root) == (
        f"data.source: expected at least one image in every class folder; found none in {root}/emu. "
        "Add images, or remove the folder if the class is not wanted."
    )


def test_class_that_only_other_splits_have__stops_a_training_and_no_evaluation(grow, tmp_path):
    grow({"train/cat": 4, "train/dog": 4, "validation/cat": 1, "validation/emu": 1, "test/dog": 1, "test/fox": 2})
    section = Data(source=str(tmp_path / "images"))
    with pytest.raises(DataError) as caught:
        build_splits(section, ["test"], training=True)
    assert str(caught.value) == (
        "data: expected training images of every class; found none of emu, fox. Add training images of them, or remove them "
        "from the other splits."
    )
    splits = build_splits(section, ["test"], training=False)
    assert splits.class_names == ["cat", "dog", "emu", "fox"]
    assert splits.tables["test"].labels.tolist() == [1, 3, 3]


# Accents


def test_accents__folders_of_two_systems_are_one_class(grow, tmp_path):
    grow({f"train/{TAKEN_APART}": 3, "train/caff": 2, f"test/{CAFE}": 2, f"test/{TAKEN_APART}": 1, "test/caff": 1})
    found = read(tmp_path / "images")
    assert found.class_names == ["caff", CAFE]
    assert counts(found) == {"train": {"caff": 2, CAFE: 3}, "test": {"caff": 1, CAFE: 3}}


def test_accents__a_copy_made_elsewhere_has_the_same_map(grow, tmp_path):
    here = grow({CAFE: 2, "cafz": 2}, tmp_path / "here")
    there = grow({TAKEN_APART: 2, "cafz": 2}, tmp_path / "there")
    assert sorted([CAFE, "cafz"]) != [composed(name) for name in sorted([TAKEN_APART, "cafz"])]
    assert read(here).class_names == read(there).class_names == ["cafz", CAFE]
    assert plan_split(here, fractions=(0.5, 0, 0.5)).class_names == plan_split(there, fractions=(0.5, 0, 0.5)).class_names


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_accents__of_tables(tmp_path, rows, kind):
    found = read(rows(tmp_path / "t", [CAFE, TAKEN_APART, "tea"], kind))
    assert found.class_names == [CAFE, "tea"]
    assert found.tables["train"].labels.tolist() == [0, 0, 1]


def test_with_composed_names__an_order_of_its_own_stays():
    table = ImageTable(None, np.arange(3), np.array([0, 1, 2]), np.array(["a", "b", "c"]))
    several = ImageTable(None, np.arange(2), np.array([[True, False, True], [False, True, False]]), np.array(["a", "b"]))
    source = SourceTables({"train": table, "test": several}, ["zoo", TAKEN_APART, CAFE], split_by_source=True)
    found = with_composed_names(source)
    assert found.class_names == ["zoo", CAFE]
    assert found.tables["train"].labels.tolist() == [0, 1, 1]
    assert found.tables["test"].labels.tolist() == [[True, True], [False, True]]
    plain = SourceTables({}, ["b", "a"], split_by_source=False)
    assert with_composed_names(plain) is plain


# Names that are nearly the same


def test_alike__names_a_person_would_take_for_one():
    assert alike(["Hot Dog", "hot_dog", "cat ", "cat", "7", "007", CAFE, "cafe"]) == [
        ["Hot Dog", "hot_dog"],
        ["cat", "cat "],
        ["cafe", CAFE],
    ]


def test_build_splits__names_that_are_nearly_the_same_are_kept_apart_and_told(grow, caplog):
    root = grow({"Hot Dog": 3, "hot_dog": 3, "cat": 3})
    assert build_splits(Data(source=str(root)), ["train"], training=True).class_names == ["Hot Dog", "cat", "hot_dog"]
    assert caplog.messages == ["classes that nearly have the same name, and are kept apart: 'Hot Dog' and 'hot_dog'"]
