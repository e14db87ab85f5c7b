"""Features on disk: one folder for each space, rows addressed by what they were computed from.

A folder holds shards of some hundred rows. A shard is a safetensors file with the rows' identifiers, the features, the seconds
that computing them took and a checksum; it is written beside and moved into place, so it is there as a whole or not at all. An
interrupted extraction therefore goes on after its last shard, a few-shot run finds the rows of a run on all images, and a
changed image finds none.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..data import cache_folder
from ..data.cache_folder import lock_folder, write_whole
from ..errors import UserError
from ..run_directory import write_json
from .space import FeatureSpace

_SHARDS = "shard-*.safetensors"


def cache_root() -> Path:
    """Return where features are kept: $HF_TRANSFER_CACHE, or hf_transfer in the user's cache folder."""
    return cache_folder.cache_root("features")


@dataclass(frozen=True)
class StoredSpace:
    """What `hf-transfer features list` shows of one folder.

    Args:
        key: of the space.
        name: the backbone, as the recipe that made the folder named it.
        dtype: of the computation.
        rows: how many features lie there.
        megabytes: what they take.
        created: when the folder was made, ISO 8601.
    """

    key: str
    name: str
    dtype: str
    rows: int
    megabytes: float
    created: str


class FeatureFolder:
    """The features of one space.

    Args:
        path: its folder; made when missing.
        space: written into the folder for people to read.
    """

    def __init__(self, path: Path, space: FeatureSpace) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / "space.json").exists():
                created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                content = {"name": space.name, "created": created, "facts": space.facts}
                write_json(path / "space.json", content)
        except OSError as error:
            raise _unwritable(path, error) from None
        self._trusted: set[str] = set()
        self._ids = np.empty(0, dtype="S16")
        self._places = np.empty((0, 2), dtype=np.int64)
        self._files: list[Path] = []
        self._row_seconds = np.empty(0)  # of each file; NaN where it does not say

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for writing; another run that wants the same features waits here, then finds them."""
        try:
            lock = lock_folder(self.path, "waiting for another run that extracts the same features")
        except OSError as error:
            raise _unwritable(self.path, error) from None
        try:
            yield
        finally:
            lock.release()

    def missing(self, ids: np.ndarray) -> np.ndarray:
        """Return int64 positions of the identifiers that have no features yet, each identifier once, in order.

        Every shard that holds one of the others is checked against its checksum. A broken one is removed, with a warning, and
        its rows are missing.

        Args:
            ids: bytes "S16" [n].
        """
        while True:
            self._read_index()
            found = self._find(ids)
            needed = {int(number) for number in np.unique(self._places[found[found >= 0], 0])}
            broken = [self._files[number] for number in needed if not self._is_whole(self._files[number])]
            if not broken:
                break
            for path in broken:
                self._discard(path)
        positions = np.flatnonzero(found < 0)
        _, first = np.unique(ids[positions], return_index=True)
        return positions[np.sort(first)]

    def write(self, ids: np.ndarray, features: torch.Tensor, seconds: float | None = None) -> None:
        """Add rows.

        Args:
            ids: bytes "S16" [n].
            features: float [n, d].
            seconds: what computing them takes a run that computes nothing else; None when that is not known.

        Raises:
            UserError: when the disk is full or cannot be written; what was there before stays whole.
        """
        features = features.detach().cpu().contiguous()
        names = torch.from_numpy(np.ascontiguousarray(ids, dtype="S16").view(np.uint8).reshape(len(ids), 16).copy())
        facts = {} if seconds is None else {"seconds": repr(float(seconds))}
        checksum = _checksum(names, features, facts.get("seconds"))
        content = save({"ids": names, "features": features}, metadata={"checksum": checksum, **facts})
        name = f"shard-{hashlib.blake2b(names.numpy().tobytes(), digest_size=12).hexdigest()}.safetensors"
        try:
            write_whole(self.path / name, content)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        self._trusted.add(name)

    def read(self, ids: np.ndarray) -> torch.Tensor:
        """Return the features [n, d] of identifiers that are all there, in their order, in a memory-mapped tensor.

        Raises:
            KeyError: when one is missing.
        """
        self._read_index()
        found = self._find(ids)
        if (found < 0).any():
            raise KeyError(f"{int((found < 0).sum())} of {len(ids)} features are missing")
        result: torch.Tensor | None = None
        places = self._places[found]
        for number in np.unique(places[:, 0]):
            with safe_open(self._files[number], framework="pt") as shard:
                rows = shard.get_tensor("features")
            positions = torch.from_numpy(np.flatnonzero(places[:, 0] == number))
            if result is None:
                result = self._mapped((len(ids), rows.shape[1]), rows.dtype)
            result[positions] = rows[torch.from_numpy(places[positions.numpy(), 1])]
        return torch.empty(0, 0) if result is None else result

    def seconds(self, ids: np.ndarray) -> float | None:
        """Return what computing the features of identifiers that are all there took, each identifier once.

        Of a shard that holds others besides, its rows' share counts. None where a shard does not say.

        Raises:
            KeyError: when one is missing.
        """
        self._read_index()
        found = self._find(np.unique(ids))
        if (found < 0).any():
            raise KeyError(f"{int((found < 0).sum())} of {len(found)} features are missing")
        shards, rows = np.unique(self._places[found, 0], return_counts=True)
        known = self._row_seconds[shards]
        return None if np.isnan(known).any() else float(known @ rows)

    def _mapped(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor in a file that is gone when the tensor is: the system may write its pages out, not kill the run."""
        size = shape[0] * shape[1] * dtype.itemsize
        try:
            with tempfile.NamedTemporaryFile(dir=self.path, suffix=".map") as file:
                if hasattr(os, "posix_fallocate"):  # a full disk is found now, not by a signal when a page is written
                    os.posix_fallocate(file.fileno(), 0, max(size, 1))
                else:
                    file.truncate(max(size, 1))
                return torch.from_file(file.name, shared=True, size=shape[0] * shape[1], dtype=dtype).reshape(shape)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def _find(self, ids: np.ndarray) -> np.ndarray:
        """Return for each identifier its position in the index, -1 where it is not there."""
        if not len(self._ids):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[at] == ids, at, -1)

    def _read_index(self) -> None:
        self._files, names, places, seconds = [], [], [], []
        for path in sorted(self.path.glob(_SHARDS)):
            try:
                with safe_open(path, framework="pt") as shard:
                    found = shard.get_tensor("ids").numpy()
                    spent = float((shard.metadata() or {}).get("seconds", "nan"))
            except (SafetensorError, ValueError):
                self._discard(path)
                continue
            except OSError as error:
                raise _unreadable(path, error) from None
            names.append(found.copy().view("S16").reshape(-1))
            places.append(np.stack([np.full(len(found), len(self._files)), np.arange(len(found))], axis=1))
            seconds.append(spent / len(found))
            self._files.append(path)
        self._row_seconds = np.array(seconds)
        ids = np.concatenate(names) if names else np.empty(0, dtype="S16")
        self._ids, first = np.unique(ids, return_index=True)
        self._places = np.concatenate(places)[first] if places else np.empty((0, 2), dtype=np.int64)

    def _is_whole(self, path: Path) -> bool:
        if path.name not in self._trusted:
            try:
                with safe_open(path, framework="pt") as shard:
                    facts = shard.metadata() or {}
                    found = _checksum(shard.get_tensor("ids"), shard.get_tensor("features"), facts.get("seconds"))
                    if found != facts.get("checksum"):
                        return False
            except SafetensorError:
                return False
            except OSError as error:
                raise _unreadable(path, error) from None
            self._trusted.add(path.name)
        return True

    def _discard(self, path: Path) -> None:
        print(f"warning: {path} is damaged; its features are computed again", file=sys.stderr)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from None


class FeatureStore:
    """All spaces under one root.

    Args:
        root: the folder; `cache_root()` by default.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = cache_root() if root is None else root
        self._folders: dict[str, FeatureFolder] = {}

    def folder(self, space: FeatureSpace) -> FeatureFolder:
        """Return the folder of a space, made when missing; always the same one, so that it checks each shard once."""
        if space.key not in self._folders:
            self._folders[space.key] = FeatureFolder(self.root / space.key, space)
        return self._folders[space.key]

    def __contains__(self, space: FeatureSpace) -> bool:
        return (self.root / space.key / "space.json").exists()

    def keys(self) -> list[str]:
        """Return the keys of what is kept."""
        return sorted(path.parent.name for path in self.root.glob("*/space.json"))

    def stored(self) -> list[StoredSpace]:
        """Return what is kept, the largest first."""
        found = []
        for path in self.root.glob("*/space.json"):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                name, dtype, created = content["name"], content["facts"]["dtype"], content["created"]
            except (OSError, ValueError, KeyError, TypeError):
                name, dtype, created = "unknown", "unknown", ""  # a damaged description; its features can still be cleared
            shards = list(path.parent.glob(_SHARDS))
            rows = 0
            for shard_path in shards:
                with contextlib.suppress(SafetensorError, OSError), safe_open(shard_path, framework="pt") as shard:
                    rows += shard.get_slice("ids").get_shape()[0]
            megabytes = sum(shard_path.stat().st_size for shard_path in shards) / 2**20
            found.append(StoredSpace(path.parent.name, name, dtype, rows, megabytes, created))
        return sorted(found, key=lambda space: -space.megabytes)

    def clear(self, keys: list[str]) -> None:
        """Remove spaces by key.

        Raises:
            UserError: when there is no such space, or a run is writing into one; then nothing is removed.
        """
        keys = list(dict.fromkeys(keys))
        unknown = sorted(set(keys) - set(self.keys()))
        if unknown:
            raise UserError(
                f"no features under {', '.join(unknown)} in {self.root}; 'hf-transfer features list' shows the keys"
            )
        with contextlib.ExitStack() as stack:
            for key in keys:
                try:
                    stack.enter_context(filelock.FileLock(self.root / key / "lock", timeout=0))
                except filelock.Timeout:
                    raise UserError(f"a run is extracting into {key} just now; nothing was removed") from None
                except OSError as error:
                    raise UserError(f"cannot remove {self.root / key}: {error.strerror or error}") from None
            for key in keys:
                try:
                    shutil.rmtree(self.root / key)
                except OSError as error:
                    raise UserError(f"cannot remove {self.root / key}: {error.strerror or error}") from None


def _checksum(ids: torch.Tensor, features: torch.Tensor, seconds: str | None) -> str:
    """Return 32 hex digits of what a shard says; shards of earlier versions say nothing of seconds."""
    digest = hashlib.blake2b(digest_size=16)
    if seconds is not None:
        digest.update(f"{seconds}\0".encode())
    digest.update(f"{features.dtype}\0{tuple(features.shape)}\0".encode())
    digest.update(ids.numpy().data)
    digest.update(features.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read features from {path}: {error.strerror or error}. Set HF_TRANSFER_CACHE to a folder of your own, or "
        "features.cache to false."
    )


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write features into {path}: {error.strerror or error}. Free some space ('hf-transfer features list' and "
        "'clear' help), set HF_TRANSFER_CACHE to a folder on another disk, or set features.cache to false; what was extracted "
        "is kept."
    )
