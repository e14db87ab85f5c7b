"""Tars of samples, here and far away, copied and streamed."""

import gzip
import logging
import pickle
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pytest
from loopback_files import Fault, LoopbackFiles
from reading import message, read
from shard_files import contents, jpeg, labels, samples, write_tar

from hf_transfer.data.build import build_splits
from hf_transfer.data.images import decode_rgb
from hf_transfer.data.sources import filesystems
from hf_transfer.data.sources.remote import cache_folder
from hf_transfer.data.sources.tar_shards import shard_names
from hf_transfer.recipe.schema import Data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(filesystems, "WAITS", (0.01, 0.01, 0.01))
    return tmp_path / "kept"


@pytest.fixture
def server(tmp_path):
    with LoopbackFiles(tmp_path / "served") as running:
        yield running


@pytest.fixture
def shards(tmp_path):
    """Two shards of 40 and 30 samples, in the folder that the server gives."""
    folder = tmp_path / "served"
    write_tar(folder / "shard-000.tar", samples(range(40)))
    write_tar(folder / "shard-001.tar", samples(range(40, 70)))
    return folder


# Layout


def test_read_tar_shards__integer_classes_and_equal_bytes(shards):
    found = read(shards / "shard-{000..001}.tar")
    assert (list(found.tables), found.class_names, found.split_by_source) == (["train"], ["0", "1", "2"], False)
    assert labels(found)["shard-001.tar:0041"] == "2"
    expected = {f"shard-{int(n >= 40):03}.tar:{n:04}": jpeg(n) for n in range(70)}
    assert contents(found.tables["train"]) == expected
    assert found.tables["train"].path(0) is None
    assert contents(read(shards).tables["train"]) == contents(read(shards / "*.tar").tables["train"]) == expected
    assert (shards / "shard-000.tar").stat().st_nlink == 1
    assert sorted(path.name for path in shards.iterdir()) == ["shard-000.tar", "shard-001.tar"]  # nothing beside them


def test_read_tar_shards__text_labels_of_json_and_groups(tmp_path):
    members = [
        ("a/1.jpg", jpeg(1)),
        ("a/1.json", {"species": "cat", "camera": 7, "label": "no"}),
        ("a/2.jpg", jpeg(2)),
        ("a/2.json", {"species": "dog", "camera": 8, "label": "no"}),
    ]
    file = write_tar(tmp_path / "x.tar", members)
    found = read(file, label_column="species", group_column="camera")
    assert labels(found) == {"x.tar:a/1": "cat", "x.tar:a/2": "dog"}
    assert found.tables["train"].groups.tolist() == ["7", "8"]
    assert set(labels(read(file)).values()) == {"no"}
    assert message(file, label_column="specie") == (
        f"data.label_column: no column 'specie' (did you mean 'species'?) in {file}; found jpg, json, species, camera, label"
    )


def test_read_tar_shards__text_labels_of_txt_and_of_cls(tmp_path):
    text = write_tar(tmp_path / "text.tar", [("1.png", jpeg(1)), ("1.txt", " cat\n"), ("2.png", jpeg(2)), ("2.txt", "dog")])
    assert labels(read(text)) == {"text.tar:1": "cat", "text.tar:2": "dog"}
    both = [("1.png", jpeg(1)), ("1.txt", "a cat on a mat"), ("1.cls", "007"), ("2.png", jpeg(2)), ("2.cls", "7")]
    assert set(labels(read(write_tar(tmp_path / "both.tar", both))).values()) == {"7"}
    without = write_tar(tmp_path / "without.tar", [*both, ("3.png", jpeg(3))])
    assert message(without) == (
        f"data.label_column: 1 of 3 images of the train split of {without} have no label in 'cls': without.tar:3"
    )


def test_read_tar_shards__several_labels_of_json(tmp_path):
    members = [("1.jpg", jpeg(1)), ("1.json", {"label": ["cat", "dog"]}), ("2.jpg", jpeg(2)), ("2.json", {"label": []})]
    found = read(write_tar(tmp_path / "x.tar", members), task="multi_label")
    assert found.tables["train"].labels.tolist() == [[True, True], [False, False]]


def test_read_tar_shards__several_images_a_sample(tmp_path):
    members = [("1.jpg", jpeg(1)), ("1.seg.png", jpeg(2)), ("1.cls", "0"), ("2.JPG", jpeg(3)), ("2.cls", "1")]
    file = write_tar(tmp_path / "x.tar", members)
    assert message(file) == (
        f"data.image_column: expected one image in each sample of {file} to infer its suffix; '1' has jpg, seg.png; "
        "name the one to use"
    )
    assert contents(read(file, image_column="jpg").tables["train"]) == {"x.tar:1": jpeg(1), "x.tar:2": jpeg(3)}
    table = read(file, image_column="seg.png").tables["train"]
    assert table.encoded(0) == jpeg(2)
    with pytest.raises(OSError, match="there is no image in this sample"):
        table.encoded(1)
    assert message(file, image_column="png").startswith("data.image_column: no column 'png'")


def test_read_tar_shards__splits(tmp_path):
    for name, numbers in (("train-000.tar", range(6)), ("val-000.tar", range(6, 9))):
        write_tar(tmp_path / "named" / name, samples(numbers))
        write_tar(tmp_path / "folders" / name.partition("-")[0] / "000.tar", samples(numbers))
    for folder in ("named", "folders"):
        found = read(tmp_path / folder)
        assert {split: len(table) for split, table in found.tables.items()} == {"train": 6, "validation": 3}
    assert found.tables["train"].sample_ids[0] == "train/000.tar:0000"  # two files are called 000.tar
    members = [
        (f"{n}.{kind}", body)
        for n in range(4)
        for kind, body in (("jpg", jpeg(n)), ("cls", "0"), ("json", {"split": "dev" if n else "train"}))
    ]
    own = read(write_tar(tmp_path / "own.tar", members))
    assert {split: len(table) for split, table in own.tables.items()} == {"train": 1, "validation": 3}


def test_shard_names__are_short_and_different():
    assert shard_names(["/a/x.tar", "http://h/y.tar?v=1"]) == ["x.tar", "y.tar"]
    assert shard_names(["s3://a/1/x.tar", "s3://a/2/x.tar", "s3://a/2/y.tar"]) == ["1/x.tar", "2/x.tar", "2/y.tar"]
    assert len(set(shard_names(["http://h/get?id=1", "http://h/get?id=2"]))) == 2


def test_read_tar_shards__hostile_members_are_names_only(tmp_path):
    def odd(kind, target=""):
        info = tarfile.TarInfo()
        info.type, info.linkname = kind, target
        return info

    outside = tmp_path / "outside.jpg"
    members = [
        ("../../outside.jpg", jpeg(1)), ("../../outside.cls", "0"),
        ("/etc/shadow.jpg", jpeg(2)), ("/etc/shadow.cls", "1"),
        ("evil\x1b[2J.jpg", jpeg(3)), ("evil\x1b[2J.cls", "1"),
        ("link.jpg", odd(tarfile.SYMTYPE, "/etc/passwd")), ("link.cls", "1"),
        ("hard.jpg", odd(tarfile.LNKTYPE, "../../outside.jpg")), ("hard.cls", "1"),
        ("device.jpg", odd(tarfile.CHRTYPE)), ("pipe.jpg", odd(tarfile.FIFOTYPE)), ("folder.jpg", odd(tarfile.DIRTYPE)),
        ("._1.jpg", b"of a Mac"), (".DS_Store", b""), ("README", "no suffix"),
    ]  # fmt: skip
    found = read(write_tar(tmp_path / "in" / "x.tar", members))
    assert contents(found.tables["train"]) == {
        "x.tar:../../outside": jpeg(1), "x.tar:/etc/shadow": jpeg(2), "x.tar:evil\\x1b[2J": jpeg(3),
    }  # fmt: skip
    assert not outside.exists()


def test_read_tar_shards__broken_tars(tmp_path, caplog):
    whole = write_tar(tmp_path / "whole.tar", samples(range(3))).read_bytes()
    file = tmp_path / "x.tar"
    file.write_bytes(whole[:1200])
    assert message(file) == f"data.source: {file} is cut off in the middle of '0000.jpg'"
    at = whole.index(b"0001.jpg")
    file.write_bytes(whole[:at] + b"\xff" * 512 + whole[at + 512 :])
    assert message(file) == f"data.source: {file} is broken at byte {at:,}: what begins there is no member of a tar"
    file.write_bytes(b"<html>" * 200)
    assert message(file).startswith(f"data.source: cannot read {file} as a tar: ")
    file.write_bytes(b"")
    assert message(file) == f"data.source: cannot read {file} as a tar: empty file"
    file.write_bytes(whole[:at])
    with caplog.at_level(logging.WARNING):
        assert len(read(file).tables["train"]) == 1
    assert f"{file} does not end as tars do: its last samples may have been cut off" in caplog.text
    twice = write_tar(tmp_path / "twice.tar", [*samples([1]), *samples([2]), *samples([1])])
    assert message(twice) == (
        f"data.source: expected the members of a sample one after another in {twice}; those of '0001' are in several places"
    )
    nothing = write_tar(tmp_path / "nothing.tar", [("1.txt", "x")])
    assert message(nothing) == f"data.source: expected samples with images in {nothing}; found txt"


def test_read_tar_shards__noise_is_never_a_traceback(tmp_path):
    whole = bytearray(write_tar(tmp_path / "whole.tar", samples(range(3))).read_bytes())
    rng = np.random.default_rng(0)
    file = tmp_path / "x.tar"
    for _ in range(60):
        noisy = whole.copy()
        for place in rng.integers(0, len(whole), 40):
            noisy[place] = int(rng.integers(0, 256))
        file.write_bytes(bytes(noisy))
        try:
            read(file)
        except Exception as error:
            assert type(error).__name__ == "DataError", error


def test_read_tar_shards__compressed(tmp_path, cache):
    plain = write_tar(tmp_path / "x.tar", samples(range(5)))
    expected = list(contents(read(plain).tables["train"]).values())
    packed = tmp_path / "y.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    found = read(packed)
    assert found.tables["train"].sample_ids[0] == "y.tar.gz:0000"
    assert list(contents(found.tables["train"]).values()) == expected
    assert message(packed, streaming=True) == (
        "data.streaming: expected uncompressed tars, whose parts can be read; found y.tar.gz. Unpack them with gunzip or the "
        "like (images hardly get smaller by it), or leave data.streaming out to have copies made."
    )
    cut = tmp_path / "z.tgz"
    cut.write_bytes(packed.read_bytes()[:-500])
    assert message(cut) == (
        f"data.source: cannot unpack {cut}: Compressed file ended before the end-of-stream marker was reached"
    )
    zstd = tmp_path / "x.tar.zst"
    zstd.write_bytes(pa.compress(plain.read_bytes(), codec="zstd", asbytes=True))
    assert list(contents(read(zstd).tables["train"]).values()) == expected
    zstd.write_bytes(pa.compress(plain.read_bytes()[:-11000], codec="zstd", asbytes=True))
    assert message(zstd) == f"data.source: cannot unpack {zstd}: it does not end as tars do"
    assert not list(cache.glob("**/*.tmp"))


# Far away, copied


def test_read_tar_shards__copied_once_and_again_when_changed(shards, server):
    source = f"{server.url}/shard-{{000..001}}.tar"
    found = read(source)
    assert contents(found.tables["train"]) == contents(read(shards).tables["train"])
    assert sorted(asked.path for asked in server.gets()) == ["/shard-000.tar", "/shard-001.tar"]
    read(source)
    assert server.gets() == []
    write_tar(shards / "shard-001.tar", samples(range(140, 170)))  # as long as before
    again = read(source)
    assert [asked.path for asked in server.gets()] == ["/shard-001.tar"]
    assert contents(again.tables["train"])["shard-001.tar:0140"] == jpeg(140)


def test_read_tar_shards__a_transfer_that_is_cut_short_is_never_trusted(shards, server, cache):
    server.faults.append(Fault("/shard-000.tar", cut=5000))
    address = f"{server.url}/shard-000.tar"
    assert message(address) == f"data.source: cannot read {address}: the transfer was cut short"
    assert not [path for path in cache.glob("**/*") if path.is_file() and path.name != ".lock"]
    server.faults[0].times = 2
    assert len(read(address).tables["train"]) == 40


# Far away, streamed


def test_read_tar_shards__streamed(shards, server):
    found = read(f"{server.url}/shard-{{000..001}}.tar", streaming=True)
    local = read(shards / "shard-{000..001}.tar")
    table = found.tables["train"]
    assert table.sample_ids.tolist() == local.tables["train"].sample_ids.tolist()
    assert (table.labels == local.tables["train"].labels).all()
    assert table.images.block_of.tolist() == [0] * 32 + [1] * 8 + [2] * 30
    assert len(set(table.digests.tolist())) == 70
    server.gets()
    table.prefetch(range(70))
    assert contents(table) == contents(local.tables["train"])
    asked = server.gets()
    assert len(asked) == 2  # the two blocks of the first shard are neighbours
    size = sum(path.stat().st_size for path in shards.iterdir())
    assert sum(one.sent for one in asked) < size
    assert contents(table) == contents(local.tables["train"])
    assert server.gets() == []  # they are kept


def test_read_tar_shards__the_index_is_kept(shards, server):
    source = f"{server.url}/shard-{{000..001}}.tar"
    read(source, streaming=True)
    assert {asked.path for asked in server.gets()} == {"/shard-000.tar", "/shard-001.tar"}
    read(source, streaming=True)
    assert server.gets() == []
    write_tar(shards / "shard-000.tar", samples(range(200, 240)))
    found = read(source, streaming=True)
    assert {asked.path for asked in server.gets()} == {"/shard-000.tar"}
    assert found.tables["train"].sample_ids[0] == "shard-000.tar:0200"


def test_read_tar_shards__a_damaged_index_is_made_anew(shards, server):
    source = f"{server.url}/shard-{{000..001}}.tar"
    whole = read(source, streaming=True).tables["train"]
    for index in cache_folder("indexes").glob("*.parquet"):
        index.write_bytes(b"")
    server.gets()
    assert read(source, streaming=True).tables["train"].sample_ids.tolist() == whole.sample_ids.tolist()
    assert {asked.path for asked in server.gets()} == {"/shard-000.tar", "/shard-001.tar"}


def test_read_tar_shards__a_member_of_negative_size_ends_it(tmp_path):
    write_tar(tmp_path / "broken.tar", samples(range(3)))
    content = bytearray((tmp_path / "broken.tar").read_bytes())
    content[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512 in base 256, which leads back to where it stands
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))
    (tmp_path / "broken.tar").write_bytes(content)
    assert "broken.tar" in message(str(tmp_path / "broken.tar"))


def test_read_tar_shards__an_interrupted_start_goes_on_where_it_was(shards, server):
    source = f"{server.url}/shard-{{000..001}}.tar"
    server.faults.append(Fault("/shard-001.tar", status=500))
    assert message(source, streaming=True) == (
        f"data.source: cannot read {server.url}/shard-001.tar: the server answers 500 Internal Server Error"
    )
    server.faults.clear()
    server.gets()
    assert len(read(source, streaming=True).tables["train"]) == 70
    assert {asked.path for asked in server.gets()} == {"/shard-001.tar"}


def test_read_tar_shards__the_index_of_large_images_takes_no_images(tmp_path, server):
    big = [(f"{n:03}.{kind}", body) for n in range(6)
           for kind, body in (("jpg", jpeg(n) + bytes(3 << 20)), ("cls", str(n % 2)))]  # fmt: skip
    file = write_tar(tmp_path / "served" / "big.tar", big)
    found = read(f"{server.url}/big.tar", streaming=True)
    assert sum(asked.sent for asked in server.gets()) < file.stat().st_size / 2
    assert contents(found.tables["train"])["big.tar:002"] == big[4][1]


def test_read_tar_shards__a_shard_that_changes_under_way_is_noticed(shards, server):
    address = f"{server.url}/shard-000.tar"
    table = read(address, streaming=True).tables["train"]
    write_tar(shards / "shard-000.tar", samples(range(200, 240)))
    with pytest.raises(OSError) as caught:
        table.encoded(0)
    assert str(caught.value) == f"{address}: its content has changed since it was first looked at; start again"


def test_read_tar_shards__streaming_needs_parts(shards, server):
    server.ranges = False
    address = f"{server.url}/shard-000.tar"
    assert message(address, streaming=True) == (
        f"data.source: cannot read {address}: the server gives whole files only, and data.streaming needs parts: leave it out "
        "to have the files copied once"
    )
    assert len(read(address).tables["train"]) == 40
    server.sizes = False
    assert message(address, streaming=True) == (
        f"data.source: cannot read {address}: the server does not tell the file's size; leave data.streaming out to have it "
        "copied once"
    )
    assert contents(read(address).tables["train"]) == contents(read(shards / "shard-000.tar").tables["train"])


def test_read_tar_shards__a_streamed_table_in_another_process(shards, server):
    table = read(f"{server.url}/shard-000.tar", streaming=True).tables["train"]
    assert table.encoded(3) == jpeg(3)
    assert contents(pickle.loads(pickle.dumps(table)))["shard-000.tar:0005"] == jpeg(5)


def test_build_splits__streamed_shards_are_split_by_their_ids_and_not_read(shards, server):
    source = f"{server.url}/shard-{{000..001}}.tar"
    section = Data(source=source, streaming=True)
    build_splits(section, ["validation"], training=True)  # makes the indexes
    server.gets()
    far = build_splits(section, ["validation"], training=True)
    assert server.gets() == []
    near = build_splits(Data(source=str(shards / "*.tar")), ["validation"], training=True)
    for split in ("train", "validation"):
        assert far.tables[split].sample_ids.tolist() == near.tables[split].sample_ids.tolist()
    assert build_splits(section, ["validation"], training=True).fingerprint == far.fingerprint
    assert decode_rgb(far.tables["train"].encoded(0)).size == (16, 16)
    write_tar(shards / "shard-001.tar", samples(range(140, 170)))
    assert build_splits(section, ["validation"], training=True).fingerprint != far.fingerprint


def test_build_splits__bad_images_of_streamed_shards_are_left_out_if_asked_for(shards, server):
    write_tar(shards / "shard-001.tar", [("x.jpg", b"no image"), ("x.cls", "0"), *samples(range(40, 70))])
    source = f"{server.url}/shard-{{000..001}}.tar"
    splits = build_splits(Data(source=source, streaming=True, on_bad_image="skip"), ["validation"], training=True)
    assert [name for found in splits.skipped.values() for name, _ in found] == ["shard-001.tar:x"]
    assert sum(len(table) for table in splits.tables.values()) == 70
    whole = build_splits(Data(source=source, streaming=True), ["validation"], training=True)
    assert sum(len(table) for table in whole.tables.values()) == 71
