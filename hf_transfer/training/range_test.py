"""The learning-rate range test: let the rate grow with each step, and see where the loss falls fastest and where it bursts.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from .freezing import FreezingCallback

_MEMORY = 0.9  # of the moving average of losses
_BURST = 4.0  # times the best smoothed loss: nothing is to be learnt beyond


@dataclass(frozen=True)
class RangeTest:
    """What a sweep found.

    Args:
        rates: learning rate of each step, of what has multiplier 1.
        losses: training loss of each step.
        smoothed: its moving average, taken forwards and then backwards.
        suggestion: where the smoothed loss falls fastest on a logarithmic axis, before its minimum.
        minimum: where the smoothed loss is least; a tenth of it is the other usual choice.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float
    minimum: float


class SweepCallback(TrainerCallback):
    """Set the learning rate of each step, from `low` to `high` in equal ratios, and note the loss; stop where it bursts.

    Args:
        freezing: knows the phase, and so the multipliers of the layer groups.
        low: the first rate.
        high: the last one.
        steps: how many.
    """

    def __init__(self, freezing: FreezingCallback, low: float, high: float, steps: int) -> None:
        self.freezing = freezing
        self.low = low
        self.high = high
        self.steps = steps
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the rates of this step."""
        rate = self.low * (self.high / self.low) ** (state.global_step / (self.steps - 1))
        self.rates.append(rate)
        phase = self.freezing.schedule.phases[-1]
        for group in kwargs["optimizer"].param_groups:
            group["lr"] = rate * phase.rates.get(group["name"], 1.0) if group["name"] in phase.groups else 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the loss."""
        if "loss" not in (logs or {}):
            return
        self.losses.append((logs or {})["loss"])
        average = smooth(self.losses)
        if not math.isfinite(average[-1]) or average[-1] > _BURST * min(average):
            control.should_training_stop = True


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of losses, divided by the weight it has gathered so far."""
    average, result = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = _MEMORY * average + (1 - _MEMORY) * loss
        result.append(average / (1 - _MEMORY**count))
    return result


def judge(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """Return what a sweep found.

    Args:
        rates: ascending in equal ratios.
        losses: the loss of each of these steps; a last one that is not finite is left out.

    Raises:
        UserError: when the loss never fell.
    """
    finite = next((position for position, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    rates, losses = list(rates[:finite]), list(losses[:finite])
    # There and back again, so that the average does not lag behind the rates.
    smoothed = smooth(smooth(losses)[::-1])[::-1]
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    # The average needs a few steps before it means anything.
    falls = {step: smoothed[step] - smoothed[step - 1] for step in range(3, lowest + 1)}
    steepest = min(falls, key=falls.__getitem__, default=None)
    if steepest is None or falls[steepest] >= 0:
        raise UserError(
            "find-lr: the loss never fell, so no learning rate can be suggested. Give --low a smaller rate, or --steps a "
            "larger number."
        )
    return RangeTest(rates, losses, smoothed, rates[steepest], rates[lowest])
