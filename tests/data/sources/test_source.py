"""Which reader a source belongs to."""

import pytest
from reading import message

from hf_transfer.data.sources.source import is_hub_source, read_source
from hf_transfer.recipe.schema import Data


def test_read_source__a_folder(grow, monkeypatch):
    root = grow({"cat": 1, "dog": 1})
    assert read_source(Data(source=str(root))).class_names == ["cat", "dog"]
    monkeypatch.chdir(root.parent)
    relative = read_source(Data(source="images"))
    assert relative.tables["train"].sample_ids.tolist() == ["cat/000.png", "dog/001.png"]
    assert relative.tables["train"].path(0) == str(root / "cat" / "000.png")  # also after a change of directory
    monkeypatch.setenv("HOME", str(root.parent))
    assert read_source(Data(source="~/images")).class_names == ["cat", "dog"]


def test_read_source__packages():
    assert len(read_source(Data(source="package:digits")).class_names) == 10
    assert message("package:digit").startswith("data.source: no packaged data set is called 'digit' (did you mean 'digits'?)")


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "../nothing", "~/nothing here", "some/deep/folder"])
def test_read_source__no_such_folder(source):
    assert message(source) == f"data.source: no such folder: {source}"


def test_read_source__addresses_and_other_files(tmp_path):
    known = (
        "a folder (of class folders, of images with metadata.csv or metadata.jsonl, of Parquet, Arrow, tar or IDX files, or "
        "one that save_to_disk wrote), a .csv, .tsv, .jsonl, .parquet, .arrow or .tar file or its address, several of them "
        "('data/*.parquet', 'shard-{000..012}.tar'), a Hub data set id, package:textile or package:digits"
    )
    for source in ("s3://bucket/images", "https://example.com/images.zip"):
        assert message(source) == f"data.source: expected {known}; found {source}"
    file = tmp_path / "data.zip"
    file.touch()
    assert message(str(file)) == f"data.source: expected {known}; found the file {file}"


def test_read_source__files_of_braces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-0.parquet", "b.tar"):
        (tmp_path / name).touch()
    assert message("a-{0..2}.parquet") == f"data.source: no such file: {tmp_path}/a-1.parquet, one of 3"
    assert message("{a-0.parquet,b.tar}") == (
        f"data.source: expected files of one kind (.parquet, .arrow or .tar) for {{a-0.parquet,b.tar}}; found "
        f"{tmp_path}/a-0.parquet, {tmp_path}/b.tar"
    )


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "some/x.parquet", "/no/such/x.arrow"])
def test_read_source__no_such_file(name):
    assert message(name) == f"data.source: no such file: {name}"


def test_read_source__a_pattern_that_fits_nothing_or_too_much(grow, monkeypatch):
    root = grow({"cat": 1})
    (root / "x.parquet").touch()
    monkeypatch.chdir(root)
    assert message("none/*.parquet") == "data.source: no file fits the pattern none/*.parquet"
    assert message(f"{root}/**/*") == (
        f"data.source: expected files of one kind (.parquet, .arrow or .tar) for {root}/**/*; found {root}/cat/000.png"
    )


def test_read_source__class_folders_beside_tables_are_ambiguous(grow):
    root = grow({"cat": 1, "dog": 1})
    (root / "train.parquet").touch()
    (root / "train-images-idx3-ubyte").touch()
    assert message(str(root)) == (
        f"data.source: {root} can be read in 3 ways: train.parquet and train-images-idx3-ubyte and class folders (cat, dog). "
        "Move elsewhere what is not meant."
    )


def test_read_source__other_files_beside_class_folders_are_passed_over(grow):
    root = grow({"cat": 1, "dog": 1})
    for name in ("notes.csv", "state.json", "dataset_info.json.bak", ".hidden.parquet", "images.tar.gz", "images.tar"):
        (root / name).touch()
    assert read_source(Data(source=str(root))).class_names == ["cat", "dog"]


def test_is_hub_source__ids_and_nothing_else(tmp_path, monkeypatch):
    assert is_hub_source("cifar10")
    assert is_hub_source("uoft-cs/cifar10")
    for source in (
        "package:digits",
        str(tmp_path),
        "./nothing",
        "/no/such",
        "~/nothing",
        "a/b/c",
        "s3://bucket/x",
        "a/*.parquet",
        "a/shard-{0..3}.tar",
        "a/b.tar",
        "a/b.csv",
    ):
        assert not is_hub_source(source)
    (tmp_path / "uoft-cs" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_source("uoft-cs/cifar10")  # a folder of that name comes first
