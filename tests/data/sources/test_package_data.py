"""Images that pip packages carry."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hf_transfer.data.images import decode_rgb
from hf_transfer.data.integrity import scan
from hf_transfer.data.sources.package_data import read_package
from hf_transfer.errors import DataError


@pytest.fixture(scope="module")
def textile():
    return read_package("textile")


def test_read_package__textile_is_2000_images_in_three_classes(textile):
    table = textile.tables["train"]
    assert list(textile.tables) == ["train"]
    assert textile.class_names == ["global", "local", "nominal"]
    assert table.class_counts(3).tolist() == [500, 500, 1000]
    assert not textile.split_by_source
    assert len(set(table.sample_ids.tolist())) == 2000
    assert all(
        str(name).startswith(textile.class_names[label]) for name, label in zip(table.sample_ids, table.labels, strict=True)
    )


def test_read_package__textile_images_decode(textile):
    table = textile.tables["train"]
    for index in (0, 999, 1999):
        assert decode_rgb(table.encoded(index)).size == (250, 250)


def test_read_package__textile_has_no_unreadable_image(textile):
    assert scan(textile.tables["train"], decode=False).bad == {}


def test_read_package__digits_are_those_of_scikit_learn():
    found = read_package("digits")
    table = found.tables["train"]
    digits = load_digits()
    assert found.class_names == [str(digit) for digit in range(10)]
    np.testing.assert_array_equal(table.labels, digits.target)
    assert len(set(table.sample_ids.tolist())) == len(table) == 1797
    for index in (0, 1, 1796):
        pixels = np.asarray(decode_rgb(table.encoded(index)))
        assert pixels.shape == (8, 8, 3)
        np.testing.assert_allclose(pixels[..., 0], digits.images[index] * 255 / 16, atol=0.5)
        assert (pixels == pixels[..., :1]).all()


def test_read_package__an_unknown_name():
    with pytest.raises(DataError) as caught:
        read_package("textil")
    assert str(caught.value) == (
        "data.source: no packaged data set is called 'textil' (did you mean 'textile'?); known: package:textile, package:digits"
    )


def test_read_package__the_package_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "conformal_clip_data", None)
    with pytest.raises(DataError) as caught:
        read_package("textile")
    assert str(caught.value) == (
        "data.source: package:textile needs the package conformal-clip-data; "
        'install it with: pip install "hf-transfer-learning[demo]"'
    )


def test_digits__have_no_groups():
    with pytest.raises(DataError) as caught:
        read_package("digits", group_by="folder")
    assert str(caught.value) == ("data.group_column: package:digits says nothing of images that belong together; leave it out")
