"""From the `data` section to checked splits."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import DataError, listed
from .class_names import alike
from .integrity import cross_split_duplicates, cross_split_groups, fingerprint, scan
from .sources.source import read_source
from .splits import hold_out, subset
from .table import ImageTable

if TYPE_CHECKING:
    from ..recipe.schema import Data

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """The images of a run, checked.

    Args:
        tables: a table for each split.
        extra: a table for each further test set, labels in the order of `class_names`.
        class_names: names of the classes in label order.
        fingerprint: digest of sample ids, labels and image bytes of every split.
        skipped: split to the unreadable images left out of it, as (file or sample id, reason).
        duplicates: groups of byte-identical images that stand in more than one split, as `split: sample id`.
        revision: commit of a Hub data set, None elsewhere.
        shared_groups: group to split to number of images, for the groups that stand in more than one split.
    """

    tables: dict[str, ImageTable]
    class_names: list[str]
    fingerprint: str
    skipped: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    revision: str | None = None
    extra: dict[str, ImageTable] = field(default_factory=dict)
    shared_groups: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def multi_label(self) -> bool:
        """Whether an image may show several classes, or none."""
        return next(iter(self.tables.values())).multi_label

    @property
    def task(self) -> Literal["single_label", "multi_label"]:
        """What the recipe's `data.task` was."""
        return "multi_label" if self.multi_label else "single_label"

    def with_classes(self, class_names: Sequence[str]) -> Splits:
        """Return the same images with these classes, where those are the present ones and more: no image shows the others.

        For a checkpoint that knows more classes than the images of an evaluation show; only where an image may show several.
        """
        if not self.multi_label or not set(self.class_names) < set(class_names):
            return self
        places = [list(class_names).index(name) for name in self.class_names]

        def wider(table: ImageTable) -> ImageTable:
            labels = np.zeros((len(table), len(class_names)), dtype=bool)
            labels[:, places] = table.labels
            return replace(table, labels=labels)

        return replace(
            self,
            class_names=list(class_names),
            tables={split: wider(table) for split, table in self.tables.items()},
            extra={name: wider(table) for name, table in self.extra.items()},
        )

    def table(self, name: str) -> ImageTable:
        """Return the images of a split or of a further test set."""
        return self.tables[name] if name in self.tables else self.extra[name]

    def sizes(self) -> str:
        """Return the number of images of every split and further test set in words, and of groups where there are any."""
        sizes = []
        for name, table in (self.tables | self.extra).items():
            groups = 0 if table.groups is None else len(np.unique(table.groups))
            together = f" in {groups} group{'s' if groups > 1 else ''}" if groups else ""
            sizes.append(f"{name} {len(table)}{together}")
        return ", ".join(sizes)


def build_splits(
    section: Data,
    wanted: Sequence[str],
    *,
    training: bool,
    decode: bool = False,
    extra: Mapping[str, str] | None = None,
) -> Splits:
    """Read the source, split it, and check every image that will be used.

    Args:
        section: the recipe's `data` section.
        wanted: the splits that will be evaluated.
        training: whether a model will be trained: then a validation split is always made, and every split must hold at
            least two classes. An evaluation of a source without splits takes all of it as test.
        decode: decode every image now, instead of parsing its header.
        extra: further test sets, name to source.

    Raises:
        DataError: naming what is wrong with the source, its labels, its splits or its images.
    """
    source = read_source(section)
    class_names = source.class_names
    if training and len(class_names) < 2:
        raise DataError(f"data: expected at least two classes, found {len(class_names)}: {listed(class_names) or 'none'}")
    if len(set(class_names)) != len(class_names):
        raise DataError(f"data: two classes have the same name among {listed(class_names)}")
    for names in alike(class_names):
        _log.warning("classes that nearly have the same name, and are kept apart: %s", " and ".join(map(repr, names)))
    tables = _split(section, dict(source.tables), class_names, wanted, training)
    tables = {split: tables[split] for split in ("train", "validation", "test") if split in tables}
    if "train" in tables:
        tables["train"] = subset(
            tables["train"],
            section.split_seed,
            class_names,
            total=section.max_train_samples,
            each=section.samples_per_class,
            split="train",
        )
    for split, maximum in (("validation", section.max_validation_samples), ("test", section.max_test_samples)):
        if split in tables:
            tables[split] = subset(tables[split], section.split_seed, class_names, total=maximum, each=None, split=split)
    further = {name: _read_extra(section, name, place, class_names) for name, place in (extra or {}).items()}
    return _checked(section, tables, further, class_names, source.revision, training, decode)


def _read_extra(section: Data, name: str, place: str, class_names: list[str]) -> ImageTable:
    """Return the test split of a further source, or all of it where it has no splits, its classes matched by name."""
    try:
        found = read_source(
            section.model_copy(
                update={"source": place, "config_name": None, "revision": None, "group_column": None, "streaming": False}
            )
        )
    except DataError as error:
        raise DataError(f"evaluation.extra.{name}: {error}") from None
    tables = found.tables
    if "test" not in tables and len(tables) > 1:
        raise DataError(f"evaluation.extra.{name}: expected a test split or no splits, found {' and '.join(tables)} in {place}")
    table = tables["test"] if "test" in tables else next(iter(tables.values()))
    foreign = [other for other in found.class_names if other not in class_names]
    if foreign:
        raise DataError(
            f"evaluation.extra.{name}: expected classes of the data set ({listed(class_names)}), matched by name; "
            f"found {listed(foreign)} besides"
        )
    order = np.array([class_names.index(other) for other in found.class_names], dtype=np.int64)
    if not table.multi_label:
        return replace(table, labels=order[table.labels])
    labels = np.zeros((len(table), len(class_names)), dtype=bool)
    labels[:, order] = table.labels
    return replace(table, labels=labels)


def _split(
    section: Data, tables: dict[str, ImageTable], class_names: list[str], wanted: Sequence[str], training: bool
) -> dict[str, ImageTable]:
    if not training:
        if "test" in wanted and "test" not in tables and section.test_fraction is None:
            if len(tables) > 1:
                raise DataError(
                    f"evaluation.splits: the source has {' and '.join(tables)} but no test split; "
                    "name one of its splits, or set data.test_fraction"
                )
            tables = {"test": tables.popitem()[1]}
    elif "train" not in tables:
        raise DataError(f"data.source: expected a train split, found only {' and '.join(tables)}")
    fractions = held_out_fractions(section, tables, wanted, training=training)
    if fractions and "train" in tables:
        if training:
            _complete(tables["train"], class_names)
        tables |= hold_out(tables["train"], fractions, section.split_seed, class_names)
    absent = [split for split in wanted if split not in tables]
    if absent:
        raise DataError(
            f"evaluation.splits: asked for {' and '.join(absent)}, and the source brings no such split. "
            "Set data.test_fraction (0.2, say) to hold out test images, or leave the split out of evaluation.splits."
        )
    if training:
        _complete(tables["train"], class_names)
        return tables
    return {split: tables[split] for split in wanted}


def held_out_fractions(section: Data, present: Collection[str], wanted: Collection[str], *, training: bool) -> dict[str, float]:
    """Return which splits are held out of the source's train split, and their shares.

    Args:
        section: the recipe's `data` section.
        present: the splits that there are.
        wanted: the splits that will be evaluated.
        training: whether a model will be trained.
    """
    fractions = {}
    if "test" not in present and section.test_fraction is not None:
        fractions["test"] = section.test_fraction
    # An evaluation that holds out a test split holds out the validation split too: its test images are a training's.
    if "validation" not in present and (training or "validation" in wanted or fractions):
        fractions["validation"] = section.validation_fraction
    return fractions


def _complete(train: ImageTable, class_names: list[str]) -> None:
    empty = [class_names[c] for c in np.flatnonzero(train.class_counts(len(class_names)) == 0)]
    if empty:
        raise DataError(without_training_images(empty))


def without_training_images(names: Sequence[str]) -> str:
    """Return what is said of classes that cannot be learnt."""
    those = "it" if len(names) == 1 else "them"
    return (
        f"data: expected training images of every class; found none of {listed(names)}. Add training images of {those}, or "
        f"remove {those} from the other splits."
    )


def _in_one_line(name: str) -> str:
    """Return a file name without line feeds and what else would command a terminal, which are written as `\\xNN`."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", name)


def _checked(
    section: Data,
    splits: dict[str, ImageTable],
    extra: dict[str, ImageTable],
    class_names: list[str],
    revision: str | None,
    training: bool,
    decode: bool,
) -> Splits:
    tables = splits | extra
    # Skipping must know every bad image before the first step, so that counts and steps are right: it decodes fully.
    decode = decode or section.on_bad_image == "skip"
    scans = {split: scan(table, decode=decode) for split, table in tables.items()}
    skipped = {
        split: [(tables[split].name(index), reason) for index, reason in scanned.bad.items()]
        for split, scanned in scans.items()
    }
    found = [f"{_in_one_line(name)}: {reason}" for items in skipped.values() for name, reason in items]
    if found and section.on_bad_image == "error":
        raise DataError(
            f"data: found {len(found)} unreadable image{'s' if len(found) > 1 else ''}:\n"
            + "\n".join(f"  - {line}" for line in found[:20])
            + (f"\n  and {len(found) - 20} more" if len(found) > 20 else "")
            + "\nMend or remove them, or set data.on_bad_image to 'skip' to leave them out, listed and counted."
        )
    duplicates = cross_split_duplicates(tables, scans)
    digest = fingerprint(splits, scans, class_names)
    tables = {split: replace(table, digests=np.array(scans[split].digests, dtype="S16")) for split, table in tables.items()}
    if found:
        tables = {
            split: table.select(np.array([i for i in range(len(table)) if i not in scans[split].bad], dtype=np.int64))
            for split, table in tables.items()
        }
        for split, table in tables.items():
            if split == "train" and training:
                _complete(table, class_names)
            elif not len(table):
                raise DataError(f"data: every image of the {split} split is unreadable")
    return Splits(
        {split: tables[split] for split in splits},
        class_names,
        digest,
        skipped,
        duplicates,
        revision,
        extra={name: tables[name] for name in extra},
        shared_groups=cross_split_groups(splits),
    )
