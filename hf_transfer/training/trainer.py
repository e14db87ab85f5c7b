"""The HuggingFace Trainer with the fewest overrides that make it right: optimizer, loading of weights, saving."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from ..data.dataset import ImageDataset
from ..errors import UserError
from ..metrics import quick_metrics
from .depthwise import Float32DepthwiseBackward
from .optimizer import parameter_groups


class TransferTrainer(Trainer):
    """A Trainer for image classifiers whose layer groups freeze and thaw.

    Args:
        groups: the model's layer groups; the optimizer is built once with all of them.
        plain_adam: use `torch.optim.Adam` (weight decay coupled with the gradient) instead of `args.optim`.
        channels_last: compute in NHWC memory layout.
        kwargs: as for `transformers.Trainer`.
    """

    def __init__(self, *, groups: list, plain_adam: bool = False, channels_last: bool = False, **kwargs: Any) -> None:
        self.groups = groups
        self.optimizer: Any
        self.plain_adam = plain_adam
        super().__init__(compute_metrics=_compute_metrics, preprocess_logits_for_metrics=_first_logits, **kwargs)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)

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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take the Trainer's step; in bf16 on a CPU with the faster backward of depthwise convolutions."""
        faster = self.args.bf16 and self.args.device.type == "cpu" and not self.args.torch_compile
        with Float32DepthwiseBackward() if faster else contextlib.nullcontext():
            return super().training_step(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: transformers' estimate counts tokens, which images do not have."""
        return 0

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            load_weights(self.model, Path(self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model if model is None else model, Path(resume_from_checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle of the arguments, token included, has no place beside weights that may be published.
        if self.args.should_save:
            Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)


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
    logits = np.asarray(prediction.predictions)
    if not np.isfinite(logits).all():
        raise UserError(
            "training diverged: the validation logits are not finite. Lower training.learning_rate, or set training.bf16 and "
            "training.fp16 to false; the checkpoints so far are kept."
        )
    return quick_metrics(logits, np.asarray(prediction.label_ids))


def _first_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    return logits[0] if isinstance(logits, (tuple, list)) else logits


class EpochCallback(TrainerCallback):
    """Tell the training data set which epoch begins: augmentation is keyed by it."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the epoch before the loader's processes start."""
        self.dataset.epoch = int(state.epoch or 0)
