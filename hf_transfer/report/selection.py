"""What would have picked the backbone to fine-tune (a probe, neighbours, LogME, ImageNet accuracy, size), and how well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scored:
    """A backbone that was fine-tuned on one training set.

    Args:
        name: how it is called.
        fine_tuned: its test accuracy when fine-tuned, in the way that did best on validation.
        scores: what each selector gives it, the higher the better; one that is not known is left out.
    """

    name: str
    fine_tuned: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Selector:
    """How well one cheap figure stands for fine-tuning.

    Args:
        name: of the figure.
        backbones: how many fine-tuned backbones have it.
        tau: Kendall's tau-b of the figure and the fine-tuned accuracy, -1 to 1; None where either is the same for all.
        pick: the backbone it puts first.
        regret: accuracy that trusting it costs: that of the best of these backbones minus that of its pick, 0 to 1.
        regret_of_top: the same where its `top` best are fine-tuned and the best of them is taken.
    """

    name: str
    backbones: int
    tau: float | None
    pick: str
    regret: float
    regret_of_top: float


@dataclass(frozen=True)
class Selection:
    """What picks a backbone well, as far as fine-tuning showed it.

    Args:
        selectors: in the order of their names' first appearance.
        top: how many backbones `regret_of_top` takes; fewer than were fine-tuned, since all of them hold the best.
        fine_tuned: how many backbones were fine-tuned.
        known: how many there are in all; where it is more, no regret about the others can be known.
    """

    selectors: tuple[Selector, ...]
    top: int
    fine_tuned: int
    known: int


def judge_selectors(found: Sequence[Scored], *, known: int, top: int) -> Selection | None:
    """Return how well each figure picks among backbones that were fine-tuned; None where fewer than two were.

    Args:
        found: the backbones that were fine-tuned.
        known: how many backbones there are, fine-tuned or not.
        top: how many backbones a funnel takes.
    """
    top = max(1, min(top, len(found) - 1))
    names = dict.fromkeys(name for scored in found for name in scored.scores)
    selectors = [_judge(name, [scored for scored in found if name in scored.scores], top) for name in names]
    told = tuple(selector for selector in selectors if selector is not None)
    return Selection(told, top, len(found), known) if told else None


def _judge(name: str, found: Sequence[Scored], top: int) -> Selector | None:
    if len(found) < 2:
        return None
    from scipy.stats import kendalltau

    scores = np.array([scored.scores[name] for scored in found])
    accuracies = np.array([scored.fine_tuned for scored in found])
    order = np.argsort(-scores, kind="stable")
    tau = math.nan if len(set(scores)) == 1 or len(set(accuracies)) == 1 else float(kendalltau(scores, accuracies).statistic)
    best = float(accuracies.max())
    return Selector(
        name,
        backbones=len(found),
        tau=None if math.isnan(tau) else tau,
        pick=found[order[0]].name,
        regret=best - float(accuracies[order[0]]),
        regret_of_top=best - float(accuracies[order[:top]].max()),
    )
