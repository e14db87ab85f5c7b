"""What columns say of images."""

import datetime

import pytest

from hf_transfer.data.columns import choose_columns, splits_of, text_of
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
