"""Folders of shards in the user's cache: where they are, who writes, and that a file is there as a whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import filelock

from ..run_directory import replacing


def cache_root(kind: str) -> Path:
    """Return where things of one kind are kept: in $HF_TRANSFER_CACHE, or in hf_transfer in the user's cache folder."""
    chosen = os.environ.get("HF_TRANSFER_CACHE")
    if chosen:
        return Path(chosen).expanduser() / kind
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "hf_transfer" / kind


def lock_folder(folder: Path, waiting: str) -> filelock.BaseFileLock:
    """Return the lock of a folder for writing, taken; what a writer that was killed left half-written is removed.

    Args:
        folder: of shards.
        waiting: what is said where another process holds it.

    Raises:
        OSError: when the folder cannot be written.
    """
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(waiting, file=sys.stderr, flush=True)
        lock.acquire()
    try:
        for left_over in folder.glob("*shard-*.tmp"):
            left_over.unlink(missing_ok=True)
    except OSError:
        lock.release()
        raise
    return lock


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all, whatever is killed or switched off.

    Raises:
        OSError: when the disk is full or cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # a machine that stops leaves no shard that is there and empty
