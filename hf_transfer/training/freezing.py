"""Frozen means frozen: no gradient, eval mode whatever calls `train()`, batch-norm statistics untouched.

`freeze_except` does the work; `FreezingCallback` only decides when.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..backbones.layer_groups import LayerGroup
from ..strategies.phases import Phase, phase_at


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


class FreezingCallback(TrainerCallback):
    """Apply the phase that the trainer's state is in, at the start of training and of each epoch.

    Args:
        groups: the model's layer groups.
        phases: the schedule.
    """

    def __init__(self, groups: Sequence[LayerGroup], phases: Sequence[Phase]) -> None:
        self.groups = list(groups)
        self.phases = list(phases)
        self.phase: Phase | None = None
        self.trainable: dict[str, int] = {}

    def apply(self, model: nn.Module, epoch: float) -> Phase:
        """Freeze what the phase at this epoch freezes; return the phase."""
        phase = phase_at(self.phases, epoch)
        if phase is not self.phase:
            freeze_except(model, {name for group in self.groups if group.name in phase.groups for name in group.parameters})
            self.phase = phase
            self.trainable[phase.name] = trainable_count(model)
        return phase

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Apply the phase the (possibly resumed) state is in."""
        self.apply(model, state.epoch or 0.0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Apply the phase of the epoch that begins."""
        self.apply(model, state.epoch or 0.0)
