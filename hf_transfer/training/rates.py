"""Learning rates: for each layer group its own, along transformers' schedules, anew in each phase.

Every rate is a closed form of the step, the phase and the evaluations so far; nothing is carried from step to step. So a
resumed run has the rates of one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from transformers import get_scheduler

from ..strategies.phases import Phase

PLATEAU = "reduce_lr_on_plateau"


class RateSchedule(LRScheduler):
    """One schedule for every strategy: base rate x multiplier of the layer group x shape of the phase; 0 for what is frozen.

    The shape is transformers' own function of that name over the steps of the phase (or of the whole training), its warmup
    included. `reduce_lr_on_plateau` is torch's rule, replayed on the evaluations of the phase, after a linear warmup.

    Args:
        optimizer: its groups carry the `name` of their layer group.
        kind: `lr_scheduler_type`.
        options: `lr_scheduler_kwargs`.
        warmup: number of steps to number of warmup steps among them.
        steps: optimizer steps of the whole training.
        steps_per_epoch: optimizer steps of an epoch.
        restarts: whether the shape begins anew in each phase.

    Raises:
        ValueError: when the kind is not a function of the step (greedy ones).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        kind: str,
        options: Mapping[str, Any] | None,
        warmup: Callable[[int], int],
        *,
        steps: int,
        steps_per_epoch: int,
        restarts: bool = True,
    ) -> None:
        self.kind = kind
        self.options = dict(options or {})
        self.warmup = warmup
        self.steps = steps
        self.steps_per_epoch = steps_per_epoch
        self.restarts = restarts
        self.phase: Phase | None = None
        self.start = 0
        self.values: list[float] = []
        self.default_rate = float(optimizer.defaults["lr"])
        self.shape = self._shape(steps)
        super().__init__(optimizer)

    def begin(self, phase: Phase, epoch: int) -> None:
        """Let a phase begin, or go on, that started at this epoch; the rates of the next step are set."""
        self.phase = phase
        if self.restarts:
            self.start = epoch * self.steps_per_epoch
            left = self.steps - self.start
            length = left if phase.epochs is None else min(left, math.ceil(phase.epochs * self.steps_per_epoch))
            self.shape = self._shape(max(length, 1))
        self._set()

    def tell(self, values: Sequence[float]) -> None:
        """Take the evaluations since the shape began: float, the metric that selects; only a plateau schedule heeds them."""
        self.values = list(values)
        self._set()

    def peaks(self) -> dict[str, float]:
        """Return for each layer group that trains in this phase its rate at the top of the schedule."""
        names = [group["name"] for group in self.optimizer.param_groups]
        return {name: peak for name, peak in zip(names, self._peaks(), strict=True) if peak > 0}

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each optimizer group for the step that comes."""
        factor = self.shape(max(self.last_epoch - self.start, 0))
        return [factor * rate for rate in self._reduced(self._peaks())]

    def state_dict(self) -> dict[str, Any]:
        """Return what the rates do not follow from otherwise: how many steps were counted."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the count of a checkpoint; the callback then says which phase is on."""
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict["_step_count"]

    def _set(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _peaks(self) -> list[float]:
        groups = zip(self.optimizer.param_groups, self.base_lrs, strict=True)
        if self.phase is None:
            return [float(rate) for _, rate in groups]
        return [
            float(rate) * self.phase.rates.get(group["name"], 1.0) if group["name"] in self.phase.groups else 0.0
            for group, rate in groups
        ]

    def _reduced(self, rates: list[float]) -> list[float]:
        """Return rates as torch's ReduceLROnPlateau leaves them after the evaluations so far."""
        if self.kind != PLATEAU or not self.values:
            return rates
        optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates])
        rule = ReduceLROnPlateau(optimizer, **self.options)
        for value in self.values:
            rule.step(value)
        return [group["lr"] if rate > 0 else 0.0 for group, rate in zip(optimizer.param_groups, rates, strict=True)]

    def _shape(self, steps: int) -> Callable[[int], float]:
        kind, options = ("constant_with_warmup", None) if self.kind == PLATEAU else (self.kind, self.options)
        # Some shapes know an end in absolute terms, so they are asked with the rate that the optimizer has.
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=self.default_rate)
        scheduler = get_scheduler(kind, optimizer, self.warmup(steps), steps, scheduler_specific_kwargs=dict(options or {}))
        if not isinstance(scheduler, LambdaLR):
            raise ValueError(f"lr_scheduler_type '{self.kind}' is no function of the step")
        return scheduler.lr_lambdas[0]
