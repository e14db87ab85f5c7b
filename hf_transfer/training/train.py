"""Train a backbone on a run's splits: build the pieces, hand them to the Trainer, call `train`."""

from __future__ import annotations

import os
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
from ..data.class_weights import sampling_weights, weights_in_order
from ..data.dataset import Collate, ImageDataset
from ..data.decoding import evaluation_decoder
from ..data.finishing import Finishing
from ..data.mixing import Mixing
from ..data.order import Order
from ..data.resized import KeptImages, keep_for_evaluation, keep_for_training
from ..data.table import BlockedImages
from ..errors import UserError
from ..recipe.monitored import monitored
from ..recipe.training_arguments import SELECTION_METRICS
from ..strategies.phases import Schedule
from ..termination import deferred
from .arguments import build_arguments, precision_name
from .callbacks import EarlyStoppingCallback, EpochCallback, FiniteLossCallback, TerminationCallback
from .checkpoints import step_of
from .freezing import FreezingCallback, unreached_parameters
from .hardware import peak_memory_mb
from .history import HistoryCallback
from .loss import (
    ClassificationLoss,
    MultiLabelLoss,
    answer_weights,
    balanced_answers,
    balanced_weights,
    named_weights,
)
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
    cache: str = "none",
    decoding: str = "full",
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
        cache: "resized": training and validation read images that are resized once, now, where they have not been before.
        decoding: how images of validation are decoded, see `evaluation_decoder`.
        monitor: what is scored beside validation at every evaluation, see `recipe.monitored`; it selects nothing.
        callbacks: what else follows the training.

    Raises:
        RecipeError: when transformers refuses the training arguments, or the class weights do not fit the classes.
        DataError: when what is to be monitored is not there.
        UserError: when resized images cannot be kept.
    """
    if schedule.epochs is not None:
        training = training | {"num_train_epochs": schedule.epochs}
    arguments = build_arguments(training, checkpoints, seed)
    channels_last = backbone.is_convolutional
    preprocessing = backbone.preprocessing
    mixing = Mixing(augment.mixup, augment.cutmix, seed) if augment.mixup or augment.cutmix else None
    draws = augment.preset != "none" or augment.erasing > 0 or mixing is not None
    transform = build_train_transform(augment.preset, preprocessing, augment.erasing)
    decoder = evaluation_decoder(decoding, preprocessing.size)
    tables = splits.tables
    kept: dict[str, KeptImages | None] = {}
    if cache == "resized":
        workers = arguments.dataloader_num_workers * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        kept["train"] = keep_for_training(tables["train"], transform, decoder, workers)
        if arguments.eval_strategy != "no":
            kept["validation"] = keep_for_evaluation(tables["validation"], preprocessing, decoder, workers)
    train_data = ImageDataset(
        tables["train"],
        transform,
        seed=seed if draws else None,
        keys=mixing is not None,
        decoder=decoder,
        kept=kept.get("train"),
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
    figures = [name for name in SELECTION_METRICS[splits.task] if name != "loss"]
    followers = [EpochCallback(train_data), FiniteLossCallback(), HistoryCallback(history, groups, freezing, watched, figures)]
    followers += [*callbacks, TerminationCallback()]
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
        multi_label=splits.multi_label,
        order=build_order(splits, seed, sampling, shuffle_buffer, arguments.dataloader_num_workers),
        # A range test evaluates nothing, and has not read every split.
        monitor=Monitor(monitor, splits, preprocessing, decoder) if monitor and arguments.eval_strategy != "no" else None,
        train_dataset=train_data,
        eval_dataset=ImageDataset(tables["validation"], preprocessing, decoder=decoder, kept=kept.get("validation")),
        data_collator=Collate(channels_last),
        finish=Finishing(preprocessing, channels_last, mixing),
        callbacks=followers,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def build_order(splits: Splits, seed: int, sampling: str | Mapping[str, float], shuffle_buffer: int, workers: int = 0) -> Order:
    """Return the order of the training images.

    Args:
        splits: images.
        seed: seed of the run.
        sampling: "uniform", or weights of classes, see `sampling_weights`.
        shuffle_buffer: images among which the order is random, on each process, where images are read from shards.
        workers: loader processes, each of which is told how many blocks of a shard to hold.

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
        shards.blocks_kept = max(shards.blocks_kept, order.open_blocks(workers))
    return order


def build_loss(section: Loss, label_smoothing: float, splits: Splits) -> ClassificationLoss | MultiLabelLoss:
    """Return the training loss; class weights are scaled by the training images.

    Where an image may show several classes, a class's weight is that of the images that show it against those that do not.

    Raises:
        RecipeError: when the class weights do not fit the classes.
    """
    table, names, asked = splits.tables["train"], splits.class_names, section.class_weights
    counts = table.class_counts(len(names)).tolist()
    weights = None
    if table.multi_label:
        if asked is not None:
            key = "loss.class_weights"
            positive = balanced_answers(counts, len(table)) if asked == "balanced" else weights_in_order(key, asked, names)
            weights = answer_weights(positive, counts, len(table))
        return MultiLabelLoss(section.name, label_smoothing, weights, section.gamma)
    if asked == "balanced":
        weights = balanced_weights(counts, names)
    elif asked is not None:
        weights = named_weights(asked, names, counts)
    return ClassificationLoss(section.name, label_smoothing, weights, section.gamma)


def train(trainer: TransferTrainer, resume_from: Path | None = None) -> TrainingCost:
    """Train, reload the best model by validation, and return what it took."""
    steps_before = 0
    if trainer.args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    if resume_from is not None:
        steps_before = step_of(resume_from)
    try:
        with deferred():
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    except UserError as error:
        error.of_this_process = True  # an image that another process does not meet, say
        raise
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
