"""What the card says of the limits of its figures: what chance, selection and the data leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..recipe.monitored import monitored
from .formats import NOTHING, count, finite, interval, number
from .markdown import code, escape
from .run_tables import class_counts
from .saved_run import SavedRun

_MOST_NAMED = 3
_FEW_IMAGES = 20


def limits_section(run: SavedRun, *, published: bool) -> str:
    """Return the limits of the figures, one point each.

    Args:
        run: the run.
        published: whether the card is for the Hub, where the lists of skipped and of equal images are not.
    """
    points = [
        _chance(run),
        _weakest_classes(run),
        _smallest_classes(run),
        _conditions(run),
        _selection(run),
        _skipped(run),
        _duplicates(run, published),
        _shared_groups(run, published),
    ]
    known = [f"- {point}" for point in points if point]
    return "## Limits\n\n" + "\n".join(known) if known else ""


def _chance(run: SavedRun) -> str:
    split = run.headline_split
    found = run.splits[split] if split is not None else {}
    headline = run.headline
    if finite(found.get(headline.key)) is None or finite(found.get("n")) is None:
        return ""
    groups = f" in {count(found['groups'])} groups" if finite(found.get("groups")) is not None else ""
    said = f"The figures of the {escape(split)} split come from {count(found['n'])} images{groups}."
    bounds = interval(found.get(headline.interval))
    if bounds != NOTHING:
        drawn = "groups" if groups else "images"
        others = "F1, the figures of single classes and NLL" if run.multi_label else "macro F1, balanced accuracy, NLL and ECE"
        said += (
            f" The 95 % interval of the {headline.name}, {bounds}, tells how far the choice of these {drawn} may have moved "
        )
        said += f"it; {others} are given without an interval."
    if not run.evaluates_only:
        seed = finite(run.recipe.get("seed"))
        said += f" They are of one training run{'' if seed is None else f' (seed {seed})'}: how much another seed would"
        said += " change them was not measured."
    return said


def _weakest_classes(run: SavedRun) -> str:
    split = run.headline_split
    per_class = run.splits[split].get("per_class") if split is not None else None
    if not isinstance(per_class, Mapping):
        return ""
    scores = {name: found for name, found in per_class.items() if isinstance(found, Mapping)}
    key, title = ("average_precision", "average precision") if run.multi_label else ("f1", "F1")
    known = {name: value for name, found in scores.items() if (value := finite(found.get(key))) is not None}
    without = [name for name, found in scores.items() if finite(found.get("n")) == 0]
    few = [name for name, found in scores.items() if 0 < (finite(found.get("n")) or 0) < _FEW_IMAGES]
    if known and min(known.values()) == max(known.values()):
        known = {}  # none is lower than another
    lowest = sorted(known, key=lambda name: known[name])[: min(_MOST_NAMED, len(known) // 2)]
    parts = []
    if lowest:
        each = ", ".join(f"{code(name)} {number(known[name])} (of {count(scores[name].get('n'))} images)" for name in lowest)
        parts.append(f"Lowest {title} on the {escape(split)} split: {each}.")
    if few:
        parts.append(f"Fewer than {_FEW_IMAGES} images of the split, too few for figures of their own: {_named(few)}.")
    if without:
        parts.append(f"The split has no image of {_named(without)}: nothing is known of how well they are recognised.")
    return " ".join(parts)


def _smallest_classes(run: SavedRun) -> str:
    counts: Mapping[str, Any] = {} if run.evaluates_only else class_counts(run).get("train", {})
    sizes = {name: size for name, value in counts.items() if (size := finite(value)) is not None}
    smallest = [name for name, size in sizes.items() if size == min(sizes.values())]
    if len(smallest) == len(sizes):
        return ""
    return f"Fewest training images, {count(sizes[smallest[0]])}: {_named(smallest)}."


def _named(classes: Sequence[str]) -> str:
    more = f" and {count(len(classes) - _MOST_NAMED)} more" if len(classes) > _MOST_NAMED else ""
    return ", ".join(map(code, classes[:_MOST_NAMED])) + more


def _conditions(run: SavedRun) -> str:
    if not run.splits:
        return ""
    extra = ", ".join(map(escape, run.further_test_sets))
    corrupted = [name for name, found in run.splits.items() if found.get("robustness")]
    if not extra and not corrupted:
        return (
            "How the figures change with the conditions (another camera, place or time, light, blur, noise, compression) was "
            "not measured."
        )
    said = "Of other conditions than those of the data, only these were measured: "
    parts = [f"the further test sets {extra}"] if extra else []
    parts += [f"the corruptions of {', '.join(map(escape, corrupted))}"] if corrupted else []
    return f"{said}{' and '.join(parts)}, as told above."


def _selection(run: SavedRun) -> str:
    if run.evaluates_only:
        return f"Nothing was trained here.{_seen(run)}{_label_map(run)}"
    logged = {row.split for row in run.history}
    if "validation" not in run.splits and "validation" not in logged:
        return "There is no validation split: nothing was selected by a score on images held out from training."
    monitor = run.section("evaluation").get("monitor")
    watched = sorted(
        {monitored(str(name)).row for name in (monitor if isinstance(monitor, list) else [])}
        | (logged - {"train", "validation"})
    )
    said = (
        "Selection (of the weights that are kept, and wherever a score ended training or a phase of it) read the "
        "validation split only."
    )
    if watched:
        names = ", ".join(map(escape, watched))
        return f"{said} During training these splits were watched as well, without a say in it: {names}."
    return said + (" The test split was not watched during training." if "test" in run.splits else "")


def _seen(run: SavedRun) -> str:
    """Return which of the images were training images of the checkpoint, as far as that is known."""
    if "seen_in_training" not in run.environment:
        return ""
    seen = run.environment["seen_in_training"]
    if seen is None:
        return (
            " Whether the checkpoint was trained on some of these images cannot be said: its training data has changed since."
        )
    return "".join(
        f" **{count(images)} of the {count(run.splits.get(split, {}).get('n'))} images of {escape(split)} were training "
        "images of this checkpoint**: its figures there say how well it remembers."
        for split, images in seen.items()
    )


def _label_map(run: SavedRun) -> str:
    if not run.section("evaluation").get("label_map"):
        return ""
    said = " The checkpoint's classes stand for those of the data set as `evaluation.label_map` in the recipe says."
    lists = [found.get("unmapped_classes") for found in run.splits.values()]
    unmapped = dict.fromkeys(name for names in lists if isinstance(names, list) for name in names)
    if unmapped:
        said += f" None stands for {', '.join(map(escape, unmapped))}: images of these classes count as wrong."
    return said


def _skipped(run: SavedRun) -> str:
    skipped = {split: int(found["skipped"]) for split, found in run.splits.items() if finite(found.get("skipped")) is not None}
    if not skipped:
        return ""
    some = {split: images for split, images in skipped.items() if images}
    if not some:
        return "No image of the evaluated splits was skipped."
    total = sum(some.values())
    each = ", ".join(f"{escape(split)} {images:,}" for split, images in some.items())
    return f"Images that could not be read and were skipped: {total:,} ({each})."


def _duplicates(run: SavedRun, published: bool) -> str:
    found = run.environment.get("duplicates_across_splits")
    if not isinstance(found, list):
        return ""
    if not found:
        return "No image stands in more than one split, byte for byte."
    where = "." if published else "; environment.json lists them."
    return f"Images that stand in more than one split, byte for byte: {count(len(found))}{where}"


def _shared_groups(run: SavedRun, published: bool) -> str:
    found = run.environment.get("groups_across_splits")
    if not isinstance(found, Mapping) or not found:
        return ""
    where = "." if published else "; environment.json lists them."
    return f"Groups of images (`data.group_column`) that stand in more than one split: {count(len(found))}{where}"
