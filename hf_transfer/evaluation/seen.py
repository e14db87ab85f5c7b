"""Is a checkpoint judged by images it was trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.build import Splits, build_splits
from ..errors import UserError
from ..recipe.trained_run import trained_run


def seen_in_training(checkpoint: str, sources: Sequence[str], splits: Splits) -> dict[str, int] | None:
    """Return how many images of each split and further test set a run's model was trained on, by their bytes.

    Only a run directory says what it was trained on, and only where the same source is evaluated are its training images read
    again. None where that cannot be said any more, because the source has changed since.

    Args:
        checkpoint: what is evaluated, as the recipe names it.
        sources: of the images that are evaluated.
        splits: the images, with digests.
    """
    run = trained_run(checkpoint)
    if run is None or not any(_same(run.data.source, source) for source in sources):
        return {}
    try:
        trained_on = build_splits(run.data, ["train"], training=True)
    except UserError:
        return None
    if run.fingerprint is not None and trained_on.fingerprint != run.fingerprint:
        return None
    known = np.asarray(trained_on.tables["train"].digests)
    tables = splits.tables | splits.extra
    found = {name: int(np.isin(np.asarray(table.digests), known).sum()) for name, table in tables.items()}
    return {name: count for name, count in found.items() if count}


def _same(source: str, other: str) -> bool:
    here, there = Path(source).expanduser(), Path(other).expanduser()
    return source == other or (here.exists() and there.exists() and here.resolve() == there.resolve())
