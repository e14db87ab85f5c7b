"""Training speed of full fine-tuning: this package beside a bare torch loop and beside the stock HuggingFace example.

Four variants train the same network from the same weights on the same images, with the same batch size, number of steps,
peak learning rate, fused AdamW and gradient clipping at 1.0:

- `ours`: the `TransferTrainer` of `build_trainer`, with the defaults that the pipeline fills in for this machine (bf16 where
  the hardware gains from it, channels_last for convolutional networks, loader processes, logging, history, TensorBoard);
- `bare`: a plain torch loop at the same precision, memory layout, number of loader processes and learning-rate schedule, on
  the same data set class with the same augmentation in the same order; it keeps no log and does nothing that training does
  not need (goal: ours / bare >= 0.97);
- `bare_tuned`: the same loop with the two things by which `ours` is faster on a CPU, the float32 backward of depthwise
  convolutions (`training/depthwise.py`) and freed memory that is kept (`training/hardware.py`): what `ours` is slower by than
  this is what the Trainer and our callbacks cost;
- `example`: what a user writes after transformers' image-classification example: a `datasets` set with `set_transform`, PIL to
  torchvision's RandomResizedCrop, flip, ToTensor and Normalize, a model from `AutoModelForImageClassification`, the stock
  `Trainer` with its default `TrainingArguments` (fp32, contiguous, no loader processes). What `ours` is faster by is what the
  defaults bring (goal: ours / example >= 2 on a CPU with bf16).

Why it is fair. Each variant has a process of its own, since how memory is kept holds for a process; only one works at a time,
in turn, in an order that rotates with each repeat, after a warm-up; a ratio is formed within each repeat, so that a busy
moment of the machine meets both sides. Each repeat starts from a fresh copy of the same weights with a fresh Trainer or
optimizer (a used Trainer cannot be started again, and accelerate would wrap a used model twice). A hook on the first layer,
the same for all, counts images and notes the precision and the memory layout the network really computed in; the program
stops when the images or steps differ. The mean training loss is printed: `ours` and `bare` see the same batches, so theirs
agree to rounding; `example` crops more strongly (down to 8 % of the area), so its loss is similar, not equal.

What is timed. `steady` is from the start of the first optimizer step to the end of the last one, its log included, and gives
images/s. `spin-up` is from the call of `train` until that first step: preparing the model, starting loader processes, the first
batch. `total` is everything from building the Trainer (or the optimizer) to the end; loading the weights is in none of them.
`CPU` is the processor time of this process during `steady`, loader processes left out: on a machine that others use, too, it
is steadier than the clock (with OMP_NUM_THREADS=1, since threads that wait for one another count as busy). Only `ours` and
`bare` can be compared by it; the example decodes images in this process.
Where --steps batches fit into the training set, it is cut to them (stratified), so that a run is one epoch and no loader
decodes images that nobody trains on. There is no evaluation and no checkpoint.

With --epochs the variants do what a user gets: an evaluation and a checkpoint at each epoch and the best model reloaded for
`ours` and `example`; a validation pass and a `torch.save` for `bare`. Then the seconds of the total are compared.

Run from the repository root: python benchmarks/finetune.py
Needs the packages of the `demo` extra, or --synthetic 1200 for the images and --random-weights for the network.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import gc
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from PIL import Image
from printing import machine_facts, print_facts, print_table, spread
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms import CenterCrop, Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor
from transformers import AutoModelForImageClassification, Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.trainer_callback import PrinterCallback

from hf_transfer import register
from hf_transfer.backbones.backbone import Backbone
from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.data.build import Splits, build_splits
from hf_transfer.data.dataset import Collate, ImageDataset
from hf_transfer.data.finishing import Finishing
from hf_transfer.data.order import Order
from hf_transfer.data.table import ImageTable, StoredImages
from hf_transfer.recipe import Recipe, parse_recipe
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.training.arguments import build_arguments, training_defaults
from hf_transfer.training.depthwise import Float32DepthwiseBackward
from hf_transfer.training.hardware import device_name, keep_freed_memory
from hf_transfer.training.sampler import EpochBatches
from hf_transfer.training.train import build_trainer

GOALS = {"bare": 0.97, "example": 2.0}  # no goal was set for the others


@dataclasses.dataclass(frozen=True)
class Work:
    """What every variant is given.

    Args:
        recipe: the checked recipe of the benchmark.
        training: its `training` section with this machine's defaults, without a length.
        splits: the images.
        backbone: the network with its new head, never trained itself.
        saved: directory of the same weights, as `save_pretrained` writes them.
        device: where to train.
        steps: optimizer steps, None where epochs are counted.
        epochs: epochs, None where steps are counted.
        scratch: folder for checkpoints and logs.
    """

    recipe: Recipe
    training: dict[str, Any]
    splits: Splits
    backbone: Backbone
    saved: Path
    device: torch.device
    steps: int | None
    epochs: int | None
    scratch: Path

    @property
    def batch_size(self) -> int:
        """Images of a full batch."""
        return self.training["per_device_train_batch_size"]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run; the last batch of an epoch may be smaller."""
        return self.steps or (self.epochs or 0) * math.ceil(len(self.splits.tables["train"]) / self.batch_size)

    @property
    def length(self) -> dict[str, int]:
        """The length under TrainingArguments' own name."""
        return {"max_steps": self.steps} if self.steps else {"num_train_epochs": self.epochs or 0}


@dataclasses.dataclass(frozen=True)
class Run:
    """One measured run.

    Args:
        setup_seconds: building the Trainer, or the optimizer and loader.
        spin_up_seconds: from the call of `train` to the start of the first step.
        steady_seconds: from the start of the first step to the end of the last.
        total_seconds: all of it.
        cpu_seconds: processor time of this process during `steady_seconds`, its threads together, loader processes not; on a
            busy machine it is steadier than wall-clock time.
        steps: optimizer steps.
        images: training images that went through the network.
        loss: mean training loss.
        compute: dtype and memory layout of the first layer's output.
    """

    setup_seconds: float
    spin_up_seconds: float
    steady_seconds: float
    total_seconds: float
    cpu_seconds: float
    steps: int
    images: int
    loss: float
    compute: str


class Watch:
    """Marks the moments of a run and counts its images through a hook on the network's first layer."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.images = 0
        self.compute = "unknown"

    def mark(self, moment: str) -> None:
        """Note the time, once what the device was given has been done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.marks[moment] = time.perf_counter()
        self.cpu[moment] = time.process_time()

    def follow(self, model: nn.Module) -> None:
        """Count the images that go through a model while it trains."""
        first = next(module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
        first.register_forward_hook(self._see)

    def run(self, steps: int, loss: float) -> Run:
        """Return what was measured."""
        built, called, began, ended, done = (self.marks[m] for m in ("build", "train", "first step", "last step", "done"))
        return Run(
            setup_seconds=called - built,
            spin_up_seconds=began - called,
            steady_seconds=ended - began,
            total_seconds=done - built,
            cpu_seconds=self.cpu["last step"] - self.cpu["first step"],
            steps=steps,
            images=self.images,
            loss=loss,
            compute=self.compute,
        )

    def _see(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if module.training:
            self.images += output.shape[0]
            if self.images == output.shape[0]:
                last = (
                    output.ndim == 4 and not output.is_contiguous() and output.is_contiguous(memory_format=torch.channels_last)
                )
                self.compute = f"{str(output.dtype).removeprefix('torch.')} {'channels_last' if last else 'contiguous'}"


class WatchCallback(TrainerCallback):
    """Mark the start of a Trainer's first step and the end of its last."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The first batch has arrived."""
        if state.global_step == 0:
            self.watch.mark("first step")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last step's log has been written by now; an evaluation would only follow."""
        if state.global_step == state.max_steps:
            self.watch.mark("last step")


def run_ours(work: Work) -> Run:
    """Train as `hf_transfer.pipeline` does."""
    backbone = dataclasses.replace(work.backbone, model=copy.deepcopy(work.backbone.model))
    _ = backbone.preprocessing, backbone.groups  # built with the backbone, as the bare loop gets them
    watch = Watch(work.device)
    watch.follow(backbone.model)
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        watch.mark("build")
        trainer = build_trainer(
            backbone,
            work.splits,
            build_schedule(work.recipe.strategy, [group.name for group in backbone.groups]),
            training={**work.training, **work.length},
            augment=work.recipe.augment,
            loss=work.recipe.loss,
            seed=work.recipe.seed,
            checkpoints=Path(folder, "checkpoints"),
            history=Path(folder, "history.csv"),
            tensorboard=Path(folder, "tensorboard"),
        )
        trainer.add_callback(WatchCallback(watch))
        watch.mark("train")
        result = trainer.train()
        watch.mark("done")
    return watch.run(trainer.state.global_step, result.training_loss)


def run_bare_tuned(work: Work) -> Run:
    """Train with the plain loop and our backward of depthwise convolutions; `_start` has made its memory be kept."""
    cpu_half = work.device.type == "cpu" and work.training.get("bf16")
    return run_bare(work, Float32DepthwiseBackward() if cpu_half else None)


def run_bare(work: Work, around_step: contextlib.AbstractContextManager | None = None) -> Run:
    """Train with a plain torch loop at the precision and memory layout of `run_ours`."""
    training, backbone, device, seed = work.training, work.backbone, work.device, work.recipe.seed
    channels_last = backbone.is_convolutional
    model = copy.deepcopy(backbone.model)
    watch = Watch(device)
    watch.follow(model)

    watch.mark("build")
    torch.manual_seed(seed)
    model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format).train()
    data = ImageDataset(
        work.splits.tables["train"], build_train_transform(work.recipe.augment.preset, backbone.preprocessing), seed=seed
    )
    loading = {
        "collate_fn": Collate(channels_last),
        "num_workers": training["dataloader_num_workers"],
        "pin_memory": device.type == "cuda",
    }
    batches = EpochBatches(data, Order(len(data), seed), work.batch_size)  # those of `ours`
    loader = DataLoader(data, batch_sampler=batches, **loading)
    finish = Finishing(backbone.preprocessing, channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training["learning_rate"], weight_decay=0.0, fused=True)
    warmup = math.ceil(training["warmup_steps"] * work.total_steps)
    scheduler = get_scheduler(training["lr_scheduler_type"], optimizer, warmup, work.total_steps)
    half = torch.bfloat16 if training.get("bf16") else torch.float32
    loss_sum = torch.zeros((), device=device)
    step = 0

    watch.mark("train")
    while step < work.total_steps:
        data.epoch = step // len(loader)
        for batch in loader:
            if step == 0:
                watch.mark("first step")
            pixels = finish({"pixel_values": batch["pixel_values"].to(device, non_blocking=True)})["pixel_values"]
            labels = batch["labels"].to(device, non_blocking=True)
            with torch.autocast(device.type, half, enabled=half is not torch.float32), around_step or contextlib.nullcontext():
                logits = model(pixel_values=pixels).logits
            loss = functional.cross_entropy(logits.float(), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            loss_sum += loss.detach()
            step += 1
            if step == work.total_steps:
                watch.mark("last step")
                break
        if work.epochs:
            validation = ImageDataset(work.splits.tables["validation"], backbone.preprocessing)
            loading["batch_size"] = training["per_device_eval_batch_size"]
            _validate(model, DataLoader(validation, **loading), device, half)
            with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, Path(folder, "checkpoint.pt"))
    watch.mark("done")
    return watch.run(step, loss_sum.item() / step)


@torch.no_grad()
def _validate(model: nn.Module, loader: DataLoader, device: torch.device, half: torch.dtype) -> float:
    """Return the accuracy over a loader, and leave the model training."""
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    for batch in loader:
        with torch.autocast(device.type, half, enabled=half is not torch.float32):
            logits = model(pixel_values=batch["pixel_values"].to(device, non_blocking=True)).logits
        correct += (logits.argmax(-1) == batch["labels"].to(device)).sum()
        count += len(logits)
    model.train()
    return correct.item() / count


def run_example(work: Work) -> Run:
    """Train as a user does who follows the transformers example: its pipeline of images, the Trainer's default arguments."""
    model = AutoModelForImageClassification.from_pretrained(work.saved)
    watch = Watch(work.device)
    watch.follow(model)
    with tempfile.TemporaryDirectory(dir=work.scratch) as folder:
        watch.mark("build")
        trainer = _example_trainer(model, work, folder)
        trainer.add_callback(WatchCallback(watch))
        watch.mark("train")
        result = trainer.train()
        watch.mark("done")
    return watch.run(trainer.state.global_step, result.training_loss)


def _example_trainer(model: nn.Module, work: Work, folder: str) -> Trainer:
    size = work.backbone.preprocessing.size
    normalize = Normalize(work.backbone.preprocessing.mean.tolist(), work.backbone.preprocessing.std.tolist())
    augmented = Compose([RandomResizedCrop(size), RandomHorizontalFlip(), ToTensor(), normalize])
    centred = Compose([Resize(size), CenterCrop(size), ToTensor(), normalize])
    each_epoch: dict[str, Any] = {}
    if work.epochs:  # the options of the example's own command
        each_epoch = {
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "save_total_limit": 3,
            "logging_strategy": "steps",
            "logging_steps": 10,
        }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder,
            remove_unused_columns=False,
            per_device_train_batch_size=work.batch_size,
            learning_rate=work.training["learning_rate"],
            seed=work.recipe.seed,
            report_to="none",
            disable_tqdm=True,
            **work.length,
            **each_epoch,
        ),
        data_collator=_example_collate,
        train_dataset=_example_dataset(work.splits.tables["train"], augmented),
        eval_dataset=_example_dataset(work.splits.tables["validation"], centred),
        compute_metrics=_example_accuracy,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _example_dataset(table: ImageTable, transform: Callable[[Image.Image], torch.Tensor]) -> datasets.Dataset:
    """Return the same rows as a `datasets` set that decodes and transforms on access."""
    images = table.images
    assert isinstance(images, StoredImages)
    rows = images.stored.select(table.rows).select_columns([images.column]).rename_column(images.column, "picture")
    rows = rows.cast_column("picture", datasets.Image()).add_column("target", table.labels)

    def apply(examples: dict[str, list]) -> dict[str, list]:
        examples["pixel_values"] = [transform(picture.convert("RGB")) for picture in examples["picture"]]
        return examples

    rows.set_transform(apply)
    return rows


def _example_collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([example["pixel_values"] for example in examples])
    return {"pixel_values": pixels, "labels": torch.tensor([example["target"] for example in examples])}


def _example_accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


VARIANTS: dict[str, Callable[[Work], Run]] = {
    "ours": run_ours,
    "bare": run_bare,
    "bare_tuned": run_bare_tuned,
    "example": run_example,
}


def main() -> None:
    options = _parser().parse_args()
    if torch.cuda.device_count() > 1:
        sys.exit("expected at most one GPU, since the stock Trainer would use them all; set CUDA_VISIBLE_DEVICES=0")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        if options.synthetic:
            synthesize(Path(folder, "images"), options.synthetic)
        length = f"{options.epochs} epochs with evaluation and checkpoints" if options.epochs else f"{options.steps} steps"
        print(f"{options.backbone}, {length}, batches of {options.batch_size}")
        try:
            runs, facts = _measure(options, Path(folder))
        except BrokenProcessPool:
            sys.exit("Without the packages of the demo extra: --synthetic 1200 for images, --random-weights for the network.")
    _check_equal_work(runs)
    by_total = bool(options.epochs)
    ratios = _ratios(runs, "total_seconds" if by_total else "steady_seconds")
    # The example decodes images in this process, the others in loader processes: its processor time says something else.
    comparable = {name: sample for name, sample in runs.items() if name != "example"}
    cpu_ratios = {} if by_total else _ratios(comparable, "cpu_seconds")
    _tell(runs, ratios, cpu_ratios, by_total=by_total)
    if options.json is not None:
        found = {name: [dataclasses.asdict(run) for run in sample] for name, sample in runs.items()}
        asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        content = {
            "machine": machine_facts() | facts,
            "options": asked,
            "runs": found,
            "ratios": ratios,
            "cpu_ratios": cpu_ratios,
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _measure(options: argparse.Namespace, folder: Path) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Return the runs of each variant, and facts about what they were given."""
    names = options.variants
    with contextlib.ExitStack() as stack:
        processes = {}
        for name in names:
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start, (options, folder / name, name))
            processes[name] = stack.enter_context(pool)
        facts = processes[names[0]].submit(_facts).result()
        print_facts(machine_facts() | facts)
        for name in names:
            processes[name].submit(_warm_up, name, options.warmup_steps).result()
        runs: dict[str, list[Run]] = {name: [] for name in names}
        for repeat in range(options.repeats):
            first = repeat % len(names)
            for name in names[first:] + names[:first]:
                run = processes[name].submit(_run, name).result()
                runs[name].append(run)
                speed = f"{run.images / run.steady_seconds:.1f} images/s, {run.total_seconds:.1f} s"
                print(f"  repeat {repeat + 1}, {name}: {speed}", file=sys.stderr, flush=True)
    return runs, facts


_WORK: list[Work] = []  # of this process


def _start(options: argparse.Namespace, folder: Path, name: str) -> None:
    """Prepare a variant's process; its loader processes start in the platform's own way."""
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    _quiet()
    register()
    folder.mkdir()
    _WORK.append(_prepare(options, folder))
    if name in ("ours", "bare_tuned") and _WORK[0].device.type == "cpu":
        keep_freed_memory()  # as the pipeline does


def _facts() -> dict[str, str]:
    (work,) = _WORK
    return {
        "device": device_name(work.device),
        "torch_threads": str(torch.get_num_threads()),
        "precision": "bf16" if work.training.get("bf16") else "fp32",
        "channels_last": str(work.backbone.is_convolutional),
        "loader_workers": str(work.training["dataloader_num_workers"]),
        "training_images": str(len(work.splits.tables["train"])),
    }


def _warm_up(name: str, steps: int) -> None:
    (work,) = _WORK
    VARIANTS[name](dataclasses.replace(work, steps=steps, epochs=None, training=_unwatched(work.training)))
    _collect()


def _run(name: str) -> Run:
    run = VARIANTS[name](_WORK[0])
    _collect()
    return run


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_equal_work(runs: dict[str, list[Run]]) -> None:
    """Stop when two runs did not train on the same number of images in the same number of steps."""
    done = {(run.steps, run.images): name for name, sample in runs.items() for run in sample}
    if len(done) > 1:
        sys.exit(f"the variants did not do equal work: {[(name, *amount) for amount, name in done.items()]} (steps, images)")


def _ratios(runs: dict[str, list[Run]], figure: str) -> dict[str, list[float]]:
    """Return how many times faster `ours` is than each other variant by a figure in seconds, repeat by repeat."""
    ours = runs.get("ours", [])
    return {
        name: [getattr(other, figure) / getattr(own, figure) for own, other in zip(ours, sample, strict=True)]
        for name, sample in runs.items()
        if ours and name != "ours"
    }


def _tell(
    runs: dict[str, list[Run]], ratios: dict[str, list[float]], cpu_ratios: dict[str, list[float]], *, by_total: bool
) -> None:
    rows = []
    for name, sample in runs.items():
        row = {"variant": name}
        if not by_total:
            row["images/s, steady"] = spread([run.images / run.steady_seconds for run in sample], ".1f")
            row["ms/step"] = f"{statistics.median(1000 * run.steady_seconds / run.steps for run in sample):.1f}"
            row["CPU ms/step"] = f"{statistics.median(1000 * run.cpu_seconds / run.steps for run in sample):.1f}"
        row["build + spin-up s"] = spread([run.setup_seconds + run.spin_up_seconds for run in sample])
        row["total s"] = spread([run.total_seconds for run in sample])
        row["images"] = str(sample[0].images)
        row["mean loss"] = f"{statistics.median(run.loss for run in sample):.4f}"
        row["computed in"] = sample[0].compute
        rows.append(row)
    print(f"median (min..max) of {len(next(iter(runs.values())))} repeats")
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if ratios and by_total:
        print_table(("speed", "by total seconds"), [(f"ours / {name}", spread(r, ".3f")) for name, r in ratios.items()])
    elif ratios:
        rates = [
            (
                f"ours / {name}",
                spread(r, ".3f"),
                f">= {GOALS[name]}" if name in GOALS else "",
                spread(cpu_ratios[name], ".3f") if name in cpu_ratios else "",
            )
            for name, r in ratios.items()
        ]
        print_table(("speed", "by steady images/s", "goal", "by CPU time"), rates)


def _prepare(options: argparse.Namespace, folder: Path) -> Work:
    """Read the recipe, the images and the network that every variant gets."""
    source = str(folder.parent / "images") if options.synthetic else "package:textile"
    raw = {
        "output_dir": str(folder / "run"),
        "data": {"source": source, "validation_fraction": 0.2, "test_fraction": 0.2},
        "model": {"backbone": options.backbone, "pretrained": not options.random_weights},
        "strategy": "full",
        "augment": {"preset": "basic"},
        "training": {
            "learning_rate": options.learning_rate,
            "per_device_train_batch_size": options.batch_size,
            "lr_scheduler_type": "linear",
            "disable_tqdm": True,
        },
    }
    if not options.epochs:
        raw["data"]["max_train_samples"] = options.steps * options.batch_size
        raw["training"]["eval_strategy"] = "no"
    recipe = parse_recipe(raw, source="the benchmark")
    training = training_defaults(recipe.training)
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
    backbone = build_backbone(recipe.model, splits.class_names, recipe.seed)
    backbone.save(folder / "model")
    return Work(
        recipe=recipe,
        training=training,
        splits=splits,
        backbone=backbone,
        saved=folder / "model",
        device=build_arguments(training, folder / "unused", recipe.seed).device,
        steps=None if options.epochs else options.steps,
        epochs=options.epochs,
        scratch=folder,
    )


def _unwatched(training: dict[str, Any]) -> dict[str, Any]:
    """Return the section without evaluation and checkpoints, for the warm-up."""
    return {**training, "eval_strategy": "no", "save_strategy": "no"}


def synthesize(root: Path, count: int) -> None:
    """Write `count` JPEGs of 250 x 250 in three class folders: smooth noise, with stripes of a direction for each class.

    Their size, and that of the files (about 20 kB), are those of `package:textile`, so decoding costs about the same.
    """
    noise = np.random.default_rng(0)
    ramp = np.arange(250) * (2 * np.pi / 12)
    stripes = {"none": np.zeros((250, 250)), "rows": np.sin(ramp)[:, None], "columns": np.sin(ramp)[None, :]}
    for index in range(count):
        name = list(stripes)[index % 3]
        coarse = Image.fromarray(noise.integers(60, 196, (16, 16, 3), dtype=np.uint8)).resize(
            (250, 250), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(coarse) + 20 * stripes[name][..., None] + noise.normal(0, 12, (250, 250, 1))
        path = root / name / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=80)


def _quiet() -> None:
    """Leave out the notes of the libraries, which come once for each Trainer."""
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="package:efficientnet_lite0", help="as in a recipe (package:efficientnet_lite0)")
    parser.add_argument("--random-weights", action="store_true", help="do not load pretrained weights: speed is the same")
    parser.add_argument("--batch-size", type=int, default=32, help="images of a step (default 32)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate (default 1e-3)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, default=30, help="optimizer steps of a run (default 30)")
    length.add_argument("--epochs", type=int, help="epochs of a run, evaluations and checkpoints included, instead of steps")
    parser.add_argument("--warmup-steps", type=int, default=3, help="steps each variant makes before anything is measured")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each variant (default 5)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="what to run (all)")
    parser.add_argument("--synthetic", type=int, metavar="N", default=0, help="generate N JPEGs instead of package:textile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single figure")
    return parser


if __name__ == "__main__":
    main()
