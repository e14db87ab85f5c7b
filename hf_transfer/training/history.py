"""history.csv: one row for each log of training and each evaluation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..backbones.layer_groups import LayerGroup
from ..strategies.phases import Phase
from .freezing import FreezingCallback


class HistoryCallback(TrainerCallback):
    """Append a row to history.csv at each log and evaluation; when resumed, first drop rows after the checkpoint.

    Columns: step, epoch, phase, split, loss, the other figures, learning_rate/GROUP for each layer group (empty while it is
    frozen), trainable_parameters, phase_end. The last one is filled in a row of its own, without a split, where a phase ends:
    "epochs", "plateau", or "training" where the training ended before the phase did.

    Args:
        path: the file.
        groups: the model's layer groups.
        freezing: knows the current phase.
        monitored: what logs call the splits that are scored beside validation.
        figures: what evaluations measure beside the loss.
    """

    def __init__(
        self,
        path: Path,
        groups: Sequence[LayerGroup],
        freezing: FreezingCallback,
        monitored: Sequence[str] = (),
        figures: Sequence[str] = ("accuracy", "macro_f1"),
    ) -> None:
        self.path = path
        self.groups = [group.name for group in groups]
        self.freezing = freezing
        self.prefixes = {"validation": "eval"} | {name: f"eval_{name}" for name in monitored}
        self.metrics = ("loss", *figures)
        self.rates: dict[str, float] = {}
        self.ended = 0

    @property
    def columns(self) -> list[str]:
        """The header of the file."""
        rates = [f"learning_rate/{name}" for name in self.groups]
        return ["step", "epoch", "phase", "split", *self.metrics, *rates, "trainable_parameters", "phase_end"]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the header, keeping the rows up to the step that training continues from."""
        if not state.is_world_process_zero:
            return
        kept = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if None not in row.values()]  # a kill may leave half a line
            kept = [row for row in rows if int(row["step"]) <= state.global_step]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            # A phase's end is told again when the next one begins, or when training ends.
            writer.writerows(row for row in kept if not row["phase_end"] or int(row["step"]) < state.global_step)
        self.ended = sum(bool(row["phase_end"]) and int(row["step"]) < state.global_step for row in kept)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tell which phases have ended."""
        self._tell_ends(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tell why the last phase ended."""
        self._tell_ends(state)
        if self.freezing.spans and self.freezing.spans[-1].end is None:
            self._append(state, "", {"phase_end": "training"}, self.freezing.spans[-1].phase)

    def _tell_ends(self, state: TrainerState) -> None:
        for span in [span for span in self.freezing.spans if span.end is not None][self.ended :]:
            self._append(state, "", {"phase_end": span.reason}, span.phase)
            self.ended += 1

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the learning rates of the step that was just taken; by the time of the log they are the next step's."""
        self.rates = {group["name"]: group["lr"] for group in kwargs["optimizer"].param_groups if "name" in group}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log wherever a checkpoint may be saved, so that no logged average spans it and a resumed run logs the same rows."""
        if control.should_save or control.should_evaluate:
            control.should_log = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log wherever a checkpoint may be saved; see `on_step_end`."""
        self.on_step_end(args, state, control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append a training row, or the row of an evaluation."""
        logs = logs or {}
        if "loss" in logs:
            self._append(state, "train", {"loss": logs["loss"]}, self.freezing.phase)
        for split, prefix in self.prefixes.items():
            if f"{prefix}_loss" in logs:
                metrics = {name: logs[f"{prefix}_{name}"] for name in self.metrics if f"{prefix}_{name}" in logs}
                self._append(state, split, metrics, self.freezing.phase)

    def _append(self, state: TrainerState, split: str, content: dict[str, Any], phase: Phase | None) -> None:
        if not state.is_world_process_zero:
            return
        trained = phase.groups if phase else ()
        row: dict[str, Any] = {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
            "split": split,
            **content,
        }
        row["phase"] = phase.name if phase else ""
        if split:
            row |= {f"learning_rate/{name}": rate for name, rate in self.rates.items() if name in trained}
        row["trainable_parameters"] = self.freezing.trainable.get(row["phase"], "")
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, extrasaction="ignore").writerow(row)
