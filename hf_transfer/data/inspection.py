"""What would be loaded from a source: splits, classes, images and whatever is odd about them, before anyone trains.

Nothing that is found stops the inspection, and the user's files are only read. Every image is decoded once; of each no more
is kept than a digest, 81 gray values and a few numbers.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..errors import DataError, listed
from .build import held_out_fractions, without_training_images
from .class_names import alike
from .images import decode_rgb
from .integrity import cross_split_groups, room_for, undecodable
from .near_duplicates import CORRELATION, RADIUS, SIDE, is_blank, near_groups, small_gray
from .sources.source import read_source
from .splits import hash_order, hold_out, subset
from .table import ImageTable

if TYPE_CHECKING:
    from ..recipe.schema import Data

FEW = 5
"""A class of fewer training images is told."""

METHOD = (
    f"difference hash of rows and columns (128 bits, {RADIUS} may differ), confirmed by a correlation of at least "
    f"{CORRELATION:g} of {SIDE} x {SIDE} gray values"
)

THUMBNAIL = 160
"""Pixels of a sample's longer side."""

SPLITS = ("train", "validation", "test")
_AT_A_TIME = 256
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


@dataclass(frozen=True)
class Plan:
    """Who would be in which split.

    Args:
        source: what was read.
        tables: a table for each split.
        class_names: names of the classes in label order.
        held_out: the splits that the source does not bring.
        problems: what would stop a run before it reads an image.
        revision: commit of a Hub data set, None elsewhere.
        stops_at_bad: whether an unreadable image would stop a run.
    """

    source: str
    tables: dict[str, ImageTable]
    class_names: list[str]
    held_out: list[str]
    problems: list[str]
    revision: str | None = None
    stops_at_bad: bool = True


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Args:
        report: JSON-ready; see `inspect_images`.
        samples: split to class name to (sample id, thumbnail) of some images, None for one that cannot be read.
    """

    report: dict[str, Any]
    samples: dict[str, dict[str, list[tuple[str, Image.Image | None]]]]


def plan_splits(section: Data, wanted: Sequence[str] = (), *, training: bool = True) -> Plan:
    """Read a source and share out its images as `build.build_splits` would; what would stop that is noted instead.

    Args:
        section: a recipe's `data` section.
        wanted: the splits that would be evaluated.
        training: whether a model would be trained; an evaluation reads the wanted splits alone.

    Raises:
        DataError: when the source cannot be read.
    """
    source = read_source(section)
    names, seed = source.class_names, section.split_seed
    tables, held_out, problems = dict(source.tables), [], []
    if training and "train" not in tables:
        problems.append(f"data.source: expected a train split, found only {' and '.join(tables)}")
    takes_all = not training and "test" in wanted and section.test_fraction is None
    if takes_all and "test" not in tables and len(tables) == 1:
        tables = {"test": tables.popitem()[1]}
    fractions = held_out_fractions(section, tables, wanted, training=training)
    try:
        if fractions and "train" in tables:
            tables |= hold_out(tables["train"], fractions, seed, names)
            held_out = list(fractions)
        for split in tables:
            each = section.samples_per_class if split == "train" else None
            total = getattr(section, f"max_{split}_samples")
            tables[split] = subset(tables[split], seed, names, total=total, each=each, split=split)
    except DataError as error:
        problems.append(str(error))
    if absent := [split for split in wanted if split not in tables]:
        problems.append(f"evaluation.splits: asked for {' and '.join(absent)}, and the source brings no such split")
    tables = {split: tables[split] for split in SPLITS if split in tables and (training or split in wanted)}
    if training:
        problems += _class_problems(tables, names)
    stops_at_bad = section.on_bad_image == "error"
    return Plan(section.source, tables, names, held_out, problems, source.revision, stops_at_bad)


def _class_problems(tables: dict[str, ImageTable], names: list[str]) -> list[str]:
    problems = []
    if len(names) < 2:
        problems.append(f"data: expected at least two classes, found {len(names)}: {listed(names) or 'none'}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        problems.append(f"data: several classes are called {listed(twice)}")
    if "train" in tables and (empty := np.flatnonzero(tables["train"].class_counts(len(names)) == 0)).size:
        problems.append(without_training_images([names[c] for c in empty]))
    return problems


def inspect_images(plan: Plan, *, limit: int | None = None, samples: int = 0, sampled_classes: int = 40) -> Inspection:
    """Read every image of every split once, on all processors, and compare all with all.

    Args:
        plan: from `plan_splits`.
        limit: read this many images of each split only, chosen by a hash of their ids; counts of classes are of all.
        samples: how many images of each class and split to keep as thumbnails.
        sampled_classes: of at most this many classes, spread over all.

    Returns:
        The report: {"source", "revision", "class_names", "problems": [text], "limit", "splits": {split: {"from": "source" or
        "held out", "images", "read", "classes": {name: images}, "groups", "width", "height": {"min", "median", "max"} of the
        upright images, "modes", "formats": {name: images}}}, "unreadable": [{"split", "image", "reason"}], "wrong_suffix":
        [{"split", "image", "format"}], "rotated", "several_frames", "blank": [{"split", "image"}], "exact_duplicates": [group],
        "near_duplicates": {"method", "groups": [group]}, "classes": see `odd_classes`, "groups_across_splits": {group:
        {split: images}}}. A group of duplicates is {"images": [{"split", "image", "class"}], "splits", "classes"}. An image
        is told by its sample id: the path below the source, or the row of a Hub split.
    """
    places = {split: _chosen(table, limit) for split, table in plan.tables.items()}
    shown = {
        split: _sample_places(table, places[split], plan.class_names, samples, sampled_classes)
        for split, table in plan.tables.items()
    }
    found = _Found(plan, [(split, int(place)) for split in plan.tables for place in places[split]])
    found.read(shown)
    counts = {split: table.class_counts(len(plan.class_names)) for split, table in plan.tables.items()}
    splits = {
        split: {
            "from": "held out" if split in plan.held_out else "source",
            "images": len(table),
            "read": len(places[split]),
            "classes": dict(zip(plan.class_names, counts[split].tolist(), strict=True)),
            "groups": None if table.groups is None else len(np.unique(table.groups)),
            **found.sizes_and_kinds(split),
        }
        for split, table in plan.tables.items()
    }
    report = {
        "source": plan.source,
        "revision": plan.revision,
        "class_names": plan.class_names,
        "problems": plan.problems + found.problems(),
        "limit": limit,
        "splits": splits,
        **found.odd_images(),
        **found.duplicates(),
        "classes": odd_classes(plan.class_names, counts),
        "groups_across_splits": cross_split_groups(plan.tables),
    }
    return Inspection(report, found.samples(shown))


def _chosen(table: ImageTable, limit: int | None) -> np.ndarray:
    """Return the positions to read, int64 [at most limit], in order."""
    return np.arange(len(table)) if limit is None else np.sort(hash_order(table.sample_ids, 0)[:limit])


def _sample_places(table: ImageTable, places: np.ndarray, names: list[str], each: int, most: int) -> list[int]:
    """Return the positions of a few images of each class, or of `most` classes spread over all; class by class."""
    if not each:
        return []
    labels = np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).astype(int))
    order = places[hash_order(table.sample_ids[places], 0)]
    chosen = [int(place) for label in labels for place in order[table.shows(label)[order]][:each]]
    return list(dict.fromkeys(chosen))  # an image may show several classes


class Look(NamedTuple):
    """What one image is; all but the digest and the reason is that of an image that can be read."""

    digest: bytes = b""
    reason: str | None = None
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    wrong_suffix: bool = False
    rotated: bool = False
    several_frames: bool = False
    gray: np.ndarray | None = None
    thumbnail: Image.Image | None = None


def look_at(table: ImageTable, place: int, *, thumbnail: int = 0) -> Look:
    """Read one image and decode it.

    Args:
        table: where it is.
        place: its position there.
        thumbnail: pixels of the longer side of a thumbnail to keep; 0 for none.
    """
    try:
        encoded = table.encoded(place)
    except OSError as error:
        return Look(reason=error.strerror or str(error))
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    if not encoded:
        return Look(digest, "the file is empty")
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            kind, mode = opened.format or "", _mode(opened, encoded)
            rotated, several_frames = _is_rotated(opened), _has_several_frames(opened)
            pixels = opened.width * opened.height
        with room_for(pixels):
            image = decode_rgb(encoded)
            gray = small_gray(image)
            width, height = image.size
            kept = image if thumbnail else None
            if kept is not None:
                kept.thumbnail((thumbnail, thumbnail))
            del image
    except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
        return Look(digest, undecodable(error, encoded))
    wrong_suffix = not _fits(Path(table.path(place) or "").suffix, kind)
    return Look(digest, None, width, height, mode, kind, wrong_suffix, rotated, several_frames, gray, kept)


def _is_rotated(image: Image.Image) -> bool:
    # Pillow decodes a PNG to look for metadata behind the pixels, where hardly any program writes it.
    if image.format == "PNG" and not image.info.keys() & {"exif", "xmp", "Raw profile type exif"}:
        return False
    return image.getexif().get(_ORIENTATION, 1) in range(2, 9)


def _has_several_frames(image: Image.Image) -> bool:
    if image.format == "MPO":  # a phone's photograph; the others are previews or depth maps
        return False
    try:
        return getattr(image, "n_frames", 1) > 1
    except Exception:  # the second one is broken; only the first is used
        return True


def _mode(image: Image.Image, encoded: bytes) -> str:
    """Return how pixels are stored, as Pillow calls it but for palettes and 16 bits a channel, which Pillow may cut to 8."""
    if image.format == "PNG":
        sixteen_bit = encoded[24] == 16  # the bit depth in the header
    else:
        sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if sixteen_bit:
        return "16-bit gray" if image.mode.startswith("I") else f"16-bit {image.mode}"
    return "palette" if image.mode in ("P", "PA") else image.mode


def _fits(suffix: str, kind: str) -> bool:
    """Return whether a file's suffix is that of its format; also where there is none."""
    expected = Image.registered_extensions().get(suffix.lower(), kind)
    return expected == ("JPEG" if kind == "MPO" else kind)  # phones' pairs of JPEGs are called .jpg


class _Found:
    """What was found of n images, row by row; of each a few hundred bytes are kept.

    Args:
        plan: the splits.
        images: the split and position of each.
    """

    def __init__(self, plan: Plan, images: Sequence[tuple[str, int]]) -> None:
        self._plan, self._images = plan, images
        self._split = np.array([SPLITS.index(split) for split, _ in images], dtype=np.int8)
        self._readable = np.zeros(len(images), dtype=bool)
        self._digest = np.zeros(len(images), dtype="S16")
        self._size = np.zeros((len(images), 2), dtype=np.int32)
        self._gray = np.zeros((len(images), SIDE, SIDE), dtype=np.uint8)
        self._kinds: dict[str, dict[str, Counter[str]]] = {
            split: {"modes": Counter(), "formats": Counter()} for split in plan.tables
        }
        self._odd: dict[str, list[dict[str, str]]] = {
            name: [] for name in ("unreadable", "wrong_suffix", "rotated", "several_frames", "blank")
        }
        self._thumbnails: dict[tuple[str, int], Image.Image] = {}

    def read(self, shown: dict[str, list[int]]) -> None:
        """Read all of them, and keep thumbnails of those shown."""

        def look(image: tuple[str, int]) -> Look:
            split, place = image
            return look_at(self._plan.tables[split], place, thumbnail=THUMBNAIL if place in wanted[split] else 0)

        wanted = {split: frozenset(places) for split, places in shown.items()}
        Image.init()  # here, not in several threads at once
        with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters here is whether it decodes
            with tqdm(total=len(self._images), desc="inspect", unit=" images", leave=False, disable=None) as progress:
                for start in range(0, len(self._images), _AT_A_TIME):  # so that no more results wait than that
                    self._prefetch(self._images[start : start + _AT_A_TIME])
                    for row, result in enumerate(pool.map(look, self._images[start : start + _AT_A_TIME]), start):
                        self._add(row, result)
                        progress.update()

    def _prefetch(self, images: Sequence[tuple[str, int]]) -> None:
        for split in dict.fromkeys(split for split, _ in images):
            self._plan.tables[split].prefetch([place for other, place in images if other == split])

    def _add(self, row: int, look: Look) -> None:
        image = self._name(row)
        if look.gray is None:
            self._odd["unreadable"].append({**image, "reason": str(look.reason)})
            return
        self._readable[row] = True
        self._digest[row], self._size[row], self._gray[row] = look.digest, (look.width, look.height), look.gray
        kinds = self._kinds[image["split"]]
        kinds["modes"][look.mode] += 1
        kinds["formats"][look.format] += 1
        if look.wrong_suffix:
            self._odd["wrong_suffix"].append({**image, "format": look.format})
        if look.rotated:
            self._odd["rotated"].append(image)
        if look.several_frames:
            self._odd["several_frames"].append(image)
        if is_blank(look.gray[None])[0]:
            self._odd["blank"].append(image)
        if look.thumbnail is not None:
            self._thumbnails[self._images[row]] = look.thumbnail

    def sizes_and_kinds(self, split: str) -> dict[str, Any]:
        """Return sizes, modes and formats of the readable images of a split."""
        sizes = self._size[self._readable & (self._split == SPLITS.index(split))]
        if not len(sizes):
            return {"width": None, "height": None, "modes": {}, "formats": {}}
        low, middle, high = sizes.min(axis=0), np.median(sizes, axis=0), sizes.max(axis=0)
        return {
            name: {"min": int(low[axis]), "median": float(middle[axis]), "max": int(high[axis])}
            for axis, name in enumerate(("width", "height"))
        } | {name: dict(counted.most_common()) for name, counted in self._kinds[split].items()}

    def odd_images(self) -> dict[str, list[dict[str, str]]]:
        """Return the images that are unreadable or odd, by what they are."""
        return self._odd

    def problems(self) -> list[str]:
        """Return what would stop a run that is to stop at a bad image."""
        count = len(self._odd["unreadable"])
        if not count or not self._plan.stops_at_bad:
            return []
        bad = "1 unreadable image" if count == 1 else f"{count:,} unreadable images"
        return [f"data: found {bad}; mend or remove, or set data.on_bad_image to 'skip'"]

    def duplicates(self) -> dict[str, Any]:
        """Return the groups of images that are equal byte for byte, and of those that look the same and are not."""
        rows = np.flatnonzero(self._readable)
        _, first, same, count = np.unique(self._digest[rows], return_index=True, return_inverse=True, return_counts=True)
        exact = _members(same, count > 1)
        group = near_groups(self._gray[rows[first]])
        _, group, distinct = np.unique(group, return_inverse=True, return_counts=True)
        near = _members(group[same], distinct > 1)  # the copies of an image belong to its group
        return {
            "exact_duplicates": [self._group(rows[members]) for members in exact],
            "near_duplicates": {
                "method": METHOD,
                "groups": [self._group(rows[members]) for members in near],
            },
        }

    def samples(self, shown: dict[str, list[int]]) -> dict[str, dict[str, list[tuple[str, Image.Image | None]]]]:
        """Return the thumbnails of each split and class; see `Inspection`."""
        found: dict[str, dict[str, list[tuple[str, Image.Image | None]]]] = {}
        for split, places in shown.items():
            table, classes = self._plan.tables[split], found.setdefault(split, {})
            for place in places:
                sample = (str(table.sample_ids[place]), self._thumbnails.get((split, place)))
                for label in table.classes_of(place):
                    classes.setdefault(self._plan.class_names[label], []).append(sample)
        return found

    def _name(self, row: int) -> dict[str, str]:
        split, place = self._images[row]
        return {"split": split, "image": str(self._plan.tables[split].sample_ids[place])}

    def _group(self, rows: np.ndarray) -> dict[str, Any]:
        images = []
        for row in rows:
            split, place = self._images[row]
            shown = [self._plan.class_names[label] for label in self._plan.tables[split].classes_of(place)]
            images.append({**self._name(row), "class": ", ".join(shown)})
        told = {key: list(dict.fromkeys(image[key] for image in images)) for key in ("split", "class")}
        return {"images": images, "splits": told["split"], "classes": told["class"]}


def _members(group: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each wanted group's members, groups in the order of their first members.

    Args:
        group: int64 [n], the group of each.
        wanted: bool [groups].
    """
    places = np.flatnonzero(wanted[group])
    order = places[np.argsort(group[places], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []
    return sorted(parts, key=lambda part: int(part[0]))


def odd_classes(names: list[str], counts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return what is suspicious about classes.

    Args:
        names: of the classes, in label order.
        counts: int64 [C] images of each class in each split.

    Returns:
        {"few": {class: training images, fewer than `FEW`}, "not_in_train": {class: {split: images}}, "not_in": {split:
        [classes that train has and this split has not]}, "alike": [[names that differ in case, spaces, hyphens, underscores
        or accents only]], "numeric": [names that are numbers]}.
    """
    train = counts.get("train", np.zeros(len(names), dtype=np.int64))
    elsewhere = {split: found for split, found in counts.items() if split != "train"}
    return {
        "few": {names[c]: int(train[c]) for c in np.flatnonzero((train > 0) & (train < FEW))} if "train" in counts else {},
        "not_in_train": {
            name: {split: int(found[c]) for split, found in elsewhere.items() if found[c]}
            for c, name in enumerate(names)
            if "train" in counts and train[c] == 0
        },
        "not_in": {
            split: [names[c] for c in np.flatnonzero((train > 0) & (found == 0))]
            for split, found in elsewhere.items()
            if ((train > 0) & (found == 0)).any()
        },
        "alike": alike(names),
        "numeric": [name for name in names if re.fullmatch(r"\s*[+-]?\d+([.,]\d+)?\s*", name)],
    }
