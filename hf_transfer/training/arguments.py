"""From the `training` section to `transformers.TrainingArguments`: the user's fields, our defaults, our decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import Problem, RecipeError
from ..recipe.training_arguments import SELECTION_METRICS
from .hardware import bf16_pays, loader_workers

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..recipe.schema import Strategy


# Accuracy is computed from all predictions at once; with other values of these the first evaluation would fail.
_FIXED = {"prediction_loss_only": False, "batch_eval_metrics": False, "eval_do_concat_batches": True}


def computes_on_cpu(training: dict[str, Any]) -> bool:
    """Return whether a run trains on the CPU: because it was told to, or because nothing else is there."""
    return bool(training.get("use_cpu", not torch.accelerator.is_available()))


def feature_defaults(training: dict[str, Any], task: str = "single_label") -> dict[str, Any]:
    """Return the `training` section with the defaults filled in that heads on cached features need; no Trainer runs there.

    Args:
        training: the recipe's section.
        task: the recipe's `data.task`, which says what selects.
    """
    chosen = dict(training)
    use_cpu = computes_on_cpu(chosen)
    if not chosen.get("fp16"):
        chosen.setdefault("bf16", bf16_pays(use_cpu))
    chosen.setdefault("dataloader_num_workers", loader_workers(use_cpu))
    # Null would mean the loss to transformers.
    chosen["metric_for_best_model"] = chosen.get("metric_for_best_model") or SELECTION_METRICS[task][0]
    return chosen


def training_defaults(training: dict[str, Any], strategy: Strategy | None = None, task: str = "single_label") -> dict[str, Any]:
    """Return the `training` section with the defaults a practitioner would choose filled in, for this machine.

    bf16 where the hardware gains, a loader process where it helps, evaluation and a checkpoint each epoch, the best model by
    validation accuracy kept (of several labels an image by mean average precision), a tenth of the steps as warmup, TensorBoard
    on. The strategy may have a schedule of its own: `discriminative` cuts the learning rates to a tenth on a plateau,
    `complete` lets them fall along a cosine in each phase.
    """
    chosen = feature_defaults(training, task)
    if strategy is not None and "lr_scheduler_type" not in chosen:
        if strategy.name == "discriminative":
            chosen["lr_scheduler_type"] = "reduce_lr_on_plateau"
            # torch cuts after one evaluation more than its patience.
            patience = (strategy.patience or 2) - 1
            plateau = {"factor": 0.1, "patience": patience, "threshold": strategy.min_delta, "threshold_mode": "abs"}
            chosen["lr_scheduler_kwargs"] = plateau | (chosen.get("lr_scheduler_kwargs") or {})
        elif strategy.name == "complete":
            chosen["lr_scheduler_type"] = "cosine"
    chosen.setdefault("per_device_train_batch_size", 32)
    chosen.setdefault("per_device_eval_batch_size", 64)
    chosen.setdefault("warmup_steps", 0.1)
    chosen.setdefault("eval_strategy", "epoch")
    chosen.setdefault("save_strategy", chosen["eval_strategy"])
    chosen.setdefault("logging_steps", 10)
    if chosen["eval_strategy"] == "steps":  # the best model can only be kept where a checkpoint is written
        chosen.setdefault("eval_steps", chosen["logging_steps"])
        if chosen["save_strategy"] == "steps":
            chosen.setdefault("save_steps", chosen["eval_steps"])
    chosen.setdefault("save_total_limit", 1)
    chosen.setdefault("logging_nan_inf_filter", False)  # a loss that is not finite shows; and no wait for the GPU each step
    chosen.setdefault("report_to", ["tensorboard"])
    chosen.setdefault("ddp_find_unused_parameters", False)  # each phase is wrapped for what trains in it
    if chosen.get("lr_scheduler_type") == "reduce_lr_on_plateau":
        # transformers leaves the scheduler's default, "min", even for a metric that grows.
        mode = "min" if chosen["metric_for_best_model"] == "loss" else "max"
        chosen["lr_scheduler_kwargs"] = {"mode": mode, **(chosen.get("lr_scheduler_kwargs") or {})}
    return chosen


def autocast_dtype(training: dict[str, Any]) -> torch.dtype | None:
    """Return the dtype of autocast that a resolved `training` section asks for, None for float32."""
    return torch.bfloat16 if training.get("bf16") else torch.float16 if training.get("fp16") else None


def precision_name(*, bf16: bool, fp16: bool) -> str:
    """Return what `cost.precision` calls the precision of autocast: "bf16", "fp16" or "fp32"."""
    return "bf16" if bf16 else "fp16" if fp16 else "fp32"


def build_arguments(training: dict[str, Any], checkpoints: Path, seed: int) -> TrainingArguments:
    """Return the `TrainingArguments` of a run.

    Args:
        training: the resolved section, see `training_defaults`.
        checkpoints: folder of the checkpoints.
        seed: seed of the run.

    Raises:
        RecipeError: when transformers refuses a combination, or the best model on validation could not be found or kept.
    """
    from transformers import TrainingArguments

    problems = [
        Problem(
            f"training.{name}", f"expected {str(value).lower()}, so that the validation accuracy can be computed; remove it"
        )
        for name, value in _FIXED.items()
        if training.get(name, value) is not value
    ]
    if problems:
        raise RecipeError(problems)
    fields = {name: value for name, value in training.items() if name not in ("report_to", "use_cpu")}
    if fields.get("optim") == "adam":
        fields["optim"] = "adamw_torch"  # the learning rate, betas and epsilon are read from the same fields
    reporters = training.get("report_to") or []
    reporters = [reporters] if isinstance(reporters, str) else reporters
    selects = training["eval_strategy"] != "no"
    fields.pop("greater_is_better", None)  # the recipe's check has seen that it says the same
    try:
        arguments = TrainingArguments(
            output_dir=str(checkpoints),
            seed=seed,
            data_seed=seed,
            remove_unused_columns=False,
            label_names=["labels"],
            load_best_model_at_end=selects,
            greater_is_better=training["metric_for_best_model"] != "loss",
            dataloader_persistent_workers=False,
            use_cpu=computes_on_cpu(training),
            disable_tqdm=fields.pop("disable_tqdm", None),
            report_to=[name for name in reporters if name not in ("tensorboard", "none")] or "none",
            **fields,
        )
    except (ValueError, ImportError, TypeError) as error:
        raise RecipeError([Problem("training", str(error).strip().splitlines()[0])]) from None
    if arguments.auto_find_batch_size and arguments.world_size > 1:
        problem = "expected false with several processes, of which one alone would run out of memory; found true"
        raise RecipeError([Problem("training.auto_find_batch_size", problem)])
    if arguments.eval_strategy == arguments.save_strategy == "steps" and arguments.eval_steps != arguments.save_steps:
        problem = (
            f"expected {arguments.eval_steps}, as eval_steps, so that the best model on validation can be kept; "
            f"found {arguments.save_steps}"
        )
        raise RecipeError([Problem("training.save_steps", problem)])
    return arguments
