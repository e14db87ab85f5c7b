"""One run, told in order: data, backbone, run directory, training, evaluation of what was saved, report."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adaptation import (
    classify_by_neighbours,
    evaluated,
    fit_linear_probe,
    fit_quantized_probe,
    prepare_network,
    quantize_frozen,
    train_live,
)
from .connection import go_offline_if_unreachable
from .data.sources.source import is_hub_source
from .environment import git_commit, platform_facts, versions
from .errors import DataError, RunDirectoryError, UserError, require
from .recipe import Recipe, dump_recipe
from .recipe.schema import Loss
from .run_directory import RunDirectory, write_json

if TYPE_CHECKING:
    from accelerate import PartialState

    from .backbones.backbone import Backbone
    from .data.build import Splits
    from .deploy.hub import Published
    from .deploy.push_callback import PushCallback


_SPEED_SECONDS = 4.0  # after a training; an evaluation, which is about it, takes its time


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what it found.

    Args:
        directory: the run directory.
        metrics: content of metrics.json.
        published: where it is on the Hub, where this process has pushed it.
        unpublished: why it could not be pushed, and the command that pushes it later.
    """

    directory: RunDirectory
    metrics: dict[str, Any]
    published: Published | None = None
    unpublished: str | None = None


def run(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> RunResult:
    """Carry out a recipe.

    Args:
        recipe: a checked recipe.
        resume: continue an unfinished run in its directory.
        overwrite: remove an old run from the directory first.

    Raises:
        UserError: when the recipe cannot be carried out; nothing has been written then, unless training had begun.
    """
    directory = RunDirectory(Path(recipe.output_dir))
    prepare_process(recipe)
    carry_out = _evaluate if recipe.mode == "evaluate" else _train
    with contextlib.ExitStack() as held:
        return carry_out(recipe, directory, held, resume=resume, overwrite=overwrite)


def _train(recipe: Recipe, directory: RunDirectory, held: contextlib.ExitStack, *, resume: bool, overwrite: bool) -> RunResult:
    from .backbones.build import build_backbone
    from .backbones.scratch.temperatures import temperature_metrics, temperatures
    from .backbones.transformers_models import load_checkpoint
    from .data.build import build_splits
    from .data.dataset import check_first_batch
    from .evaluation.speed import measure_speed
    from .features.extraction import probe_layers
    from .report.watched import times_scored
    from .training.arguments import build_arguments, feature_defaults, training_defaults
    from .training.hardware import reset_peak_memory
    from .training.monitor import check_monitored, one_sided

    started = time.perf_counter()
    from_features = needs_features_only(recipe)
    _say_live(recipe)
    check_watchable(recipe)
    if recipe.features.label_quality:
        require("cleanlab", "labels", "features.label_quality", otherwise=", or set it to false")
    if recipe.strategy.name == "lora":
        require("peft", "lora", "strategy 'lora'")
    if recipe.strategy.name == "quantized_probe":
        for package in ("onnx", "onnxruntime", "onnxscript"):
            require(package, "export", "strategy 'quantized_probe'")
    task = recipe.data.task
    if from_features:
        training = feature_defaults(recipe.training, task)
    else:
        training = training_defaults(recipe.training, recipe.strategy, task)
    recipe = recipe.model_copy(update={"training": training})
    resolved = dump_recipe(recipe)

    # 1. Everything that can be wrong is found before anything is written.
    directory.check(resolved, resume=resume, overwrite=overwrite)
    if resume and directory.is_finished:
        return _push(recipe, RunResult(directory, directory.read_metrics()))
    if not from_features:
        build_arguments(training, directory.checkpoints, recipe.seed)  # starts the process group where there is one
    state = process_state(training)
    reset_peak_memory(state.device)  # of what this process has done before, such as another run of a study
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True, extra=recipe.evaluation.extra)
    _check_shared(splits)
    if resume:
        _check_same(directory, splits, state, ordered=not from_features)
    check_monitored(recipe.evaluation.monitor, splits)
    backbone = build_backbone(
        recipe.model,
        splits.class_names,
        recipe.seed,
        pooling=recipe.features.pooling,
        multi_label=splits.multi_label,
    )
    if from_features or recipe.strategy.name == "two_phase":
        probe_layers(backbone)  # refuses a head that is more than linear
    adapters = None if from_features else prepare_network(recipe, splits, backbone)
    check_first_batch(backbone.preprocessing, splits.tables["train"])
    _say_splits(splits, state)
    if state.is_main_process:
        for said in one_sided(recipe.evaluation.monitor, splits):
            print(f"note: {said}", file=sys.stderr)
    quantized = quantize_frozen(recipe, splits, backbone) if recipe.strategy.name == "quantized_probe" else None
    state.wait_for_everyone()  # every process has looked at the directory before one of them writes into it
    if state.is_main_process:
        _take(directory, held, resolved, resume=resume, overwrite=overwrite)
        write_json(directory.environment, _environment(recipe, splits, backbone, state))
    state.wait_for_everyone()
    pusher = None
    if recipe.hub.push and state.is_main_process:
        pusher = _pusher(recipe, directory, backbone, saves=not from_features)

    # 2. The adaptation: heads on features, or the Trainer. Each saves the model and scores what was saved.
    try:
        if recipe.strategy.name == "knn":
            metrics = classify_by_neighbours(recipe, directory, splits, backbone, state)
        elif quantized is not None:
            metrics = fit_quantized_probe(recipe, directory, splits, quantized, state)
        elif from_features:
            metrics = fit_linear_probe(recipe, directory, splits, backbone, state)
        else:
            callbacks = () if pusher is None else (pusher,)
            metrics = train_live(recipe, directory, splits, backbone, state, adapters, resume=resume, callbacks=callbacks)
    except BaseException:
        if pusher is not None:
            pusher.clear()
        raise
    metrics["cost"] |= {
        "total_seconds": time.perf_counter() - started,
        "parameters": backbone.parameter_count,
        "device": _device_name(state),
    }
    if recipe.evaluation.monitor and state.is_main_process:
        metrics["monitored"] = times_scored(recipe.evaluation.monitor, directory.history)
    learned = directory.model.is_dir() and bool(temperatures(backbone.model))
    if (recipe.evaluation.speed or learned) and state.is_main_process:
        saved = load_checkpoint(str(directory.model), None, class_names=None)
        metrics |= temperature_metrics(saved.model)
        if recipe.evaluation.speed:
            metrics["speed"] = asdict(measure_speed(saved, device=state.device, seconds=_SPEED_SECONDS))
    return _push(recipe, _finish(recipe, directory, metrics, state), pusher)


def _take(
    directory: RunDirectory, held: contextlib.ExitStack, resolved: dict[str, Any], *, resume: bool, overwrite: bool
) -> None:
    """Hold the directory until `held` is closed, and begin in it."""
    held.enter_context(directory.held())
    directory.check(resolved, resume=resume, overwrite=overwrite)  # another run may have been here since the first look
    directory.begin(resolved, overwrite=overwrite)


def _check_shared(splits: Splits) -> None:
    """Stop where one process could read what another could not: they would train on different images, or wait for ever."""
    from accelerate.utils import gather_object

    if len(set(gather_object([(splits.fingerprint, repr(splits.skipped))]))) > 1:
        raise DataError(
            "data: the processes of this run found different images: one could read what another could not; start again"
        )


def _check_same(directory: RunDirectory, splits: Splits, state: PartialState, *, ordered: bool) -> None:
    """Refuse to go on with other images than a run began with, or where it stood in another place of their order.

    Args:
        directory: of the run.
        splits: the images that there are now.
        state: the processes that there are now.
        ordered: whether images are taken step by step, as many at a time as there are processes.
    """
    began = directory.read_environment()
    if began.get("data_fingerprint", splits.fingerprint) != splits.fingerprint:
        raise RunDirectoryError(
            f"output_dir: {directory.root} holds an unfinished run on other images: files, labels or splits have changed since "
            "it began. Restore them; or start anew with --overwrite, or in another output_dir."
        )
    processes = began.get("processes", state.num_processes)
    if ordered and processes != state.num_processes:
        raise RunDirectoryError(
            f"output_dir: {directory.root} holds an unfinished run whose steps are those of {processes} "
            f"process{'es' if processes > 1 else ''}; found {state.num_processes}. Resume with as many."
        )


def check_watchable(recipe: Recipe) -> None:
    """Stop where a run is asked to score splits while it trains, and nothing is evaluated meanwhile.

    Raises:
        UserError: for a head that is fitted on features; strategies that never train are found when a recipe is read.
    """
    if recipe.mode == "train" and recipe.evaluation.monitor and needs_features_only(recipe):
        raise UserError(
            f"evaluation.monitor: strategy '{recipe.strategy.name}' fits its head on features that are computed once, and "
            "evaluates nothing meanwhile; leave it out, or set features.cache to false for a training with evaluations"
        )


def needs_features_only(recipe: Recipe) -> bool:
    """Return whether a run needs no more of its backbone than the features of each image."""
    if recipe.strategy.name == "linear_probe":
        return _live_reason(recipe) is None
    return recipe.strategy.name in ("knn", "quantized_probe")


def _live_reason(recipe: Recipe) -> str | None:
    """Return why a linear probe has to see every image in every epoch; None where features are enough."""
    from .features.probe import live_reason

    return live_reason(
        recipe.training,
        cache=recipe.features.cache,
        augment_preset=recipe.augment.preset,
        views=recipe.features.views,
        hidden_head=bool(recipe.model.head.hidden),
        for_trainer={
            "early_stopping": recipe.early_stopping is not None,
            "ema": recipe.ema is not None,
            "loss": recipe.loss != Loss(),
            "data.sampling": recipe.data.sampling != "uniform",
            "augment.mixup": recipe.augment.mixup > 0,
            "augment.cutmix": recipe.augment.cutmix > 0,
            "augment.erasing": recipe.augment.erasing > 0,
        },
    )


def _say_live(recipe: Recipe) -> None:
    """Say why a frozen backbone sees every image in every epoch, where it does."""
    reason = _live_reason(recipe) if recipe.strategy.name == "linear_probe" else None
    if reason is not None and recipe.features.label_quality:
        raise UserError(f"features.label_quality reads cached features, and this run has none: {reason}")
    if reason is not None and int(os.environ.get("RANK", "0")) == 0:
        print(f"the frozen backbone sees every image in every epoch: {reason}", file=sys.stderr)


def _evaluate(
    recipe: Recipe, directory: RunDirectory, held: contextlib.ExitStack, *, resume: bool, overwrite: bool
) -> RunResult:
    from .backbones.build import load_as_it_is
    from .backbones.scratch.temperatures import temperature_metrics
    from .backbones.task import check_task
    from .backbones.transformers_models import checkpoint_digest
    from .data.build import build_splits
    from .data.class_names import composed
    from .data.dataset import check_first_batch
    from .evaluation.evaluate import evaluate_splits
    from .evaluation.labels import align_labels, model_class_names
    from .evaluation.seen import seen_in_training
    from .evaluation.speed import measure_speed
    from .training.arguments import training_defaults
    from .training.hardware import peak_memory_mb, reset_peak_memory

    started = time.perf_counter()
    training = training_defaults(recipe.training)
    resolved = dump_recipe(recipe)
    _check_apart(recipe)
    directory.check(resolved, resume=resume, overwrite=overwrite)
    checkpoint = checkpoint_digest(recipe.model.backbone)
    if resume and directory.is_finished:
        if directory.read_environment().get("checkpoint_digest") != checkpoint:
            raise RunDirectoryError(
                f"output_dir: {directory.root} holds the evaluation of {recipe.model.backbone}, which has changed since; start "
                "anew with --overwrite, or choose another output_dir"
            )
        return RunResult(directory, directory.read_metrics())
    state = process_state(training)
    reset_peak_memory(state.device)
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=False, extra=recipe.evaluation.extra)
    _check_shared(splits)
    backbone = load_as_it_is(recipe.model)
    check_task(backbone.model.config, recipe.model.backbone, multi_label=splits.multi_label)
    splits = splits.with_classes([composed(name) for name in model_class_names(backbone.model.config)])
    align_labels(splits.class_names, model_class_names(backbone.model.config), recipe.evaluation.label_map)
    check_first_batch(backbone.preprocessing, splits.tables[recipe.evaluation.splits[0]])
    _say_splits(splits, state)
    seen: dict[str, int] | None = {}
    if state.is_main_process:
        sources = [recipe.data.source, *recipe.evaluation.extra.values()]
        seen = seen_in_training(recipe.model.backbone, sources, splits, recipe.model.revision)
        _say_seen(seen, splits)
    state.wait_for_everyone()
    if state.is_main_process:
        _take(directory, held, resolved, resume=resume, overwrite=overwrite)
        facts = _environment(recipe, splits, backbone, state)
        write_json(directory.environment, {**facts, "seen_in_training": seen, "checkpoint_digest": checkpoint})
    wanted = evaluated(recipe)
    began = time.perf_counter()
    metrics: dict[str, Any] = evaluate_splits(
        backbone,
        splits,
        wanted,
        directory.predictions,
        device=state.device,
        batch_size=training["per_device_eval_batch_size"],
        workers=training["dataloader_num_workers"],
        label_map=recipe.evaluation.label_map,
        tta=recipe.evaluation.tta,
        corruptions=recipe.evaluation.corruptions,
        thresholds=recipe.evaluation.thresholds,
        decoding=recipe.data.decoding,
        seed=recipe.seed,
        write=state.is_main_process,
    )
    seconds = time.perf_counter() - began
    if state.is_main_process:
        _say_thresholds(recipe, metrics)
    metrics["cost"] = {
        "total_seconds": time.perf_counter() - started,
        "parameters": backbone.parameter_count,
        "peak_memory_mb": peak_memory_mb(state.device),
        "images_per_second": sum(len(splits.table(split)) for split in wanted) / seconds,
        "device": _device_name(state),
        "precision": "fp32",
    }
    if recipe.evaluation.speed and state.is_main_process:
        metrics["speed"] = asdict(measure_speed(backbone, device=state.device))
    metrics |= temperature_metrics(backbone.model)
    return _finish(recipe, directory, metrics, state)


def _check_apart(recipe: Recipe) -> None:
    """Refuse to write an evaluation over the model that it evaluates."""
    model, output = (Path(name).expanduser().resolve() for name in (recipe.model.backbone, recipe.output_dir))
    if model.is_dir() and (model == output or output in model.parents):
        raise RunDirectoryError(
            f"output_dir: {recipe.output_dir} holds the model that is evaluated; nothing was touched. Choose another one."
        )


def _finish(recipe: Recipe, directory: RunDirectory, metrics: dict[str, Any], state: PartialState) -> RunResult:
    """Write the metrics, draw, and last of all write the card, which marks the run as finished."""
    if state.is_main_process:
        from .evaluation.evaluate import add_shifts
        from .report.html_report import write_report
        from .report.model_card import write_model_card
        from .report.plots import write_plots

        add_shifts(metrics, list(recipe.evaluation.extra))
        write_json(directory.metrics, metrics)
        findings = write_plots(directory.root)
        write_report(directory.root, findings=findings)
        write_model_card(directory.root)
        if recipe.hub.push and recipe.hub.images:
            from .deploy.hub import draw_maps

            if draw_maps(directory):
                write_report(directory.root, findings=findings)
                write_model_card(directory.root)
    state.wait_for_everyone()
    return RunResult(directory, metrics if state.is_main_process else directory.read_metrics())


def _pusher(recipe: Recipe, directory: RunDirectory, backbone: Backbone, *, saves: bool) -> PushCallback | None:
    """Say so at once where pushing would fail now, and return what pushes while training goes on, if anything is to."""
    from .deploy.hub import check_access, destination_of
    from .deploy.push_callback import PushCallback

    destination = destination_of(recipe.hub)
    problem = check_access(directory.root, destination)
    if problem is not None:
        print(f"warning: {problem}; the run goes on, and will say how to push it later", file=sys.stderr)
    if recipe.hub.strategy == "end":
        return None
    if not saves:
        print(f"hub.strategy '{recipe.hub.strategy}': this run writes no checkpoints; it is pushed at its end", file=sys.stderr)
        return None
    return PushCallback(directory, destination, recipe.hub.strategy, backbone.processor.save_pretrained)


def _push(recipe: Recipe, result: RunResult, pusher: PushCallback | None = None) -> RunResult:
    """Publish a finished run, on one process; a failure is part of the result and costs nothing of the run."""
    if not recipe.hub.push or int(os.environ.get("RANK", "0")) != 0:
        return result
    from .deploy.hub import destination_of, push_run

    if pusher is not None:
        pusher.finish()
    try:
        replaced = None if pusher is None else pusher.replaced
        published = push_run(result.directory, destination_of(recipe.hub), replaced=replaced)
        return replace(result, published=published)
    except UserError as error:
        return replace(result, unpublished=str(error))


def prepare_process(recipe: Recipe) -> None:
    """Quiet the libraries, and find out once whether the Hub can be reached, before its client is imported."""
    if needs_hub(recipe):
        go_offline_if_unreachable()
    quiet_libraries()


def quiet_libraries() -> None:
    """Let the libraries say only what concerns the user."""
    from PIL import Image

    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    # Pillow warns of half the pixels from which an image counts as a bomb; up to there it is an image.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def needs_hub(recipe: Recipe) -> bool:
    """Return whether a recipe names anything that may have to come from the Hub, or is to go there."""
    kind, colon, _ = recipe.model.backbone.partition(":")
    local = colon and kind in ("package", "torchvision", "scratch")
    sources = [recipe.data.source, *recipe.evaluation.extra.values()]
    from_hub = any(is_hub_source(source) or source.startswith("hf://") for source in sources)
    return recipe.hub.push or from_hub or not (local or Path(recipe.model.backbone).expanduser().exists())


def process_state(training: dict[str, Any]) -> PartialState:
    """Give this process its processors and its device, and return its place among the others."""
    from accelerate import PartialState

    from .training.arguments import computes_on_cpu
    from .training.hardware import keep_freed_memory, use_all_processors

    use_all_processors()
    cpu = computes_on_cpu(training)
    if cpu:
        keep_freed_memory()
    return PartialState(cpu=cpu)


def _device_name(state: PartialState) -> str:
    from .training.hardware import device_name

    name = device_name(state.device)
    return f"{state.num_processes} x {name}" if state.num_processes > 1 else name


def _environment(recipe: Recipe, splits: Splits, backbone: Backbone, state: PartialState) -> dict[str, Any]:
    provenance = backbone.provenance
    return {
        "versions": versions(),
        **platform_facts(),
        "device": _device_name(state),
        "processes": state.num_processes,
        "git_commit": git_commit(),
        "data_source": recipe.data.source,
        "data_hub_id": recipe.data.source if is_hub_source(recipe.data.source) else None,
        "data_revision": splits.revision,
        "data_fingerprint": splits.fingerprint,
        "task": splits.task,
        "class_names": splits.class_names,
        "class_counts": {
            split: {
                name: int(count)
                for name, count in zip(splits.class_names, table.class_counts(len(splits.class_names)), strict=True)
            }
            for split, table in (splits.tables | splits.extra).items()
        },
        "skipped": {split: [list(item) for item in items] for split, items in splits.skipped.items() if items},
        "duplicates_across_splits": splits.duplicates,
        "groups_across_splits": splits.shared_groups,
        "backbone": recipe.model.backbone,
        "backbone_hub_id": provenance.hub_id,
        "backbone_revision": provenance.revision,
        "backbone_license": provenance.license,
    }


def _say_seen(seen: dict[str, int] | None, splits: Splits) -> None:
    if seen is None:
        print(
            "the training data of this model has changed, or is other data of the same name: whether it knows these images "
            "cannot be said",
            file=sys.stderr,
        )
    for name, count in (seen or {}).items():
        print(
            f"warning: {count} of the {len(splits.table(name))} images of {name} were training images of this model: its "
            "figures there say how well it remembers",
            file=sys.stderr,
        )


def _say_thresholds(recipe: Recipe, metrics: dict[str, Any]) -> None:
    """Say what decides which classes are predicted, where the recipe asks for validation and it is not read."""
    by = metrics.get("thresholds_by", recipe.evaluation.thresholds)
    if by != recipe.evaluation.thresholds:
        those = "those of the checkpoint" if by == "checkpoint" else f"{by:g} for every class: the checkpoint brings none"
        print(f"thresholds: {those}, because validation is not among evaluation.splits", file=sys.stderr)


def _say_splits(splits: Splits, state: PartialState) -> None:
    if not state.is_main_process:
        return
    print(f"{len(splits.class_names)} classes; images: {splits.sizes()}", file=sys.stderr)
    for split, items in splits.skipped.items():
        if items:
            print(f"left out {len(items)} unreadable images of {split}; environment.json lists them", file=sys.stderr)
    if splits.duplicates:
        print(
            f"warning: {len(splits.duplicates)} images stand in more than one split, byte for byte "
            f"({'; '.join(splits.duplicates[0])}); environment.json lists them",
            file=sys.stderr,
        )
    if splits.shared_groups:
        first = next(iter(splits.shared_groups))
        print(
            f"warning: {len(splits.shared_groups)} groups (data.group_column) stand in more than one of the splits that the "
            f"source brings, such as '{first}'; environment.json lists them",
            file=sys.stderr,
        )
