"""Shards in an S3-like store: listed, copied and streamed through s3fs, with the credentials of the environment."""

from xml.sax.saxutils import escape

import datasets
import pytest
from loopback_files import LoopbackFiles
from reading import message, read
from shard_files import contents, samples, write_tar

from hf_transfer.data.sources import filesystems

s3fs = pytest.importorskip("s3fs")


class LoopbackStore(LoopbackFiles):
    """A store whose buckets are the folders below root; it lists them as S3 does."""

    def listing(self, bucket, query):
        prefix = query.get("prefix", "")
        entries = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{file.stat().st_mtime_ns:x}&quot;</ETag><Size>{file.stat().st_size}</Size></Contents>"
            for file in sorted((self.root / bucket).glob("**/*"))
            if file.is_file() and (name := file.relative_to(self.root / bucket).as_posix()).startswith(prefix)
        )
        return f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(filesystems, "WAITS", (0.01, 0.01))
    for name, value in (("ACCESS_KEY_ID", "KEY"), ("SECRET_ACCESS_KEY", "SECRET"), ("REGION", "eu-west-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    for number in range(2):
        write_tar(tmp_path / "buckets" / "bucket" / "set" / f"s-{number}.tar", samples(range(40 * number, 40 * number + 40)))
    with LoopbackStore(tmp_path / "buckets") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        s3fs.S3FileSystem.clear_instance_cache()  # one of another test knows another store
        yield server


@pytest.mark.parametrize("streaming", [False, True])
def test_read_tar_shards__of_a_bucket(store, tmp_path, streaming):
    found = read("s3://bucket/set/*.tar", streaming=streaming)
    near = read(tmp_path / "buckets" / "bucket" / "set")
    store.gets()
    assert contents(found.tables["train"]) == contents(near.tables["train"])
    assert len(store.gets()) == (0 if not streaming else 4)
    assert contents(read("s3://bucket/set/s-{0..1}.tar").tables["train"]) == contents(near.tables["train"])
    assert message("s3://bucket/set/s-2.tar") == "data.source: cannot read s3://bucket/set/s-2.tar: there is no such file"
    assert all("SECRET" not in str(asked.headers) for asked in store.asked)  # requests are signed with it
