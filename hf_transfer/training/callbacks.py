"""Small callbacks: the epoch told to the data, the average of weights, and reasons to stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.dataset import ImageDataset
from ..errors import UserError
from ..strategies.phases import first_stall
from ..termination import Terminated, asked, may_be_asked
from .checkpoints import last_complete
from .ema import WeightAverage
from .freezing import FreezingCallback


class EpochCallback(TrainerCallback):
    """Tell the training data set which epoch begins: augmentation is keyed by it."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the epoch before the loader's processes start."""
        self.dataset.epoch = int(state.epoch or 0)


class AverageCallback(TrainerCallback):
    """Move an average of the weights after each optimizer step.

    Attributes:
        average: the average, None while there is none.
    """

    def __init__(self) -> None:
        self.average: WeightAverage | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the weights of the step in."""
        if self.average is not None:
            self.average.update(state.global_step)


class FiniteLossCallback(TrainerCallback):
    """Stop when the training loss is not finite, before a checkpoint of such weights is written."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the mean loss since the last log."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise UserError(diverged(f"at step {state.global_step} the loss is {loss}", Path(args.output_dir)))


class TerminationCallback(TrainerCallback):
    """Write a checkpoint at the end of a step during which SIGTERM came, and stop.

    Processes agree on the step: the signal may reach them at different ones, and a checkpoint is written by all.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._stopping = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the group that agrees: through processors, so that no step waits for a GPU."""
        if args.world_size > 1 and may_be_asked():
            self._group = torch.distributed.new_group(backend="gloo")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a checkpoint where any process was told to stop."""
        told = asked()
        if self._group is not None:
            flag = torch.tensor([int(told)])
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
            told = bool(flag.item())
        if told:
            self._stopping = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop, once the checkpoint is complete.

        Raises:
            Terminated: where the run was told to stop.
        """
        if self._stopping:
            raise Terminated


class EarlyStoppingCallback(TrainerCallback):
    """Stop when the validation metric no longer improves; as phases do, from the evaluations that the state saves.

    Args:
        freezing: knows the evaluations.
        patience: evaluations without improvement.
        min_delta: the smallest change that counts as an improvement.
    """

    def __init__(self, freezing: FreezingCallback, patience: int, min_delta: float) -> None:
        self.freezing = freezing
        self.patience = patience
        self.min_delta = min_delta

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stay where a run had stopped that is resumed."""
        self.on_evaluate(args, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count."""
        values = [evaluation.value for evaluation in self.freezing.evaluations(state)]
        if first_stall(values, self.patience, self.min_delta, greater=bool(args.greater_is_better)) is not None:
            control.should_training_stop = True


def diverged(what: str, folder: Path) -> str:
    """Return the message of a training whose numbers are not finite any more."""
    last = last_complete(folder)
    kept = f"{last} is the last good checkpoint" if last else "no checkpoint had been saved"
    return (
        f"training diverged: {what}. Lower training.learning_rate (hf-transfer find-lr suggests one), lengthen "
        f"training.warmup_steps, or set training.bf16 and training.fp16 to false; {kept}."
    )
