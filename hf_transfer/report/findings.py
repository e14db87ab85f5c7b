"""What one split's predictions show: how sure the model was, its costliest images and its most frequent confusions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..data.lookup import read_images
from ..recipe.schema import Data
from .mistakes import ConfusedPair, Example, confused_pairs, top_losses
from .saved_run import SavedRun
from .scores import Scores

if TYPE_CHECKING:
    from PIL import Image

TOP_LOSSES_SHOWN = 24
PAIRS_SHOWN, EXAMPLES_SHOWN = 10, 5


@dataclass(frozen=True)
class Findings:
    """What the pictures and the report show of a split.

    Args:
        split: its name.
        scores: figures of every image.
        losses: the images with the highest loss.
        pairs: the pairs of classes that are confused most.
        images: sample id to thumbnail of those images that could be read.
    """

    split: str
    scores: Scores
    losses: list[Example]
    pairs: list[ConfusedPair]
    images: dict[str, Image.Image]

    @classmethod
    def read(cls, run: SavedRun, split: str) -> Findings:
        """Read the predictions on a split, and the few images that are shown of it.

        Raises:
            RunDirectoryError: the predictions are missing or damaged.
        """
        scores = Scores.read(run, split)
        losses = top_losses(scores, TOP_LOSSES_SHOWN)
        pairs = confused_pairs(scores, PAIRS_SHOWN, EXAMPLES_SHOWN)
        shown = [*losses, *(example for pair in pairs for example in pair.examples)]
        images = read_images(data_section(run), [e.sample_id for e in shown], {e.sample_id: e.path for e in shown})
        return cls(split, scores, losses, pairs, images)


def data_section(run: SavedRun) -> Data | None:
    """Return the recipe's `data` section at the revision that the run read.

    None where another version wrote a section that this one does not understand.
    """
    try:
        section = Data.model_validate(run.section("data"))
    except ValidationError:
        return None
    revision = run.environment.get("data_revision")
    return section.model_copy(update={"revision": revision}) if isinstance(revision, str) else section
