"""Addresses: what is one, what of it is shown, which files braces stand for."""

import pytest

from hf_transfer.data.sources.addresses import (
    below,
    check_source_address,
    expanded,
    folder_of,
    is_address,
    path_of,
    shown,
    shown_apart,
)
from hf_transfer.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("a.tar", ["a.tar"]),
        ("s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("{a,b{1,2},c}", ["a", "b1", "b2", "c"]),
        ("x{,.gz}", ["x", "x.gz"]),
        ("{only}", ["{only}"]),
        ("{a}{b,c}", ["{a}b", "{a}c"]),
        ("un{bal,anced", ["un{bal,anced"]),
        ("{}", ["{}"]),
    ],
)
def test_expanded__as_braceexpand_and_bash_do(pattern, files):
    assert expanded(pattern) == files


def test_expanded__too_many():
    with pytest.raises(DataError, match=r"at most 1,000,000 files, found more in x-"):
        expanded("x-{0..99}-{0..99999}.tar")


def test_shown__holds_no_secret():
    token = "hf_" + "aB1" * 11
    assert shown("https://ann:pass@host:1/a/x.tar?X-Amz-Signature=abc#part") == "https://host:1/a/x.tar"
    assert shown("s3://KEY:SECRET@bucket/x.tar") == "s3://bucket/x.tar"
    assert shown("abfs://container@account.dfs.core.windows.net/x") == "abfs://container@account.dfs.core.windows.net/x"
    assert shown(f"https://host/{token}/x") == "https://host/(removed)/x"
    assert shown("/data/a?b.tar") == "/data/a?b.tar"
    apart = shown_apart(["http://h/get?id=1&token=abc", "http://h/get?id=2&token=abc", "http://h/x?token=abc"])
    assert len(set(apart)) == 3
    assert all("abc" not in name for name in apart)
    assert apart[2] == "http://h/x"


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://ann:pass@host/x.tar", "a user before the '@'"),
        ("https://ann@host/x.tar", "a user before the '@'"),
        ("s3://KEY:SECRET@bucket/x.tar", "a user before the '@'"),
        ("https://host/x.tar?X-Amz-Signature=SECRET&X-Amz-Date=1", "X-Amz-Signature"),
        ("https://host/x.tar?sig=SECRET", "sig"),
        ("https://host/x.tar?access_token=SECRET", "access_token"),
    ],
)
def test_check_source_address__credentials(address, found):
    with pytest.raises(DataError) as caught:
        check_source_address(address)
    assert f"found {found} in that of {shown(address)}" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert "pass" not in str(caught.value).replace("copied beside", "")


def test_check_source_address__others_are_fine():
    for address in ("https://zenodo.org/x.tar?download=1", "hf://datasets/a/b@main/x.tar", "http://[::1]:80/x.tar", "s3://b/x"):
        check_source_address(address)
    with pytest.raises(DataError, match="found one inside another: tar://x"):
        check_source_address("tar://x::http://host/y.tar")


def test_parts_of_addresses():
    assert is_address("s3://bucket/x")
    assert not any(map(is_address, ("/a/b", "a/b", "c:\\x", "package:digits", "x://"[:2])))
    assert path_of("http://host/a%20b/c.tar?x=1").parts == ("host", "a b", "c.tar")
    assert path_of("s3://bucket/a/c.tar").name == "c.tar"
    assert folder_of("http://host/a/list.csv?x=/y") == "http://host/a"
    assert below("http://host/a", "x/../b c#.jpg") == "http://host/a/b%20c%23.jpg"
    assert below("s3://bucket/a", "b c#.jpg") == "s3://bucket/a/b c#.jpg"


@pytest.mark.parametrize(("path", "problem"), [("../x", "leaves"), ("a/../../x", "leaves"), ("/x", "absolute"), ("", "leaves")])
def test_below__stays_there(path, problem):
    with pytest.raises(ValueError, match=problem):
        below("http://host/a", path)
