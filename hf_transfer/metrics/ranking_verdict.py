"""The verdict of a study of several labels an image: who leads in mean average precision, and who is tied with the leader.

Everything is as in `verdict` but the evidence. Images (or whole groups) are drawn anew, the same for all candidates, and the
mean average precision of each seed is computed of each draw: the spread of a difference over the draws is what another choice
of images would change of it. What other seeds would change is added as in `crossed`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .crossed import Difference, combined, typical_seed_variance
from .headline import MEAN_AVERAGE_PRECISION, Headline
from .outcomes import group_index
from .ranking import DRAWS, draw_images, drawn_mean_average_precision, reflected_interval
from .verdict import Standing, Verdict, conclude


@dataclass(frozen=True)
class RankingCandidate:
    """What a study of several labels an image knows of one candidate, over its seeds.

    Args:
        name: how to call it, unique in the study.
        scores: a real array [n, C] for each seed, larger is likelier.
        validation: mean average precision on validation, one a seed; None if there is none.
        costs: as in `verdict.Candidate`.
        interval: of the figure, as a run of one seed states it itself: drawn in another order of images, it would differ a
            little; None to draw it here.
    """

    name: str
    scores: Sequence[ArrayLike]
    validation: Sequence[float] | None = None
    costs: Mapping[str, float | None] = field(default_factory=dict)
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class RankingVerdict(Verdict):
    """A verdict whose figures called accuracy are mean average precisions."""

    headline: ClassVar[Headline] = MEAN_AVERAGE_PRECISION


def reach_ranking_verdict(
    candidates: Sequence[RankingCandidate],
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    cost: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> RankingVerdict:
    """Return the verdict of a study of several labels an image.

    A candidate's interval is `ranking.reflected_interval` where it has one seed, as metrics.json has it; with several it is
    v +- t s, s^2 the variance over images and seeds. Differences are tested by t = d / s, s^2 the variance of d
    over the draws plus 1 / n^2 (one more image on which they differ, so that no agreement is taken as certain), with G - 1
    degrees of freedom for G images or groups; and where both have several seeds a second time with the seeds' variance, as
    `crossed.difference` does. Both are adjusted for the number of comparisons as in `verdict`.

    Args:
        candidates: at least one, all on the same images.
        labels: booleans [n, C].
        groups: one value a test image [n]; images of a group are drawn together.
        cost: which cost decides among the tied.
        draws: how many.
        seed: of the draws.

    Raises:
        ValueError: no candidate, a name twice, or arrays of other shapes.
    """
    names = [c.name for c in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise ValueError(f"expected each name once, found {'twice: ' + ', '.join(twice) if twice else 'none'}")
    validation = {c.name: None if c.validation is None else float(np.mean(c.validation)) for c in candidates}
    evidence = _Rankings(candidates, labels, groups, draws, seed)
    return conclude(evidence, validation, {c.name: c.costs for c in candidates}, cost, RankingVerdict)


@dataclass(frozen=True)
class RankingComparison:
    """Two networks, `before` and `after`, on the same images.

    Args:
        n: number of images.
        before: mean average precision of the first.
        after: mean average precision of the second.
        difference: after - before.
        difference_ci95: its interval over fresh images.
        p_value: of the t test with the difference's spread over images that are drawn again.
    """

    n: int
    before: float
    after: float
    difference: float
    difference_ci95: tuple[float, float]
    p_value: float


def compare_rankings(
    before: ArrayLike,
    after: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> RankingComparison:
    """Compare the mean average precision of two networks on the same images; see `reach_ranking_verdict`.

    Args:
        before: scores of the first [n, C].
        after: scores of the second.
        labels: booleans [n, C], at least one of them true.
        groups, draws, seed: as in `reach_ranking_verdict`.

    Raises:
        ValueError: arrays of other shapes, or no label at all.
    """
    sides = [RankingCandidate("before", [before]), RankingCandidate("after", [after])]
    evidence = _Rankings(sides, labels, groups, draws, seed)
    found, p_value = evidence.beside("after", "before")
    values = evidence.values
    return RankingComparison(evidence.images, values["before"], values["after"], found.value, found.ci95, p_value)


@dataclass(frozen=True)
class _Ranked:
    """One candidate's mean average precision, and what it is of each draw.

    Args:
        by_seed: of the images as they are [S].
        drawn: of each draw [draws, S].
    """

    by_seed: NDArray[np.float64]
    drawn: NDArray[np.float64]

    @property
    def seeds(self) -> int:
        return len(self.by_seed)

    @property
    def seed_variance(self) -> float:
        return float(self.by_seed.var(ddof=1)) if self.seeds > 1 else 0.0

    @property
    def image_variance(self) -> float:
        return float(self.drawn.mean(axis=1).var(ddof=1))

    @property
    def residual_variance(self) -> float:
        """The share of `seed_variance` that comes from the choice of images: each seed has its own mistakes."""
        own = self.drawn - self.drawn.mean(axis=1, keepdims=True)
        return float(own.var(axis=0, ddof=1).sum()) / (self.seeds - 1) if self.seeds > 1 else 0.0


class _Rankings:
    """Scores of every seed on the same test images, as `verdict.Evidence`."""

    def __init__(
        self, candidates: Sequence[RankingCandidate], labels: ArrayLike, groups: ArrayLike | None, draws: int, seed: int
    ) -> None:
        n = len(np.asarray(labels))
        index = group_index(groups, n)
        weights = np.concatenate([np.ones((1, n), dtype=np.int32), draw_images(n, groups, draws=draws, seed=seed)])
        self.found = {}
        self.stated = {candidate.name: candidate.interval for candidate in candidates}
        for candidate in candidates:
            drawn = np.stack([drawn_mean_average_precision(scores, labels, weights) for scores in candidate.scores], axis=1)
            if np.isnan(drawn[0]).any():
                raise ValueError("expected at least one label among the test images, found none")
            told = drawn[1:][~np.isnan(drawn[1:]).any(axis=1)]
            self.found[candidate.name] = _Ranked(drawn[0], told)
        self.typical = typical_seed_variance(list(self.found.values()))
        self.fewest: int | None = None
        self.values: Mapping[str, float] = {name: float(ranked.by_seed.mean()) for name, ranked in self.found.items()}
        self.images = n
        self.groups = None if index is None else int(index.max()) + 1
        sizes = np.ones(n) if index is None else np.bincount(index)
        self.units = float(sizes.sum() ** 2 / (sizes @ sizes))

    def standing(self, name: str, validation: float | None, *, tied: bool) -> Standing:
        found, value = self.found[name], self.values[name]
        if found.seeds == 1:
            low, high = self.stated[name] or reflected_interval(value, found.drawn[:, 0], self.units)
        else:
            over_images = max(0.0, found.image_variance - found.residual_variance / found.seeds)
            variance, freedom = combined(over_images, self.units - 1, [found], self.typical)
            half = float(special.stdtrit(freedom, 0.975)) * math.sqrt(variance)
            low, high = max(0.0, value - half), min(1.0, value + half)
        deviation = math.sqrt(found.seed_variance) if found.seeds > 1 else None
        return Standing(name, found.seeds, value, (low, high), deviation, validation, tied)

    def beside(self, name: str, leader: str) -> tuple[Difference, float]:
        a, b = self.found[name], self.found[leader]
        value = self.values[name] - self.values[leader]
        least = 1 / self.images**2
        over_images = float((a.drawn.mean(axis=1) - b.drawn.mean(axis=1)).var(ddof=1))
        p_images = _p_value(value, over_images + least, self.units - 1)
        if min(a.seeds, b.seeds) == 1:
            return _difference(value, over_images + least, self.units - 1, None), p_images
        shared = max(0.0, over_images - a.residual_variance / a.seeds - b.residual_variance / b.seeds)
        variance, freedom = combined(shared + least, self.units - 1, [a, b], self.typical)
        return _difference(value, variance, freedom, _p_value(value, variance, freedom)), p_images


def _p_value(value: float, variance: float, freedom: float) -> float:
    return float(2 * special.stdtr(freedom, -abs(value) / math.sqrt(variance)))


def _difference(value: float, variance: float, freedom: float, p_value: float | None) -> Difference:
    error = math.sqrt(variance)
    half = float(special.stdtrit(freedom, 0.975)) * error
    return Difference(value, (max(-1.0, value - half), min(1.0, value + half)), error, freedom, p_value)
