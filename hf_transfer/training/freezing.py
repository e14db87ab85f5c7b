"""Frozen means frozen: no gradient, eval mode whatever calls `train()`, batch-norm statistics untouched.

`trained_parameters` says what a phase trains and `freeze_except` does it; `FreezingCallback` only decides when.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..backbones.layer_groups import LayerGroup
from ..strategies.phases import Evaluation, Phase, Schedule, Span, timeline
from .rates import RateSchedule


def freeze_except(model: nn.Module, trained: Collection[str]) -> None:
    """Freeze every parameter but the named ones, and hold what is frozen in eval mode.

    A module is held in eval mode when none of the parameters inside it trains. A module without parameters (dropout, pooling)
    follows the parametric module before it in definition order, or the first one where none is before it, so that what precedes
    a trained head is deterministic and dropout inside it is not.

    Args:
        model: the network, changed in place; calling again with other names undoes and redoes it.
        trained: names of the parameters that train.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name not in trained:
            parameter.grad = None
    follows_trained = next((parameter.requires_grad for parameter in model.parameters()), False)
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own:
            follows_trained = any(parameter.requires_grad for parameter in own)
        inside = list(module.parameters())
        trains = any(parameter.requires_grad for parameter in inside) if inside else follows_trained
        _hold(module, frozen=not trains)


def _eval_only(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)


def _hold(module: nn.Module, *, frozen: bool) -> None:
    """Make `module.train()` do nothing but eval mode, or give it back its own `train`."""
    if frozen:
        # An attribute of the instance, so that a parent's train(), which calls each child's, meets it too.
        module.__dict__["train"] = types.MethodType(_eval_only, module)
        module.eval()
    elif module.__dict__.pop("train", None) is not None:
        module.train()


def trainable_count(model: nn.Module) -> int:
    """Return how many parameters train."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def trained_parameters(
    model: nn.Module, groups: Sequence[LayerGroup], phase: Phase, *, frozen_batch_norm: bool = False
) -> set[str]:
    """Return the names of the parameters that a phase trains.

    Args:
        model: the network.
        groups: its layer groups.
        phase: which groups train, and which parts of them.
        frozen_batch_norm: leave out every batch norm.
    """
    trained = {name for group in groups if group.name in phase.groups for name in group.parameters}
    norms = _parameters_of(model, _is_norm)
    if phase.parts == "norms":
        head = next(group for group in groups if group.name == "head")
        trained &= norms | set(head.parameters)
    if frozen_batch_norm:
        trained -= _parameters_of(model, lambda module: isinstance(module, _BatchNorm))
    return trained


def _parameters_of(model: nn.Module, is_kind: Any) -> set[str]:
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if is_kind(module)
        for name, _ in module.named_parameters(recurse=False)
    }


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: libraries have norms of their own, whose class names say so."""
    known = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm)
    return isinstance(module, known) or "norm" in type(module).__name__.lower()


def unreached_parameters(model: nn.Module, size: tuple[int, int]) -> set[str]:
    """Return the names of the parameters that the logits do not depend on, such as a mask token for pretraining.

    They never get a gradient. Under several processes each gradient is waited for, so such a parameter has to be frozen.

    Args:
        model: called with float32 pixel_values [1, 3, height, width], in eval mode; left as it was.
        size: (height, width) of the input.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    reached: set[int] = set()
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(parameter.is_floating_point())
        model.eval()
        with torch.enable_grad():
            output = model(pixel_values=torch.zeros(1, 3, *size, device=device))
        waiting = [output["logits"].grad_fn]
        seen = set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                reached.add(id(node.variable))
            waiting += [following for following, _ in node.next_functions]
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
    return {name for name, parameter in model.named_parameters() if id(parameter) not in reached}


class FreezingCallback(TrainerCallback):
    """Execute a schedule of phases: freeze and thaw where an epoch begins, and tell the learning rates.

    Everything follows from the schedule and from what `TrainerState` saves (epoch, evaluations), by `timeline`.

    Args:
        groups: the model's layer groups.
        schedule: the phases.
        metric: name of the validation metric that selects, such as "accuracy".
        untrained: names of parameters that stay frozen in every phase, such as those that carry adapters and those of
            `unreached_parameters`.
    """

    def __init__(
        self, groups: Sequence[LayerGroup], schedule: Schedule, *, metric: str = "accuracy", untrained: Collection[str] = ()
    ) -> None:
        self.groups = list(groups)
        self.schedule = schedule
        self.metric = metric
        self.untrained = set(untrained)
        self.phase: Phase | None = None
        self.spans: list[Span] = []
        self.trainable: dict[str, int] = {}

    def apply(self, model: nn.Module, phase: Phase) -> None:
        """Freeze what a phase freezes."""
        freeze_except(model, self._trained(model, phase))
        self.phase = phase
        self.trainable[phase.name] = trainable_count(model)

    def _trained(self, model: nn.Module, phase: Phase) -> set[str]:
        frozen_batch_norm = self.schedule.frozen_batch_norm
        return trained_parameters(model, self.groups, phase, frozen_batch_norm=frozen_batch_norm) - self.untrained

    def evaluations(self, state: TrainerState) -> list[Evaluation]:
        """Return the selecting metric of every evaluation that the trainer's state knows."""
        key = f"eval_{self.metric}"
        return [Evaluation(float(entry["epoch"]), float(entry[key])) for entry in state.log_history if key in entry]

    @property
    def is_finished(self) -> bool:
        """Whether the last phase has ended."""
        return len(self.spans) == len(self.schedule.phases) and self.spans[-1].end is not None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Begin, or go on where the (resumed) state is."""
        self.phase = None
        self.on_epoch_begin(args, state, control, **kwargs)

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        lr_scheduler: Any,
        optimizer: torch.optim.Optimizer,
        **kwargs: Any,
    ) -> None:
        """Apply the phase of the epoch that begins; stop where the last one has ended."""
        self.spans = self._timeline(args, state)
        if self.is_finished:
            control.should_training_stop = True
        span = self.spans[-1]
        if span.phase is self.phase:
            return
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        for past in self.spans[:-1]:  # a resumed run was not there
            self.trainable[past.phase.name] = sum(sizes[name] for name in self._trained(model, past.phase))
        self.apply(model, span.phase)
        if isinstance(lr_scheduler, RateSchedule):
            lr_scheduler.begin(span.phase, span.start)
            lr_scheduler.tell(self._values_since_start(state))
        if span.phase.reset_optimizer and (state.epoch or 0.0) == span.start:
            optimizer.state.clear()
        if state.is_world_process_zero and not self.is_finished:
            print(self._described(span, model, lr_scheduler), file=sys.stderr)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        """Tell the schedule of learning rates, which may cut them when the metric has stopped improving."""
        if isinstance(lr_scheduler, RateSchedule):
            lr_scheduler.tell(self._values_since_start(state))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See which phases have ended."""
        self.spans = self._timeline(args, state)

    def _timeline(self, args: TrainingArguments, state: TrainerState) -> list[Span]:
        greater = bool(args.greater_is_better)
        return timeline(self.schedule.phases, self.evaluations(state), state.epoch or 0.0, greater=greater)

    def _values_since_start(self, state: TrainerState) -> list[float]:
        start = self.spans[-1].start if self.schedule.restarts else -math.inf
        return [evaluation.value for evaluation in self.evaluations(state) if evaluation.epoch > start]

    def _described(self, span: Span, model: nn.Module, lr_scheduler: Any) -> str:
        phase, phases = span.phase, self.schedule.phases
        total = sum(parameter.numel() for parameter in model.parameters())
        words = f"{self.trainable[phase.name]:,} of {total:,} parameters train ({', '.join(phase.groups)})"
        if isinstance(lr_scheduler, RateSchedule):
            peaks = lr_scheduler.peaks()
            words += f"; learning rate {', '.join(dict.fromkeys(f'{rate:g}' for rate in peaks.values()))}"
        if len(phases) == 1:
            return words
        number = next(index for index, known in enumerate(phases) if known is phase) + 1
        return f"phase {number} of {len(phases)}, '{phase.name}', from epoch {span.start}: {words}"
