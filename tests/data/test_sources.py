"""Which reader a source belongs to."""

import pytest

from hf_transfer.data.sources import is_hub_source, read_source
from hf_transfer.errors import DataError
from hf_transfer.recipe.schema import Data


def message(source):
    with pytest.raises(DataError) as caught:
        read_source(Data(source=source))
    return str(caught.value)


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


def test_read_source__a_file_or_an_address(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("image,label")
    for source in (str(file), "s3://bucket/images", "https://example.com/images.zip"):
        assert message(source) == (
            "data.source: expected a folder of class folders, a Hub data set id, package:textile or package:digits; "
            f"found '{source}'. Files and addresses are not available in this version."
        )


def test_is_hub_source__ids_and_nothing_else(tmp_path, monkeypatch):
    assert is_hub_source("cifar10")
    assert is_hub_source("uoft-cs/cifar10")
    for source in ("package:digits", str(tmp_path), "./nothing", "/no/such", "~/nothing", "a/b/c", "s3://bucket/x"):
        assert not is_hub_source(source)
    (tmp_path / "uoft-cs" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_source("uoft-cs/cifar10")  # a folder of that name comes first
