"""One run, told in order: data, backbone, run directory, training, evaluation of what was saved, report."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .connection import go_offline_if_unreachable
from .data.sources import is_hub_source
from .environment import git_commit, platform_facts, versions
from .errors import UserError
from .recipe import Recipe, dump_recipe
from .run_directory import RunDirectory, replacing, write_json

if TYPE_CHECKING:
    from accelerate import PartialState

    from .backbones.backbone import Backbone
    from .data.build import Splits
    from .features.frozen import FrozenFeatures
    from .features.probe import Probe


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
    from .training.arguments import build_arguments, feature_defaults, training_defaults

    started = time.perf_counter()
    from_features = _needs_features_only(recipe)
    if recipe.features.label_quality:
        from .features.label_quality import require_cleanlab

        require_cleanlab()
    training = feature_defaults(recipe.training) if from_features else training_defaults(recipe.training)
    recipe = recipe.model_copy(update={"training": training})
    resolved = dump_recipe(recipe)

    # 1. Everything that can be wrong is found before anything is written.
    directory.check(resolved, resume=resume, overwrite=overwrite)
    if resume and directory.is_finished:
        return RunResult(directory, directory.read_metrics())
    if not from_features:
        build_arguments(training, directory.checkpoints, recipe.seed)  # starts the process group where there is one
    state = _process_state(training)
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
    backbone = build_backbone(recipe.model, splits.class_names, recipe.seed)
    check_first_batch(backbone.preprocessing, splits.tables["train"])
    _say_splits(splits, state)
    state.wait_for_everyone()  # every process has looked at the directory before one of them writes into it
    if state.is_main_process:
        directory.begin(resolved, overwrite=overwrite)
        write_json(directory.environment, _environment(recipe, splits, backbone, state))
    state.wait_for_everyone()

    # 2. The adaptation: heads on features, or the Trainer. Each saves the model and scores what was saved.
    if recipe.strategy.name == "knn":
        metrics = _classify_by_neighbours(recipe, directory, splits, backbone, state)
    elif from_features:
        metrics = _probe(recipe, directory, splits, backbone, state)
    else:
        metrics = _train_live(recipe, directory, splits, backbone, state, resume=resume)
    metrics["cost"] |= {
        "total_seconds": time.perf_counter() - started,
        "parameters": sum(parameter.numel() for parameter in backbone.model.parameters()),
        "device": _device_name(state),
    }
    return _finish(directory, metrics, state)


def _needs_features_only(recipe: Recipe) -> bool:
    """Return whether a run needs no more of its backbone than the features of each image; say so where it might."""
    if recipe.strategy.name != "linear_probe":
        return recipe.strategy.name == "knn"
    from .features.probe import live_reason

    reason = live_reason(
        recipe.training,
        cache=recipe.features.cache,
        augment_preset=recipe.augment.preset,
        views=recipe.features.views,
        hidden_head=bool(recipe.model.head.hidden),
        early_stopping=recipe.early_stopping is not None,
    )
    if reason is not None and recipe.features.label_quality:
        raise UserError(f"features.label_quality reads cached features, and this run has none: {reason}")
    if reason is not None and int(os.environ.get("RANK", "0")) == 0:
        print(f"the frozen backbone sees every image in every epoch: {reason}", file=sys.stderr)
    return reason is None


def _train_live(
    recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, state: PartialState, *, resume: bool
) -> dict[str, Any]:
    """Train with the Trainer, save the model, and return its metrics with the `cost` of training."""
    from .strategies.phases import build_phases
    from .training.train import build_trainer, train

    first_seconds = 0.0
    first_parameters: dict[str, int] = {}
    if recipe.strategy.name == "two_phase":
        first_seconds, first_parameters = _fit_first_phase(recipe, directory, splits, backbone, state, resume=resume)
    early = recipe.early_stopping
    trainer, freezing = build_trainer(
        backbone,
        splits,
        build_phases(recipe.strategy, backbone.groups),
        training=recipe.training,
        augment_preset=recipe.augment.preset,
        seed=recipe.seed,
        checkpoints=directory.checkpoints,
        history=directory.history,
        tensorboard=directory.tensorboard,
        early_stopping=(early.patience, early.min_delta) if early else None,
    )
    checkpoint = directory.last_checkpoint() if resume else None
    cost = train(trainer, freezing, checkpoint)
    if state.is_main_process:
        with replacing(directory.model) as temporary:
            backbone.save(temporary)
    state.wait_for_everyone()
    metrics = _evaluate_saved(recipe, directory, splits, state)
    metrics["cost"] = {
        "train_seconds": first_seconds + cost.seconds,
        "trainable_parameters": first_parameters | cost.trainable_parameters,
        "peak_memory_mb": cost.peak_memory_mb,
        "images_per_second": cost.images_per_second,
        "precision": cost.precision,
    }
    return metrics


def _extract(
    recipe: Recipe, splits: Splits, backbone: Backbone, state: PartialState, *, wanted: Iterable[str], exact: Iterable[str]
) -> FrozenFeatures:
    from .features.frozen import extract_splits
    from .training.arguments import autocast_dtype

    return extract_splits(
        backbone,
        {split: table for split, table in splits.tables.items() if split in wanted},
        exact=list(exact),
        device=state.device,
        autocast=autocast_dtype(recipe.training),
        compile_mode=recipe.features.compile,
        workers=recipe.training["dataloader_num_workers"],
        augment_preset=recipe.augment.preset if recipe.strategy.name == "linear_probe" else "none",
        views=recipe.features.views,
        seed=recipe.seed,
    )


def _fit(recipe: Recipe, splits: Splits, features: FrozenFeatures) -> Probe:
    """Fit and choose a head on features; on the main process."""
    import torch

    from .features.probe import fit_probe
    from .recipe.training_arguments import FEATURE_FIELDS

    # Before a second phase with the Trainer the section speaks of that phase.
    own = recipe.training if recipe.strategy.name == "linear_probe" else {}
    return fit_probe(
        features.views or [features.fast["train"]],
        torch.from_numpy(splits.tables["train"].labels),
        features.fast["validation"],
        torch.from_numpy(splits.tables["validation"].labels),
        len(splits.class_names),
        training={name: value for name, value in own.items() if name in FEATURE_FIELDS},
        seed=recipe.seed,
    )


def _probe(recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, state: PartialState) -> dict[str, Any]:
    """Fit a linear head on cached features, save the model, and return the metrics of what was saved."""
    from .backbones.transformers_models import load_checkpoint
    from .evaluation.evaluate import score_split
    from .features.frozen import check_saved, head_logits, set_head
    from .features.probe import probe_batch_size

    # The test figures are to be those that anyone gets who loads the model, so its features are computed in full precision.
    wanted = {"train", "validation", *recipe.evaluation.splits}
    features = _extract(recipe, splits, backbone, state, wanted=wanted, exact=wanted & {"test"})
    metrics: dict[str, Any] = {}
    if state.is_main_process:
        probe = _fit(recipe, splits, features)
        set_head(backbone, probe.head.weight, probe.head.bias)
        with replacing(directory.model) as temporary:
            backbone.save(temporary)
        _write_probe(directory, probe, features)
        probe.write_history(directory.history, "linear_probe", len(splits.tables["train"]), probe_batch_size(recipe.training))
        saved = load_checkpoint(str(directory.model), None, class_names=None)
        logits = {split: head_logits(saved, found) for split, found in (features.fast | features.exact).items()}
        for split in ("test", "validation"):
            if split in logits:
                check_saved(saved, features.weights, splits.tables[split], logits[split], exact=split in features.exact)
                break
        for split in recipe.evaluation.splits:
            metrics[split] = score_split(split, logits[split].numpy(), splits, directory.predictions)
        head_parameters = probe.head.weight.numel() + probe.head.bias.numel()
        _report_label_quality(recipe, directory, splits, features)
        metrics["cost"] = _features_cost(recipe, features, state, probe.seconds) | {
            "trainable_parameters": {"linear_probe": head_parameters}
        }
    return metrics or {"cost": {}}


def _classify_by_neighbours(
    recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, state: PartialState
) -> dict[str, Any]:
    """Score nearest neighbours among the training features, their number chosen on validation; no model comes of it."""
    import torch

    from .evaluation.evaluate import score_split
    from .features.knn import NearestNeighbours, possible_neighbours

    features = _extract(recipe, splits, backbone, state, wanted={"train", "validation", *recipe.evaluation.splits}, exact=())
    metrics: dict[str, Any] = {}
    if state.is_main_process:
        began = time.perf_counter()
        train = splits.tables["train"]
        bank = NearestNeighbours.fit(features.fast["train"], torch.from_numpy(train.labels), len(splits.class_names))
        tried = possible_neighbours(len(train))
        held_out = bank.probabilities(features.fast["validation"], tried)
        labels = torch.from_numpy(splits.tables["validation"].labels)
        accuracy = {k: float((found.argmax(1) == labels).double().mean()) for k, found in held_out.items()}
        best = max(tried, key=lambda k: (accuracy[k], -k))
        for split in recipe.evaluation.splits:
            if split == "train":  # an image is no witness for itself
                scores = bank.leave_one_out(best)
            else:
                scores = bank.probabilities(features.fast[split], [best])[best]
            metrics[split] = score_split(split, scores.numpy(), splits, directory.predictions, probabilities=True)
        candidates = [
            {"method": "knn", "neighbours": k, "validation": {"accuracy": accuracy[k]}, "chosen": k == best} for k in tried
        ]
        write_json(directory.probe, {"selected_by": "accuracy", "candidates": candidates, **_facts(features)})
        seconds = time.perf_counter() - began
        _report_label_quality(recipe, directory, splits, features)
        metrics["cost"] = _features_cost(recipe, features, state, seconds)
    return metrics or {"cost": {}}


def _report_label_quality(recipe: Recipe, directory: RunDirectory, splits: Splits, features: FrozenFeatures) -> None:
    if not recipe.features.label_quality:
        return
    from .features.label_quality import label_quality

    found = label_quality(features.fast | features.exact, splits.tables, splits.class_names, recipe.seed)
    write_json(directory.label_quality, found)
    print(
        f"{len(found['label_issues'])} labels look wrong, {len(found['near_duplicates'])} groups of near-duplicates stand in "
        f"more than one split; {directory.label_quality} lists them",
        file=sys.stderr,
    )


def _fit_first_phase(
    recipe: Recipe, directory: RunDirectory, splits: Splits, backbone: Backbone, state: PartialState, *, resume: bool
) -> tuple[float, dict[str, int]]:
    """Give the model a head that was fitted on frozen features; return the seconds and the parameters of that."""
    from .features.extraction import probe_layers
    from .features.frozen import set_head
    from .training.trainer import load_weights

    began = time.perf_counter()
    if not (resume and directory.phase0.is_dir()):
        features = _extract(recipe, splits, backbone, state, wanted={"train", "validation"}, exact=())
        if state.is_main_process:
            probe = _fit(recipe, splits, features)
            set_head(backbone, probe.head.weight, probe.head.bias)
            _write_probe(directory, probe, features)
            with replacing(directory.phase0) as temporary:
                backbone.save(temporary)
        state.wait_for_everyone()
    load_weights(backbone.model, directory.phase0)  # the same on every process, and after a resume
    heads = [backbone.model.get_submodule(head) for head in probe_layers(backbone)]
    return time.perf_counter() - began, {"head": sum(p.numel() for head in heads for p in head.parameters())}


def _write_probe(directory: RunDirectory, probe: Probe, features: FrozenFeatures) -> None:
    facts = {"selected_by": probe.metric, "head_seconds": probe.seconds, **_facts(features)}
    write_json(directory.probe, facts | {"candidates": probe.report()})


def _facts(features: FrozenFeatures) -> dict[str, Any]:
    return {
        "features": {
            "computed": features.computed,
            "total": features.total,
            "seconds": features.seconds,
            "compiled": features.compiled,
            "spaces": features.spaces,
        }
    }


def _features_cost(recipe: Recipe, features: FrozenFeatures, state: PartialState, fitting: float) -> dict[str, Any]:
    from .training.hardware import peak_memory_mb

    return {
        "train_seconds": features.seconds + fitting,
        "trainable_parameters": {},
        "peak_memory_mb": peak_memory_mb(state.device),
        "images_per_second": features.total / features.seconds,
        "precision": "bf16" if recipe.training.get("bf16") else "fp16" if recipe.training.get("fp16") else "fp32",
    }


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
    return RunResult(directory, metrics if state.is_main_process else directory.read_metrics())


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
