"""A folder of class folders, split into train, validation and test folders: who goes where, and the copy.

Each class is shared out by itself: images are ordered by a keyed hash of their path below the source, so neither the file
system nor other classes decide where an image goes. The source is only read.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..errors import DataError, listed, nearest
from ..run_directory import write_json
from .class_names import with_composed_names
from .groups import groups_of_paths
from .integrity import cross_split_duplicates, scan
from .sources.folders import SPLIT_NAMES, natural_order, read_class_folders
from .splits import hash_order, split_by_groups
from .table import ImageTable

PARTS = ("train", "validation", "test")
FRACTIONS = (0.7, 0.1, 0.2)
MANIFEST = "split.json"


@dataclass(frozen=True)
class FolderSplit:
    """Who goes where.

    Args:
        source: the folder that is split.
        tables: train, validation and test, without those that were not asked for.
        class_names: in label order, which is that of every part.
        left_out: images of each class that are in no part [C].
        asked: what was asked for, for the manifest.
    """

    source: Path
    tables: dict[str, ImageTable]
    class_names: list[str]
    left_out: np.ndarray
    asked: dict[str, Any]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return class to part to number of images."""
        of_part = {part: table.class_counts(len(self.class_names)) for part, table in self.tables.items()}
        return {name: {part: int(found[c]) for part, found in of_part.items()} for c, name in enumerate(self.class_names)}


def plan_split(
    source: Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    per_class: Sequence[int] | None = None,
    drop: Sequence[str] = (),
    seed: int = 0,
    group_by: str | None = None,
) -> FolderSplit:
    """Share the images of a folder of class folders among train, validation and test; nothing is written.

    What is asked for is to have passed `check_request`.

    Args:
        source: the folder.
        fractions: of train, validation and test, together 1; see `part_sizes` for how they are rounded. 0 for a part that is
            not wanted.
        per_class: images of each class in train, validation and test instead, the rest being left out; without the third
            the rest is test.
        drop: class folders to leave out.
        seed: of the split.
        group_by: which images belong together and go to one part, `folder` or `path:REGEX`, see `groups_of_paths`; class
            proportions are then kept as well as whole groups allow.

    Raises:
        DataError: what is wrong with the folder, or naming all classes with too few images or groups.
    """
    found = with_composed_names(read_class_folders(source, drop=drop))
    table, names = found.tables["train"], found.class_names
    asked: dict[str, Any] = {"seed": seed, "dropped": sorted(drop, key=natural_order), "group_by": group_by}
    asked |= {"fractions": list(fractions)} if per_class is None else {"per_class": list(per_class)}
    counts = table.class_counts(len(names))
    if group_by is not None:
        groups = groups_of_paths(table.sample_ids.tolist(), group_by, key="--group-by")
        shares = {part: fraction for part, fraction in zip(PARTS, fractions, strict=True) if fraction > 0}
        tables = split_by_groups(replace(table, groups=groups), groups, shares, seed, names)
    elif per_class is None:
        wanted = [part for part, fraction in zip(PARTS, fractions, strict=True) if fraction > 0]
        needs = f"{len(wanted)} images, one for each of {', '.join(wanted)}"
        _stop_if_few(counts < len(wanted), needs, counts, names)
        sizes = part_sizes(counts, [fraction for fraction in fractions if fraction > 0])
        tables = _share_out(table, wanted, sizes, seed)
    else:
        rest = counts - sum(per_class)
        takes_rest = len(per_class) == 2
        needs = f"{sum(per_class)} images" + (" and one for test" if takes_rest else "")
        _stop_if_few(rest < int(takes_rest), needs, counts, names)
        sizes = np.stack([*(np.full_like(counts, count) for count in per_class), *([rest] if takes_rest else [])])
        tables = _share_out(table, PARTS, sizes, seed)
    left_out = counts - np.sum([part.class_counts(len(names)) for part in tables.values()], axis=0)
    return FolderSplit(source, tables, names, left_out, asked)


def _stop_if_few(few: np.ndarray, needs: str, counts: np.ndarray, names: list[str]) -> None:
    if few.any():
        found = listed(f"'{names[c]}' ({counts[c]})" for c in np.flatnonzero(few))
        raise DataError(f"expected at least {needs}, of every class; too few of {found}. Add images, or drop the class.")


def part_sizes(counts: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Return how many images of each class each part gets.

    The first parts end at int(n f_1), int(n (f_1 + f_2)) of the n images of a class, in double precision, and the last part
    has the rest; a part that would have none takes an image from the one that is most above its share. So common scripts
    count, and so does the reference study of Caltech-256, whose 0.7 / 0.1 / 0.2 this gives to the image. (0.7 + 0.1 is a
    little less than 0.8 to a computer: 80 images are split into 56, 7 and 17.)

    Args:
        counts: int64 [C], images of each class.
        fractions: of the P parts, each above 0, together 1.

    Returns:
        int64 [P, C] that sums to `counts`.
    """
    ends, reached = [np.zeros_like(counts)], 0.0
    for fraction in fractions[:-1]:
        reached += fraction
        ends.append((counts * reached).astype(np.int64))
    sizes = np.diff(np.stack([*ends, counts]), axis=0)
    due = np.outer(fractions, counts)
    for c in np.flatnonzero((sizes == 0).any(axis=0) & (counts >= len(fractions))):
        for part in np.flatnonzero(sizes[:, c] == 0):
            sizes[np.argmax(np.where(sizes[:, c] > 1, sizes[:, c] - due[:, c], -np.inf)), c] -= 1
            sizes[part, c] = 1
    return sizes


def _share_out(table: ImageTable, parts: Sequence[str], sizes: np.ndarray, seed: int) -> dict[str, ImageTable]:
    order = hash_order(table.sample_ids, seed)
    part_of = np.full(len(table), -1)
    for label in range(sizes.shape[1]):
        members = order[table.labels[order] == label]
        for part, (start, end) in enumerate(zip([0, *np.cumsum(sizes[:-1, label])], np.cumsum(sizes[:, label]), strict=True)):
            part_of[members[start:end]] = part
    return {name: table.select(np.flatnonzero(part_of == part)) for part, name in enumerate(parts)}


def check_request(
    source: Path,
    out: Path,
    *,
    fractions: Sequence[float] = FRACTIONS,
    per_class: Sequence[int] | None = None,
    drop: Sequence[str] = (),
    group_by: str | None = None,
) -> None:
    """Stop with everything that is wrong with what was asked for; nothing is read but names of folders.

    Args:
        source, fractions, per_class, drop, group_by: as for `plan_split`.
        out: where the split is to be written.

    Raises:
        DataError: all problems at once.
    """
    problems = _wrong_source(source, drop) + _wrong_destination(source, out)
    if per_class is None:
        valid = all(math.isfinite(fraction) and fraction >= 0 for fraction in fractions) and fractions[0] > 0
        if not valid or fractions[1] == fractions[2] == 0 or abs(sum(fractions) - 1) > 1e-9:
            shown = " ".join(f"{fraction:g}" for fraction in fractions)
            problems.append(
                "--fractions: expected shares of train, validation and test that make 1, at most one of the last two 0; "
                f"found {shown} (together {sum(fractions):g})"
            )
    elif len(per_class) not in (2, 3) or min(per_class) < 1:
        shown = " ".join(map(str, per_class))
        problems.append(
            f"--per-class: expected numbers of images for train, validation and (if not the rest) test; found {shown}"
        )
    if group_by is not None:
        if per_class is not None:
            problems.append("--group-by: whole groups cannot be counted out by image; use --fractions instead of --per-class")
        try:
            groups_of_paths([], group_by, key="--group-by")
        except DataError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError("\n  - ".join([f"found {len(problems)} problems:", *problems]))


def _wrong_source(source: Path, drop: Sequence[str]) -> list[str]:
    if not source.is_dir():
        found = "a file" if source.exists() else "nothing"
        return [f"SOURCE: expected a folder of class folders, found {found} at {source}"]
    classes = [path.name for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")]
    problems = []
    if classes and all(name.lower() in SPLIT_NAMES for name in classes):
        problems.append(f"SOURCE: {source} is split already ({listed(sorted(classes))}); name one of these folders to split it")
    problems += [
        f"--drop: {source} has no class folder '{name}'{nearest(name, classes)}" for name in drop if name not in classes
    ]
    if classes and set(classes) <= set(drop):
        problems.append("--drop: expected a class that is kept")
    return problems


def _wrong_destination(source: Path, out: Path) -> list[str]:
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        return [f"OUT: {out} is inside the source, which is never changed; choose a folder elsewhere"]
    if out.is_dir() and any(out.iterdir()):
        found = listed(sorted(path.name for path in out.iterdir()), 3)
        return [f"OUT: {out} is not empty ({found}); nothing was touched. Choose another folder."]
    if out.is_dir() and (out.resolve() == Path.cwd() or os.path.ismount(out)):
        kind = "the folder you are in" if out.resolve() == Path.cwd() else "where something is mounted"
        return [f"OUT: {out} is {kind}, which cannot be replaced; name a folder inside it"]
    if not out.is_dir() and os.path.lexists(out):
        return [f"OUT: {out} is a file; expected an empty folder or nothing"]
    return []


def describe(split: FolderSplit) -> dict[str, Any]:
    """Return the manifest of a split, once every image has been read: what `split.json` holds.

    Returns:
        {"source", "seed", "dropped", "group_by", "fractions" or "per_class", "class_to_index", "images": {part: n},
        "counts": {class: {part: n}}, "groups": {part: n} where images are kept together, "left_out": {class: n},
        "files_digest": BLAKE2b of all `part/path` with the bytes of each image, "duplicates_across_splits": [[`part: path`]] of
        equal bytes, "unreadable": {`part/path`: reason}}.
    """
    scans = {part: scan(table, decode=False) for part, table in split.tables.items()}
    digest = hashlib.blake2b(digest_size=16)
    unreadable: dict[str, str] = {}
    for part, table in split.tables.items():
        for place in np.argsort(table.sample_ids):
            digest.update(f"{part}/{table.sample_ids[place]}\0".encode() + scans[part].digests[place] + b"\n")
        unreadable |= {f"{part}/{table.sample_ids[place]}": reason for place, reason in scans[part].bad.items()}
    groups = {part: len(np.unique(table.groups)) for part, table in split.tables.items() if table.groups is not None}
    return {
        "source": str(split.source),
        **split.asked,
        "class_to_index": {name: label for label, name in enumerate(split.class_names)},
        "images": {part: len(table) for part, table in split.tables.items()},
        "counts": split.counts(),
        **({"groups": groups} if groups else {}),
        "left_out": {name: int(count) for name, count in zip(split.class_names, split.left_out, strict=True) if count},
        "files_digest": digest.hexdigest(),
        "duplicates_across_splits": cross_split_duplicates(split.tables, scans),
        "unreadable": unreadable,
    }


def write_split(split: FolderSplit, out: Path, manifest: dict[str, Any], *, link: bool = False) -> None:
    """Write OUT/train, OUT/validation and OUT/test with class folders, and OUT/split.json.

    All of it is written beside OUT under a hidden name (`.OUT.NUMBER.tmp`), which is changed when it is whole: a killed
    process leaves that folder, and no half of a split under the name of one.

    Args:
        split: from `plan_split`.
        out: an empty folder, or none; its parents are made.
        manifest: from `describe`.
        link: hard links instead of copies: no disk space, on the same file system only. Who then changes the bytes of one
            file changes the other.

    Raises:
        DataError: when a file cannot be read, written or linked, or something has come into OUT meanwhile.
    """
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _made_whole(out) as temporary:
            total = sum(map(len, split.tables.values()))
            with tqdm(total=total, desc="link" if link else "copy", unit=" images", leave=False, disable=None) as progress:
                for part, table in split.tables.items():
                    for place, sample_id in enumerate(table.sample_ids):
                        _transfer(Path(str(table.path(place))), temporary / part / str(sample_id), link=link)
                        progress.update()
            write_json(temporary / MANIFEST, manifest)
    except OSError as error:
        hint = " Hard links need one file system; leave --link out to copy." if link else ""
        raise DataError(f"{error.filename or out}: {error.strerror or error}; {out} was not written.{hint}") from None


def _transfer(source: Path, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        os.link(source.resolve(), target)
    else:
        shutil.copy2(source, target)


@contextlib.contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its place when the block ends without an error, and else is removed."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process whose number this one has
    try:
        temporary.mkdir()
        yield temporary
        if out.is_dir():
            temporary.chmod(stat.S_IMODE(out.stat().st_mode))  # what was private stays private
            out.rmdir()  # refuses where something came into it meanwhile
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
