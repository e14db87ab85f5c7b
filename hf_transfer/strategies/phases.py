"""A strategy as data: a list of phases that say which layer groups train, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..backbones.layer_groups import LayerGroup

if TYPE_CHECKING:
    from ..recipe.schema import Strategy


@dataclass(frozen=True)
class Phase:
    """A part of the training during which the same groups train.

    Args:
        name: what logs and reports call it.
        groups: names of the layer groups that train; all others are frozen, without gradient and in eval mode.
        epochs: how long it lasts; None until the end of the training.
    """

    name: str
    groups: tuple[str, ...]
    epochs: float | None = None


def build_phases(section: Strategy, groups: Sequence[LayerGroup]) -> list[Phase]:
    """Return the phases of a strategy for a model with these groups (stem ... head).

    `full` trains everything, `linear_probe` the head alone. `two_phase` trains everything, too: its first phase, the head on
    frozen features, is fitted before the Trainer starts (LP-FT, Kumar et al. 2022, arXiv 2202.10054).
    """
    if section.name in ("full", "two_phase"):
        return [Phase("full", tuple(group.name for group in groups))]
    if section.name == "linear_probe":
        return [Phase("linear_probe", ("head",))]
    raise ValueError(f"strategy '{section.name}' has no phases")


def phase_at(phases: Sequence[Phase], epoch: float) -> Phase:
    """Return the phase that `TrainerState.epoch` lies in: a function of the schedule and of what the trainer saves."""
    end = 0.0
    for phase in phases:
        end += float("inf") if phase.epochs is None else phase.epochs
        if epoch < end:
            return phase
    return phases[-1]
