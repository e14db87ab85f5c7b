"""Is a checkpoint judged by images it was trained on?"""

from __future__ import annotations

import numpy as np

from ..data.build import Splits, build_splits
from ..errors import UserError
from ..recipe.schema import Data
from ..recipe.trained_run import training_data


def seen_in_training(checkpoint: str, section: Data, splits: Splits) -> dict[str, int]:
    """Return how many images of each split a run's model was trained on, by their bytes.

    Only a run directory says what it was trained on, and only where it names the same source can its training images be read
    again: everything else gives nothing.

    Args:
        checkpoint: what is evaluated, as the recipe names it.
        section: the `data` section of the evaluation.
        splits: its images, with digests.
    """
    trained_on = training_data(checkpoint)
    if trained_on is None or trained_on.source != section.source:
        return {}
    try:
        known = build_splits(trained_on, ["train"], training=True).tables["train"].digests
    except UserError:  # the source has changed since: it cannot be said
        return {}
    tables = splits.tables | splits.extra
    found = {name: int(np.isin(np.asarray(table.digests), np.asarray(known)).sum()) for name, table in tables.items()}
    return {name: count for name, count in found.items() if count}
