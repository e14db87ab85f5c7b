"""A strategy as data: phases that say which layer groups train, how fast, and what ends each.

Which phase an epoch belongs to is a pure function of the phases and of the evaluations so far, which the trainer's state
saves: a resumed run, and every process, come to the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Phase:
    """A part of the training during which the same parameters train.

    Args:
        name: what logs and reports call it.
        groups: names of the layer groups that train; all others are frozen, without gradient and in eval mode.
        epochs: how many epochs it lasts at most; None until the end of the training.
        rates: layer group to learning-rate multiplier; 1 where it is not named.
        parts: "all" parameters of those groups, or "norms": the head whole, and of the others the normalisation layers.
        patience: evaluations without improvement that end it sooner; None for never.
        min_delta: the smallest change of the validation metric that counts as an improvement.
        reset_optimizer: whether the optimizer forgets its moments when the phase begins.
    """

    name: str
    groups: tuple[str, ...]
    epochs: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    parts: Literal["all", "norms"] = "all"
    patience: int | None = None
    min_delta: float = 0.0
    reset_optimizer: bool = False


@dataclass(frozen=True)
class Schedule:
    """Phases in their order, and what holds for all of them.

    Args:
        phases: at least one; only the last may have no end of its own.
        restarts: whether the schedule of learning rates, warmup included, begins anew in each phase.
        frozen_batch_norm: whether every batch norm keeps its statistics and weights, in layer groups that train as well.
    """

    phases: tuple[Phase, ...]
    restarts: bool = True
    frozen_batch_norm: bool = False

    @property
    def epochs(self) -> float | None:
        """How many epochs all phases last at most; None where the last one has no end of its own."""
        lengths = [phase.epochs for phase in self.phases]
        return None if None in lengths else sum(length for length in lengths if length is not None)


class Evaluation(NamedTuple):
    """The validation metric at some time of the training.

    Args:
        epoch: epochs done, may be fractional.
        value: the metric that selects.
    """

    epoch: float
    value: float


@dataclass(frozen=True)
class Span:
    """When a phase was on.

    Args:
        phase: the phase.
        start: the epoch it began at.
        end: the epoch it ended at; None while it lasts.
        reason: why it ended: "epochs" or "plateau"; empty while it lasts.
    """

    phase: Phase
    start: int
    end: float | None = None
    reason: str = ""


def timeline(phases: Sequence[Phase], evaluations: Sequence[Evaluation], epoch: float, *, greater: bool) -> list[Span]:
    """Return the phases that have begun by an epoch, in order; the last of them is on, unless it has ended, too.

    A phase ends after its epochs, or, where it has patience, at the end of the epoch in which the metric has not improved for
    so many evaluations. Improvement is counted anew in each phase: what has just thawed may need a while.

    Args:
        phases: the schedule.
        evaluations: what was measured so far, in order.
        epoch: epochs done, may be fractional.
        greater: whether a greater metric is better.
    """
    spans: list[Span] = []
    start = 0
    for phase in phases:
        end = math.inf if phase.epochs is None else start + phase.epochs
        reason = "epochs"
        if phase.patience is not None:
            inside = [evaluation for evaluation in evaluations if start < evaluation.epoch <= end]
            stalled = first_stall([e.value for e in inside], phase.patience, phase.min_delta, greater=greater)
            if stalled is not None and (stop := math.ceil(inside[stalled].epoch)) < end:
                end, reason = stop, "plateau"
        if epoch < end:
            return [*spans, Span(phase, start)]
        spans.append(Span(phase, start, end, reason))
        start = math.ceil(end)
    return spans


def first_stall(values: Sequence[float], patience: int, min_delta: float, *, greater: bool) -> int | None:
    """Return the position of the first value that is the last of `patience` ones without improvement, or None.

    An improvement is a value better by more than `min_delta` than the best so far; the first value is one.
    """
    best: float | None = None
    waited = 0
    for position, value in enumerate(values):
        if best is None or (value - best if greater else best - value) > min_delta:
            best, waited = value, 0
            continue
        waited += 1
        if waited >= patience:
            return position
    return None
