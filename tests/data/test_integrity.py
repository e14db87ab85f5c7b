"""Unreadable images, duplicates, and the fingerprint of what a run reads."""

import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hf_transfer.data.integrity import Scan, cross_split_duplicates, cross_split_groups, fingerprint, scan
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.data.sources.package_data import read_package


@pytest.fixture
def spoilt(grow, tmp_path, noise):
    """Four classes' worth of trouble: return the folder and what is wrong with which file."""
    root = grow({"good": 2, "bad": 1})
    (root / "bad" / "empty.jpg").write_bytes(b"")
    (root / "bad" / "text.jpg").write_text("this is no image, whatever its name says")
    (root / "bad" / "absent.png").symlink_to(tmp_path / "nowhere.png")
    noise(64, 64).save(root / "bad" / "truncated.jpg", quality=90)
    whole = (root / "bad" / "truncated.jpg").read_bytes()
    (root / "bad" / "truncated.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    return root


def reasons(root, *, decode):
    table = read_class_folders(root).tables["train"]
    return {str(table.sample_ids[index]): reason for index, reason in scan(table, decode=decode).bad.items()}


@pytest.mark.parametrize("decode", [False, True])
def test_scan__finds_them_all(spoilt, decode):
    found = reasons(spoilt, decode=decode)
    assert found.pop("bad/truncated.jpg").startswith("image file is truncated")
    assert found == {
        "bad/absent.png": "No such file or directory",
        "bad/empty.jpg": "the file is empty",
        "bad/text.jpg": "not an image in a known format (it begins with the text 'this is no image, whatever its name says')",
    }


def test_scan__whole_images_of_every_kind_are_good(tmp_path, noise):
    (tmp_path / "a").mkdir()
    for number, mode in enumerate(("RGB", "L", "LA", "RGBA", "P", "1", "CMYK")):
        noise().convert(mode).save(tmp_path / "a" / f"{number}.{'tiff' if mode == 'CMYK' else 'png'}")
    noise().quantize(8).save(tmp_path / "a" / "p.png", transparency=bytes(range(8)))  # Pillow warns of such
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scan(read_class_folders(tmp_path).tables["train"], decode=True).bad == {}


def test_scan__leaves_the_files_as_they_are(spoilt):
    files = [path for path in sorted(spoilt.rglob("*")) if path.is_file()]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    reasons(spoilt, decode=True)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before
    assert [path for path in sorted(spoilt.rglob("*")) if path.is_file()] == files


def test_scan__digests_are_those_of_the_bytes():
    table = read_package("digits").tables["train"].select(np.array([0, 1, 0]))
    digests = scan(table, decode=False).digests
    assert digests[0] == digests[2] != digests[1]
    assert all(len(digest) == 16 for digest in digests)


class Unread:
    """Images that are not to be read yet."""

    def encoded(self, row):
        raise OSError("it was read")

    def prefetch(self, rows):
        pass


def test_scan__images_that_are_read_while_training_are_read_to_decode_them_only(labelled):
    digests = np.array([b"shard 1, place 0", b"shard 1, place 9"], dtype="S16")
    table = replace(labelled([0, 1]), images=Unread(), digests=digests)
    assert scan(table, decode=False) == Scan(digests.tolist(), {})
    assert scan(table, decode=True) == Scan([b"", b""], {0: "it was read", 1: "it was read"})


# Duplicates


def test_cross_split_duplicates__only_those_that_cross(labelled):
    tables = {
        "train": labelled([0, 0, 1, 1], ["t0", "t1", "t2", "t3"]),
        "validation": labelled([0, 1], ["v0", "v1"]),
        "test": labelled([0, 1], ["x0", "x1"]),
    }
    scans = {
        "train": Scan([b"a", b"b", b"b", b""], {3: "unreadable"}),  # b stands twice in one split
        "validation": Scan([b"a", b""], {1: "unreadable"}),  # what cannot be read is no duplicate
        "test": Scan([b"c", b"a"], {}),
    }
    assert cross_split_duplicates(tables, scans) == [["train: t0", "validation: v0", "test: x1"]]
    assert cross_split_duplicates({"train": tables["train"]}, {"train": scans["train"]}) == []


# The fingerprint


def printed(tables, names=("cat", "dog")):
    return fingerprint(tables, {split: scan(table, decode=False) for split, table in tables.items()}, list(names))


def test_fingerprint__is_of_content_and_not_of_place(grow, tmp_path):
    root = grow({"cat": 2, "dog": 2})
    copy = tmp_path / "copy"
    for path in root.rglob("*.png"):
        (copy / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(root)).write_bytes(path.read_bytes())
        os.utime(copy / path.relative_to(root), (1, 1))
    first, second = (printed(read_class_folders(folder).tables) for folder in (root, copy))
    assert first == second
    assert len(first) == 32


def test_fingerprint__changes_with_one_pixel_though_the_time_stays(grow):
    root = grow({"cat": 2, "dog": 2})
    before = printed(read_class_folders(root).tables)
    path = root / "cat" / "000.png"
    stat = path.stat()
    with Image.open(path) as image:
        changed = image.copy()
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert printed(read_class_folders(root).tables) != before


def test_fingerprint__changes_with_everything_a_run_depends_on():
    table = read_package("digits").tables["train"].select(np.arange(8))
    ids, labels = table.sample_ids, table.labels

    def variant(**changes):
        return type(table)(**{name: getattr(table, name) for name in ("images", "rows", "labels", "sample_ids")} | changes)

    def parts(first, second):
        return {"train": table.select(np.array(first)), "test": table.select(np.array(second))}

    prints = [
        printed({"train": table}),
        printed({"train": table}, names=("cat", "bird")),
        printed({"test": table}),
        printed({"train": variant(labels=labels[::-1])}),
        printed({"train": variant(sample_ids=ids[::-1])}),
        printed({"train": variant(rows=table.rows[::-1])}),
        printed({"train": table.select(np.arange(7))}),
        printed(parts([0, 1, 2, 3], [4, 5, 6, 7])),
        printed(parts([0, 1, 2], [3, 4, 5, 6, 7])),
        printed(parts([4, 5, 6, 7], [0, 1, 2, 3])),
    ]
    assert len(set(prints)) == len(prints)
    assert printed({"train": variant(labels=labels.copy())}) == prints[0]


def test_cross_split_groups__only_those_on_both_sides(labelled):
    train = replace(labelled([0, 0, 1]), groups=np.array(["ann", "bob", "ann"]))
    test = replace(labelled([0, 1]), groups=np.array(["ann", "eve"]))
    assert cross_split_groups({"train": train, "test": test}) == {"ann": {"train": 2, "test": 1}}
    assert cross_split_groups({"train": train, "test": labelled([0])}) == {}


def test_fingerprint__of_several_labels(grow):
    table = read_class_folders(grow({"cat": 2, "dog": 2})).tables["train"]
    several = replace(table, labels=np.eye(2, dtype=bool)[table.labels])
    other = replace(several, labels=np.ones((4, 2), dtype=bool))
    prints = [printed({"train": one}) for one in (table, several, other)]
    assert len(set(prints)) == 3
    assert printed({"train": replace(several)}) == prints[1]
