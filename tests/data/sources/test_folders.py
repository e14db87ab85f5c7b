"""Folders of class folders, with and without split folders."""

import os
import subprocess
import sys

import numpy as np
import pytest

from hf_transfer.data.sources.folders import natural_order, read_class_folders
from hf_transfer.errors import DataError


def message(root):
    with pytest.raises(DataError) as caught:
        read_class_folders(root)
    return str(caught.value)


def contents(table, class_names):
    return {str(sample_id): class_names[label] for sample_id, label in zip(table.sample_ids, table.labels, strict=True)}


@pytest.mark.parametrize(
    "names",
    [
        ["9", "10", "100"],
        ["class 2", "class 10", "class 10 b"],
        ["1", "a", "b1", "b9", "b10"],
        ["01", "1", "001x", "1x"],
        ["m2", "m²", "m³"],  # superscripts are digits to Python, and no numbers
        ["٣", "10"],  # and Arabic digits are
    ],
)
def test_natural_order__numbers_count_as_numbers(names):
    assert sorted(sorted(names, reverse=True), key=natural_order) == names


def test_read_class_folders__without_split_folders(grow):
    root = grow({"dog": 2, "cat": 3})
    found = read_class_folders(root)
    assert found.class_names == ["cat", "dog"]
    assert not found.split_by_source
    assert found.revision is None
    assert list(found.tables) == ["train"]
    assert contents(found.tables["train"], found.class_names) == {
        "cat/002.png": "cat",
        "cat/003.png": "cat",
        "cat/004.png": "cat",
        "dog/000.png": "dog",
        "dog/001.png": "dog",
    }


def test_read_class_folders__encoded_is_the_file(grow):
    root = grow({"cat": 1, "dog": 1})
    table = read_class_folders(root).tables["train"]
    for index, sample_id in enumerate(table.sample_ids):
        assert table.encoded(index) == (root / sample_id).read_bytes()
        assert table.path(index) == table.name(index) == str(root / sample_id)


def test_read_class_folders__classes_are_in_natural_order(grow):
    found = read_class_folders(grow({"10": 1, "9": 1, "100": 1, "b": 1, "a": 1}))
    assert found.class_names == ["9", "10", "100", "a", "b"]
    assert contents(found.tables["train"], found.class_names) == {
        f"{name}/{number:03}.png": name for number, name in enumerate(["10", "9", "100", "b", "a"])
    }


def test_read_class_folders__names_of_equal_number_have_one_order_in_every_process(grow):
    root = grow(dict.fromkeys(("1", "01", "001"), 1))
    code = "import sys; from pathlib import Path; from hf_transfer.data.sources.folders import read_class_folders\n"
    code += "print(read_class_folders(Path(sys.argv[1])).class_names)"
    orders = {
        subprocess.run(
            [sys.executable, "-c", code, str(root)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert orders == {"['001', '01', '1']\n"}


@pytest.mark.parametrize("names", [("train", "validation", "test"), ("Train", "VAL", "Test"), ("training", "valid", "testing")])
def test_read_class_folders__with_split_folders(grow, tmp_path, names):
    root = tmp_path / "split"
    for count, name in enumerate(names, start=1):
        grow({"cat": count, "dog": 1}, root / name)
    found = read_class_folders(root)
    assert found.split_by_source
    assert found.class_names == ["cat", "dog"]
    assert {split: len(table) for split, table in found.tables.items()} == {"train": 2, "validation": 3, "test": 4}
    for split, name in zip(("train", "validation", "test"), names, strict=True):
        assert all(str(sample_id).startswith(f"{name}/") for sample_id in found.tables[split].sample_ids)


def test_read_class_folders__labels_are_those_of_all_splits_together(grow, tmp_path):
    grow({"b": 1, "c": 1}, tmp_path / "train")
    grow({"a": 1, "c": 1}, tmp_path / "test")
    found = read_class_folders(tmp_path)
    assert found.class_names == ["a", "b", "c"]
    assert found.tables["train"].labels.tolist() == [1, 2]
    assert found.tables["test"].labels.tolist() == [0, 2]
    assert found.tables["test"].class_counts(3).tolist() == [1, 0, 1]


def test_read_class_folders__two_folders_for_one_split(grow, tmp_path):
    grow({"a": 1}, tmp_path / "val")
    grow({"a": 1}, tmp_path / "validation")
    assert message(tmp_path) == f"data.source: {tmp_path} has two folders for the validation split: val, validation"


def test_read_class_folders__others_beside_split_folders_are_not_taken_for_classes(grow, tmp_path):
    for name in ("train", "test", "unlabelled"):
        grow({"a": 1}, tmp_path / name)
    assert message(tmp_path) == (
        f"data.source: {tmp_path} holds split folders (test, train) and others beside them (unlabelled). "
        "Move the others elsewhere, or, if all of them are classes, into a folder of their own called train."
    )


def test_read_class_folders__a_class_may_be_called_train(grow):
    assert read_class_folders(grow({"car": 1, "train": 1})).class_names == ["car", "train"]


def test_read_class_folders__hidden_and_stray_files_are_passed_over(grow):
    root = grow({"cat": 1, "dog": 1})
    (root / "labels.csv").write_text("stray")
    (root / "stray.png").write_bytes(b"beside the classes")
    (root / ".git").mkdir()
    (root / "cat" / ".hidden.png").write_bytes(b"hidden")
    (root / "cat" / "Thumbs.db").write_bytes(b"stray")
    (root / "cat" / "no_suffix").write_bytes(b"stray")
    (root / "cat" / ".ipynb_checkpoints").mkdir()
    (root / "cat" / ".ipynb_checkpoints" / "copy.png").write_bytes(b"in a hidden folder")
    found = read_class_folders(root)
    assert found.class_names == ["cat", "dog"]
    assert found.tables["train"].sample_ids.tolist() == ["cat/000.png", "dog/001.png"]


def test_read_class_folders__takes_every_suffix_and_deeper_folders(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    names = ["x.JPG", "x.jpeg", "x.png", "x.webp", "x.tif", "x.bmp", "deep/x.GIF"]
    for name in names:
        (tmp_path / "a" / name).write_bytes(b"")
    table = read_class_folders(tmp_path).tables["train"]
    assert sorted(table.sample_ids.tolist()) == sorted(f"a/{name}" for name in names)


def test_read_class_folders__one_class_is_read(grow):
    found = read_class_folders(grow({"cat": 2}))
    assert found.class_names == ["cat"]
    assert len(found.tables["train"]) == 2


def test_read_class_folders__an_empty_class_folder_is_named(grow):
    root = grow({"cat": 1, "dog": 1, "bird": 0, "fish": 0})
    (root / "fish" / "notes.txt").write_text("no image")
    assert message(root) == (
        f"data.source: expected at least one image in every class folder; found none in {root / 'bird'}, {root / 'fish'}. "
        "Add images, or remove the folder if the class is not wanted."
    )


@pytest.mark.parametrize("stray", [None, "image.png"])
def test_read_class_folders__no_class_folder(tmp_path, stray):
    if stray:
        (tmp_path / stray).write_bytes(b"")
    assert message(tmp_path) == (
        f"data.source: expected a folder for each class inside {tmp_path}, found none. "
        "Put the images of each class into a folder of its name."
    )


def test_read_class_folders__a_split_folder_without_class_folders(grow, tmp_path):
    grow({"cat": 1, "dog": 1}, tmp_path / "train")
    (tmp_path / "test").mkdir()
    assert f"expected a folder for each class inside {tmp_path / 'test'}, found none" in message(tmp_path)


def test_read_class_folders__names_beyond_ascii(grow):
    found = read_class_folders(grow({"grün": 1, "赤": 1}))
    assert found.class_names == ["grün", "赤"]
    assert found.tables["train"].sample_ids.tolist() == ["grün/000.png", "赤/001.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_read_class_folders__names_that_are_not_utf8(grow):
    root = grow({"cat": 1})
    (root / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    assert message(root) == f"data.source: expected file names in UTF-8; rename '{root}/cat/caf\\xe9.png'"


def test_read_class_folders__linked_folders_and_broken_links(grow, tmp_path):
    real = grow({"cat": 1}, tmp_path / "real")
    root = tmp_path / "links"
    root.mkdir()
    (root / "kitten").symlink_to(real / "cat", target_is_directory=True)
    (real / "cat" / "broken.png").symlink_to(tmp_path / "absent.png")
    table = read_class_folders(root).tables["train"]
    assert table.sample_ids.tolist() == ["kitten/000.png", "kitten/broken.png"]
    with pytest.raises(FileNotFoundError):
        table.encoded(1)


def test_read_class_folders__rows_do_not_depend_on_the_file_system(grow, tmp_path):
    root = grow({"cat": 5, "dog": 5})
    copy = tmp_path / "copy"
    for path in sorted(root.rglob("*.png"), reverse=True):
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    first, second = (read_class_folders(folder).tables["train"] for folder in (root, copy))
    assert first.sample_ids.tolist() == second.sample_ids.tolist()
    np.testing.assert_array_equal(first.labels, second.labels)


def test_read_class_folders__images_that_belong_together(grow, tmp_path):
    grow({"cat/walk": 2, "dog/walk": 1, "dog/yard": 1}, tmp_path / "train")
    grow({"cat/yard": 1}, tmp_path / "test")
    found = read_class_folders(tmp_path, group_by="folder")
    assert {split: table.groups.tolist() for split, table in found.tables.items()} == {
        "test": ["yard"],
        "train": ["walk", "walk", "walk", "yard"],
    }
    # A pattern is given the path below the split folder: it means the same before and after a split.
    by_class = read_class_folders(tmp_path, group_by="path:^([^/]+/[^/]+)")
    assert by_class.tables["train"].groups.tolist() == ["cat/walk", "cat/walk", "dog/walk", "dog/yard"]
    assert read_class_folders(tmp_path).tables["train"].groups is None


def test_read_class_folders__without_some_classes(grow):
    root = grow({"cat": 1, "dog": 1, "clutter": 0})
    assert read_class_folders(root, drop=["clutter"]).class_names == ["cat", "dog"]
    with pytest.raises(DataError) as caught:
        read_class_folders(root, drop=["cluter"])
    assert str(caught.value) == (
        f"data.source: no class folder in {root} to leave out is called 'cluter' (did you mean 'clutter'?)"
    )
