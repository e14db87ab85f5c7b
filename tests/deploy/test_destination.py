import os
from pathlib import Path

import pytest

from hf_transfer.deploy.destination import check_destination, expanded
from hf_transfer.errors import UserError


@pytest.fixture
def ordinary_user(tmp_path, monkeypatch):
    """Be nobody while the test runs, where it is run by root, in a folder that is nobody's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.chown(tmp_path / "mine", 65534, 65534)
        os.setresuid(65534, 65534, 0)  # os.access asks for the real one
    yield
    if root:
        os.setresuid(0, 0, 0)
    tmp_path.chmod(0o755)


def test_check_destination__what_can_be_made(tmp_path):
    (tmp_path / "there.csv").write_text("old")
    for name in ("new.csv", "a/b/c", "there.csv", "."):
        check_destination(tmp_path / name, "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_check_destination__file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        check_destination(tmp_path / "file" / "a" / "b", "--output")
    assert str(error.value) == (
        f"--output: {tmp_path / 'file'} is a file, so {tmp_path / 'file' / 'a' / 'b'} cannot be written; choose another place"
    )


def test_check_destination__folder_of_somebody_else(ordinary_user):
    check_destination(Path("mine/a/b"), "--output")
    with pytest.raises(UserError) as error:
        check_destination(Path("a/b"), "--export")
    assert str(error.value) == "--export: nothing may be written in .; choose another place"


def test_expanded__as_a_shell_does():
    assert expanded("~/a") == Path.home() / "a"
    assert expanded("~nosuch/a") == Path("~nosuch/a")
