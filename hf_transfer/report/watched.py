"""What is said of a run whose test images were scored while it trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..recipe.monitored import monitored
from .formats import finite
from .history import read_history


def times_scored(names: Sequence[str], history: Path) -> dict[str, int]:
    """Return how many times each monitored split was scored: what metrics.json calls `monitored`.

    Args:
        names: the recipe's `evaluation.monitor`.
        history: the run's history.csv.
    """
    counts = Counter(row.split for row in read_history(history))
    return {row: counts[row] for row in (monitored(name).row for name in names)}


def watched_test(metrics: Mapping[str, Any]) -> str:
    """Return a sentence about the test images that were scored while a run trained; empty where none were.

    Args:
        metrics: content of metrics.json.
    """
    found = metrics.get("monitored")
    counts = found if isinstance(found, Mapping) else {}
    tests = [watched for watched in map(monitored, map(str, counts)) if watched.is_test and finite(counts[watched.row])]
    whole = {watched.name for watched in tests if watched.first is None}
    subjects = [
        f"the {watched.split} split" if watched.name == "test" else f"the further test set {watched.name}"
        for watched in tests
        if watched.first is None
    ]
    subjects += [f"the first {w.first:,} images of the {w.split} split" for w in tests if w.first and w.split not in whole]
    if not subjects:
        return ""
    said = " and ".join(subjects)
    times = max(int(counts[watched.row]) for watched in tests)
    often = "once" if times == 1 else f"{times:,} times"
    one = len(subjects) == 1 and bool(whole)
    verb, it, them = ("was", "it", "it") if one else ("were", "they", "them")
    return (
        f"{said[0].upper()}{said[1:]} {verb} scored {often} while training; {it} chose nothing, "
        f"but whoever watched {them} may have."
    )
