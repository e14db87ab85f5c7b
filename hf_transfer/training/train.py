"""Train a backbone on a run's splits: build the pieces, hand them to the Trainer, call `train`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from ..backbones.backbone import Backbone
from ..data.augmentation import build_train_transform
from ..data.build import Splits
from ..data.class_weights import sampling_weights
from ..data.dataset import Collate, ImageDataset
from ..data.mixing import Mixing
from ..data.order import Order
from ..data.table import BlockedImages
from ..recipe.monitored import monitored
from ..strategies.phases import Schedule
from .arguments import build_arguments, precision_name
from .callbacks import EarlyStoppingCallback, EpochCallback, FiniteLossCallback
from .checkpoints import step_of
from .freezing import FreezingCallback, unreached_parameters
from .hardware import peak_memory_mb
from .history import HistoryCallback
from .loss import ClassificationLoss, balanced_weights, named_weights
from .monitor import Monitor
from .trainer import TransferTrainer

if TYPE_CHECKING:
    from ..recipe.schema import Augment, EarlyStopping, Ema, Loss
    from .adapters import Adapters


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
    schedule: Schedule,
    *,
    training: dict[str, Any],
    augment: Augment,
    loss: Loss,
    seed: int,
    checkpoints: Path,
    history: Path,
    tensorboard: Path,
    ema: Ema | None = None,
    early_stopping: EarlyStopping | None = None,
    adapters: Adapters | None = None,
    sampling: str | Mapping[str, float] = "uniform",
    shuffle_buffer: int = 2048,
    monitor: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> TransferTrainer:
    """Return a Trainer that is ready to `train`.

    Args:
        backbone: the network with its new head.
        splits: images; "train" is trained on, "validation" selects.
        schedule: the strategy's phases.
        training: the resolved `training` section.
        augment: what training images go through.
        loss: the training loss.
        seed: seed of order, augmentation and mixing.
        checkpoints: folder of the checkpoints.
        history: the history.csv to write.
        tensorboard: folder of the TensorBoard log.
        ema: the moving average of the weights, or None.
        early_stopping: when to stop, or None.
        adapters: what was put into the model, or None.
        sampling: how training images are drawn, see `build_order`.
        shuffle_buffer: images among which the order is random where images are read from shards.
        monitor: what is scored beside validation at every evaluation, see `recipe.monitored`; it selects nothing.
        callbacks: what else follows the training.

    Raises:
        RecipeError: when transformers refuses the training arguments, or the class weights do not fit the classes.
        DataError: when what is to be monitored is not there.
    """
    if schedule.epochs is not None:
        training = training | {"num_train_epochs": schedule.epochs}
    arguments = build_arguments(training, checkpoints, seed)
    channels_last = backbone.is_convolutional
    preprocessing = backbone.preprocessing
    mixing = Mixing(augment.mixup, augment.cutmix, seed) if augment.mixup or augment.cutmix else None
    draws = augment.preset != "none" or augment.erasing > 0 or mixing is not None
    train_data = ImageDataset(
        splits.tables["train"],
        build_train_transform(augment.preset, preprocessing, augment.erasing),
        seed=seed if draws else None,
        keys=mixing is not None,
    )
    model = backbone.model
    groups = backbone.groups
    head = next(group for group in groups if group.name == "head")
    # Auxiliary heads are reached in training only.
    untrained = unreached_parameters(model, preprocessing.size) - set(head.parameters)
    if adapters is not None:
        untrained |= {name for name, _ in model.named_parameters()} - set(adapters.trained)
    freezing = FreezingCallback(groups, schedule, metric=training["metric_for_best_model"], untrained=untrained)
    freezing.apply(model, schedule.phases[0])
    watched = [monitored(name).row for name in monitor]
    followers = [EpochCallback(train_data), FiniteLossCallback(), HistoryCallback(history, groups, freezing, watched)]
    followers += callbacks
    if early_stopping is not None:
        followers.append(EarlyStoppingCallback(freezing, early_stopping.patience, early_stopping.min_delta))
    if "tensorboard" in _listed(training.get("report_to")):
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

        if arguments.process_index == 0:
            followers.append(TensorBoardCallback(SummaryWriter(log_dir=str(tensorboard))))
    trainer = TransferTrainer(
        model=model,
        args=arguments,
        freezing=freezing,
        loss=build_loss(loss, arguments.label_smoothing_factor, splits),
        plain_adam=training.get("optim") == "adam",
        channels_last=channels_last,
        ema_decay=ema.decay if ema else None,
        adapted=adapters is not None,
        order=build_order(splits, seed, sampling, shuffle_buffer),
        # A range test evaluates nothing, and has not read every split.
        monitor=Monitor(monitor, splits, preprocessing) if monitor and arguments.eval_strategy != "no" else None,
        train_dataset=train_data,
        eval_dataset=ImageDataset(splits.tables["validation"], preprocessing),
        data_collator=Collate(channels_last, mixing),
        callbacks=followers,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def build_order(splits: Splits, seed: int, sampling: str | Mapping[str, float], shuffle_buffer: int) -> Order:
    """Return the order of the training images.

    Args:
        splits: images.
        seed: seed of the run.
        sampling: "uniform", or weights of classes, see `sampling_weights`.
        shuffle_buffer: images among which the order is random, on each process, where images are read from shards.

    Raises:
        RecipeError: when the weights do not fit the classes.
    """
    table, weights = splits.tables["train"], None
    if sampling != "uniform":
        weights = sampling_weights(sampling, splits.class_names, table.class_counts(len(splits.class_names)))
    shards = table.images if isinstance(table.images, BlockedImages) else None
    blocks = None if shards is None else shards.block_of[table.rows]
    order = Order(len(table), seed, table.labels, weights, blocks, shuffle_buffer)
    if shards is not None:
        shards.blocks_kept = max(shards.blocks_kept, order.open_blocks)
    return order


def build_loss(section: Loss, label_smoothing: float, splits: Splits) -> ClassificationLoss:
    """Return the training loss; class weights are scaled by the training images.

    Raises:
        RecipeError: when the class weights do not fit the classes.
    """
    counts = splits.tables["train"].class_counts(len(splits.class_names)).tolist()
    weights = None
    if section.class_weights == "balanced":
        weights = balanced_weights(counts, splits.class_names)
    elif section.class_weights is not None:
        weights = named_weights(section.class_weights, splits.class_names, counts)
    return ClassificationLoss(section.name, label_smoothing, weights, section.gamma)


def train(trainer: TransferTrainer, resume_from: Path | None = None) -> TrainingCost:
    """Train, reload the best model by validation, and return what it took."""
    steps_before = 0
    if trainer.args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    if resume_from is not None:
        steps_before = step_of(resume_from)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    seconds = time.perf_counter() - started
    args = trainer.args
    per_step = trainer.state.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = trainer.state.global_step - steps_before
    images = min(steps * per_step, int(len(trainer.train_dataset) * (trainer.state.epoch or 0)) or steps * per_step)
    return TrainingCost(
        seconds=seconds,
        images_per_second=images / seconds,
        trainable_parameters=dict(trainer.freezing.trainable),
        peak_memory_mb=peak_memory_mb(args.device),
        precision=precision_name(bf16=args.bf16, fp16=args.fp16),
    )


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
