"""Files that are far away: what is known of one, a part of it, a copy of it."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from .addresses import is_address, is_web, path_of, shown
from .filesystems import TransferError, filesystem, patiently

LARGEST_IMAGE = 1 << 28
"""Bytes; a single image that is larger is not fetched."""

AT_A_TIME = 16
"""Single images, or facts of files, that are asked for at the same time."""

_VERSION_FACTS = ("ETag", "etag", "md5Hash", "Content-MD5", "VersionId", "generation", "blob_id")
_TIME_FACTS = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "created")
_NO_PARTS = "the server gives whole files only, and data.streaming needs parts: leave it out to have the files copied once"


@dataclass(frozen=True)
class SourceFile:
    """A file, here or far away, as it was when it was looked at.

    Args:
        address: its address, or its absolute path.
        size: bytes; None where a server does not say.
        version: what changes with its content, as far as its file system tells: a checksum, else the time of its last change.
        tag: what a web server calls this very content, to be asked for nothing else; None where it does not say.
        copied_from: address of what it is a copy of, for messages.
    """

    address: str
    size: int | None
    version: str
    tag: str | None = None
    copied_from: str | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return shown(self.copied_from or self.address)

    def digest(self, *facts: object) -> bytes:
        """Return BLAKE2b-128 of what it is, without credentials, and of further facts."""
        return self._described(*map(str, facts)).digest()

    def digests(self, places: Iterable[int]) -> list[bytes]:
        """Return what stands for the bytes at each of these places in it: BLAKE2b-128 of what it is and of the place."""
        described, found = self._described("places"), []
        for place in places:
            one = described.copy()
            one.update(b"%d" % place)
            found.append(one.digest())
        return found

    def _described(self, *facts: str) -> hashlib.blake2b:
        return hashlib.blake2b(json.dumps([self.name, self.size, self.version, *facts]).encode(), digest_size=16)


def cache_folder(*names: str) -> Path:
    """Return a folder of ours below the cache of `datasets`; it may be deleted at any time."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE, "hf_transfer", *names)


def look_at(address: str) -> SourceFile:
    """Return what is known of a file, by its address or its absolute path.

    Raises:
        OSError: naming the address, when it is not there or cannot be reached.
        UserError: when a package for its file system is missing.
    """
    if not is_address(address):
        facts = Path(address).stat()
        return SourceFile(address, facts.st_size, f"mtime {facts.st_mtime_ns}")
    told: dict[str, Any] = patiently(address, lambda: _told(address))
    found = [f"{name} {told[name]}" for names in (_VERSION_FACTS, _TIME_FACTS) for name in names if told.get(name)]
    lfs = told.get("lfs")
    tag = str(told.get("ETag", "")) if is_web(address) else ""
    return SourceFile(
        address,
        None if told.get("size") is None else int(told["size"]),
        f"sha256 {lfs['sha256']}" if lfs else found[0] if found else "",
        tag if tag.startswith('"') else None,  # others are weak: the same for contents that differ in bytes
    )


def look_at_all(addresses: Sequence[str]) -> list[SourceFile]:
    """Return what is known of each file, asked for many at a time.

    Raises:
        DataError: when one is not there or cannot be reached.
    """
    try:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(look_at, addresses))
    except OSError as error:
        raise DataError(f"data.source: cannot read {error}") from None


def matching(pattern: str) -> list[str]:
    """Return the addresses that fit a pattern with asterisks, as far as the file system can list; none where it cannot.

    Raises:
        OSError: naming the pattern, when it cannot be reached.
    """

    def found() -> list[str]:
        system, path = filesystem(pattern)
        return [str(system.unstrip_protocol(name)) for name in system.glob(path)]

    return sorted(patiently(pattern, found))


def read_part(file: SourceFile, start: int, end: int) -> bytes:
    """Return the bytes of a file from `start` up to `end`.

    Raises:
        OSError: naming the address, when they cannot be read, after some tries.
    """
    if not is_address(file.address):
        with Path(file.address).open("rb") as opened:
            opened.seek(start)
            return _complete(opened.read(end - start), file, start, end)
    return patiently(file.address, lambda: _complete(_part(file, start, end), file, start, end))


def check_parts(file: SourceFile) -> None:
    """Stop where a web server gives whole files only, or does not say how large they are.

    Raises:
        OSError: naming the address.
    """
    size = file.size
    if size is None:
        raise OSError(f"{file.name}: the server does not tell the file's size; leave data.streaming out to have it copied once")
    if not is_web(file.address) or not size:
        return

    def ask() -> None:
        system, path = filesystem(file.address)
        try:
            with system.open(path, "rb", size=size, cache_type="none") as opened:
                opened.seek(size - 1)
                opened.read(1)
        except ValueError:  # fsspec's, as soon as the headers tell, before the whole file has been sent
            raise TransferError(_NO_PARTS, passing=False) from None

    patiently(file.address, ask)


def copy_of(file: SourceFile) -> Path:
    """Return a complete copy of a file on this machine, made on first use; its name and that of its folder end the path.

    Raises:
        OSError: naming the address, when it cannot be read or kept.
    """
    from filelock import FileLock

    from ...run_directory import replacing

    if not is_address(file.address):
        return Path(file.address)
    path = path_of(file.address)
    folder = cache_folder("files", file.digest(_hashed(file.address)).hex())
    kept = folder / _plain(path.parent.name, "folder") / _plain(path.name, "file")
    if _is_kept(kept, file.size):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):  # the other processes of a run wait for the first one's copy
        if not _is_kept(kept, file.size):
            for left_over in kept.parent.glob(f".{glob.escape(kept.name)}.*.tmp"):  # by a process that was killed
                left_over.unlink(missing_ok=True)
            with replacing(kept) as unfinished:
                patiently(file.address, lambda: _copy(file.address, unfinished, file.size, show=True))
                if look_at(file.address) != file:
                    raise OSError(f"{file.name}: it changed while it was read; start again")
    return kept


def copy_of_image(address: str) -> Path:
    """Return a copy of a single image, made on first use and kept under its address.

    Raises:
        OSError: naming the address, when it cannot be read, is too large or cannot be kept.
    """
    from ...run_directory import replacing

    kept = kept_image(address)
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as unfinished:
            patiently(address, lambda: _copy(address, unfinished, None, limit=LARGEST_IMAGE))
    return kept


def kept_image(address: str) -> Path:
    """Return where the copy of a single image is, or will be."""
    digest = _hashed(address)
    return cache_folder("images", digest[:2], digest)


def _told(address: str) -> dict[str, Any]:
    system, path = filesystem(address)
    told = dict(system.info(path))
    if told.get("type") == "directory":
        raise TransferError("it is a folder", passing=False)
    return told


def _part(file: SourceFile, start: int, end: int) -> bytes:
    from fsspec.asyn import AsyncFileSystem

    system, path = filesystem(file.address)
    if isinstance(system, AsyncFileSystem):
        options = {"headers": {"If-Match": file.tag}} if file.tag else {}
        return system.cat_file(path, start=start, end=end, **options)
    with system.open(path, "rb", cache_type="none") as opened:
        opened.seek(start)
        return opened.read(end - start)


def _complete(content: bytes, file: SourceFile, start: int, end: int) -> bytes:
    if len(content) == end - start:
        return content
    if is_web(file.address) and len(content) == file.size:
        raise TransferError(_NO_PARTS, passing=False)
    raise TransferError(f"{len(content)} bytes came instead of {end - start}, from byte {start} on", passing=True)


def _copy(address: str, target: Path, size: int | None, *, limit: int | None = None, show: bool = False) -> None:
    """Write a file to `target`; a transfer that was cut short is an error."""
    from fsspec import Callback
    from tqdm.auto import tqdm

    class Counted(Callback):
        """Watches the transfer."""

        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            progress.update(inc)
            self.check(self.value)

        def set_size(self, size: int | None) -> None:
            super().set_size(size)
            self.check(size or 0)

        def check(self, found: int) -> None:
            if limit is not None and found > limit:
                raise TransferError(f"it has more than {limit:,} bytes", passing=False)

    system, path = filesystem(address)
    with tqdm(
        total=size, desc=path_of(address).name, unit="B", unit_scale=True, leave=False, disable=None if show else True
    ) as progress:
        counted = Counted()
        system.get_file(path, str(target), callback=counted)
    announced, found = counted.size if size is None else size, target.stat().st_size
    if announced is not None and found != announced:
        raise TransferError(f"{found:,} bytes came instead of {announced:,}", passing=True)


def _is_kept(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


def _hashed(address: str) -> str:
    return hashlib.blake2b(address.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _plain(name: str, otherwise: str) -> str:
    """Return the name of a file of the cache like that of a file far away."""
    return re.sub(r"[^\w.-]", "_", name)[-100:].lstrip(".") or otherwise
