"""What columns say of images."""

import datetime

import pytest

from hf_transfer.data.sources.columns import (
    Columns,
    Rows,
    choose_columns,
    labelled_tables,
    labels_of,
    splits_of,
    text_of,
    with_several_labels,
)
from hf_transfer.data.sources.folders import SourceTables
from hf_transfer.errors import DataError
from hf_transfer.recipe.schema import Data


def test_text_of__what_stands_for_a_class():
    values = ["a", "", None, 3, -1, 4.0, float("nan"), True, "nan"]
    assert text_of(values, "label_column", "'x'") == ["a", None, None, "3", "-1", "4", None, "True", "nan"]


@pytest.mark.parametrize("value", [0.5, ["a"], {"a": 1}, b"a", datetime.date(2026, 1, 1), float("inf")])
def test_text_of__what_does_not(value):
    with pytest.raises(DataError, match=r"data\.label_column: expected one text or integer an image in 'x', found"):
        text_of([value], "label_column", "'x'")


def test_splits_of__names_of_splits():
    assert splits_of(["Train", " val ", "testing", "dev"], "x") == ["train", "validation", "test", "validation"]
    with pytest.raises(DataError, match="in the column 'split' of x; found '', '1', 'holdout'"):
        splits_of(["train", None, 1, "holdout"], "x")


def test_choose_columns__typed_labels_come_before_named_ones():
    def chosen(**options):
        section = Data(source="x", **options)
        names = ["image", "label", "breed", "split", "dog"]
        return choose_columns(section, names, "x", images=["image"], labels=["breed", "split", "dog"])

    with pytest.raises(DataError, match=r"found 2 \(breed, dog\) among image, label, breed, split, dog; name the one to use"):
        chosen()
    found = chosen(group_column="dog")
    assert (found.image, found.label, found.group, found.split) == ("image", "breed", "dog", "split")
    assert chosen(label_column="split").split is None


# Several labels an image


def several(values, class_names=()):
    return labels_of(values, class_names, Columns("image", "tags", None, None, multi_label=True), "x")


def test_labels_of__lists_texts_and_single_labels():
    values = [["a", "b"], [], ("b",), "a | c", "|", "c", None, "", float("nan"), [3, 4.0]]
    assert several(values) == [("a", "b"), (), ("b",), ("a", "c"), (), ("c",), None, None, None, ("3", "4")]
    assert several(["a; c", ";", "x"]) == [("a", "c"), (), ("x",)]
    assert several([["a|b"], ["c;d"]]) == [("a|b",), ("c;d",)]  # a name in a list is a whole name
    assert several([-1, 2]) == [("-1",), ("2",)]


def test_labels_of__integers_that_point_to_names():
    assert several([[0, 2], [], 1, -1, None], ["wolf", "10", "9"]) == [("wolf", "9"), (), ("10",), None, None]
    with pytest.raises(DataError, match=r"expected labels from 0 to 1 in 'tags' of x, found 2$"):
        several([[0, 2]], ["a", "b"])


def test_labels_of__what_is_wrong_is_named():
    with pytest.raises(
        DataError, match=r"expected one of \| and ; between the labels in 'tags' of x, found both: 'a\|b', 'c;d'"
    ):
        several(["a|b", "c;d"])
    with pytest.raises(DataError, match=r"expected a name in each place of the lists in 'tags' of x, found \['a', None\]"):
        several([["a", None]])
    with pytest.raises(DataError, match=r"expected one text or integer an image in 'tags' of x, found 0.5"):
        several([[0.5]])
    one = Columns("image", "tags", None, None)
    with pytest.raises(DataError, match=r"in 'tags' of x, found the list \['a', 'b'\]; set data.task to 'multi_label'"):
        labels_of([["a", "b"]], (), one, "x")
    assert labels_of(["a|b", 3], (), one, "x") == ["a|b", "3"]


def test_labelled_tables__several_labels_are_flags():
    labels = [("10", "9"), (), ("a",), None]
    rows = Rows(None, list("wxyz"), ["train", "train", "train", "test"], labels)
    found = labelled_tables([rows], (), "x", Columns("image", "tags", None, None, multi_label=True))
    assert (found.class_names, list(found.tables)) == (["9", "10", "a"], ["train"])  # no label in test
    table = found.tables["train"]
    assert table.labels.tolist() == [[True, True, False], [False, False, False], [False, False, True]]
    assert (table.class_counts(3).tolist(), table.classes_of(0), table.classes_of(1)) == ([1, 1, 1], [0, 1], [])
    assert table.shows(2).tolist() == [False, False, True]


def test_with_several_labels__one_label_an_image_is_told(labelled, caplog):
    source = with_several_labels(SourceTables({"train": labelled([1, 0])}, ["a", "b"], split_by_source=False), "the source")
    assert source.tables["train"].labels.tolist() == [[False, True], [True, False]]
    assert "the source gives one label an image, so no image shows two classes" in caplog.text
    assert with_several_labels(source, "the source") is source
