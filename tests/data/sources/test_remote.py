"""Files far away: facts, parts, copies, and what is told when they fail; lists of images that name addresses."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import datasets
import fsspec
import pytest
from loopback_files import Fault, LoopbackFiles
from reading import message, read
from shard_files import contents, jpeg

from hf_transfer.data.build import build_splits
from hf_transfer.data.sources import filesystems, remote
from hf_transfer.data.sources.parts_reader import PartsReader
from hf_transfer.data.sources.remote import SourceFile, copy_of, copy_of_image, look_at, matching, read_part
from hf_transfer.errors import DataError, UserError
from hf_transfer.recipe.schema import Data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(filesystems, "WAITS", (0.01, 0.01, 0.01))
    return tmp_path / "kept"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "x.bin").write_bytes(bytes(range(256)) * 40)
    return tmp_path / "served"


@pytest.fixture
def server(folder):
    with LoopbackFiles(folder) as running:
        yield running


@pytest.fixture
def memory():
    """The file system `memory://`, which is shared by all of a process."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def kept_files(cache):
    return [path for path in cache.glob("**/*") if path.is_file() and path.name != ".lock"]


def problem(action, *arguments):
    with pytest.raises(OSError) as caught:
        action(*arguments)
    assert caught.value.__cause__ is None  # which could hold what the message does not
    return str(caught.value)


# Facts and parts


def test_look_at__what_tells_that_a_file_has_changed(folder, server, memory):
    found = look_at(f"{server.url}/x.bin")
    assert (found.size, found.version) == (10240, f"ETag {found.tag}")
    (folder / "x.bin").write_bytes(bytes(10240))
    assert look_at(f"{server.url}/x.bin").version != found.version
    server.tags = False
    assert look_at(f"{server.url}/x.bin") == SourceFile(f"{server.url}/x.bin", 10240, "")
    with memory.open("/a.bin", "wb") as file:
        file.write(b"abc")
    assert look_at("memory://a.bin").size == 3
    assert look_at(str(folder / "x.bin")).version.startswith("mtime ")
    assert look_at(f"file://{folder}/x.bin").size == 10240
    assert problem(look_at, f"file://{folder}") == f"file://{folder}: it is a folder"


def test_read_part__equal_bytes_and_no_others(folder, server, memory):
    content = (folder / "x.bin").read_bytes()
    with memory.open("/x.bin", "wb") as file:
        file.write(content)
    for address in (f"{server.url}/x.bin", str(folder / "x.bin"), f"file://{folder}/x.bin", "memory://x.bin"):
        assert read_part(look_at(address), 100, 356) == content[100:356]
    assert [(asked.part, asked.sent) for asked in server.gets()] == [((100, 356), 256)]


def test_read_part__passing_failures_are_tried_again(server):
    file = look_at(f"{server.url}/x.bin")
    server.faults += [Fault("/x.bin", status=503, times=2), Fault("/x.bin", cut=3, times=1)]
    assert len(read_part(file, 0, 100)) == 100
    assert [asked.sent for asked in server.gets()] == [0, 0, 3, 100]
    server.faults.append(Fault("/x.bin", status=503))
    assert problem(read_part, file, 0, 100) == f"{server.url}/x.bin: the server answers 503 Service Unavailable"
    assert len(server.gets()) == 4
    server.faults[:] = [Fault("/x.bin", status=403)]
    assert problem(read_part, file, 0, 100) == f"{server.url}/x.bin: access is refused (403 Forbidden)"
    assert len(server.gets()) == 1  # that does not pass


def test_look_at__no_such_file_and_nobody_there(server):
    assert problem(look_at, f"{server.url}/y.bin") == f"{server.url}/y.bin: there is no such file"
    server.asked.clear()
    server.faults += [Fault("/x.bin", status=503, method="HEAD", times=1), Fault("/x.bin", status=503, times=1)]
    assert look_at(f"{server.url}/x.bin").size == 10240
    assert problem(look_at, "http://127.0.0.1:9/x.bin") == "http://127.0.0.1:9/x.bin: the connection failed"


def test_read_part__a_server_that_falls_silent(server, monkeypatch):
    monkeypatch.setattr(filesystems, "SILENCE", 0.2)
    file = look_at(f"{server.url}/x.bin")
    server.faults.append(Fault("/x.bin", delay=30, times=1))
    assert len(read_part(file, 0, 100)) == 100
    server.faults.append(Fault("/x.bin", delay=30))
    assert problem(read_part, file, 0, 100) == f"{server.url}/x.bin: no answer in time"


def test_parts_reader__reads_like_a_file(folder, server):
    content = (folder / "x.bin").read_bytes()
    far, near = PartsReader(look_at(f"{server.url}/x.bin"), ahead=1000), io.BytesIO(content)
    for offset, whence, size in ((0, 0, 10), (5, 1, 300), (-20, 2, 100), (9000, 0, -1), (100, 0, 50), (20000, 0, 5)):
        assert far.seek(offset, whence) == near.seek(offset, whence)
        assert far.read(size) == near.read(size)
    assert [asked.part for asked in server.gets()] == [(0, 1010), (10220, 10240), (9000, 10240), (100, 1150)]


# Copies


def test_copy_of__made_once_and_anew_when_the_file_changes(folder, server, cache):
    address = f"{server.url}/x.bin"
    first = copy_of(look_at(address))
    assert first.read_bytes() == (folder / "x.bin").read_bytes()
    assert first.name == "x.bin"
    assert copy_of(look_at(address)) == first
    assert len(server.gets()) == 1
    (folder / "x.bin").write_bytes(bytes(10240))
    assert copy_of(look_at(address)).read_bytes() == bytes(10240)
    first.write_bytes(b"cut")  # by a full disk, say
    (folder / "x.bin").write_bytes(bytes(range(256)) * 40)
    assert copy_of(look_at(address)).read_bytes() == bytes(range(256)) * 40


def test_copy_of__by_several_at_once_is_made_once(server):
    file = look_at(f"{server.url}/x.bin")
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(copy_of, [file] * 4))
    assert len(set(copies)) == len(server.gets()) == 1


def test_copy_of__what_was_cut_short_is_not_kept(folder, server, cache):
    address = f"{server.url}/x.bin"
    file = look_at(address)
    server.faults.append(Fault("/x.bin", cut=100))
    assert problem(copy_of, file) == f"{address}: the transfer was cut short"
    assert kept_files(cache) == []
    server.faults.clear()
    (folder / "x.bin").write_bytes(bytes(20))  # shorter than the server said at first
    assert problem(copy_of, file) == f"{address}: 20 bytes came instead of 10,240"
    (folder / "x.bin").write_bytes(bytes(10240))
    assert problem(copy_of, file) == f"{address}: it changed while it was read; start again"
    assert kept_files(cache) == []


def test_copy_of_image__has_a_largest_size(server, cache, monkeypatch):
    monkeypatch.setattr(remote, "LARGEST_IMAGE", 10000)
    assert problem(copy_of_image, f"{server.url}/x.bin") == f"{server.url}/x.bin: it has more than 10,000 bytes"
    assert kept_files(cache) == []


def test_filesystem__packages_that_are_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError) as caught:
        look_at("s3://bucket/x.tar")
    assert str(caught.value) == "data: s3://bucket/x.tar needs s3fs: pip install 'hf-transfer-learning[s3]'"
    with pytest.raises(UserError, match=r"needs gcsfs: pip install 'hf-transfer-learning\[gs\]'"):
        look_at("gs://bucket/x.tar")
    with pytest.raises(DataError, match=r"no file system is known for nonsense://, in nonsense://bucket/x\.tar"):
        look_at("nonsense://bucket/x.tar")


def test_matching__where_a_file_system_lists(memory, server):
    for name in ("b", "a", "c.txt"):
        with memory.open(f"/folder/{name}.tar", "wb") as file:
            file.write(b"x")
    assert matching("memory://folder/?.tar") == ["memory:///folder/a.tar", "memory:///folder/b.tar"]
    address = f"{server.url}/shard-*.tar"
    assert message(address) == (
        f"data.source: no file fits the pattern {address}; where a web server lists no folders, number the files: "
        "'shard-{000..012}.tar'"
    )


# Lists of images that are far away


def test_read_listing__images_by_address_and_by_path(folder, server, tmp_path):
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "here.jpg").write_bytes(jpeg(3))
    listing = tmp_path / "all.csv"
    listing.write_text(
        f"path,label\n{server.url}/0.jpg,cat\n{server.url}/1.jpg?token=SECRET,dog\nhere.jpg,dog\n{server.url}/2.jpg,cat\n"
    )
    table = read(listing).tables["train"]
    assert server.asked == []  # nothing is fetched before it is needed
    assert contents(table) == {
        f"{server.url}/0.jpg": jpeg(0),
        f"{server.url}/1.jpg": jpeg(1),
        "here.jpg": jpeg(3),
        f"{server.url}/2.jpg": jpeg(2),
    }
    assert [table.path(row) for row in range(4)] == [None, None, str(tmp_path / "here.jpg"), None]
    assert len(server.gets()) == 3
    again = read(listing).tables["train"]
    again.prefetch(range(4))
    assert contents(again) == contents(table)
    assert server.gets() == []


def test_read_listing__a_column_of_addresses_where_there_is_no_other(folder, server, tmp_path):
    (folder / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "here.jpg").write_bytes(jpeg(1))
    listing = tmp_path / "all.csv"
    listing.write_text(f"url,label\n{server.url}/0.jpg,cat\n")
    assert contents(read(listing).tables["train"]) == {f"{server.url}/0.jpg": jpeg(0)}
    listing.write_text(f"url,label,path\n{server.url}/0.jpg,cat,here.jpg\n")
    assert contents(read(listing).tables["train"]) == {"here.jpg": jpeg(1)}


def test_read_listing__far_away(folder, server):
    (folder / "set" / "train" / "images").mkdir(parents=True)
    (folder / "set" / "test").mkdir()
    for number, name in enumerate(("train/images/a b.jpg", "test/#1.jpg")):
        (folder / "set" / name).write_bytes(jpeg(number))
    rows = [{"image": "train/images/a b.jpg", "label": "x"}, {"image": "./test/#1.jpg", "label": "x"}]
    (folder / "set" / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(f"{server.url}/set/list.jsonl?download=1")
    assert contents(found.tables["train"]) == {"train/images/a b.jpg": jpeg(0)}
    assert contents(found.tables["test"]) == {"test/#1.jpg": jpeg(1)}


def test_read_listing__far_away_names_no_files_of_this_machine(folder, server):
    names = [
        "../x.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "zip://x.jpg::file:///x.zip",
        "a.jpg",
        "http://host/b.jpg?sig=SECRET",
    ] * 2
    (folder / "list.csv").write_text("path,label\n" + "".join(f"{name},x\n" for name in names[:7] + names[11:]))
    assert message(f"{server.url}/list.csv").splitlines() == [
        f"data.source: expected paths of image files relative to {server.url}, or addresses, each once, in 'path' of "
        f"{server.url}/list.csv; found 6 that are not:",
        "  - line 2: '../x.jpg' leaves the folder",
        "  - line 3: '/etc/passwd' is absolute",
        "  - line 4: 'file:///etc/passwd' may be a file of this machine",
        "  - line 5: 'zip://x.jpg::file:///x.zip' may be a file of this machine",
        "  - line 8: '../x.jpg' leaves the folder",
        "  - line 9: 'http://host/b.jpg' is in line 7 already",
    ]
    (folder / "list.csv").write_text("path,path\n")
    assert message(f"{server.url}/list.csv").startswith(
        f"data.source: expected a name for each column in the first line of {server.url}/list.csv; "
    )


def test_build_splits__images_that_cannot_be_fetched_are_bad_images(folder, server, tmp_path):
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    listing = tmp_path / "all.csv"
    names = [f"{server.url}/{number}.jpg?key=SECRET" for number in range(9)]
    listing.write_text("path,label\n" + "".join(f"{name},{'ab'[row % 2]}\n" for row, name in enumerate(names)))
    with pytest.raises(DataError) as caught:
        build_splits(Data(source=str(listing)), ["validation"], training=True)
    assert f"found 1 unreadable image:\n  - {server.url}/8.jpg: there is no such file\n" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    splits = build_splits(Data(source=str(listing), on_bad_image="skip"), ["validation"], training=True)
    assert [reason for items in splits.skipped.values() for _, reason in items] == ["there is no such file"]
    assert sum(len(table) for table in splits.tables.values()) == 8
    (folder / "list.csv").write_text("path,label\n0.jpg,a\n8.jpg,b\n")
    found = read(f"{server.url}/list.csv").tables["train"]
    with pytest.raises(OSError, match=rf"there is no such file \({server.url}/8.jpg\)"):
        found.encoded(1)


def test_read_source__credentials_belong_elsewhere(server, tmp_path):
    host = server.url.removeprefix("http://")
    assert message(f"http://ann:SECRET@{host}/x.csv").startswith(
        f"data.source: expected an address without credentials, found a user before the '@' in that of {server.url}/x.csv: "
    )


def test_read_source__a_password_of_netrc_is_sent_to_its_host_alone(folder, server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine elsewhere login ann password SECRET\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    look_at(f"{server.url}/x.bin")
    assert all("Authorization" not in asked.headers for asked in server.asked)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password SECRET\n")
    server.asked.clear()
    look_at(f"{server.url}/x.bin?other=1")
    assert all(asked.headers["Authorization"].startswith("Basic ") for asked in server.asked)


def test_read_source__sources_that_cannot_stream(grow, tmp_path):
    root = grow({"cat": 2, "dog": 2})
    end = (
        " cannot be streamed; expected tar or Parquet files, here or far away, or a Hub data set that consists of such. Leave "
        "data.streaming out: images that are not on this machine are then copied to it once."
    )
    listing = tmp_path / "x.csv"
    listing.write_text("path,label\na.jpg,x\n")
    datasets.Dataset.from_dict({"label": ["x"]}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "arrow").mkdir()
    (tmp_path / "arrow" / "x.arrow").touch()
    for source, what in (
        (root, f"{root}, which holds class folders,"),
        (listing, "a list of images"),
        ("http://host/x.csv", "a list of images"),
        (tmp_path / "arrow" / "x.arrow", "Arrow files"),
        (tmp_path / "saved", f"{tmp_path}/saved, which save_to_disk wrote,"),
        ("package:digits", "package:digits"),
    ):
        assert message(source, streaming=True) == f"data.streaming: {what}{end}"
