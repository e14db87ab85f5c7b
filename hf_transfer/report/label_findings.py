"""What one split's predictions of several labels an image show: its costliest images and its most frequent mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.lookup import read_images
from .findings import EXAMPLES_SHOWN, PAIRS_SHOWN, TOP_LOSSES_SHOWN, data_section
from .label_mistakes import LabelError, LabelExample, label_errors, top_label_losses
from .label_scores import LabelScores
from .saved_run import SavedRun

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class LabelFindings:
    """What the pictures and the report show of a split.

    Args:
        split: its name.
        scores: figures of every image.
        losses: the images with the highest loss.
        errors: the labels that are missed or wrongly said most often.
        images: sample id to thumbnail of those images that could be read.
    """

    split: str
    scores: LabelScores
    losses: list[LabelExample]
    errors: list[LabelError]
    images: dict[str, Image.Image]

    @classmethod
    def read(cls, run: SavedRun, split: str) -> LabelFindings:
        """Read the predictions on a split, and the few images that are shown of it.

        Raises:
            RunDirectoryError: the predictions are missing or damaged.
        """
        scores = LabelScores.read(run, split)
        losses = top_label_losses(scores, TOP_LOSSES_SHOWN)
        errors = label_errors(scores, PAIRS_SHOWN, EXAMPLES_SHOWN)
        shown = [*losses, *(example for error in errors for example in error.examples)]
        images = read_images(data_section(run), [e.sample_id for e in shown], {e.sample_id: e.path for e in shown})
        return cls(split, scores, losses, errors, images)
