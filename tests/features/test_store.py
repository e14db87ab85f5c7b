import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_transfer.errors import UserError
from hf_transfer.features.space import FeatureSpace
from hf_transfer.features.store import FeatureFolder, FeatureStore, cache_root

SPACE = FeatureSpace("tiny", {"dtype": "float32", "number": 0})


def ids(*numbers):
    return np.array([f"id-{number}".encode() for number in numbers], dtype="S16")


def rows(count, seed=0, dtype=torch.float32, width=5):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def folder(tmp_path):
    """Give a folder with two shards: id-0 to id-3 and id-4 to id-6."""
    folder = FeatureFolder(tmp_path / "space", SPACE)
    folder.write(ids(0, 1, 2, 3), rows(7)[:4])
    folder.write(ids(4, 5, 6), rows(7)[4:])
    return folder


def again(folder):
    """Return the folder as another run finds it."""
    return FeatureFolder(folder.path, SPACE)


def shard_of(folder, *numbers):
    """Return the shard that was written for exactly these rows."""
    before = set(folder.path.glob("shard-*"))
    folder.write(ids(*numbers), rows(len(numbers), seed=9))
    (path,) = set(folder.path.glob("shard-*")) - before
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_read__gives_what_was_written_bit_for_bit(tmp_path, dtype):
    written = rows(7, dtype=dtype)
    written[0, 0], written[1, 1], written[2, 2] = torch.nan, -torch.inf, -0.0
    folder = FeatureFolder(tmp_path / "space", SPACE)
    folder.write(ids(0, 1, 2, 3), written[:4])
    folder.write(ids(4, 5, 6), written[4:])
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 0, 3], [5, 5, 1, 5, 1], [2]):
        for reader in (folder, again(folder)):
            found = reader.read(ids(*order))
            assert found.dtype == dtype
            assert found.shape == (len(order), 5)
            assert torch.equal(found.view(torch.uint8), written[order].view(torch.uint8))


def test_read__what_is_not_there(folder):
    with pytest.raises(KeyError, match="2 of 3"):
        folder.read(ids(7, 1, 8))
    with pytest.raises(KeyError):
        FeatureFolder(folder.path.parent / "empty", SPACE).read(ids(0))


def test_read__nothing_stays_behind_and_the_result_is_ones_own(folder):
    before = sorted(folder.path.iterdir())
    found = folder.read(ids(0, 4))
    assert sorted(folder.path.iterdir()) == before
    found.zero_()
    assert torch.equal(folder.read(ids(0, 4)), rows(7)[[0, 4]])


def test_write__a_part_of_a_larger_tensor(tmp_path):
    folder = FeatureFolder(tmp_path / "space", SPACE)
    whole = rows(6, width=8)
    folder.write(ids(0, 1, 2), whole[::2, 1:4])
    folder.write(ids(3), whole[5:, :3].requires_grad_())
    assert torch.equal(again(folder).read(ids(0, 1, 2, 3)), torch.cat([whole[::2, 1:4], whole[5:, :3]]))


def test_write__the_same_rows_twice(folder):
    folder.write(ids(2, 3, 8), rows(3, seed=1))
    assert len(folder.missing(ids(*range(9)))) == 1
    found = folder.read(ids(0, 8))
    assert torch.equal(found, torch.stack([rows(7)[0], rows(3, seed=1)[2]]))


def test_missing__first_occurrences_in_order(folder):
    assert folder.missing(ids(0, 6, 3, 3)).tolist() == []
    asked = ids(9, 1, 7, 9, 8, 7, 0, 10)
    assert folder.missing(asked).tolist() == [0, 2, 4, 7]
    assert again(folder).missing(asked).dtype == np.int64
    assert FeatureFolder(folder.path.parent / "empty", SPACE).missing(ids(3, 1, 3)).tolist() == [0, 1]
    assert folder.missing(ids()).tolist() == []


def test_missing__sees_what_another_run_wrote(folder):
    other = again(folder)
    assert other.missing(ids(0, 7)).tolist() == [1]
    folder.write(ids(7), rows(1, seed=3))
    assert other.missing(ids(0, 7)).tolist() == []
    assert torch.equal(other.read(ids(7)), rows(1, seed=3))


def test_seconds__of_the_rows_asked_for_each_once(tmp_path):
    folder = FeatureFolder(tmp_path / "space", SPACE)
    folder.write(ids(0, 1, 2, 3), rows(4), seconds=8.0)
    folder.write(ids(4, 5), rows(2), seconds=0.5)
    for reader in (folder, again(folder)):
        assert reader.missing(ids(0, 5)).tolist() == []
        assert reader.seconds(ids(0, 1, 2, 3, 4, 5)) == 8.5
        assert reader.seconds(ids(3, 5, 3)) == 2.25
    with pytest.raises(KeyError, match="1 of 2"):
        folder.seconds(ids(5, 6))


def test_seconds__unknown_of_shards_that_do_not_say(folder):
    folder.write(ids(7), rows(1), seconds=1.0)
    assert folder.seconds(ids(7)) == 1.0
    assert folder.seconds(ids(7, 0)) is None
    assert again(folder).missing(ids(0, 7)).tolist() == []


@pytest.mark.parametrize("wrong", [b'"0.25"', b'"1,25"'])
def test_seconds__are_part_of_what_is_checked(tmp_path, capsys, wrong):
    folder = FeatureFolder(tmp_path / "space", SPACE)
    folder.write(ids(0), rows(1), seconds=1.25)
    (shard,) = folder.path.glob("shard-*")
    shard.write_bytes(shard.read_bytes().replace(b'"1.25"', wrong))
    assert again(folder).missing(ids(0)).tolist() == [0]
    assert "is damaged" in capsys.readouterr().err


def test_ids__may_hold_and_end_in_zero_bytes(tmp_path):
    raw = [b"\0" * 16, b"a" * 15 + b"\0", b"a" * 14 + b"\0\0", b"\0" * 15 + b"a", b"a\0" * 8, bytes(range(240, 256))]
    names = np.frombuffer(b"".join(raw), dtype="S16")
    folder = FeatureFolder(tmp_path / "space", SPACE)
    folder.write(names[:4], rows(6)[:4])
    folder.write(names[4:], rows(6)[4:])
    assert again(folder).missing(names).tolist() == []
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0]):
        assert torch.equal(again(folder).read(names[order]), rows(6)[order])


@pytest.mark.parametrize("at", [-1, -30, 0.5, 0], ids=["last", "among the last rows", "middle", "first"])
def test_missing__a_damaged_shard_is_removed_with_a_warning(folder, capsys, at):
    path = shard_of(folder, 10, 11, 12)
    content = bytearray(path.read_bytes())
    content[at if isinstance(at, int) else int(len(content) * at)] ^= 0x10
    path.write_bytes(content)
    found = again(folder)
    assert found.missing(ids(0, 10, 5, 12, 11)).tolist() == [1, 3, 4]
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert str(path) in said
    assert "damaged" in said
    assert not path.exists()
    found.write(ids(10, 11, 12), rows(3, seed=9))
    assert found.missing(ids(0, 10, 5, 12, 11)).tolist() == []
    assert torch.equal(found.read(ids(0, 12)), torch.stack([rows(7)[0], rows(3, seed=9)[2]]))


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_missing__a_truncated_shard_is_removed_with_a_warning(folder, capsys, kept):
    path = shard_of(folder, 10, 11, 12)
    path.write_bytes(path.read_bytes()[:kept])
    assert again(folder).missing(ids(11, 0)).tolist() == [0]
    assert capsys.readouterr().err.startswith(f"warning: {path} is damaged")
    assert not path.exists()
    assert torch.equal(again(folder).read(ids(6, 0)), rows(7)[[6, 0]])


def test_missing__every_damaged_byte_of_a_header_is_found(folder, capsys):
    path = shard_of(folder, 10, 11)
    whole = path.read_bytes()
    for at in range(8 + int.from_bytes(whole[:8], "little")):
        content = bytearray(whole)
        content[at] ^= 0x01
        path.write_bytes(content)
        if again(folder).missing(ids(10, 11)).tolist() != [0, 1]:  # spaces at its end mean nothing
            assert torch.equal(again(folder).read(ids(10, 11)), rows(2, seed=9))
    assert "damaged" in capsys.readouterr().err


def test_missing__a_damaged_shard_that_nobody_asks_for_is_not_read(folder, capsys):
    path = shard_of(folder, 10, 11, 12)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert again(folder).missing(ids(0, 4, 7)).tolist() == [2]
    assert capsys.readouterr().err == ""
    assert path.exists()


def full_disk(number):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write__a_full_disk(folder, monkeypatch):
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match=r"No space left on device.*HF_TRANSFER_CACHE"):
            folder.write(ids(7, 8), rows(2))
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
    assert folder.missing(ids(0, 7, 8)).tolist() == [1, 2]
    assert torch.equal(folder.read(ids(6, 0)), rows(7)[[6, 0]])
    folder.write(ids(7, 8), rows(2))
    assert torch.equal(again(folder).read(ids(7, 8)), rows(2))


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from hf_transfer.errors import UserError
from hf_transfer.features.space import FeatureSpace
from hf_transfer.features.store import FeatureFolder
folder = FeatureFolder(Path(sys.argv[1]), FeatureSpace("tiny", {"dtype": "float32", "number": 0}))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    folder.write(np.array([b"large"], dtype="S16"), torch.ones(1, 10000))
except UserError as error:
    print(error)
"""


def test_write__stopped_by_the_system_half_way(folder):
    before = sorted(folder.path.iterdir())
    done = subprocess.run([sys.executable, "-c", LIMITED, folder.path], capture_output=True, text=True, check=True)
    assert "HF_TRANSFER_CACHE" in done.stdout
    assert str(folder.path) in done.stdout
    assert sorted(folder.path.iterdir()) == before
    assert torch.equal(again(folder).read(ids(6, 0)), rows(7)[[6, 0]])


def test_read__a_full_disk(folder, monkeypatch):
    before = sorted(folder.path.iterdir())
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: full_disk(0))
    with pytest.raises(UserError, match="HF_TRANSFER_CACHE"):
        folder.read(ids(0))
    assert sorted(folder.path.iterdir()) == before


def test_folder__where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="HF_TRANSFER_CACHE"):
        FeatureFolder(tmp_path / "file" / "space", SPACE)


def test_folder__is_described_once_for_people(folder):
    described = (folder.path / "space.json").read_text(encoding="utf-8")
    content = json.loads(described)
    assert content["name"] == "tiny"
    assert content["facts"] == SPACE.facts
    FeatureFolder(folder.path, FeatureSpace("renamed", SPACE.facts))
    assert (folder.path / "space.json").read_text(encoding="utf-8") == described


def test_locked__removes_what_a_killed_run_left(folder):
    left = folder.path / "shard-0.safetensors.123.tmp"
    left.write_bytes(b"half")
    with folder.locked():
        assert not left.exists()
    assert folder.missing(ids(*range(7))).tolist() == []


HOLDER = """
import sys
from pathlib import Path
import numpy as np, torch
from hf_transfer.features.space import FeatureSpace
from hf_transfer.features.store import FeatureFolder
folder = FeatureFolder(Path(sys.argv[1]), FeatureSpace("tiny", {"dtype": "float32", "number": 0}))
with folder.locked():
    print("locked", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "write":
        folder.write(np.array([b"theirs"], dtype="S16"), torch.ones(1, 5))
"""


@contextlib.contextmanager
def held(path: Path, what: str = "nothing"):
    """Hold the lock of a folder in another process; a line on its standard input lets it write and end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.communicate("\n" if process.poll() is None else None, timeout=60)
    assert process.returncode == 0


WAITER = """
import sys
from pathlib import Path
import numpy as np
from hf_transfer.features.space import FeatureSpace
from hf_transfer.features.store import FeatureFolder
folder = FeatureFolder(Path(sys.argv[1]), FeatureSpace("tiny", {"dtype": "float32", "number": 0}))
with folder.locked():
    print(folder.missing(np.array([b"theirs", b"other"], dtype="S16")).tolist(), flush=True)
"""


def test_locked__another_run_waits_and_then_finds_the_rows(folder):
    with held(folder.path, "write") as holder:
        waiter = subprocess.Popen(
            [sys.executable, "-c", WAITER, folder.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert waiter.stderr.readline() == "waiting for another run that extracts the same features\n"
            time.sleep(0.2)
            assert waiter.poll() is None
            holder.stdin.write("\n")
            holder.stdin.flush()
            found, said = waiter.communicate(timeout=60)
        finally:
            waiter.kill()
    assert (found, said, waiter.returncode) == ("[1]\n", "", 0)


def test_locked__a_free_folder_is_not_waited_for(folder, capsys):
    for _ in range(2):
        with folder.locked():
            pass
    with contextlib.suppress(ZeroDivisionError), folder.locked():
        raise ZeroDivisionError  # an error gives the lock back
    with folder.locked():
        assert capsys.readouterr().err == ""


@pytest.fixture
def store(tmp_path):
    """Give a store of three spaces: 2, 300 and 0 rows."""
    store = FeatureStore(tmp_path / "features")
    for number, count in enumerate([2, 300, 0]):
        folder = store.folder(FeatureSpace(f"name {number}", {"dtype": "bfloat16", "number": number}))
        if count:
            folder.write(ids(*range(count)), rows(count))
    return store


def key(number):
    return FeatureSpace("", {"dtype": "bfloat16", "number": number}).key


def test_store__lists_the_largest_first(store):
    found = store.stored()
    assert [(space.name, space.rows, space.key) for space in found] == [
        ("name 1", 300, key(1)),
        ("name 0", 2, key(0)),
        ("name 2", 0, key(2)),
    ]
    assert {space.dtype for space in found} == {"bfloat16"}
    files = sum(path.stat().st_size for path in (store.root / key(1)).glob("*.safetensors"))
    assert found[0].megabytes == files / 2**20 > 300 * (16 + 20) / 2**20
    assert found[0].created.startswith("20")


def test_store__a_damaged_shard_does_not_hide_the_list(store):
    for path in (store.root / key(1)).glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    assert {space.key: space.rows for space in store.stored()} == {key(0): 2, key(1): 0, key(2): 0}


def test_store__knows_which_spaces_it_has(store):
    assert FeatureSpace("any", {"dtype": "bfloat16", "number": 1}) in store
    other = FeatureSpace("any", {"dtype": "bfloat16", "number": 7})
    assert other not in store
    assert not (store.root / other.key).exists()


def test_store__that_is_not_there_is_empty(tmp_path):
    store = FeatureStore(tmp_path / "none")
    assert store.stored() == []
    assert not (tmp_path / "none").exists()


def test_clear__removes_the_named_spaces_only(store):
    store.clear([key(1), key(2)])
    assert [space.key for space in store.stored()] == [key(0)]
    assert [path.name for path in store.root.iterdir()] == [key(0)]


def test_clear__an_unknown_key_removes_nothing(store):
    with pytest.raises(UserError, match="nonsense"):
        store.clear([key(0), "nonsense"])
    assert len(store.stored()) == 3


def test_clear__a_space_in_use_removes_nothing(store):
    with held(store.root / key(1)), pytest.raises(UserError, match=key(1)):
        store.clear([key(0), key(1)])
    assert len(store.stored()) == 3
    store.clear([key(0), key(1)])
    assert len(store.stored()) == 1


def test_cache_root__where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HF_TRANSFER_CACHE", raising=False)
    assert cache_root() == tmp_path / "home" / ".cache" / "hf_transfer" / "features"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "hf_transfer" / "features"
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own" / "features"
    assert FeatureStore().root == cache_root()
    monkeypatch.setenv("HF_TRANSFER_CACHE", "~/own")
    assert cache_root() == tmp_path / "home" / "own" / "features"


def test_clear__the_same_key_twice_is_once(store):
    one = store.stored()[0].key
    store.clear([one, one])
    assert one not in [space.key for space in store.stored()]


def test_stored__a_damaged_description_can_still_be_cleared(store):
    one = store.stored()[0].key
    (store.root / one / "space.json").write_text("{")
    assert {space.key: space.name for space in store.stored()}[one] == "unknown"
    store.clear([one])
    assert one not in [space.key for space in store.stored()]


def test_locked__leaves_a_description_that_is_being_written(folder):
    being_written = folder.path / "space.json.1.tmp"
    being_written.write_text("{")
    with folder.locked():
        assert being_written.exists()


def test_missing__a_shard_that_cannot_be_read_is_not_damaged(folder, monkeypatch):
    before = sorted(folder.path.glob("shard-*"))

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hf_transfer.features.store.safe_open", refused)
    with pytest.raises(UserError, match=r"cannot read features from .*Permission denied"):
        folder.missing(ids(1))
    assert sorted(folder.path.glob("shard-*")) == before != []
