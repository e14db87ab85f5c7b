"""Image folders with metadata, and files that name images and their labels."""

import json

import numpy as np
import pytest
from reading import message, read

from hf_transfer.data.build import build_splits
from hf_transfer.data.images import decode_rgb
from hf_transfer.errors import DataError
from hf_transfer.recipe.schema import Data


@pytest.fixture
def photographs(tmp_path, noise):
    """Write distinct images under these names; return the folder and the pixels of each."""

    def make(*names, root=None):
        root = root or tmp_path / "photographs"
        pixels = {}
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            image = noise()
            image.save(root / name)
            pixels[name] = np.asarray(image)
        return root, pixels

    return make


def jsonl(path, *objects):
    path.write_text("".join(json.dumps(value) + "\n" for value in objects))


def labels(found, split="train"):
    return [found.class_names[label] for label in found.tables[split].labels]


# An image folder with metadata


def test_read_metadata__csv(photographs):
    root, pixels = photographs("b.png", "images/a.png", "c.png")
    (root / "metadata.csv").write_text("file_name,label\nb.png,10\nimages/a.png,9\n")  # c.png is not listed
    found = read(root)
    table = found.tables["train"]
    assert (found.class_names, labels(found), found.split_by_source) == (["9", "10"], ["10", "9"], False)
    assert table.sample_ids.tolist() == ["b.png", "images/a.png"]
    assert [table.path(row) for row in range(2)] == [str(root / "b.png"), str(root / "images" / "a.png")]
    for row, name in enumerate(table.sample_ids):
        assert (np.asarray(decode_rgb(table.encoded(row))) == pixels[name]).all()


def test_read_metadata__jsonl_with_a_label_column_and_groups(photographs):
    root, _ = photographs("a.png", "b.png", "c.png")
    jsonl(
        root / "metadata.jsonl",
        {"file_name": "a.png", "label": "x", "breed": 3, "dog": 7},
        {"file_name": "b.png", "label": "y", "breed": 3, "dog": 7},
        {"file_name": "c.png", "breed": 12, "dog": "eight"},
    )
    found = read(root, label_column="breed", group_column="dog")
    assert (found.class_names, labels(found)) == (["3", "12"], ["3", "3", "12"])
    assert found.tables["train"].groups.tolist() == ["7", "7", "eight"]
    assert message(root, label_column="bred") == (
        f"data.label_column: no column 'bred' (did you mean 'breed'?) in {root}/metadata.jsonl; "
        "found file_name, label, breed, dog"
    )
    assert message(root, group_column="cat").startswith("data.group_column: no column 'cat'")
    assert message(root, label_column="label", group_column="label") == (
        "data.label_column: expected a column of its own, found 'label', which is data.group_column too"
    )
    assert message(root) == (f"data.label_column: 1 of 3 images of the train split of {root} have no label in 'label': c.png")


def test_read_metadata__split_folders(photographs):
    root, _ = photographs("train/a.png", "train/b.png", "val/a.png")
    (root / "train" / "metadata.csv").write_text("file_name,label\na.png,cat\nb.png,dog\n")
    assert message(root) == (
        f"data.source: expected a metadata file in every split folder of {root}, or in none; found train/metadata.csv, "
        "and none in val"
    )
    jsonl(root / "val" / "metadata.jsonl", {"file_name": "a.png", "label": "emu"})
    found = read(root)
    assert (list(found.tables), found.class_names, found.split_by_source) == (
        ["train", "validation"],
        ["cat", "dog", "emu"],
        True,
    )
    assert found.tables["validation"].sample_ids.tolist() == ["val/a.png"]
    (root / "training").mkdir()
    (root / "training" / "metadata.csv").write_text("file_name,label\n../train/a.png,cat\n")
    assert message(root) == (f"data.source: expected one folder for each split in {root}; found train, training, val")
    (root / "training").rename(root / ".training")
    with pytest.raises(DataError, match="expected training images of every class; found none of emu"):
        build_splits(Data(source=str(root)), ["validation"], training=True)


def test_read_metadata__splits_of_paths_and_of_a_column(photographs):
    root, _ = photographs("train/a.png", "test/a.png", "test/b.png")
    (root / "metadata.csv").write_text("file_name,label\ntrain/a.png,cat\ntest/a.png,dog\ntest/b.png,cat\n")
    assert {split: len(table) for split, table in read(root).tables.items()} == {"train": 1, "test": 2}
    (root / "metadata.csv").write_text(
        "file_name,label,split\ntrain/a.png,cat,Test\ntest/a.png,dog,training\ntest/b.png,cat,dev\n"
    )
    tables = read(root).tables
    assert {split: table.sample_ids.tolist() for split, table in tables.items()} == {
        "train": ["test/a.png"],
        "validation": ["test/b.png"],
        "test": ["train/a.png"],
    }
    (root / "metadata.csv").write_text("file_name,label,split\ntrain/a.png,cat,fold 1\ntest/a.png,dog,\n")
    assert message(root) == (
        f"data.source: expected train, validation or test in the column 'split' of {root}/metadata.csv; found '', 'fold 1'. "
        "Name the splits so, or call the column otherwise to have them made here."
    )


def test_read_metadata__a_test_split_without_labels_is_left_out(photographs, caplog):
    root, _ = photographs("train/a.png", "test/a.png")
    (root / "metadata.csv").write_text("file_name,label\ntrain/a.png,cat\ntest/a.png,\n")
    assert list(read(root).tables) == ["train"]
    assert f"left out the test split of {root}: none of its 1 images has a label" in caplog.text


def test_read_metadata__paths_that_are_none(photographs, tmp_path):
    root, _ = photographs("a.png", "sub/b.png")
    secret, _ = photographs("secret.png", root=tmp_path)
    names = [
        "a.png",
        "../secret.png",
        "sub/../../secret.png",
        str(secret / "secret.png"),
        "",
        "https://host/x.png",
        "sub/../a.png",
    ]
    jsonl(root / "metadata.jsonl", *({"file_name": name, "label": "x"} for name in [*names, "a\0.png", 7, "."]))
    assert message(root).splitlines() == [
        f"data.source: expected paths of image files relative to {root}, each once, in 'file_name' of {root}/metadata.jsonl; "
        "found 9 that are not:",
        "  - line 2: '../secret.png' leaves the folder",
        "  - line 3: 'sub/../../secret.png' leaves the folder",
        f"  - line 4: '{secret}/secret.png' is absolute",
        "  - line 5: no path",
        "  - line 6: 'https://host/x.png' is an address",
        "  - line 7: 'sub/../a.png' is in line 1 already",
        "  - line 8: 'a\0.png' is no valid text",
        "  - line 9: 7 is no path",
        "  - line 10: '.' leaves the folder",
    ]


def test_read_metadata__linked_files_are_read(photographs, tmp_path):
    store, pixels = photographs("a.png", "b.png", root=tmp_path / "store")
    root = tmp_path / "folder"
    root.mkdir()
    (root / "a.png").symlink_to(store / "a.png")
    (root / "more").symlink_to(store)
    (root / "metadata.csv").write_text("file_name,label\na.png,x\nmore/b.png,y\n")
    table = read(root).tables["train"]
    assert table.sample_ids.tolist() == ["a.png", "more/b.png"]
    assert (np.asarray(decode_rgb(table.encoded(1))) == pixels["b.png"]).all()


def test_read_metadata__missing_files_are_bad_images(photographs):
    root, _ = photographs("a.png", "b.png")
    (root / "metadata.csv").write_text("file_name,label\na.png,x\nb.png,y\nlost.png,y\n")
    section = Data(source=str(root))
    with pytest.raises(DataError, match=r"found 1 unreadable image:\n  - .*/lost.png: No such file or directory"):
        build_splits(section, ["test"], training=False)
    skipping = build_splits(section.model_copy(update={"on_bad_image": "skip"}), ["test"], training=False)
    assert skipping.skipped == {"test": [(str(root / "lost.png"), "No such file or directory")]}
    (root / "metadata.csv").write_text("file_name,label\nphotographs/a.png,x\nphotographs/b.png,y\n")
    assert message(root) == (
        f"data.source: none of the 2 files that {root}/metadata.csv names in 'file_name' exists, such as "
        f"{root}/photographs/a.png; expected paths of image files relative to {root}"
    )


def test_read_metadata__beside_class_folders(photographs):
    root, _ = photographs("walk/a.png", "zoo/a.png", "zoo/b.png")
    (root / "metadata.csv").write_text("file_name,label\nwalk/a.png,cat\nzoo/a.png,dog\n")
    assert message(root) == (
        f"data.source: {root} can be read in 2 ways: metadata.csv and class folders (walk, zoo). "
        "Move elsewhere what is not meant; or name data.label_column, to have the labels that the metadata file holds."
    )
    assert read(root, label_column="label").class_names == ["cat", "dog"]
    (root / "metadata.csv").write_text("file_name,caption\nwalk/a.png,a cat\nzoo/a.png,a dog\n")  # nothing about classes
    assert read(root).class_names == ["walk", "zoo"]
    jsonl(root / "metadata.jsonl", {"file_name": "walk/a.png", "label": 1})
    assert message(root) == (
        f"data.source: expected one metadata file in {root} or one in each split folder; found metadata.csv, metadata.jsonl"
    )


def test_read_metadata__without_labels(photographs):
    root, _ = photographs("a.png")
    (root / "metadata.csv").write_text("file_name,caption\na.png,a cat\n")
    assert message(root) == (
        f"data.label_column: expected exactly one label column in {root}/metadata.csv to infer it, found 0 (none) among "
        "file_name, caption; name the one to use"
    )
    (root / "metadata.csv").write_text("file_name,label,class\na.png,cat,mammal\n")
    assert "found 2 (label, class) among file_name, label, class; name the one to use" in message(root)


# A file that names images


def test_read_listing__relative_and_absolute_paths(photographs, tmp_path):
    root, pixels = photographs("list/a.png", "other/b.png")
    file = root / "list" / "all.csv"
    file.write_text(f"\ufeffid, path, class\n1, a.png, cat\n2, {root}/other/b.png, dog\n", encoding="utf-8")
    found = read(file)
    table = found.tables["train"]
    assert (found.class_names, labels(found)) == (["cat", "dog"], ["cat", "dog"])
    assert table.sample_ids.tolist() == ["a.png", f"{root}/other/b.png"]
    assert (np.asarray(decode_rgb(table.encoded(1))) == pixels["other/b.png"]).all()
    file.write_text("path,class\na.png,cat\n../other/b.png,dog\n")
    assert message(file).splitlines()[1:] == ["  - line 3: '../other/b.png' leaves the folder"]
    assert "relative to " + str(root / "list") + ", absolute ones, or addresses, each once, in 'path'" in message(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "image,label,split\r\na.png,cat,train\r\nb.png,dog,test\r\n"),
        ("x.csv", "image;label;split\n\na.png;cat;train\nb.png;dog;test\n"),
        ("x.tsv", "image\tlabel\tsplit\na.png\tcat\ttrain\nb.png\tdog\ttest"),
        ("x.CSV", 'image,label,split\n"a.png","cat","train"\n"b.png","dog","test"\n'),
        ("x.jsonl", '{"image": "a.png", "label": "cat", "split": "train"}\n\n{"split":"test","label":"dog","image":"b.png"}'),
    ],
)
def test_read_listing__formats(photographs, name, text):
    root, _ = photographs("a.png", "b.png")
    (root / name).write_bytes(text.encode())
    found = read(root / name)
    assert {split: table.sample_ids.tolist() for split, table in found.tables.items()} == {
        "train": ["a.png"],
        "test": ["b.png"],
    }
    assert (found.class_names, labels(found, "test"), found.split_by_source) == (["cat", "dog"], ["dog"], True)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", b"path,label\na.png,caf\xe9\n", "expected FILE in UTF-8: invalid continuation byte at byte 20"),
        ("x.csv", b"", "expected a row for each image in FILE, found none"),
        ("x.csv", b"path,label\n", "expected a row for each image in FILE, found none"),
        (
            "x.csv",
            b"path,label\na.png\nb.png,x,y\n",
            "expected 2 fields in every line of FILE, as in the first; not so: line 2 (1), line 3 (3)",
        ),
        (
            "x.csv",
            b"path,label,label\na.png,x,y\n",
            "expected a name for each column in the first line of FILE; found twice: label",
        ),
        ("x.csv", b'path,label\n"a.png,x\n', "cannot read FILE, line 2: unexpected end of data"),
        ("x.jsonl", b'{"path": "a.png"}\n[1]\n', "expected a JSON object in every line of FILE; line 2: [1]"),
        (
            "x.jsonl",
            b'{"path": "a.png"\n',
            "expected a JSON object in every line of FILE; line 1: Expecting ',' delimiter: line 1 column 17 (char 16)",
        ),
    ],
)
def test_read_listing__broken_files(photographs, name, content, said):
    root, _ = photographs("a.png")
    (root / name).write_bytes(content)
    assert message(root / name).replace(str(root / name), "FILE").startswith(f"data.source: {said}")


def test_read_listing__labels_that_are_none(photographs):
    root, _ = photographs("a.png", "b.png")
    file = root / "x.jsonl"
    jsonl(file, {"path": "a.png", "label": ["cat", "dog"]}, {"path": "b.png", "label": ["cat"]})
    assert message(file) == (
        f"data.label_column: expected one label an image in 'label' of {file}, found the list ['cat', 'dog']; set data.task to "
        "'multi_label' where an image may show several classes"
    )
    jsonl(file, {"path": "a.png", "label": 2.0}, {"path": "b.png", "label": 0.5})
    assert message(file).endswith("found 0.5")


def test_read_listing__ids_and_splits_do_not_depend_on_the_place_of_the_file(photographs, tmp_path):
    names = [f"{index:02}.png" for index in range(20)]
    root, _ = photographs(*names)
    lines = [f"{name},{'cat' if index % 2 else 'dog'}" for index, name in enumerate(names)]
    (root / "x.csv").write_text("\n".join(["path,label", *lines]))
    (root / "turned.csv").write_text("\n".join(["path,label", *reversed(lines)]))
    moved = root.rename(tmp_path / "moved")
    first, turned = (
        build_splits(Data(source=str(moved / name), test_fraction=0.2), ["test"], training=True)
        for name in ("x.csv", "turned.csv")
    )
    for split in ("train", "validation", "test"):
        assert set(first.tables[split].sample_ids) == set(turned.tables[split].sample_ids)


def test_read_listing__several_labels(photographs):
    root, _ = photographs("a.png", "b.png", "c.png")
    shown = [[True, True], [False, False], [False, True]]
    jsonl(
        root / "x.jsonl",
        {"path": "a.png", "label": ["dog", "cat"]},
        {"path": "b.png", "label": []},
        {"path": "c.png", "label": "dog"},
    )
    (root / "x.csv").write_text("path,label\na.png,cat|dog\nb.png,|\nc.png,dog\n")
    (root / "y.csv").write_text('path;label\na.png;"cat; dog"\nb.png;";"\nc.png;dog\n')
    for name in ("x.jsonl", "x.csv", "y.csv"):
        found = read(root / name, task="multi_label")
        assert (found.class_names, found.tables["train"].labels.tolist()) == (["cat", "dog"], shown)
    (root / "x.csv").write_text("path,label\na.png,cat|dog\nb.png,\nc.png,dog\n")
    assert message(root / "x.csv", task="multi_label").endswith(
        "have no label in 'label': b.png. An empty list, or | alone, says that an image shows none of the classes"
    )


def test_read_metadata__several_labels(photographs):
    root, _ = photographs("a.png", "b.png")
    (root / "metadata.csv").write_text("file_name,tags\na.png,cat|dog\nb.png,dog\n")
    found = read(root, task="multi_label", label_column="tags")
    assert found.tables["train"].labels.tolist() == [[True, True], [False, True]]
