"""`hf-transfer find-lr`: a learning rate for a recipe, by a range test on its own data, model, strategy and augmentation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .adaptation import prepare_live, prepare_network
from .errors import UserError
from .pipeline import needs_features_only, prepare_process, process_state
from .recipe import Recipe
from .report.figures import drawing, new_figure, save_figure
from .run_directory import RunDirectory

if TYPE_CHECKING:
    from .training.range_test import RangeTest


def find_learning_rate(recipe: Recipe, *, low: float, high: float, steps: int) -> RangeTest:
    """Train for some steps while the learning rate grows; nothing of it is kept.

    The sweep is that of the last phase, in which the most trains, from the weights that phase would see at the start of a run
    (two_phase: with the head fitted on frozen features). Rates are those of the head: multipliers of the strategy apply.

    Args:
        recipe: a checked recipe; only its training split is trained on, and no split is scored.
        low: the first rate.
        high: the last one.
        steps: optimizer steps, at least 10.

    Raises:
        UserError: when the recipe trains nothing with the Trainer, or the loss never fell.
    """
    from .backbones.build import build_backbone
    from .data.build import build_splits
    from .training.arguments import build_arguments, training_defaults
    from .training.callbacks import FiniteLossCallback
    from .training.history import HistoryCallback
    from .training.range_test import SweepCallback, judge

    if not 0 < low < high or steps < 10:
        raise UserError(f"find-lr: expected 0 < low < high and at least 10 steps; found {low:g}, {high:g} and {steps}")
    if recipe.mode != "train":
        raise UserError("find-lr: an evaluation has no learning rate")
    prepare_process(recipe)
    if needs_features_only(recipe):
        raise UserError(
            f"find-lr: strategy '{recipe.strategy.name}' on cached features "
            + ("trains nothing" if recipe.strategy.name == "knn" else "tries a grid of learning rates by itself")
        )
    sweep = {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1, "report_to": []}
    kept = {key: value for key, value in recipe.training.items() if key not in ("num_train_epochs", "lr_scheduler_kwargs")}
    training = training_defaults(kept | sweep | {"lr_scheduler_type": "constant", "warmup_steps": 0}, task=recipe.data.task)
    recipe = recipe.model_copy(update={"training": training, "ema": None, "early_stopping": None})
    with tempfile.TemporaryDirectory(prefix="find-lr-") as scratch:
        directory = RunDirectory(Path(scratch))
        directory.checkpoints.mkdir()
        build_arguments(training, directory.checkpoints, recipe.seed)  # starts the process group where there is one
        state = process_state(training)
        splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
        backbone = build_backbone(
            recipe.model,
            splits.class_names,
            recipe.seed,
            pooling=recipe.features.pooling,
            multi_label=splits.multi_label,
        )
        adapters = prepare_network(recipe, splits, backbone)
        trainer = prepare_live(recipe, directory, splits, backbone, state, adapters, last_phase_only=True).trainer
        for callback in (FiniteLossCallback, HistoryCallback):
            trainer.remove_callback(callback)
        callback = SweepCallback(trainer.freezing, low, high, steps)
        trainer.add_callback(callback)
        trainer.train()
    return judge(callback.rates, callback.losses)


def plot_range_test(found: RangeTest, output: Path) -> None:
    """Draw loss against learning rate into a PNG, the suggestion marked."""
    with drawing():
        figure = new_figure(7.0, 4.0)
        axes = figure.add_subplot()
        axes.plot(found.rates[: len(found.losses)], found.losses, color="#b0b0b0", linewidth=1, label="each step")
        axes.plot(found.rates[: len(found.smoothed)], found.smoothed, color="#0072B2", linewidth=2, label="moving average")
        axes.axvline(found.suggestion, color="#D55E00", linestyle="--", label=f"steepest fall: {found.suggestion:.1e}")
        axes.axvline(found.minimum / 10, color="#009E73", linestyle=":", label=f"minimum / 10: {found.minimum / 10:.1e}")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0, top=1.5 * max(found.smoothed[: max(3, len(found.smoothed) // 2)]))
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        axes.legend(frameon=False)
        save_figure(figure, output)
