"""Is a checkpoint judged by images it was trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.build import Splits, build_splits
from ..errors import UserError
from ..recipe.trained_run import TrainedRun, trained_run


def seen_in_training(
    checkpoint: str, sources: Sequence[str], splits: Splits, revision: str | None = None
) -> dict[str, int] | None:
    """Return how many images of each split and further test set a run's model was trained on, by their bytes.

    Only a run directory, or what was pushed from one, says what it was trained on, and only where the same source is evaluated
    are its training images read again. None where that cannot be said any more, because the source has changed since.

    Args:
        checkpoint: what is evaluated, as the recipe names it.
        sources: of the images that are evaluated.
        splits: the images, with digests.
        revision: of a checkpoint of the Hub.
    """
    try:
        run = trained_run(checkpoint, revision)
    except UserError:  # the model is in the cache, and what it was trained on is not
        return {}
    source = None if run is None else _training_source(run, sources)
    if run is None or source is None:
        return {}
    try:
        trained_on = build_splits(run.data.model_copy(update={"source": source}), ["train"], training=True)
    except UserError:
        return None
    if run.fingerprint is not None and trained_on.fingerprint != run.fingerprint:
        return None
    known = np.asarray(trained_on.tables["train"].digests)
    tables = splits.tables | splits.extra
    found = {name: int(np.isin(np.asarray(table.digests), known).sum()) for name, table in tables.items()}
    return {name: count for name, count in found.items() if count}


def _training_source(run: TrainedRun, sources: Sequence[str]) -> str | None:
    """Return the source that a run was trained on, where it is among these; a pushed run tells the name of its folder only."""
    if run.is_readable:
        return run.data.source if any(_same(run.data.source, source) for source in sources) else None
    if run.fingerprint is None:  # any folder of that name might be it
        return None
    folders = ((source, Path(source).expanduser()) for source in sources)
    return next((name for name, path in folders if path.is_dir() and path.resolve().name == Path(run.data.source).name), None)


def _same(source: str, other: str) -> bool:
    here, there = Path(source).expanduser(), Path(other).expanduser()
    return source == other or (here.exists() and there.exists() and here.resolve() == there.resolve())
