"""One training step with the first layer groups frozen: this package's Trainer beside a loop written by hand for this network.

`package:efficientnet_lite0` with the stem and the first stages frozen (strategy `partial`), one batch of the packaged textile
images that is already decoded, the same weights, precision, memory layout, fused AdamW and clipping on both sides:

- `ours`: `TransferTrainer.training_step` and the optimizer step of a run with strategy `partial`;
- `by hand`: the frozen stages called under `torch.no_grad()`, the others with gradients, backward, clipping, optimizer: what
  a user would write who knows the network's modules. The float32 backward of depthwise convolutions is on for both;
- its parts alone: the forward pass of the frozen stages, and forward and backward of what trains on features that are there;
- `full`: the step of strategy `full`, for what freezing saves.

Why it is fair: both start from the same weights, and the program stops when their losses differ in the first step, or when a
frozen weight or statistic moves. All are timed in one process in turn, in an order that rotates with each repeat, after a
warm-up; ratios are formed within each repeat. Nothing is asserted about time.

Run from the repository root: python benchmarks/frozen_prefix.py
Needs the packages of the `demo` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from printing import machine_facts, print_facts, print_table, spread
from torch import nn
from torch.nn import functional

from hf_transfer.backbones.backbone import Backbone
from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.build import Splits, build_splits
from hf_transfer.recipe import Recipe, parse_recipe
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.training.arguments import build_arguments, training_defaults
from hf_transfer.training.depthwise import Float32DepthwiseBackward
from hf_transfer.training.hardware import keep_freed_memory
from hf_transfer.training.train import build_trainer
from hf_transfer.training.trainer import TransferTrainer

RATE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frozen-groups", type=int, default=4, help="layer groups that are frozen, from the stem (default 4)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed together (default 3)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single figure")
    options = parser.parse_args()
    keep_freed_memory()
    facts = machine_facts() | {"torch_threads": str(torch.get_num_threads())}
    print_facts(facts)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        seconds = measure(options, Path(scratch))
    rows = [(name, spread([1000 * s for s in found], ".0f")) for name, found in seconds.items()]
    print(
        f"{options.frozen_groups} frozen layer groups, batches of {options.batch_size}; milliseconds a step, median (min..max)"
    )
    print_table(("step", "ms"), rows)
    hand, ours = seconds["by hand"], seconds["ours"]
    parts = [a + b for a, b in zip(seconds["frozen forward"], seconds["trained forward and backward"], strict=True)]
    print(f"ours / by hand: {spread([a / b for a, b in zip(ours, hand, strict=True)], '.3f')} (goal <= 1.03)")
    print(f"ours / its parts: {spread([a / b for a, b in zip(ours, parts, strict=True)], '.3f')}")
    print(f"full / ours: {spread([a / b for a, b in zip(seconds['full'], ours, strict=True)], '.2f')}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts, "seconds": seconds}, indent=2) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, list[float]]:
    """Time every kind of step in turn; return seconds a step, a list for each kind."""
    raw = {
        "output_dir": str(scratch / "run"),
        "data": {"source": "package:textile", "test_fraction": 0.2, "max_train_samples": options.batch_size},
        "model": {"backbone": "package:efficientnet_lite0", "crop_pct": 1.0},
        "augment": {"preset": "none"},
        "training": {"learning_rate": RATE, "report_to": [], "lr_scheduler_type": "constant", "warmup_steps": 0},
    }
    raw["training"] |= {"per_device_train_batch_size": options.batch_size, "disable_tqdm": True}
    recipe = parse_recipe(raw)
    training = training_defaults(recipe.training)
    build_arguments(training, scratch, 0)
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
    backbone = build_backbone(recipe.model, splits.class_names, recipe.seed)
    partial = parse_recipe(raw | {"strategy": {"name": "partial", "frozen_groups": options.frozen_groups}})
    kinds = {
        "ours": trainer_step(partial, copied(backbone), splits, training, scratch / "ours"),
        **steps_by_hand(
            copied(backbone), options.frozen_groups, first_batch(recipe, backbone, splits, training, scratch), training
        ),
        "full": trainer_step(recipe, copied(backbone), splits, training, scratch / "full"),
    }
    first = {name: kinds[name]() for name in ("ours", "by hand")}
    if abs(first["ours"] - first["by hand"]) > 0.02 * abs(first["by hand"]):
        sys.exit(f"the first losses differ, so the steps do: {first}")
    for step in kinds.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    order = list(kinds)
    for repeat in range(options.repeats):
        for name in order[repeat % len(order) :] + order[: repeat % len(order)]:
            began = time.perf_counter()
            for _ in range(options.steps):
                kinds[name]()
            seconds[name].append((time.perf_counter() - began) / options.steps)
        print(f"repeat {repeat + 1}/{options.repeats}", file=sys.stderr, flush=True)
    return seconds


def copied(backbone: Backbone) -> Backbone:
    """Return the backbone with weights of its own."""
    return dataclasses.replace(backbone, model=copy.deepcopy(backbone.model))


def make_trainer(recipe: Recipe, backbone: Backbone, splits: Splits, training: dict[str, Any], folder: Path) -> TransferTrainer:
    """Return the Trainer of a recipe, ready to take steps."""
    folder.mkdir()
    trainer = build_trainer(
        backbone,
        splits,
        build_schedule(recipe.strategy, [group.name for group in backbone.groups]),
        training=training,
        augment=recipe.augment,
        loss=recipe.loss,
        seed=0,
        checkpoints=folder / "checkpoints",
        history=folder / "history.csv",
        tensorboard=folder / "tensorboard",
    )
    trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    trainer.create_optimizer()
    return trainer


def first_batch(recipe: Recipe, backbone: Backbone, splits: Splits, training: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the batch that every step takes."""
    trainer = make_trainer(recipe, copied(backbone), splits, training, scratch / "batch")
    return trainer.finish(next(iter(trainer.get_train_dataloader())))


def trainer_step(
    recipe: Recipe, backbone: Backbone, splits: Splits, training: dict[str, Any], folder: Path
) -> Callable[[], float]:
    """Return one optimizer step of the Trainer, as its loop takes it, without log and callbacks."""
    trainer = make_trainer(recipe, backbone, splits, training, folder)
    batch = trainer.finish(next(iter(trainer.get_train_dataloader())))
    trainer.current_gradient_accumulation_steps = 1
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    frozen = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items() if not _trains(backbone.model, name)}

    def step() -> float:
        loss = trainer.training_step(model, dict(batch), torch.tensor(len(batch["labels"])))
        trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        return float(loss)

    step_once = step()
    state = backbone.model.state_dict()
    if moved := [name for name, tensor in frozen.items() if not torch.equal(state[name], tensor)]:
        sys.exit(f"frozen, and moved: {moved[:3]}")
    first = [step_once]
    return lambda: first.pop() if first else step()


def _trains(model: nn.Module, name: str) -> bool:
    """Return whether a tensor of the state belongs to a module that trains."""
    module = model.get_submodule(name.rpartition(".")[0])
    return any(parameter.requires_grad for parameter in module.parameters())


def steps_by_hand(
    backbone: Backbone, frozen_groups: int, batch: dict[str, Any], training: dict[str, Any]
) -> dict[str, Callable[[], float]]:
    """Return the step of a loop that knows this network, and its two parts alone."""
    net = backbone.model.timm_model.to(memory_format=torch.channels_last)
    device = batch["pixel_values"].device
    net.to(device)
    stages = list(net.blocks)
    frozen, trained = stages[: frozen_groups - 1], stages[frozen_groups - 1 :]  # the stem is a group, too
    for part in (net.conv_stem, net.bn1, *frozen):
        part.requires_grad_(False).eval()
    rest = nn.ModuleList([*trained, net.conv_head, net.bn2])
    for module in rest.modules():  # `partial` freezes every batch norm
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    rest.eval()
    weights = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0, fused=True)
    bf16 = bool(training.get("bf16"))
    pixels, labels = batch["pixel_values"], batch["labels"]

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    def forward_frozen() -> torch.Tensor:
        with torch.no_grad(), autocast():
            x = net.bn1(net.conv_stem(pixels))
            for stage in frozen:
                x = stage(x)
        return x

    def train_rest(x: torch.Tensor) -> float:
        with Float32DepthwiseBackward() if bf16 and device.type == "cpu" else contextlib.nullcontext():
            with autocast():
                for stage in trained:
                    x = stage(x)
                logits = net.forward_head(net.bn2(net.conv_head(x)))
            loss = functional.cross_entropy(logits.float(), labels)
            loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    features = forward_frozen()
    return {
        "by hand": lambda: train_rest(forward_frozen()),
        "frozen forward": lambda: float(forward_frozen().sum()),
        "trained forward and backward": lambda: train_rest(features),
    }


if __name__ == "__main__":
    main()
