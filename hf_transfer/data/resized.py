"""Images kept as 8-bit pixels of the size that is needed: decoded once, memory-mapped ever after.

A folder holds shards of some hundred images. A shard is a safetensors file of the images' digests, sizes, checksums and pixels,
written beside and moved into place, so it is there as a whole or not at all: an interrupted pass goes on after its last shard.
What depends on anything but the image's bytes (size, interpolation, decoding, versions) chooses the folder.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import logging
import math
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode

from ..errors import UserError
from ..run_directory import write_json
from .augmentation import AnyTransform, CropAugmentation, InputAugmentation
from .cache_folder import cache_root, lock_folder, write_whole
from .decoding import Box, Decoder, EncodedPicture, UndecodableError, resized, unreadable
from .images import decode_rgb
from .parted import NORMALISATION, Normalisation, Transform, eight_bit_parts, settings
from .table import ImageTable
from .transforms import Preprocessing

_log = logging.getLogger(__name__)

_FORMAT = 1
_SHARDS = "shard-*.safetensors"
_IMAGES = 256  # of a shard, at most
_BYTES = 64 * 2**20  # of a shard, about, at most
_MAPPED = 4096  # shards that a process maps at a time
_VERSIONS = ("torch", "torchvision", "transformers", "timm", "pillow")

Pixels = tuple[np.ndarray, tuple[int, int]]
"""uint8 [height, width, 3], and (height, width) of the upright original."""


class KeptPicture:
    """A picture of which a smaller copy is kept; see `decoding.Picture`.

    Args:
        pixels: uint8 [height, width, 3].
        size: (height, width) of the original.
    """

    def __init__(self, pixels: np.ndarray, size: tuple[int, int]) -> None:
        self.size = size
        self._pixels = pixels

    def crop(self, box: Box, size: tuple[int, int], interpolation: InterpolationMode) -> torch.Tensor:
        """Return a part; its edges are at the nearest pixels of the copy."""
        height, width = self._pixels.shape[:2]
        part = box
        if (height, width) != self.size:
            part = scaled_box(box, (height / self.size[0], width / self.size[1]), (height, width))
        pixels = self._pixels[part.top : part.top + part.height, part.left : part.left + part.width]
        return resized(pixels, size, interpolation)


def scaled_box(box: Box, scale: tuple[float, float], size: tuple[int, int]) -> Box:
    """Return a box in an image that was resized, its edges at the nearest pixels.

    Args:
        box: in the original.
        scale: how many pixels of the resized image there are for one, vertically and horizontally.
        size: (height, width) of the resized image.
    """
    top, height = _scaled_span(box.top, box.height, scale[0], size[0])
    left, width = _scaled_span(box.left, box.width, scale[1], size[1])
    return Box(top, left, height, width)


def _scaled_span(start: int, length: int, scale: float, side: int) -> tuple[int, int]:
    first = min(round(start * scale), side - 1)
    last = min(max(round((start + length) * scale), first + 1), side)
    return first, last - first


@dataclass(frozen=True)
class Shrinking:
    """An encoded image to the copy that training crops are taken from.

    Args:
        side: pixels of the shorter side; smaller images are kept as they are.
        interpolation: how they are resized.
    """

    side: int
    interpolation: InterpolationMode

    def __call__(self, encoded: bytes) -> Pixels:
        """Return the copy and the original's size.

        Raises:
            UndecodableError: when the bytes are no complete image.
        """
        picture = EncodedPicture(encoded)
        height, width = picture.size
        scale = min(1.0, self.side / min(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return picture.crop(Box(0, 0, height, width), size, self.interpolation).numpy(), picture.size


@dataclass(frozen=True)
class Resizing:
    """An encoded image to what evaluation normalises.

    Args:
        resize: RGB image to uint8 [3, height, width].
        decoder: how it is decoded; None for `decode_rgb`.
    """

    resize: Transform
    decoder: Decoder | None

    def __call__(self, encoded: bytes) -> Pixels:
        """Return the resized and cropped pixels and the original's size.

        Raises:
            UndecodableError: when the bytes are no complete image.
        """
        try:
            image = (self.decoder or decode_rgb)(encoded)
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            raise UndecodableError from error
        return self.resize(image).permute(1, 2, 0).contiguous().numpy(), (image.size[1], image.size[0])


class KeptImages:
    """The kept images of a table, by position; instances go to loader processes.

    Args:
        folder: where they are.
        digests: bytes "S16" [n], the images'.
        normalise: what makes inputs of an evaluation's pixels; None where they are of training.
    """

    def __init__(self, folder: PixelFolder, digests: np.ndarray, normalise: Normalisation | None = None) -> None:
        self.folder = folder
        self.normalise = normalise
        self.rows = folder.find(digests)

    def read(self, index: int) -> Pixels | None:
        """Return one image; None where it is not kept, or found damaged, which is said once for each shard."""
        row = int(self.rows[index])
        return None if row < 0 else self.folder.read(row)

    def evaluated(self, image: Pixels) -> torch.Tensor:
        """Return the input float32 [3, height, width] of an evaluation's image that `read` returned."""
        if self.normalise is None:
            raise ValueError("these images are kept for training crops")
        return self.normalise(torch.from_numpy(image[0]).permute(2, 0, 1))


class PixelFolder:
    """Images of one kind: a folder of shards, and an index of them that takes some 60 bytes an image.

    Args:
        path: the folder; made when missing.
        facts: what its pixels depend on, written into the folder for people to read.

    Raises:
        UserError: when it cannot be made.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self._mapped: dict[int, np.ndarray] = {}
        self._damaged: set[int] = set()
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / "space.json").exists():
                created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
                write_json(path / "space.json", {"created": created, "facts": facts})
        except OSError as error:
            raise _unwritable(path, error) from None
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}

    def refresh(self) -> None:
        """Read the index of every shard; a damaged one is removed, with a warning."""
        self._mapped.clear()
        self._files: list[Path] = []
        self._starts: list[int] = []  # where in its file a shard's pixels begin
        digests, rows = [], []
        for path in sorted(self.path.glob(_SHARDS)):
            try:
                names, sizes, checksums = _index(path)
            except (SafetensorError, ValueError, KeyError):
                self._discard(path)
                continue
            except OSError as error:
                raise _unwritable(self.path, error) from None
            offsets = np.concatenate([[0], np.cumsum(sizes[:, 0].astype(np.int64) * sizes[:, 1] * 3)[:-1]])
            digests.append(names)
            rows.append(np.column_stack([np.full(len(names), len(self._files)), offsets, sizes, checksums]))
            self._files.append(path)
            self._starts.append(_pixels_at(path))
        found = np.concatenate(digests) if digests else np.empty(0, dtype="S16")
        self._digests, first = np.unique(found, return_index=True)
        self._rows = np.concatenate(rows)[first] if rows else np.empty((0, 7), dtype=np.int64)

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Return int64 [n]: the row of each image, -1 where it is not kept.

        Args:
            digests: bytes "S16" [n].
        """
        if not len(self._digests):
            return np.full(len(digests), -1)
        at = np.minimum(np.searchsorted(self._digests, digests), len(self._digests) - 1)
        return np.where(self._digests[at] == digests, at, -1)

    def read(self, row: int) -> Pixels | None:
        """Return one image, memory-mapped, its checksum compared; None where its shard is damaged."""
        shard, offset, height, width, *original, checksum = self._rows[row].tolist()
        if shard in self._damaged:
            return None
        try:
            pixels = self._map(shard)[offset : offset + height * width * 3]
            whole = _checksum(pixels) == checksum and len(pixels) == height * width * 3
        except (OSError, ValueError):  # it is gone, or shorter than it was
            whole = False
        if not whole:
            self._damaged.add(shard)
            self._discard(self._files[shard])
            return None
        return pixels.reshape(height, width, 3), (original[0], original[1])

    def write(self, digests: list[bytes], images: list[Pixels]) -> None:
        """Add images as one shard.

        Raises:
            UserError: when the disk is full or cannot be written; what was there before stays whole.
        """
        names = np.array(digests, dtype="S16").view(np.uint8).reshape(len(digests), 16)
        sizes = np.array([(*pixels.shape[:2], *original) for pixels, original in images], dtype=np.int32)
        flat = [np.ascontiguousarray(pixels).reshape(-1) for pixels, _ in images]
        checksums = np.array([_checksum(pixels) for pixels in flat], dtype=np.int64)
        tensors = {"digests": names, "sizes": sizes, "checksums": checksums, "pixels": np.concatenate(flat)}
        content = save(
            {name: torch.from_numpy(values) for name, values in tensors.items()},
            metadata={"checksum": _index_checksum(names, sizes, checksums)},
        )
        name = f"shard-{hashlib.blake2b(names.tobytes(), digest_size=12).hexdigest()}.safetensors"
        try:
            write_whole(self.path / name, content)
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._mapped:
            if len(self._mapped) >= _MAPPED:
                self._mapped.clear()
            # Pages of mode "c" are written by nobody; torch warns of arrays that cannot be.
            self._mapped[shard] = np.memmap(self._files[shard], np.uint8, mode="c", offset=self._starts[shard])
        return self._mapped[shard]

    def _discard(self, path: Path) -> None:
        print(f"warning: {path} is damaged; its images are decoded again", file=sys.stderr)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from None


def keep_for_training(
    table: ImageTable,
    transform: AnyTransform,
    decoder: Decoder | None,
    workers: int,
    root: Path | None = None,
) -> KeptImages | None:
    """Keep every image of a table at the size that training needs, and return them; what is kept already is not read.

    For crops the shorter side is that of the input divided by the square root of their least share of the area (317 pixels for
    224 and a half): the smallest square crop still has every pixel of the input. A transform that begins with evaluation's
    keeps what that keeps.

    Args:
        table: images whose digests are known.
        transform: of `build_train_transform`.
        decoder: how whole images are decoded; None for `decode_rgb`.
        workers: loader processes.
        root: the folder of all; `cache_root("resized")` by default.

    Returns:
        None where images are resized by a processor that does not resize to bytes.

    Raises:
        UserError: when an image cannot be read, or the folder not be written.
    """
    if not isinstance(transform, CropAugmentation):
        preprocessing = transform.preprocessing if isinstance(transform, InputAugmentation) else transform
        return keep_for_evaluation(table, preprocessing, decoder, workers, root)
    preprocessing = transform.preprocessing
    side = math.ceil(max(preprocessing.size) / math.sqrt(transform.smallest))
    shrink = Shrinking(side, preprocessing.interpolation)
    facts = {"kind": "training", "side": side, "interpolation": preprocessing.interpolation.value, "versions": _versions()}
    return _kept(table, shrink, facts, None, workers, root)


def keep_for_evaluation(
    table: ImageTable, preprocessing: Preprocessing, decoder: Decoder | None, workers: int, root: Path | None = None
) -> KeptImages | None:
    """Keep every image of a table as the checkpoint's processor resizes and crops it; inputs are those of without, to the bit.

    Args:
        table: images whose digests are known.
        preprocessing: the checkpoint's.
        decoder: how images are decoded; None for `decode_rgb`.
        workers: loader processes.
        root: the folder of all; `cache_root("resized")` by default.

    Returns:
        None where the processor does not resize to bytes, or not to the same ones by itself.

    Raises:
        UserError: when an image cannot be read, or the folder not be written.
    """
    parts = eight_bit_parts(preprocessing)
    if parts is None:
        _log.warning("data.cache: the checkpoint's processor does not resize to bytes; what it makes of images is not kept")
        return None
    resize, normalise = parts
    facts = {
        "kind": "evaluation",
        "processor": settings(preprocessing, NORMALISATION),
        "decoding": "full" if decoder is None else repr(decoder),
        "versions": _versions(),
    }
    return _kept(table, Resizing(resize, decoder), facts, normalise, workers, root)


def _kept(
    table: ImageTable,
    make: Callable[[bytes], Pixels],
    facts: dict[str, Any],
    normalise: Normalisation | None,
    workers: int,
    root: Path | None,
) -> KeptImages:
    if table.digests is None:
        raise UserError("data.cache: expected 'none' for images that are read while training (data.streaming), found 'resized'")
    facts = {"format": _FORMAT, **facts}
    key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    folder = PixelFolder((root or cache_root("resized")) / key, facts)
    if (folder.find(table.digests) < 0).any():
        _complete(folder, table, table.digests, make, workers)
    return KeptImages(folder, table.digests, normalise)


def _complete(
    folder: PixelFolder, table: ImageTable, digests: np.ndarray, make: Callable[[bytes], Pixels], workers: int
) -> None:
    """Add the images of a table that are missing; other processes wait, then find them."""
    from tqdm.auto import tqdm

    try:
        lock = lock_folder(folder.path, "waiting for another process that resizes the same images")
    except OSError as error:
        raise _unwritable(folder.path, error) from None
    try:
        folder.refresh()
        missing = np.flatnonzero(folder.find(digests) < 0)
        missing = missing[np.sort(np.unique(digests[missing], return_index=True)[1])]
        writers = _Writers(folder, table, digests, make, missing)
        loader = DataLoader(writers, batch_size=None, num_workers=workers if len(writers) > 1 else 0)
        with tqdm(total=len(missing), desc="resize images once", leave=False, disable=None) as progress:
            for count in loader:
                progress.update(int(count))
        folder.refresh()
    finally:
        lock.release()


class _Writers(Dataset):
    """Pieces of work: each decodes up to `_IMAGES` images and writes their shards; its item is how many they were."""

    def __init__(
        self,
        folder: PixelFolder,
        table: ImageTable,
        digests: np.ndarray,
        make: Callable[[bytes], Pixels],
        positions: np.ndarray,
    ) -> None:
        self.folder = folder
        self.table = table
        self.digests = digests
        self.make = make
        self.positions = positions

    def __len__(self) -> int:
        return math.ceil(len(self.positions) / _IMAGES)

    def __getitem__(self, number: int) -> int:
        own = self.positions[number * _IMAGES : (number + 1) * _IMAGES].tolist()
        self.table.prefetch(own)
        for shard in _by_bytes((index, self._made(index)) for index in own):
            names = [self.digests[index].ljust(16, b"\0") for index, _ in shard]
            self.folder.write(names, [image for _, image in shard])
        return len(own)

    def _made(self, index: int) -> Pixels:
        try:
            return self.make(self.table.encoded(index))
        except (UndecodableError, OSError) as error:
            raise unreadable(self.table.name(index), error.__cause__ or error) from None


def _by_bytes(images: Iterator[tuple[int, Pixels]]) -> Iterator[list[tuple[int, Pixels]]]:
    """Yield the images in lists of about `_BYTES` at most."""
    held: list[tuple[int, Pixels]] = []
    size = 0
    for index, image in images:
        held.append((index, image))
        size += image[0].nbytes
        if size >= _BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _index(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a shard's digests "S16" [n], sizes int32 [n, 4] and checksums int64 [n].

    Raises:
        SafetensorError, ValueError, KeyError: when it is damaged.
    """
    with safe_open(path, framework="pt") as shard:
        names, sizes, checksums = (shard.get_tensor(name).numpy().copy() for name in ("digests", "sizes", "checksums"))
        if (shard.metadata() or {}).get("checksum") != _index_checksum(names, sizes, checksums):
            raise ValueError("the index is damaged")
    return names.view("S16").reshape(-1), sizes, checksums


def _pixels_at(path: Path) -> int:
    """Return where in a shard the pixels begin: after the header's length, the header, and what stands before them."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length + int(json.loads(file.read(length))["pixels"]["data_offsets"][0])


def _checksum(pixels: np.ndarray) -> int:
    return xxhash.xxh3_64_intdigest(pixels.data) - 2**63  # as int64


def _index_checksum(*arrays: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot keep resized images in {path}: {error.strerror or error}. Free some space (that folder may be deleted at any "
        "time), set HF_TRANSFER_CACHE to a folder on another disk, or set data.cache to 'none'; what was kept stays."
    )
