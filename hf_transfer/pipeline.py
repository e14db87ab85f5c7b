"""One run, told in order: data, backbone, run directory, training, evaluation of what was saved, report."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .connection import go_offline_if_unreachable
from .data.sources import is_hub_source
from .environment import git_commit, platform_facts, versions
from .recipe import Recipe, dump_recipe
from .run_directory import RunDirectory, replacing, write_json

if TYPE_CHECKING:
    from accelerate import PartialState

    from .backbones.backbone import Backbone
    from .data.build import Splits


@dataclass(frozen=True)
class RunResult:
    """Where a run is and what it found.

    Args:
        directory: the run directory.
        metrics: content of metrics.json.
    """

    directory: RunDirectory
    metrics: dict[str, Any]


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
    _prepare_process(recipe)
    if recipe.mode == "evaluate":
        return _evaluate(recipe, directory, resume=resume, overwrite=overwrite)
    return _train(recipe, directory, resume=resume, overwrite=overwrite)


def _train(recipe: Recipe, directory: RunDirectory, *, resume: bool, overwrite: bool) -> RunResult:
    from .backbones.build import build_backbone
    from .data.build import build_splits
    from .data.dataset import check_first_batch
    from .strategies.phases import build_phases
    from .training.arguments import build_arguments, training_defaults
    from .training.train import build_trainer, train

    started = time.perf_counter()
    training = training_defaults(recipe.training)
    recipe = recipe.model_copy(update={"training": training})
    resolved = dump_recipe(recipe)

    # 1. Everything that can be wrong is found before anything is written.
    directory.check(resolved, resume=resume, overwrite=overwrite)
    if resume and directory.is_finished:
        return RunResult(directory, directory.read_metrics())
    build_arguments(training, directory.checkpoints, recipe.seed)  # starts the process group where there is one
    state = _process_state(training)
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
    backbone = build_backbone(recipe.model, splits.class_names, recipe.seed)
    phases = build_phases(recipe.strategy, backbone.groups)
    check_first_batch(backbone.preprocessing, splits.tables["train"])
    _say_splits(splits, state)

    # 2. The run directory, and the training.
    state.wait_for_everyone()  # every process has looked at the directory before one of them writes into it
    if state.is_main_process:
        directory.begin(resolved, overwrite=overwrite)
        write_json(directory.environment, _environment(recipe, splits, backbone, state))
    state.wait_for_everyone()
    early = recipe.early_stopping
    trainer, freezing = build_trainer(
        backbone,
        splits,
        phases,
        training=training,
        augment_preset=recipe.augment.preset,
        seed=recipe.seed,
        checkpoints=directory.checkpoints,
        history=directory.history,
        tensorboard=directory.tensorboard,
        early_stopping=(early.patience, early.min_delta) if early else None,
    )
    checkpoint = directory.last_checkpoint() if resume else None
    cost = train(trainer, freezing, checkpoint)

    # 3. The model, saved; the figures, from what was saved.
    if state.is_main_process:
        with replacing(directory.model) as temporary:
            backbone.save(temporary)
    state.wait_for_everyone()
    metrics = _evaluate_saved(recipe, directory, splits, state)
    metrics["cost"] = {
        "train_seconds": cost.seconds,
        "total_seconds": time.perf_counter() - started,
        "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
        "trainable_parameters": cost.trainable_parameters,
        "peak_memory_mb": cost.peak_memory_mb,
        "images_per_second": cost.images_per_second,
        "device": _device_name(state),
        "precision": cost.precision,
    }
    return _finish(directory, metrics, state)


def _evaluate(recipe: Recipe, directory: RunDirectory, *, resume: bool, overwrite: bool) -> RunResult:
    from .backbones.build import load_as_it_is
    from .data.build import build_splits
    from .data.dataset import check_first_batch
    from .evaluation.evaluate import evaluate_splits
    from .evaluation.labels import align_labels, model_class_names
    from .training.arguments import training_defaults
    from .training.hardware import peak_memory_mb

    started = time.perf_counter()
    training = training_defaults(recipe.training)
    resolved = dump_recipe(recipe)
    directory.check(resolved, resume=resume, overwrite=overwrite)
    if resume and directory.is_finished:
        return RunResult(directory, directory.read_metrics())
    state = _process_state(training)
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=False)
    backbone = load_as_it_is(recipe.model)
    align_labels(splits.class_names, model_class_names(backbone.model.config), recipe.evaluation.label_map)
    check_first_batch(backbone.preprocessing, splits.tables[recipe.evaluation.splits[0]])
    _say_splits(splits, state)
    state.wait_for_everyone()
    if state.is_main_process:
        directory.begin(resolved, overwrite=overwrite)
        write_json(directory.environment, _environment(recipe, splits, backbone, state))
    began = time.perf_counter()
    metrics: dict[str, Any] = evaluate_splits(
        backbone,
        splits,
        recipe.evaluation.splits,
        directory.predictions,
        device=state.device,
        batch_size=training["per_device_eval_batch_size"],
        workers=training["dataloader_num_workers"],
        label_map=recipe.evaluation.label_map,
        write=state.is_main_process,
    )
    seconds = time.perf_counter() - began
    metrics["cost"] = {
        "total_seconds": time.perf_counter() - started,
        "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
        "peak_memory_mb": peak_memory_mb(state.device),
        "images_per_second": sum(len(splits.tables[split]) for split in recipe.evaluation.splits) / seconds,
        "device": _device_name(state),
        "precision": "fp32",
    }
    return _finish(directory, metrics, state)


def _evaluate_saved(recipe: Recipe, directory: RunDirectory, splits: Splits, state: PartialState) -> dict[str, Any]:
    """Load the model that was saved, as anyone would, and score it."""
    from .backbones.transformers_models import load_checkpoint
    from .evaluation.evaluate import evaluate_splits

    saved = load_checkpoint(str(directory.model), None, class_names=None)
    return evaluate_splits(
        saved,
        splits,
        recipe.evaluation.splits,
        directory.predictions,
        device=state.device,
        batch_size=recipe.training["per_device_eval_batch_size"],
        workers=recipe.training["dataloader_num_workers"],
        write=state.is_main_process,
    )


def _finish(directory: RunDirectory, metrics: dict[str, Any], state: PartialState) -> RunResult:
    """Write the metrics, draw, and last of all write the card, which marks the run as finished."""
    if state.is_main_process:
        from .report.model_card import write_model_card
        from .report.plots import write_plots

        write_json(directory.metrics, metrics)
        write_plots(directory.root)
        write_model_card(directory.root)
    state.wait_for_everyone()
    return RunResult(directory, metrics)


def _prepare_process(recipe: Recipe) -> None:
    """Quiet the libraries, and find out once whether the Hub can be reached, before its client is imported."""
    if needs_hub(recipe):
        go_offline_if_unreachable()
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def needs_hub(recipe: Recipe) -> bool:
    """Return whether a recipe names anything that may have to come from the Hub."""
    kind, colon, _ = recipe.model.backbone.partition(":")
    local = colon and kind in ("package", "torchvision", "scratch")
    return is_hub_source(recipe.data.source) or not (local or Path(recipe.model.backbone).expanduser().exists())


def _process_state(training: dict[str, Any]) -> PartialState:
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
        "class_names": splits.class_names,
        "class_counts": {
            split: {
                name: int(count)
                for name, count in zip(splits.class_names, table.class_counts(len(splits.class_names)), strict=True)
            }
            for split, table in splits.tables.items()
        },
        "skipped": {split: [list(item) for item in items] for split, items in splits.skipped.items() if items},
        "duplicates_across_splits": splits.duplicates,
        "backbone": recipe.model.backbone,
        "backbone_hub_id": provenance.hub_id,
        "backbone_revision": provenance.revision,
        "backbone_license": provenance.license,
    }


def _say_splits(splits: Splits, state: PartialState) -> None:
    if not state.is_main_process:
        return
    sizes = ", ".join(f"{split} {len(table)}" for split, table in splits.tables.items())
    print(f"{len(splits.class_names)} classes; images: {sizes}", file=sys.stderr)
    for split, items in splits.skipped.items():
        if items:
            print(f"left out {len(items)} unreadable images of {split}; environment.json lists them", file=sys.stderr)
    if splits.duplicates:
        print(
            f"warning: {len(splits.duplicates)} images stand in more than one split, byte for byte "
            f"({'; '.join(splits.duplicates[0])}); environment.json lists them",
            file=sys.stderr,
        )
