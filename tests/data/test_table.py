"""Selection by row, and what a message calls an image."""

from dataclasses import replace

import numpy as np

from hf_transfer.data.sources.package_data import read_package


def test_select__keeps_images_labels_and_ids_together():
    table = read_package("digits").tables["train"]
    chosen = table.select(np.array([5, 2, 900]))
    assert len(chosen) == 3
    assert chosen.sample_ids.tolist() == ["digits/5", "digits/2", "digits/900"]
    assert chosen.labels.tolist() == table.labels[[5, 2, 900]].tolist()
    assert [chosen.encoded(i) for i in range(3)] == [table.encoded(i) for i in (5, 2, 900)]
    again = chosen.select(np.array([2]))
    assert again.encoded(0) == table.encoded(900)


def test_name__is_the_sample_id_where_there_is_no_file():
    table = read_package("digits").tables["train"]
    assert table.path(7) is None
    assert table.name(7) == "digits/7"


def test_class_counts__counts_absent_classes_too(labelled):
    assert labelled([0, 2, 2]).class_counts(4).tolist() == [1, 0, 2, 0]


def test_encoded__a_row_without_an_image_is_unreadable():
    import datasets

    from hf_transfer.data.integrity import scan
    from hf_transfer.data.table import ImageTable, StoredImages

    images = datasets.Dataset.from_dict({"image": [None]}, features=datasets.Features({"image": datasets.Image(decode=False)}))
    table = ImageTable(StoredImages(images, "image"), np.arange(1), np.zeros(1, dtype=np.int64), np.array(["train/0"]))
    assert table.name(0) == "train/0"
    assert scan(table, decode=False).bad == {0: "there is no image in this row"}


def test_select__takes_groups_and_digests_along(labelled):
    table = replace(labelled([0, 1, 0]), groups=np.array(["a", "b", "a"]), digests=np.array([b"x", b"y", b"z"]))
    part = table.select(np.array([2, 1]))
    assert (part.groups.tolist(), part.digests.tolist(), part.labels.tolist()) == (["a", "b"], [b"z", b"y"], [0, 1])
