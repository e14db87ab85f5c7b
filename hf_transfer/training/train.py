"""Train a backbone on a run's splits: build the pieces, hand them to the Trainer, call `train`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import PrinterCallback

from ..backbones.backbone import Backbone
from ..data.build import Splits
from ..data.dataset import Collate, ImageDataset
from ..data.transforms import build_train_transform
from ..strategies.phases import Phase
from .arguments import build_arguments, precision_name
from .freezing import FreezingCallback
from .hardware import peak_memory_mb
from .history import HistoryCallback
from .loss import CrossEntropy
from .trainer import EpochCallback, TransferTrainer


@dataclass(frozen=True)
class TrainingCost:
    """What the training took.

    Args:
        seconds: wall-clock seconds of `Trainer.train`, evaluations and checkpoints included.
        images_per_second: training images over those seconds.
        trainable_parameters: phase to how many parameters trained in it.
        peak_memory_mb: peak memory of this process in MB.
        precision: "bf16", "fp16" or "fp32".
    """

    seconds: float
    images_per_second: float
    trainable_parameters: dict[str, int]
    peak_memory_mb: float
    precision: str


def build_trainer(
    backbone: Backbone,
    splits: Splits,
    phases: list[Phase],
    *,
    training: dict[str, Any],
    augment_preset: str,
    seed: int,
    checkpoints: Path,
    history: Path,
    tensorboard: Path,
    early_stopping: tuple[int, float] | None = None,
) -> tuple[TransferTrainer, FreezingCallback]:
    """Return a Trainer that is ready to `train`, and the callback that knows its phases.

    Args:
        backbone: the network with its new head.
        splits: images; "train" is trained on, "validation" selects.
        phases: the strategy's schedule.
        training: the resolved `training` section.
        augment_preset: name of the augmentation preset.
        seed: seed of order and augmentation.
        checkpoints: folder of the checkpoints.
        history: the history.csv to write.
        tensorboard: folder of the TensorBoard log.
        early_stopping: (patience in evaluations, minimum improvement), or None.

    Raises:
        RecipeError: when transformers refuses the training arguments.
    """
    arguments = build_arguments(training, checkpoints, seed)
    channels_last = backbone.is_convolutional
    preprocessing = backbone.preprocessing
    train_data = ImageDataset(
        splits.tables["train"],
        build_train_transform(augment_preset, preprocessing),
        seed=None if augment_preset == "none" else seed,
    )
    collate = Collate(channels_last)
    freezing = FreezingCallback(backbone.groups, phases)
    freezing.apply(backbone.model, 0.0)
    callbacks = [freezing, EpochCallback(train_data), HistoryCallback(history, backbone.groups, freezing)]
    if early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(*early_stopping))
    if "tensorboard" in _listed(training.get("report_to")):
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        if arguments.process_index == 0:
            callbacks.append(TensorBoardCallback(SummaryWriter(log_dir=str(tensorboard))))
    trainer = TransferTrainer(
        model=backbone.model,
        args=arguments,
        groups=backbone.groups,
        plain_adam=training.get("optim") == "adam",
        channels_last=channels_last,
        train_dataset=train_data,
        eval_dataset=ImageDataset(splits.tables["validation"], preprocessing),
        data_collator=collate,
        compute_loss_func=CrossEntropy(arguments.label_smoothing_factor),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, freezing


def train(trainer: TransferTrainer, freezing: FreezingCallback, resume_from: Path | None = None) -> TrainingCost:
    """Train, reload the best model by validation, and return what it took."""
    steps_before = 0
    if trainer.args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    if resume_from is not None:
        steps_before = int(resume_from.name.rpartition("-")[2])
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    seconds = time.perf_counter() - started
    args = trainer.args
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = trainer.state.global_step - steps_before
    images = min(steps * per_step, int(len(trainer.train_dataset) * (trainer.state.epoch or 0)) or steps * per_step)
    return TrainingCost(
        seconds=seconds,
        images_per_second=images / seconds,
        trainable_parameters=dict(freezing.trainable),
        peak_memory_mb=peak_memory_mb(args.device),
        precision=precision_name(bf16=args.bf16, fp16=args.fp16),
    )


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
