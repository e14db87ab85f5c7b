"""The HuggingFace Trainer with the fewest overrides that make it right: optimizer, loading of weights, saving."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers import TrainingArguments as Arguments
from transformers.trainer_utils import EvalLoopOutput

from ..data.dataset import Batch, ImageDataset
from ..data.order import Order
from ..errors import UserError
from ..metrics import quick_metrics, quick_multi_label_metrics
from ..strategies.phases import Phase
from .adapters import load_state, save_state
from .callbacks import AverageCallback, diverged
from .checkpoints import checkpoints, mark_complete, rotate, step_of
from .depthwise import Float32DepthwiseBackward
from .ema import WeightAverage
from .freezing import FreezingCallback
from .loss import ClassificationLoss, MultiLabelLoss, mixed_targets
from .monitor import Monitor, Scored
from .optimizer import parameter_groups
from .rates import RateSchedule
from .sampler import EpochBatches

_AVERAGE = "average.safetensors"
_ADAPTED = "adapted_model.safetensors"


class TransferTrainer(Trainer):
    """A Trainer for image classifiers whose layer groups freeze and thaw.

    Args:
        freezing: says what trains, and executes the schedule; it must be the first of the callbacks.
        loss: of logits and labels, see `ClassificationLoss` and `MultiLabelLoss`.
        plain_adam: use `torch.optim.Adam` (weight decay coupled with the gradient) instead of `args.optim`.
        channels_last: compute in NHWC memory layout.
        ema_decay: keep a moving average of the weights; the better of both on validation is the one that is kept.
        adapted: the model carries adapters, so that its checkpoints hold plain tensors instead of a loadable model.
        multi_label: whether an image may show several classes, or none.
        order: how an epoch's images follow one another; each once, at random, where nothing is said.
        monitor: what is scored beside validation at every evaluation of the training, and logged; nothing else reads it.
        finish: makes batches of the loader the model's inputs, see `Finishing`; None where they are that already.
        kwargs: as for `transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        freezing: FreezingCallback,
        loss: Callable[..., torch.Tensor],
        plain_adam: bool = False,
        channels_last: bool = False,
        ema_decay: float | None = None,
        adapted: bool = False,
        multi_label: bool = False,
        order: Order | None = None,
        monitor: Monitor | None = None,
        finish: Callable[[Batch], Batch] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ) -> None:
        self.freezing = freezing
        self.groups = freezing.groups
        self.control: Any
        self.optimizer: Any
        self.lr_scheduler: Any
        self.model_wrapped: Any
        self.compute_loss_func: Any
        self.compute_metrics: Any
        self.plain_adam = plain_adam
        self.ema_decay = ema_decay
        self._averaging = AverageCallback()
        self.adapted = adapted
        self._evaluation_loss = MultiLabelLoss() if multi_label else ClassificationLoss()
        self.order = order
        self.monitor = monitor
        self.finish = finish
        self.steps_per_epoch = 0
        self._wrapped_for: Phase | None = None
        self._untrained: _Snapshot | None = None
        self._validation: Scored | None = None
        with warnings.catch_warnings():  # of smoothing and several labels an image: our own loss smooths them
            warnings.filterwarnings("ignore", message="Label smoothing is not compatible")
            super().__init__(
                compute_loss_func=loss,
                compute_metrics=_compute_multi_label_metrics if multi_label else _compute_metrics,
                preprocess_logits_for_metrics=_first_logits,
                callbacks=[freezing, self._averaging, *callbacks],
                **kwargs,
            )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

    @property
    def average(self) -> WeightAverage | None:
        """The moving average of the weights, None where there is none."""
        return self._averaging.average

    # Data: the order of images is a function of (seed, epoch), as their augmentation is.

    def get_train_dataloader(self) -> Any:
        """Return the loader of the training images: the batches of `EpochBatches`, each process its own."""
        data, args = self.train_dataset, self.args
        if args.train_sampling_strategy != "random" or not isinstance(data, ImageDataset):
            return super().get_train_dataloader()
        order = self.order or Order(len(data), args.seed)
        batches = EpochBatches(data, order, self._train_batch_size, args.world_size, args.dataloader_drop_last)
        loader = DataLoader(
            data,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            worker_init_fn=_apart,
        )
        return self.accelerator.prepare(loader)

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        # transformers leaves the last images of an evaluation out, too, where training drops what fills no batch.
        dropped = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = dropped and is_training
        try:
            loader = super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = dropped
        getattr(loader, "base_dataloader", loader).worker_init_fn = _apart
        return loader

    # The optimizer and its learning rates.

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer with every parameter, frozen ones included, two groups for each layer group."""
        model = self.model if model is None else model
        if self.optimizer is not None:
            return self.optimizer
        args = self.args
        if self.plain_adam:
            self.optimizer = torch.optim.Adam(
                parameter_groups(model, self.groups, args.weight_decay, decay_all=True),
                lr=args.learning_rate,
                betas=(args.adam_beta1, args.adam_beta2),
                eps=args.adam_epsilon,
                fused=True,
            )
            return self.optimizer
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
        if not isinstance(optimizer_class, type) or {"params", "model", "optimizer_dict"} & set(options):
            return super().create_optimizer(model)  # optimizers that choose their parameters themselves (GaLore, LOMO ...)
        self.optimizer = optimizer_class(parameter_groups(model, self.groups, args.weight_decay, decay_all=False), **options)
        return self.optimizer

    def set_initial_training_values(self, args: Arguments, dataloader: Any) -> Any:
        """Note how many optimizer steps an epoch has."""
        values = super().set_initial_training_values(args, dataloader)
        self.steps_per_epoch = values[1]
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Build the schedule of learning rates, which follows the phases."""
        optimizer = optimizer or self.optimizer
        kind = self.args.lr_scheduler_type.value
        if kind == "greedy" or any("name" not in group for group in optimizer.param_groups):
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = RateSchedule(
            optimizer,
            kind,
            self.args.lr_scheduler_kwargs,
            self.args.get_warmup_steps,
            steps=num_training_steps,
            steps_per_epoch=self.steps_per_epoch,
            restarts=self.freezing.schedule.restarts,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        # Of what trains; the first group may well be frozen.
        if isinstance(self.lr_scheduler, RateSchedule):
            return float(max(self.lr_scheduler.get_last_lr()))
        return super()._get_learning_rate()

    # Phases: a data-parallel wrapper waits for the gradients of what trained when it was made, so each phase gets a new one.

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        model, train_dataloader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self._wrapped_for = self.freezing.phase
        if self.ema_decay is not None:
            self._averaging.average = average = WeightAverage(self.model, self.ema_decay)
            if resume_from_checkpoint is not None:
                average.load(Path(resume_from_checkpoint, _AVERAGE))
        # The loop keeps what it gets for the whole training; the wrapper of the first phase must not live that long.
        return self.model if isinstance(model, DistributedDataParallel) else model, train_dataloader

    def _run_epoch(self, model: nn.Module, **kwargs: Any) -> None:
        if self.control.should_training_stop:  # resumed where it had stopped
            return
        if isinstance(self.model_wrapped, DistributedDataParallel):
            if self._wrapped_for is not self.freezing.phase:
                self._wrap_again()
            model = self.model_wrapped
        super()._run_epoch(model=model, **kwargs)

    def _wrap_again(self) -> None:
        """Make the data-parallel wrapper anew, for what trains now; weights and buffers follow the first process."""
        old = self.model_wrapped
        handler = self.accelerator.ddp_handler
        self.accelerator._models = [model for model in self.accelerator._models if model is not old]
        self.model_wrapped = DistributedDataParallel(
            self.model,
            device_ids=old.device_ids,
            output_device=old.output_device,
            **(handler.to_kwargs() if handler is not None else {}),
        )
        if handler is not None:
            handler.register_comm_hook(self.model_wrapped)
        self.accelerator._models.append(self.model_wrapped)
        self._wrapped_for = self.freezing.phase

    def _inner_training_loop(self, batch_size: int | None = None, **kwargs: Any) -> Any:
        if kwargs["args"].auto_find_batch_size:
            if self._untrained is None:
                self._untrained = _Snapshot(self.model, kwargs.get("resume_from_checkpoint"))
            else:  # called again with a smaller batch: begin where the first call began
                self._untrained.restore(self.model, Path(self.args.output_dir))
                self.optimizer = None
        return super()._inner_training_loop(batch_size=batch_size, **kwargs)

    # One step.

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super()._prepare_inputs(inputs)
        return inputs if self.finish is None else self.finish(inputs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss, of mixed images against mixed labels; evaluation measures plain cross-entropy."""
        if "share" in inputs:
            labels, partner, share = inputs["labels"], inputs.pop("partner"), inputs.pop("share")
            inputs["labels"] = mixed_targets(labels, partner, share, self.model.config.num_labels)
        if self.model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        loss, self.compute_loss_func = self.compute_loss_func, self._evaluation_loss
        try:
            return super().compute_loss(model, inputs, *args, **kwargs)
        finally:
            self.compute_loss_func = loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take the Trainer's step; in bf16 on a CPU with the faster backward of depthwise convolutions."""
        faster = self.args.bf16 and self.args.device.type == "cpu" and not self.args.torch_compile
        with Float32DepthwiseBackward() if faster else contextlib.nullcontext():
            return super().training_step(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: transformers' estimate counts tokens, which images do not have."""
        return 0

    # Evaluation.

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate validation, which is what selects; while training, score and log what is monitored, too.

        transformers' own way, a dict as `eval_dataset`, would call `on_evaluate` for each of its splits, put their figures
        among those that select, and draw a random number for each that the training would miss.

        Returns:
            The figures of validation alone.
        """
        metrics = super().evaluate(*args, **kwargs)
        if self.monitor is not None and self.is_in_train:
            self._watch(self.monitor, averaged=bool(metrics.get("eval_ema")))
        return metrics

    def _watch(self, monitor: Monitor, *, averaged: bool) -> None:
        """Score what is monitored, with the weights that validation found better, and log it."""
        weights = self.average.applied() if self.average is not None and averaged else contextlib.nullcontext()
        measure, self.compute_metrics = self.compute_metrics, None
        try:
            with weights, torch.random.fork_rng(devices=[]):  # a loader draws a seed from the generator of the training
                found = {split: self.predict(data, metric_key_prefix=f"eval_{split}") for split, data in monitor.data.items()}
        finally:
            self.compute_metrics = measure
        scored = {split: (output.predictions, output.label_ids) for split, output in found.items()}
        if self._validation is not None:
            scored["validation"], self._validation = self._validation, None
        for name, figures in monitor.figures(scored).items():
            self.log({f"eval_{name}_{metric}": value for metric, value in figures.items()})

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate the weights; with a moving average that, too, and report the better of both."""
        if torch.distributed.is_initialized():  # running statistics are those of the first process
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        found = super().evaluation_loop(*args, **kwargs)
        if not self.is_in_train or kwargs.get("description") == "Prediction":
            return found
        if self.average is not None and found.metrics is not None:
            with self.average.applied():
                averaged = super().evaluation_loop(*args, **kwargs)
            prefix = kwargs.get("metric_key_prefix", "eval")
            key = f"{prefix}_{self.args.metric_for_best_model}"
            better = np.greater if self.args.greater_is_better else np.less
            is_better = bool(better(averaged.metrics[key], found.metrics[key]))
            found = averaged if is_better else found
            found.metrics[f"{prefix}_ema"] = float(is_better)
        if self.monitor is not None and self.monitor.needs_validation:
            self._validation = np.asarray(found.predictions), np.asarray(found.label_ids)
        return found

    # Checkpoints: whole or not there.

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        asked = self.control.should_save
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, *args, **kwargs)
        # With save_strategy "best" an evaluation takes back that a checkpoint was asked for, as SIGTERM asks.
        if asked and not self.control.should_save and self.args.save_strategy == "best":
            self._save_checkpoint(model, None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        self._refuse_infinite()
        if self.args.should_save and checkpoint.exists():
            shutil.rmtree(checkpoint)  # left by a run that was killed; this one comes by again
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and self.average is not None:
            self.average.save(checkpoint / _AVERAGE)
        self.accelerator.wait_for_everyone()  # every process has written its random state
        if self.args.should_save:
            mark_complete(checkpoint)
            best = self.state.best_model_checkpoint
            rotate(folder, limit, Path(best) if best else None)

    def _refuse_infinite(self) -> None:
        with torch.no_grad():
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            if bool(torch.isfinite(torch.stack(torch._foreach_norm(trained)).sum())):
                return
        raise UserError(diverged(f"after step {self.state.global_step} the weights are not finite", Path(self.args.output_dir)))

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
            return
        best = Path(self.state.best_model_checkpoint)
        load_checkpoint(self.model, best, adapted=self.adapted)
        step = step_of(best)
        entries = [entry for entry in self.state.log_history if entry["step"] == step and "eval_ema" in entry]
        if entries and entries[-1]["eval_ema"] and self.average is not None:
            self.average.load(best / _AVERAGE)
            self.average.copy_to_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_checkpoint(self.model if model is None else model, Path(resume_from_checkpoint), adapted=self.adapted)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if self.adapted:
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                save_state(self.model, folder / _ADAPTED)
            return
        super()._save(output_dir, state_dict)
        # A pickle of the arguments, token included, has no place beside weights that may be published.
        if self.args.should_save:
            (folder / "training_args.bin").unlink(missing_ok=True)


def _apart(worker: int) -> None:
    """Take a loader process out of its parent's group: a SIGTERM to the group is for the parent to deal with."""
    os.setpgid(0, 0)


class _Snapshot:
    """Where training began: weights and random numbers."""

    def __init__(self, model: nn.Module, checkpoint: str | None) -> None:
        self.weights = model.state_dict()  # with the versions of its modules
        for name, tensor in self.weights.items():
            self.weights[name] = tensor.detach().to("cpu", copy=True)
        self.random = torch.random.get_rng_state()
        self.step = step_of(Path(checkpoint)) if checkpoint else 0

    def restore(self, model: nn.Module, folder: Path) -> None:
        """Go back; checkpoints that were saved since then belong to another batch size and are removed."""
        model.load_state_dict(self.weights, strict=True)
        torch.random.set_rng_state(self.random)
        for checkpoint in checkpoints(folder):
            if step_of(checkpoint) > self.step:
                shutil.rmtree(checkpoint)


def load_checkpoint(model: nn.Module, checkpoint: Path, *, adapted: bool = False) -> None:
    """Load the weights of a checkpoint into the model, every tensor of it, or fail.

    Args:
        model: changed in place.
        checkpoint: where a model of the same class was saved.
        adapted: whether it carries adapters.

    Raises:
        RuntimeError: when a tensor is missing or left over.
    """
    if adapted:
        load_state(model, checkpoint / _ADAPTED)
    else:
        load_weights(model, checkpoint)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Load a saved model's weights into `model`, every tensor of it, or fail.

    `save_pretrained` writes the key names of older versions for ViT, DeiT, BEiT, DINOv2 and Swin. The Trainer reads them with
    `load_state_dict(strict=False)` and keeps what does not match as it was (transformers issue 43701); `from_pretrained`
    translates the names.

    Args:
        model: a `PreTrainedModel`, changed in place.
        directory: where a model of the same class was saved.

    Raises:
        RuntimeError: when a tensor is missing or left over.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"expected a PreTrainedModel, found {type(model).__name__}")
    saved, info = type(model).from_pretrained(directory, output_loading_info=True)
    wrong = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]]
    if wrong:
        raise RuntimeError(f"the checkpoint {directory} does not fit its model: {len(wrong)} tensors differ, {wrong[:3]}")
    model.load_state_dict(saved.state_dict(), strict=True)


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return quick_metrics(_finite_logits(prediction), np.asarray(prediction.label_ids))


def _compute_multi_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return quick_multi_label_metrics(_finite_logits(prediction), np.asarray(prediction.label_ids))


def _finite_logits(prediction: EvalPrediction) -> np.ndarray:
    logits = np.asarray(prediction.predictions)
    if not np.isfinite(logits).all():
        raise UserError(
            "training diverged: the validation logits are not finite. Lower training.learning_rate (hf-transfer find-lr "
            "suggests one), or set training.bf16 and training.fp16 to false; the checkpoints so far are kept."
        )
    return logits


def _first_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    return logits[0] if isinstance(logits, (tuple, list)) else logits
