import shutil

import numpy as np
import pytest
from PIL import Image

from hf_transfer.data.build import build_splits
from hf_transfer.data.lookup import each_image, read_images
from hf_transfer.recipe.schema import Data


def pixels_of(image):
    return np.asarray(image, dtype=int)


@pytest.fixture
def source(grow):
    return grow({"cat": 5, "dog": 5})


def test_read_images__from_their_paths(source):
    path = str(source / "cat" / "000.png")
    found = read_images(None, ["a"], {"a": path})
    assert list(found) == ["a"]
    with Image.open(path) as image:
        assert (pixels_of(found["a"]) == pixels_of(image)).all()


def test_read_images__thumbnails_keep_their_shape(tmp_path, noise):
    noise(300, 100).save(tmp_path / "tall.png")
    assert read_images(None, ["a"], {"a": str(tmp_path / "tall.png")}, size=60)["a"].size == (20, 60)


def test_each_image__as_large_as_it_is(tmp_path, noise):
    noise(300, 200).save(tmp_path / "large.png")
    ((sample_id, image),) = each_image(None, ["a", "gone"], {"a": str(tmp_path / "large.png"), "gone": None})
    assert (sample_id, image.size) == ("a", (200, 300))


def test_each_image__opens_the_source_once(caplog):
    assert not list(each_image(Data(source="/nowhere"), ["a", "b", "c"], {}))
    assert len(caplog.messages) == 1


def test_read_images__from_the_source_where_the_path_is_gone(source, tmp_path):
    section = Data(source=str(source), test_fraction=0.2)
    test = build_splits(section, ["test"], training=True).tables["test"]
    wanted = [str(sample_id) for sample_id in test.sample_ids]
    paths = {sample_id: test.path(row) for row, sample_id in enumerate(wanted)}
    before = read_images(section, wanted, paths)
    moved = tmp_path / "moved"
    shutil.move(source, moved)
    after = read_images(Data(source=str(moved), test_fraction=0.2), wanted, paths)
    assert len(wanted) == 2
    assert before.keys() == after.keys() == set(wanted)
    for sample_id in wanted:
        assert (pixels_of(before[sample_id]) == pixels_of(after[sample_id])).all()


def test_read_images__stored_inside_a_data_set():
    found = read_images(Data(source="package:digits"), ["digits/3", "digits/1796"], {"digits/3": None})
    assert sorted(found) == ["digits/1796", "digits/3"]
    assert found["digits/3"].size == (8, 8)


def test_read_images__gone_or_unreadable_are_left_out(source):
    (source / "cat" / "001.png").write_bytes(b"no image")
    paths = {"good": str(source / "cat" / "000.png"), "bad": str(source / "cat" / "001.png"), "gone": "/nowhere/at/all.png"}
    assert list(read_images(Data(source=str(source)), paths, paths)) == ["good"]


def test_read_images__a_source_that_is_gone_is_no_error(source, caplog):
    paths = {"good": str(source / "cat" / "000.png"), "gone": None}
    assert list(read_images(Data(source="/nowhere"), paths, paths)) == ["good"]
    assert caplog.messages == ["images of /nowhere cannot be shown: data.source: no such folder: /nowhere"]
