"""Parquet and Arrow files with embedded images."""

import io

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import message, read

from hf_transfer.data.build import build_splits
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.integrity import scan
from hf_transfer.recipe.schema import Data


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Keep prepared images in a folder of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")
    return tmp_path / "kept" / "hf_transfer"


@pytest.fixture
def encoded(noise):
    """Return the bytes of distinct PNG images."""

    def make(count):
        found = []
        for _ in range(count):
            buffer = io.BytesIO()
            noise().save(buffer, format="PNG")
            found.append(buffer.getvalue())
        return found

    return make


def labels(found, split="train"):
    return [found.class_names[label] for label in found.tables[split].labels]


def stored(table):
    return [table.encoded(row) for row in range(len(table))]


def write(path, /, **columns):
    """Write plain columns; the suffix tells the format, an underscore at the end of the stem Arrow's stream format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        opened = pa.ipc.new_stream if path.stem.endswith("_") else pa.ipc.new_file
        with opened(str(path), table.schema) as out:
            out.write_table(table, max_chunksize=2)


NAMES = datasets.ClassLabel(names=["wolf", "10", "9"])


def on_the_hub(path, images, values, **more):
    """Write a Parquet file as `datasets` writes those of the Hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"photo": datasets.Image(), "kind": NAMES, **dict.fromkeys(more, datasets.Value("int64"))})
    rows = {"photo": [{"bytes": one, "path": "name.png"} for one in images], "kind": values, **more}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def test_read_columnar__a_folder_as_on_the_hub(tmp_path, encoded, kept):
    images = encoded(7)
    root = tmp_path / "set"
    on_the_hub(root / "data" / "train-00000-of-00002.parquet", images[:3], [2, 0, 1])
    on_the_hub(root / "data" / "train-00001-of-00002.parquet", images[3:5], [0, 2])
    on_the_hub(root / "data" / "test-00000-of-00001.parquet", images[5:], [1, 1])
    (root / "README.md").touch()
    found = read(root)
    assert (found.class_names, found.split_by_source) == (["wolf", "10", "9"], True)  # the order of the schema
    assert (labels(found), labels(found, "test")) == (["9", "wolf", "10", "wolf", "9"], ["10", "10"])
    assert found.tables["train"].sample_ids.tolist() == [f"train/{row}" for row in range(5)]
    assert stored(found.tables["train"]) == images[:5]
    assert stored(found.tables["test"]) == images[5:]
    assert found.tables["test"].path(0) is None
    assert len(list(kept.iterdir())) == 3
    again = read(f"{root}/data/*.parquet")
    assert again.tables["train"].sample_ids.tolist() == found.tables["train"].sample_ids.tolist()
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x_.arrow"])
@pytest.mark.parametrize("form", ["binary", "large_binary", "struct", "struct_without_path"])
def test_read_columnar__forms_of_images(tmp_path, encoded, name, form):
    images = encoded(5)
    column = {
        "binary": pa.array(images, pa.binary()),
        "large_binary": pa.array(images, pa.large_binary()),
        "struct": pa.array([{"bytes": one, "path": f"/tmp/{row}.png"} for row, one in enumerate(images)]),
        "struct_without_path": pa.array([{"bytes": one} for one in images], pa.struct({"bytes": pa.large_binary()})),
    }[form]
    write(tmp_path / name, pixels=column, label=pa.array([3, 20, 100, 3, 3]))
    found = read(tmp_path / name)
    assert (found.class_names, labels(found), found.split_by_source) == (
        ["3", "20", "100"],
        ["3", "20", "100", "3", "3"],
        False,
    )
    assert stored(found.tables["train"]) == images
    assert (np.asarray(decode_rgb(found.tables["train"].encoded(4))).shape) == (12, 12, 3)


def test_read_columnar__columns_for_splits_and_groups(tmp_path, encoded):
    images = encoded(5)
    write(
        tmp_path / "all.parquet",
        image=images,
        label=pa.array(["b", "a", "b", "a", "b"]).dictionary_encode(),
        split=["train", "val", "train", "test", "test"],
        patient=[1, 1, 2, 3, 4],
    )
    found = read(tmp_path / "all.parquet", group_column="patient")
    assert {split: table.sample_ids.tolist() for split, table in found.tables.items()} == {
        "train": ["train/0", "train/1"],
        "validation": ["validation/0"],
        "test": ["test/0", "test/1"],
    }
    assert stored(found.tables["test"]) == images[3:]
    assert (found.tables["test"].groups.tolist(), labels(found, "test")) == (["3", "4"], ["a", "b"])
    assert message(tmp_path / "all.parquet", group_column="doctor").startswith("data.group_column: no column 'doctor' in")
    assert message(tmp_path / "all.parquet", image_column="patient") == (
        "data.image_column: expected encoded images (binary, or a struct of bytes and path) or paths in 'patient' of "
        f"{tmp_path}/all.parquet, found int64"
    )


def test_read_columnar__paths_of_files(tmp_path, grow):
    root = grow({"cat": 2, "dog": 1})
    paths = ["cat/000.png", str(root / "cat" / "001.png"), "dog/002.png"]
    write(root / "list.parquet", path=paths, label=["cat", "cat", "dog"])
    table = read(root / "list.parquet").tables["train"]
    assert [table.path(row) for row in range(3)] == sorted(map(str, root.glob("*/*.png")))
    write(root / "list.parquet", path=["cat/000.png", "../secret.png"], label=["cat", "dog"])
    assert message(root / "list.parquet") == (
        f"data.source: expected paths of image files relative to {root}, or absolute ones, in {root}/list.parquet; "
        "found 1 that are not: '../secret.png' leaves the folder"
    )


def test_read_columnar__rows_without_an_image_or_a_label(tmp_path, encoded):
    one, two = encoded(2)
    form = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": one, "path": None}, None, {"bytes": None, "path": None}, {"bytes": two, "path": None}]
    write(tmp_path / "x.parquet", image=pa.array(rows, form), label=["a", "b", "b", "b"])
    section = Data(source=str(tmp_path / "x.parquet"), on_bad_image="skip")
    skipped = build_splits(section, ["test"], training=False).skipped
    assert skipped == {"test": [("train/1", "there is no image in this row"), ("train/2", "there is no image in this row")]}
    write(tmp_path / "x.parquet", image=[one, two], label=pa.array([1.0, None]))
    assert message(tmp_path / "x.parquet") == (
        f"data.label_column: 1 of 2 images of the train split of {tmp_path}/x.parquet have no label in 'label': train/1"
    )


def test_read_columnar__labels_that_point_to_no_name(tmp_path, encoded):
    file = tmp_path / "x.parquet"
    on_the_hub(file, encoded(2), [0, 1])
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "kind", pa.array([0, 7])).replace_schema_metadata(table.schema.metadata), file)
    assert message(file) == f"data.label_column: expected labels from 0 to 2 in 'kind' of {file}, found 7"


def test_read_columnar__links_as_in_the_cache_of_the_hub(tmp_path, encoded):
    images = encoded(2)
    write(tmp_path / "made.parquet", image=images, label=["a", "b"])
    blob = (tmp_path / "made.parquet").rename(tmp_path / "blob")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "train-0.parquet").symlink_to(blob)
    for source in (tmp_path / "snapshot", tmp_path / "snapshot" / "train-0.parquet", tmp_path / "snapshot" / "*.parquet"):
        assert stored(read(source).tables["train"]) == images


def test_read_columnar__changed_bytes_are_read_again(tmp_path, encoded):
    first, second = encoded(2), encoded(2)
    file = tmp_path / "x.parquet"
    write(file, image=first, label=["a", "b"])
    assert stored(read(file).tables["train"]) == first
    write(file, image=second, label=["a", "b"])
    assert stored(read(file).tables["train"]) == second


def test_read_columnar__files_that_do_not_fit_each_other(tmp_path, encoded):
    images = encoded(2)
    write(tmp_path / "a" / "train-0.parquet", image=images, label=["a", "b"])
    write(tmp_path / "a" / "more.parquet", image=images, label=["a", "b"])
    assert message(tmp_path / "a") == (
        f"data.source: expected all files of {tmp_path}/a to be called after a split (train, validation, test), or none; "
        "not so: more.parquet"
    )
    write(tmp_path / "b" / "0.parquet", image=images, label=["a", "b"])
    write(tmp_path / "b" / "1.parquet", image=images, target=["a", "b"])
    assert message(tmp_path / "b") == (
        f"data.source: expected the columns image, label in every file of {tmp_path}/b; {tmp_path}/b/1.parquet lacks label"
    )
    twice = pa.table([images, ["a", "b"], ["a", "b"]], names=["image", "label", "label"])
    (tmp_path / "d").mkdir()
    pq.write_table(twice, tmp_path / "d" / "x.parquet")
    assert message(tmp_path / "d") == (f"data.source: expected every column once in {tmp_path}/d/x.parquet; found twice: label")
    write(tmp_path / "c" / "0.parquet", image=images, label=["a", "b"])
    write(tmp_path / "c" / "1.arrow", image=images, label=["a", "b"])
    assert message(tmp_path / "c") == (
        f"data.source: expected Parquet files or Arrow files in {tmp_path}/c, found both: 0.parquet, 1.arrow"
    )


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.parquet", "train"),
        ("test-00000-of-00001-ab12.parquet", "test"),
        ("VAL_3.arrow", "validation"),
        ("beans-validation.arrow", "validation"),
        ("testimony.parquet", "train"),  # no split by its name: all is train
        ("dev/0000.parquet", "validation"),
    ],
)
def test_read_columnar__splits_by_names(tmp_path, encoded, name, split):
    write(tmp_path / "set" / name, image=encoded(1), label=["a"])
    assert list(read(tmp_path / "set").tables) == [split]


@pytest.mark.parametrize(("name", "kind"), [("x.parquet", "a Parquet"), ("x.arrow", "an Arrow")])
def test_read_columnar__broken_files(tmp_path, encoded, name, kind, kept):
    write(tmp_path / name, image=encoded(40), label=["a"] * 40)
    whole = (tmp_path / name).read_bytes()
    for content in (b"", b"no such thing at all", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        assert message(tmp_path / name).startswith(f"data.source: cannot read {tmp_path / name} as {kind} file: ")
    assert not kept.exists()


def test_read_columnar__what_cannot_be_kept(tmp_path, encoded, monkeypatch):
    write(tmp_path / "x.parquet", image=encoded(1), label=["a"])
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    assert message(tmp_path / "x.parquet") == (
        f"data.source: cannot keep the images of {tmp_path}/x.parquet in {tmp_path}/file/hf_transfer: Not a directory. "
        "Set HF_DATASETS_CACHE to a folder on a disk with room for them."
    )


def test_read_columnar__digests_are_those_of_the_files(tmp_path, grow):
    root = grow({"cat": 2, "dog": 2})
    files = sorted(root.glob("*/*.png"))
    write(tmp_path / "x.parquet", image=[file.read_bytes() for file in files], label=[file.parent.name for file in files])
    folders, table = (read(source).tables["train"] for source in (root, tmp_path / "x.parquet"))
    assert scan(folders, decode=False).digests == scan(table, decode=True).digests


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_read_columnar__several_labels(tmp_path, encoded, name):
    columns = {"image": pa.array(encoded(3), pa.binary()), "label": pa.array([[20, 3], [], [3]], pa.list_(pa.int64()))}
    write(tmp_path / name, **columns)
    found = read(tmp_path / name, task="multi_label")
    assert (found.class_names, found.tables["train"].labels.tolist()) == (
        ["3", "20"],
        [[True, True], [False] * 2, [True, False]],
    )
    assert "found the list [20, 3]; set data.task to 'multi_label'" in message(tmp_path / name)


def test_read_columnar__lists_of_class_labels_keep_the_order_of_their_names(tmp_path, encoded):
    features = datasets.Features({"photo": datasets.Image(), "kinds": datasets.List(NAMES), "label": datasets.Value("string")})
    rows = {"photo": [{"bytes": one, "path": None} for one in encoded(3)], "kinds": [[2, 0], [], [1]], "label": ["x"] * 3}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "x.parquet"))
    found = read(tmp_path / "x.parquet", task="multi_label")  # typed labels come before those that are called so
    shown = [[True, False, True], [False] * 3, [False, True, False]]
    assert (found.class_names, found.tables["train"].labels.tolist()) == (["wolf", "10", "9"], shown)
