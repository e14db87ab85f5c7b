"""The verdict of a study: who leads, who is tied with the leader, which of those is cheapest, and what could not be seen.

The leader is chosen on validation and compared with each other candidate on the test images. A candidate is worse than the
leader only if two tests say so, each adjusted for the number of comparisons:

- `permutation`, which takes the trained networks as given: is it more than this choice of test images? (Holm)
- `crossed`, which does not: is it more than this choice of images *and* of seeds? (`holm_after_selection`: a leader is partly
  one whose seeds were lucky, on validation and test alike)

Where one of two candidates has a single seed there is only the first, and the claim is about these networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .crossed import (
    Difference,
    accuracy_interval,
    detectable_difference,
    difference,
    measure,
    typical_seed_variance,
)
from .headline import ACCURACY, Headline
from .multiple import holm, holm_after_selection
from .pareto import pareto_front
from .permutation import sign_flip_p_value
from .verdict_words import verdict_notes, verdict_words

ALPHA = 0.05


@dataclass(frozen=True)
class Candidate:
    """What a study knows of one candidate (a backbone with a strategy), over its seeds.

    Args:
        name: how to call it, unique in the study.
        correct: booleans [S, n]: whether each seed had each test image right.
        validation_accuracy: one a seed [S]; None if there is none.
        costs: lower is better, such as {"train_seconds": 31.0, "latency_ms": 9.1, "parameters": 4.6e6}; None or NaN where not
            known.
        image_ids: the test images' ids [n], to make sure that all candidates saw the same; None skips that check.
    """

    name: str
    correct: ArrayLike
    validation_accuracy: Sequence[float] | None = None
    costs: Mapping[str, float | None] = field(default_factory=dict)
    image_ids: Sequence[str] | None = None


@dataclass(frozen=True)
class Standing:
    """One candidate's figures.

    Args:
        name: the candidate's.
        seeds: number of seeds.
        accuracy: mean test accuracy over seeds.
        accuracy_ci95: interval over fresh images and fresh seeds; over images only where `seeds` is 1.
        seed_deviation: standard deviation of the seeds' test accuracies; None for one seed.
        validation_accuracy: mean over seeds; None if there is none.
        tied: whether it is the leader or not significantly worse.
    """

    name: str
    seeds: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    seed_deviation: float | None
    validation_accuracy: float | None
    tied: bool


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the leader, on test.

    Args:
        name: the candidate's.
        difference: its accuracy - the leader's.
        difference_ci95: interval of it, not adjusted for the number of comparisons.
        about: "strategies" (fresh images and seeds), or "networks" (fresh images) where either has one seed only.
        p_images: of the sign-flip test, networks given.
        p_seeds: of the test over images and seeds; None where `about` is "networks".
        p_value: the larger of the two.
        p_adjusted: the larger of the two after each was adjusted for the number of comparisons.
        outcome: "worse" or "better" than the leader if p_adjusted < 0.05, else "tied".
        detectable: about the smallest true difference that had 80 % power here, after adjustment.
    """

    name: str
    difference: float
    difference_ci95: tuple[float, float]
    about: Literal["strategies", "networks"]
    p_images: float
    p_seeds: float | None
    p_value: float
    p_adjusted: float
    outcome: Literal["tied", "worse", "better"]
    detectable: float


@dataclass(frozen=True)
class Verdict:
    """What a study shows.

    Args:
        leader: name of the candidate with the best validation accuracy.
        chosen_on: "validation"; "test" where no candidate has a validation accuracy; "nothing" if there is one candidate only.
        winner: the leader's name if every other candidate is worse, else None.
        tied: the leader and all that are not significantly worse, best test accuracy first.
        cheapest: who of these costs least; None if no cost was named or known.
        cost: name of that cost.
        cost_front: for each cost, the names on the Pareto front of test accuracy and cost, cheapest first.
        standings: a row a candidate, best test accuracy first.
        comparisons: every other candidate beside the leader, in the order of the standings.
        detectable: median of the detectable differences of the tied (of all, if none is tied); None without comparison.
        images: number of test images.
        groups: number of groups they come in; None without groups.
        words: the verdict in plain words.
        notes: what a reader has to know besides, a sentence each.

    Attributes:
        headline: what the figures called accuracy here are; `ranking_verdict` has another.
    """

    headline: ClassVar[Headline] = ACCURACY

    leader: str
    chosen_on: Literal["validation", "test", "nothing"]
    winner: str | None
    tied: tuple[str, ...]
    cheapest: str | None
    cost: str | None
    cost_front: dict[str, tuple[str, ...]]
    standings: tuple[Standing, ...]
    comparisons: tuple[Comparison, ...]
    detectable: float | None
    images: int
    groups: int | None
    words: str
    notes: tuple[str, ...]


def reach_verdict(candidates: Sequence[Candidate], *, groups: ArrayLike | None = None, cost: str | None = None) -> Verdict:
    """Return the verdict of a study.

    Among equals on validation the cheapest leads (by `cost`), then the first named. A candidate without validation accuracy is
    compared but cannot lead, unless none has one.

    Args:
        candidates: at least one; seeds may differ in number, test images may not differ.
        groups: one value a test image [n]; images of a group (a patient, a video) count as drawn together.
        cost: which cost decides among the tied, a key of `Candidate.costs`.

    Raises:
        ValueError: no candidate, a name twice, other test images, wrong shapes, or a validation accuracy outside 0 to 1.
    """
    _check(candidates)
    validation = {c.name: _mean(c.validation_accuracy) for c in candidates}
    return conclude(_Accuracies(candidates, groups), validation, {c.name: c.costs for c in candidates}, cost, Verdict)


_Kind = TypeVar("_Kind", bound=Verdict)


class Evidence(Protocol):
    """What the test images say of the candidates: a figure of each, and how far two of them are apart.

    Attributes:
        values: name to figure, the mean over seeds.
        images: number of test images.
        groups: number of groups they come in; None without groups.
        fewest: how many units (images or groups) there are where all of so many must speak for one side for the smallest
            p-value; None where p-values have no such steps.
    """

    values: Mapping[str, float]
    images: int
    groups: int | None
    fewest: int | None

    def standing(self, name: str, validation: float | None, *, tied: bool) -> Standing:
        """Return a candidate's figures."""

    def beside(self, name: str, leader: str) -> tuple[Difference, float]:
        """Return the difference to the leader, and the p-value for these networks."""


class _Accuracies:
    """Whether each seed had each test image right, as `Evidence`."""

    def __init__(self, candidates: Sequence[Candidate], groups: ArrayLike | None) -> None:
        self.measured = {c.name: measure(c.correct, groups) for c in candidates}
        self.typical = typical_seed_variance(list(self.measured.values()))
        self.given_groups = groups
        self.values: Mapping[str, float] = {name: m.accuracy for name, m in self.measured.items()}
        first = self.measured[candidates[0].name]
        self.images = first.correct.shape[1]
        self.groups = len(first.profile) if first.grouped else None
        self.fewest: int | None = len(first.profile)

    def standing(self, name: str, validation: float | None, *, tied: bool) -> Standing:
        found = self.measured[name]
        deviation = math.sqrt(found.seed_variance) if found.seeds > 1 else None
        interval = accuracy_interval(found, self.typical)
        return Standing(name, found.seeds, found.accuracy, interval, deviation, validation, tied)

    def beside(self, name: str, leader: str) -> tuple[Difference, float]:
        other, first = self.measured[name], self.measured[leader]
        p_images = sign_flip_p_value(other.correct, first.correct, self.given_groups)
        return difference(other, first, self.typical), p_images


def conclude(
    evidence: Evidence,
    validation: Mapping[str, float | None],
    costs: Mapping[str, Mapping[str, float | None]],
    cost: str | None,
    kind: type[_Kind],
) -> _Kind:
    """Return what the evidence shows: who leads, who is tied with the leader, and what that costs.

    Args:
        evidence: of candidates on the same test images.
        validation: name to its mean validation figure over seeds; None where there is none.
        costs: name to costs, as in `Candidate`.
        cost: see `reach_verdict`.
        kind: of verdict.
    """
    leader, chosen_on = _choose_leader(validation, evidence.values, costs, cost)
    comparisons = _compare(leader, evidence, selected_on_test=chosen_on == "test")
    order = sorted(evidence.values, key=lambda name: -evidence.values[name])
    worse = {c.name for c in comparisons if c.outcome == "worse"}
    tied = tuple(name for name in order if name not in worse)
    prices = {name: _known(known.get(cost)) for name, known in costs.items()} if cost is not None else {}
    priced = [name for name in tied if not math.isnan(prices.get(name, math.nan))]
    comparisons = tuple(sorted(comparisons, key=lambda c: order.index(c.name)))
    relevant = [c for c in comparisons if c.outcome == "tied"] or comparisons
    verdict = kind(
        leader=leader,
        chosen_on=chosen_on,
        winner=leader if comparisons and tied == (leader,) else None,
        tied=tied,
        cheapest=min(priced, key=lambda name: prices[name]) if priced else None,
        cost=cost,
        cost_front=_fronts(costs, evidence.values),
        standings=tuple(evidence.standing(name, validation[name], tied=name in tied) for name in order),
        comparisons=comparisons,
        detectable=float(np.median([c.detectable for c in relevant])) if relevant else None,
        images=evidence.images,
        groups=evidence.groups,
        words="",
        notes=(),
    )
    return replace(verdict, words=verdict_words(verdict, prices), notes=verdict_notes(verdict, prices))


def _check(candidates: Sequence[Candidate]) -> None:
    if not candidates:
        raise ValueError("expected at least one candidate, found none")
    names = [c.name for c in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected each name once, found twice: {', '.join(twice)}")
    _check_images(candidates)
    for c in candidates:
        if c.validation_accuracy is None:
            continue
        seeds, given = len(np.asarray(c.correct)), list(c.validation_accuracy)
        if len(given) != seeds or not all(0 <= v <= 1 for v in given):
            raise ValueError(
                f"{c.name}: expected a validation accuracy between 0 and 1 for each of {seeds} seeds, found {given}"
            )


def _check_images(candidates: Sequence[Candidate]) -> None:
    sizes = {c.name: np.asarray(c.correct).shape[-1] for c in candidates}
    first = candidates[0].name
    for name, size in sizes.items():
        if size != sizes[first]:
            raise ValueError(
                f"candidates are compared on the same test images: {first} has {sizes[first]} images, {name} has {size}"
            )
    ids = {c.name: list(c.image_ids) for c in candidates if c.image_ids is not None}
    for name, found in ids.items():
        given, expected = next(iter(ids.items()))
        if len(found) != sizes[name]:
            raise ValueError(f"{name}: expected an id for each of {sizes[name]} images, found {len(found)}")
        if found != expected:
            how = "in another order than" if sorted(found) == sorted(expected) else "not"
            raise ValueError(
                f"candidates are compared on the same test images in the same order: those of {name} are {how} those of {given}"
            )


def _choose_leader(
    validation: Mapping[str, float | None],
    values: Mapping[str, float],
    costs: Mapping[str, Mapping[str, float | None]],
    cost: str | None,
) -> tuple[str, Literal["validation", "test", "nothing"]]:
    if len(values) == 1:
        return next(iter(values)), "nothing"
    known = {name: value for name, value in validation.items() if value is not None}
    scores = known or dict(values)
    prices = {name: _known(found.get(cost)) if cost is not None else math.nan for name, found in costs.items()}
    best = max(scores.values())
    equals = [name for name, score in scores.items() if score >= best - 1e-12]
    leader = min(equals, key=lambda name: math.inf if math.isnan(prices[name]) else prices[name])
    return leader, "validation" if known else "test"


def _compare(leader: str, evidence: Evidence, *, selected_on_test: bool) -> tuple[Comparison, ...]:
    """Return the comparisons of all others with the leader."""
    others = [name for name in evidence.values if name != leader]
    if not others:
        return ()
    pairs = [evidence.beside(name, leader) for name in others]
    found, p_images = [d for d, _ in pairs], np.array([p for _, p in pairs])
    adjusted = (holm_after_selection if selected_on_test else holm)(p_images)
    with_seeds = np.array([d.p_value is not None for d in found])
    adjusted[with_seeds] = np.maximum(
        adjusted[with_seeds], holm_after_selection([d.p_value for d in found if d.p_value is not None])
    )
    few, many = len(others), len(others) * (len(others) + 1) // 2
    return tuple(
        _comparison(name, d, float(p), float(q), few if d.p_value is None and not selected_on_test else many, evidence.fewest)
        for name, d, p, q in zip(others, found, p_images, adjusted, strict=True)
    )


def _comparison(
    name: str, found: Difference, p_images: float, p_adjusted: float, comparisons: int, units: int | None
) -> Comparison:
    """Return one comparison; `comparisons` divides the level of its first step, `units` is `Evidence.fewest`."""
    outcome: Literal["tied", "worse", "better"] = "tied"
    if p_adjusted < ALPHA:
        outcome = "better" if found.value > 0 else "worse"
    level = ALPHA / comparisons
    fewest = math.ceil(1 - math.log2(level))  # all of so many images must speak for one side for a p-value at this level
    detectable = max(detectable_difference(found, level), 0.0 if units is None else min(1.0, fewest / units))
    return Comparison(
        name=name,
        difference=found.value,
        difference_ci95=found.ci95,
        about="networks" if found.p_value is None else "strategies",
        p_images=p_images,
        p_seeds=found.p_value,
        p_value=p_images if found.p_value is None else max(p_images, found.p_value),
        p_adjusted=p_adjusted,
        outcome=outcome,
        detectable=detectable,
    )


def _fronts(costs: Mapping[str, Mapping[str, float | None]], values: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    names, fronts = list(values), {}
    for cost in dict.fromkeys(cost for known in costs.values() for cost in known):
        front = pareto_front([values[name] for name in names], [_known(costs[name].get(cost)) for name in names])
        fronts[cost] = tuple(names[i] for i in front)
    return fronts


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _mean(values: Sequence[float] | None) -> float | None:
    return None if values is None else float(np.mean(values))
