"""The ways a run adapts its backbone: with the Trainer, by heads on features, or by nearest neighbours.

Each function saves what it made, scores what was saved, and returns the content of metrics.json with a `cost` that the
pipeline completes; on other processes than the main one the frozen path returns an empty one.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .run_directory import RunDirectory, replacing, write_json

if TYPE_CHECKING:
    import numpy as np
    from accelerate import PartialState
    from transformers import TrainerCallback

    from .backbones.backbone import Backbone
    from .data.build import Splits
    from .evaluation.thresholds import Thresholds
    from .features.frozen import FrozenFeatures, Request
    from .features.probe import Probe
    from .recipe import Recipe
    from .training.adapters import Adapters
    from .training.trainer import TransferTrainer


def prepare_network(recipe: Recipe, splits: Splits, backbone: Backbone) -> Adapters | None:
    """Check that strategy and loss fit the network and its classes, and add the adapters of `lora`; nothing is written.

    Raises:
        UserError: saying what does not fit.
    """
    from .strategies.schedules import build_schedule
    from .training.train import build_loss, build_order

    build_schedule(recipe.strategy, [group.name for group in backbone.groups], recipe.training.get("num_train_epochs"))
    build_loss(recipe.loss, 0.0, splits)
    build_order(splits, recipe.seed, recipe.data.sampling, recipe.data.shuffle_buffer)
    return add_lora(recipe, backbone)


def add_lora(recipe: Recipe, backbone: Backbone) -> Adapters | None:
    """Put the adapters of strategy `lora` into the network; None for any other strategy."""
    from .recipe.schema import Lora

    if recipe.strategy.name != "lora":
        return None
    from .training.adapters import add_adapters

    return add_adapters(backbone, **(recipe.strategy.lora or Lora()).model_dump(), seed=recipe.seed)


@dataclass(frozen=True)
class FirstPhase:
    """What the phase took that needs no Trainer; nothing where there is none.

    Args:
        seconds: of all of it.
        parameters: the phase, and how many parameters trained in it.
        extraction: the part of the cost that is extraction, see `_extraction_cost`.
    """

    seconds: float = 0.0
    parameters: dict[str, int] = field(default_factory=dict)
    extraction: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LiveTraining:
    """Everything that is ready to be trained with the Trainer.

    Args:
        trainer: the Trainer.
        first: the phase before, where there is one.
    """

    trainer: TransferTrainer
    first: FirstPhase


def prepare_live(
    recipe: Recipe,
    directory: RunDirectory,
    splits: Splits,
    backbone: Backbone,
    state: PartialState,
    adapters: Adapters | None,
    *,
    resume: bool = False,
    last_phase_only: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> LiveTraining:
    """Fit what a strategy fits on features first, and build the Trainer with its schedule.

    Args:
        recipe: with its `training` section resolved.
        directory: where checkpoints and history go.
        splits: the images.
        backbone: the network with its new head, changed in place.
        state: the processes.
        adapters: what was put into the network, or None.
        resume: use what an interrupted run has fitted.
        last_phase_only: leave out the phases before the last.
        callbacks: what else follows the training.
    """
    from .strategies.schedules import build_schedule
    from .training.train import build_trainer

    first = FirstPhase()
    if recipe.strategy.name == "two_phase":
        first = _fit_first_phase(recipe, directory, splits, backbone, state, resume=resume)
    names = [group.name for group in backbone.groups]
    schedule = build_schedule(recipe.strategy, names, recipe.training.get("num_train_epochs"))
    if last_phase_only:
        schedule = replace(schedule, phases=(replace(schedule.phases[-1], epochs=None, patience=None),))
    trainer = build_trainer(
        backbone,
        splits,
        schedule,
        training=recipe.training,
        augment=recipe.augment,
        loss=recipe.loss,
        seed=recipe.seed,
        checkpoints=directory.checkpoints,
        history=directory.history,
        tensorboard=directory.tensorboard,
        ema=recipe.ema,
        early_stopping=recipe.early_stopping,
        adapters=adapters,
        sampling=recipe.data.sampling,
        shuffle_buffer=recipe.data.shuffle_buffer,
        cache=recipe.data.cache,
        decoding=recipe.data.decoding,
        monitor=recipe.evaluation.monitor,
        callbacks=callbacks,
    )
    return LiveTraining(trainer, first)


def train_live(
    recipe: Recipe,
    directory: RunDirectory,
    splits: Splits,
    backbone: Backbone,
    state: PartialState,
    adapters: Adapters | None,
    *,
    resume: bool,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train with the Trainer, save the model, and return its metrics with the `cost` of training."""
    from .backbones.task import save_thresholds
    from .training.checkpoints import last_complete
    from .training.train import train

    live = prepare_live(recipe, directory, splits, backbone, state, adapters, resume=resume, callbacks=callbacks)
    cost = train(live.trainer, last_complete(directory.checkpoints) if resume else None)
    temperature = None
    if recipe.evaluation.calibrate:
        temperature = _calibrate(backbone, _validation_logits(recipe, splits, backbone, state), splits)
    if adapters is not None:
        if state.is_main_process:
            with replacing(directory.adapter) as temporary:
                adapters.save(temporary)
        adapters.merge()
    if state.is_main_process:
        with replacing(directory.model) as temporary:
            backbone.save(temporary)
    state.wait_for_everyone()
    metrics = _evaluate_saved(recipe, directory, splits, state)
    if state.is_main_process and splits.multi_label:
        save_thresholds(directory.model, list(metrics["thresholds"].values()))
    if temperature is not None:
        metrics["temperature"] = temperature
    metrics["cost"] = {
        "train_seconds": live.first.seconds + cost.seconds,
        **live.first.extraction,
        "trainable_parameters": live.first.parameters | cost.trainable_parameters,
        "peak_memory_mb": cost.peak_memory_mb,
        "images_per_second": cost.images_per_second,
        "precision": cost.precision,
    }
    return metrics


def _fit_first_phase(
    recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, state: PartialState, *, resume: bool
) -> FirstPhase:
    """Give the model a head that was fitted on frozen features."""
    from .features.frozen import probe_heads
    from .training.trainer import load_weights

    began = time.perf_counter()
    if resume and directory.phase0.is_dir():
        found = json.loads(directory.probe.read_text(encoding="utf-8"))["features"].get("alone_seconds")
        extraction = _extraction_cost(0.0, found)
    else:
        features = _extract(recipe, splits, backbone, state)
        extraction = _extraction_cost(features.seconds, features.alone_seconds)
        if state.is_main_process:
            _fit_head(recipe, directory, splits, backbone, features)
            with replacing(directory.phase0) as temporary:
                backbone.save(temporary)
        state.wait_for_everyone()
    load_weights(backbone.model, directory.phase0)  # the same on every process, and after a resume
    parameters = sum(parameter.numel() for head in probe_heads(backbone) for parameter in head.parameters())
    return FirstPhase(time.perf_counter() - began, {"head": parameters}, extraction)


def _validation_logits(recipe: Recipe, splits: Splits, backbone: Backbone, state: PartialState) -> np.ndarray:
    """Return the validation logits of a trained model in float32, as the model that is saved gives them."""
    from accelerate.utils import extract_model_from_parallel

    from .evaluation.inference import predict_logits

    extract_model_from_parallel(backbone.model, keep_fp32_wrapper=False)  # takes the Trainer's autocast off the forward pass
    return predict_logits(
        backbone.model,
        backbone.preprocessing,
        splits.tables["validation"],
        device=state.device,
        batch_size=recipe.training["per_device_eval_batch_size"],
        workers=recipe.training["dataloader_num_workers"],
        channels_last=backbone.is_convolutional,
        description="calibrate",
        decoding=recipe.data.decoding,
    )


def _evaluate_saved(recipe: Recipe, directory: RunDirectory, splits: Splits, state: PartialState) -> dict[str, Any]:
    """Load the model that was saved, as anyone would, and score it."""
    from .backbones.transformers_models import load_checkpoint
    from .evaluation.evaluate import evaluate_splits

    saved = load_checkpoint(str(directory.model), None, class_names=None)
    return evaluate_splits(
        saved,
        splits,
        evaluated(recipe),
        directory.predictions,
        device=state.device,
        batch_size=recipe.training["per_device_eval_batch_size"],
        workers=recipe.training["dataloader_num_workers"],
        thresholds=recipe.evaluation.thresholds,
        decoding=recipe.data.decoding,
        write=state.is_main_process,
    )


def fit_linear_probe(
    recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, state: PartialState
) -> dict[str, Any]:
    """Fit a linear head on cached features, save the model, and return the metrics of what was saved."""
    from .backbones.task import save_thresholds
    from .backbones.transformers_models import load_checkpoint
    from .evaluation.evaluate import score_split
    from .features.frozen import check_saved, head_logits
    from .features.probe import probe_batch_size

    features = _extract(recipe, splits, backbone, state)
    if not state.is_main_process:
        return {"cost": {}}
    probe = _fit_head(recipe, directory, splits, backbone, features)
    temperature = None
    if recipe.evaluation.calibrate:
        held_out = (features.fast | features.exact)["validation"]
        temperature = _calibrate(backbone, head_logits(backbone, held_out).numpy(), splits)
    with replacing(directory.model) as temporary:
        backbone.save(temporary)
    probe.write_history(directory.history, recipe.strategy.name, len(splits.tables["train"]), probe_batch_size(recipe.training))
    saved = load_checkpoint(str(directory.model), None, class_names=None)
    logits = {split: head_logits(saved, found) for split, found in (features.fast | features.exact).items()}
    shown = "test" if "test" in logits else "validation"
    check_saved(saved, features.weights, splits.table(shown), logits[shown], exact=shown in features.exact)
    limits = _thresholds(recipe, splits, logits["validation"].numpy())
    metrics: dict[str, Any] = {} if limits is None else limits.report(splits.class_names)
    for split in evaluated(recipe):
        metrics[split] = score_split(split, logits[split].numpy(), splits, directory.predictions, thresholds=limits)
    if limits is not None:
        save_thresholds(directory.model, limits.values.tolist())
    _report_label_quality(recipe, directory, splits, features)
    if temperature is not None:
        metrics["temperature"] = temperature
    metrics["cost"] = _features_cost(recipe, features, state, probe.seconds)
    metrics["cost"]["trainable_parameters"] = {recipe.strategy.name: probe.head.parameters}
    return metrics


@dataclass(frozen=True)
class QuantizedBackbone:
    """A frozen backbone that computes with 8-bit integers.

    Args:
        backbone: with a new float head.
        facts: what probe.json tells of the quantization.
    """

    backbone: Backbone
    facts: dict[str, Any]


def quantize_frozen(recipe: Recipe, splits: Splits, backbone: Backbone) -> QuantizedBackbone:
    """Quantize the frozen backbone; nothing is written. What calibrates are training images, the same on every process.

    Raises:
        UserError: when the network cannot be exported, or its image processor cannot be saved.
    """
    from .deploy.quantize import calibration_batches, calibration_rows, megabytes, quantized_backbone

    began = time.perf_counter()
    train = splits.tables["train"]
    rows = calibration_rows(train)
    quantized = quantized_backbone(backbone, calibration_batches(train, backbone.preprocessing, rows), seed=recipe.seed)
    facts = {
        "mode": "static",
        "calibration_images": [str(train.sample_ids[row]) for row in rows],
        "seconds": time.perf_counter() - began,
        "size_mb": {"float": megabytes(backbone), "int8": megabytes(quantized)},
    }
    return QuantizedBackbone(quantized, facts)


def fit_quantized_probe(
    recipe: Recipe, directory: RunDirectory, splits: Splits, quantized: QuantizedBackbone, state: PartialState
) -> dict[str, Any]:
    """Fit a linear head on the features that a quantized backbone gives; see `fit_linear_probe`."""
    metrics = fit_linear_probe(recipe, directory, splits, quantized.backbone, state)
    if state.is_main_process:
        probe = json.loads(directory.probe.read_text(encoding="utf-8"))
        write_json(directory.probe, probe | {"quantization": quantized.facts})
        metrics["cost"]["train_seconds"] += quantized.facts["seconds"]
    return metrics


def classify_by_neighbours(
    recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, state: PartialState
) -> dict[str, Any]:
    """Score nearest neighbours among the training features, their number chosen on validation; no model comes of it."""
    import torch

    from .evaluation.evaluate import logits_of, score_split
    from .features.knn import NearestNeighbours, possible_neighbours
    from .metrics.multi_label import mean_average_precision

    features = _extract(recipe, splits, backbone, state)
    if not state.is_main_process:
        return {"cost": {}}
    began = time.perf_counter()
    train = splits.tables["train"]
    bank = NearestNeighbours.fit(features.fast["train"], torch.from_numpy(train.labels), len(splits.class_names))
    tried = possible_neighbours(len(train))
    held_out = bank.probabilities(features.fast["validation"], tried)
    labels = splits.tables["validation"].labels
    if splits.multi_label:
        metric, found = "mean_average_precision", {k: mean_average_precision(v, labels) for k, v in held_out.items()}
        reached = {k: 0.0 if math.isnan(value) else value for k, value in found.items()}  # no positive on validation
    else:
        metric, reached = "accuracy", {k: float((v.argmax(1).numpy() == labels).mean()) for k, v in held_out.items()}
    best = max(tried, key=lambda k: (reached[k], -k))
    limits = _thresholds(recipe, splits, logits_of(held_out[best].numpy()) if splits.multi_label else None)
    metrics: dict[str, Any] = {} if limits is None else limits.report(splits.class_names)
    for split in evaluated(recipe):
        if split == "train":  # an image is no witness for itself
            scores = bank.leave_one_out(best)
        else:
            scores = bank.probabilities(features.fast[split], [best])[best]
        metrics[split] = score_split(
            split, scores.numpy(), splits, directory.predictions, probabilities=True, thresholds=limits
        )
    candidates = [{"method": "knn", "neighbours": k, "validation": {metric: reached[k]}, "chosen": k == best} for k in tried]
    seconds = time.perf_counter() - began
    facts = {"selected_by": metric, "candidates": candidates, **_facts(features)}
    write_json(directory.probe, facts | _logme(features, splits))
    _report_label_quality(recipe, directory, splits, features)
    metrics["cost"] = _features_cost(recipe, features, state, seconds)
    return metrics


def evaluated(recipe: Recipe) -> list[str]:
    """Return the names of the splits and further test sets that are scored in the end."""
    return [*recipe.evaluation.splits, *recipe.evaluation.extra]


def features_request(recipe: Recipe, splits: Splits, backbone: Backbone, state: PartialState) -> Request:
    """Return what a run asks of its frozen backbone.

    Args:
        recipe: of a strategy that reads features, its `training` section resolved.
        splits: the images.
        backbone: the network.
        state: the processes.
    """
    from .features.frozen import AugmentedViews, Request
    from .training.arguments import autocast_dtype

    wanted = {"train", "validation"}
    exact: list[str] = []
    if recipe.strategy.name != "two_phase":
        wanted.update(evaluated(recipe))
        if recipe.strategy.name != "knn":
            # The test figures are to be those that anyone gets who loads the model, so its features are in full precision.
            exact = [name for name in evaluated(recipe) if name not in ("train", "validation")]
            if splits.multi_label:  # and so are thresholds to be those of the saved model
                exact.append("validation")
    tables = {split: table for split, table in (splits.tables | splits.extra).items() if split in wanted}
    integers = recipe.strategy.name == "quantized_probe"  # computed by onnxruntime
    augmented = recipe.strategy.name == "linear_probe" and recipe.augment.preset != "none"
    return Request(
        backbone,
        tables,
        fast=[split for split in tables if split not in exact or split == "validation"],
        exact=exact,
        device=state.device,
        autocast=None if integers else autocast_dtype(recipe.training),
        compile_mode="never" if integers else recipe.features.compile,
        workers=recipe.training["dataloader_num_workers"],
        views=[AugmentedViews(recipe.augment.preset, recipe.features.views, recipe.seed)] if augmented else [],
    )


def _extract(recipe: Recipe, splits: Splits, backbone: Backbone, state: PartialState) -> FrozenFeatures:
    from .features.frozen import extract_splits

    return extract_splits(features_request(recipe, splits, backbone, state))


def _fit_head(recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, features: FrozenFeatures) -> Probe:
    """Fit and choose a head on features and give it to the model; on the main process."""
    import torch

    from .features.frozen import set_head
    from .features.probe import fit_probe

    probe = fit_probe(
        features.views or [features.fast["train"]],
        torch.from_numpy(splits.tables["train"].labels),
        features.fast["validation"],
        torch.from_numpy(splits.tables["validation"].labels),
        len(splits.class_names),
        # Before a second phase with the Trainer the section speaks of that phase.
        training={} if recipe.strategy.name == "two_phase" else recipe.training,
        seed=recipe.seed,
    )
    set_head(backbone, probe.head.weight, probe.head.bias)
    facts = {"selected_by": probe.metric, "head_seconds": probe.seconds, **_facts(features)}
    if recipe.strategy.name != "two_phase":
        facts |= _logme(features, splits)
    write_json(directory.probe, facts | {"candidates": probe.report()})
    return probe


def _logme(features: FrozenFeatures, splits: Splits) -> dict[str, Any]:
    """Return the score of the training features, see `training_logme`; nothing where images have several labels."""
    from .features.transferability import training_logme

    return {} if splits.multi_label else training_logme(features.fast["train"], splits.tables["train"].labels)


def _thresholds(recipe: Recipe, splits: Splits, validation: np.ndarray | None) -> Thresholds | None:
    """Return the thresholds that the recipe asks for, given validation logits [m, C]; None where images have one label."""
    from .evaluation.thresholds import decide_thresholds

    if not splits.multi_label or validation is None:
        return None
    scored = validation, splits.tables["validation"].labels
    return decide_thresholds(recipe.evaluation.thresholds, len(splits.class_names), scored)


def _calibrate(backbone: Backbone, logits: np.ndarray, splits: Splits) -> float:
    """Divide the logits of a model by the temperature that fits its validation logits [n, C] best, and return that."""
    from .backbones.heads import divide_logits
    from .metrics.temperature import fit_sigmoid_temperature, fit_temperature

    fit = fit_sigmoid_temperature if splits.multi_label else fit_temperature
    temperature = fit(logits, splits.tables["validation"].labels)
    divide_logits(backbone.model, backbone.heads, temperature)
    return temperature


def _facts(features: FrozenFeatures) -> dict[str, Any]:
    return {
        "features": {
            "computed": features.computed,
            "total": features.total,
            "seconds": features.seconds,
            "alone_seconds": features.alone_seconds,
            "compiled": features.compiled,
            "spaces": features.spaces,
        }
    }


def _extraction_cost(spent: float, alone: float | None) -> dict[str, float]:
    """Return the share of extraction in `cost`, so that runs that found features in the store compare with those that did not.

    `train_seconds` is what a run spent on adaptation, extraction included. `extraction_spent_seconds` is how much of that went
    into its features: next to nothing where they were in the store. `extraction_seconds` is what computing all of them takes
    alone, with an empty store, by the seconds measured when each was computed; left out where that is not known. So

        train_seconds - extraction_spent_seconds + extraction_seconds

    is what the adaptation costs whoever does only this one.

    Args:
        spent: seconds.
        alone: seconds, or None.
    """
    return {"extraction_spent_seconds": spent} | ({} if alone is None else {"extraction_seconds": alone})


def _features_cost(recipe: Recipe, features: FrozenFeatures, state: PartialState, fitting: float) -> dict[str, Any]:
    from .training.arguments import precision_name
    from .training.hardware import peak_memory_mb

    training = recipe.training
    floats = precision_name(bf16=bool(training.get("bf16")), fp16=bool(training.get("fp16")))
    return {
        "train_seconds": features.seconds + fitting,
        **_extraction_cost(features.seconds, features.alone_seconds),
        "trainable_parameters": {},
        "peak_memory_mb": peak_memory_mb(state.device),
        "images_per_second": features.total / (features.alone_seconds or features.seconds),
        "precision": "int8" if recipe.strategy.name == "quantized_probe" else floats,
    }


def _report_label_quality(recipe: Recipe, directory: RunDirectory, splits: Splits, features: FrozenFeatures) -> None:
    if not recipe.features.label_quality:
        return
    from .features.label_quality import label_quality

    found = label_quality(features.fast | features.exact, splits.tables | splits.extra, splits.class_names, recipe.seed)
    write_json(directory.label_quality, found)
    print(
        f"{len(found['label_issues'])} labels look wrong, {len(found['near_duplicates'])} groups of near-duplicates stand in "
        f"more than one split; {directory.label_quality} lists them",
        file=sys.stderr,
    )
