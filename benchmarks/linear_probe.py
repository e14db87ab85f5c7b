"""The linear probe on features that are computed once, beside a plain Trainer script with a frozen backbone; and its stages.

`probe`: `package:efficientnet_lite0` on the packaged textile images (recipes/textile_linear_probe.json), whole runs of a user:

- `cold`: `hf_transfer/run.py` on the recipe with an empty feature cache: every image goes through the backbone once, then 36
  heads and a few logistic regressions are fitted, one is chosen on validation, the model is saved, read back and scored;
- `warm`: the same command again, which finds every feature in the cache;
- `example`: what a user writes after transformers' image-classification example, all parameters but the head frozen: a
  `datasets` set with `set_transform`, RandomResizedCrop and flip, a model from `AutoModelForImageClassification`, the stock
  `Trainer` for 10 epochs at learning rate 1e-3, an evaluation and a checkpoint each epoch, the best model scored on test.

Why it is fair. Both sides start from the same weights and the same checked splits (`build_splits` of the same recipe, whose
time both pay) and stop when the test accuracy is known; the program stops when they scored different numbers of test images, or
when `cold` found or `warm` missed a feature. Each run is a fresh process, one at a time, in an order that alternates with each
repeat, after one small unmeasured run that brings the libraries into the file cache. A ratio is formed within each repeat. The
example takes minutes an epoch, so it may run in the first repeats only (--example-repeats): a later repeat is set against the
last run of the example. Where it runs for fewer epochs than 10 (--example-epochs), the seconds of its training are scaled to
10, and the tables say so; its accuracy is then that of the fewer epochs. The example resizes the short side to the network's
input and takes the middle, as in finetune.py, where the recipe's own `model.crop_pct` is left out on our side (the
checkpoint's own crop holds) unless --recipe-crop is given. Its backbone is in training mode, as the Trainer puts it, so its
batch statistics are those of the batch: that is what such a script does.

`whole process` is by this program's clock, start of Python and imports included. `after start` is the cost.total_seconds of
our metrics, and the example's seconds after its imports. `head` is from the features in memory to the chosen head.

`extraction`: images/s of `extract` over the training images into a fresh store, beside the bound: the seconds of the bare
forward pass on images that are already decoded, each batch its own tensor, plus those of the bare decoding loop over the same
batches (their maximum where loader processes decode). What is missing to the bound is writing, hashing and reading back. With
--compile the compiled pass, too; compiling is done before anything is timed.

`memory`: peak anonymous memory of the extraction of N and of 100 N synthetic images, each in a process of its own, which keeps
freed memory as the pipeline does; a thread reads RssAnon every 20 ms, so that files in the page cache do not count. What was
already there before the stage is part of the peak and printed beside it. Where there is no RssAnon, VmHWM or the peak of the
resident memory is taken, and the table says so.

`processes`: images/s of extraction in two processes of one thread each, started by `accelerate launch`, beside one process of
one thread, each with a fresh cache, after a few images that are not timed; only the extraction is timed, in turn. Beside it
the bare loop of the same processes: decoding and forward pass of each one's own images, nothing stored, sent or waited for
until the end. What the bare loop loses in two processes, the machine's cores take from one another.

Run from the repository root: python benchmarks/linear_probe.py
Needs the packages of the `demo` extra. Nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from finetune import _example_accuracy, _example_collate, _example_dataset, _quiet
from PIL import Image
from printing import machine_facts, print_facts, print_table, spread
from torchvision.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from hf_transfer import register
from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.build import build_splits
from hf_transfer.data.dataset import ImageDataset, own_part
from hf_transfer.features.extraction import Extractor, Job, _batches, extract, view_ids
from hf_transfer.features.frozen import Request, extract_splits
from hf_transfer.features.space import feature_space, weights_digest
from hf_transfer.features.store import FeatureStore
from hf_transfer.metrics import wilson_interval
from hf_transfer.recipe import load_recipe, parse_recipe
from hf_transfer.training.arguments import autocast_dtype, computes_on_cpu, feature_defaults
from hf_transfer.training.hardware import device_name, keep_freed_memory, loader_workers, peak_memory_mb

_ENVIRONMENT = dict(os.environ)  # what every process is given, whatever this one changes for itself
ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "textile_linear_probe.json"
CLAIMED_EPOCHS = 10
MEMORY_FACTOR = 100
GOALS = {"after start": 30.0, "whole process": 20.0, "head": 300.0, "extraction": 0.9, "memory": 200.0, "processes": 1.8}


@dataclasses.dataclass(frozen=True)
class Run:
    """One whole run of a probe.

    Args:
        process_seconds: of the whole process, by the clock of the one that started it.
        inner_seconds: after the process had started.
        head_seconds: fitting and choosing the head on features; None for the example.
        train_seconds: of the example's training part, as it ran; None for ours.
        accuracy: on test.
        interval: of the accuracy, Wilson, 95 %.
        count: test images.
        computed: how many features were not in the cache; None for the example.
    """

    process_seconds: float
    inner_seconds: float
    head_seconds: float | None
    train_seconds: float | None
    accuracy: float
    interval: tuple[float, float]
    count: int
    computed: int | None


def measure_probe(options: argparse.Namespace, scratch: Path) -> dict[str, list[Run]]:
    """Run every side in its own processes, in turn, and print what was found."""
    recipe = load_recipe(RECIPE, _overrides(options))
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
    backbone = build_backbone(recipe.model, splits.class_names, recipe.seed)
    saved = scratch / "model"
    backbone.save(saved)
    facts = {
        "size": backbone.preprocessing.size,
        "mean": backbone.preprocessing.mean.flatten().tolist(),
        "std": backbone.preprocessing.std.flatten().tolist(),
        "heads": list(backbone.heads),
    }
    (scratch / "example.json").write_text(json.dumps(facts), encoding="utf-8")

    few = ["data.max_train_samples=32", "data.max_validation_samples=32", "data.max_test_samples=32"]
    _run_ours(options, scratch / "unmeasured", scratch / "unmeasured-cache", few)
    runs: dict[str, list[Run]] = {"cold": [], "warm": [], "example": []}

    def ours(repeat: int) -> None:
        cache = scratch / f"cache-{repeat}"
        for name in ("cold", "warm"):
            runs[name].append(_run_ours(options, scratch / f"{name}-{repeat}", cache))
            _progress(f"probe {repeat + 1}/{options.repeats}: {name} {runs[name][-1].process_seconds:.1f} s")
        shutil.rmtree(cache)

    def example(repeat: int) -> None:
        if repeat < options.example_repeats:
            runs["example"].append(_run_example(options, scratch, repeat))
            _progress(
                f"probe {repeat + 1}/{options.repeats}: example {runs['example'][-1].process_seconds:.1f} s (to 10 epochs)"
            )

    for repeat in range(options.repeats):
        for side in (ours, example) if repeat % 2 == 0 else (example, ours):
            side(repeat)
    _check_equal_work(runs)
    _tell_probe(runs, options.example_epochs)
    return runs


def _run_ours(options: argparse.Namespace, output: Path, cache: Path, more: Sequence[str] = ()) -> Run:
    command = [sys.executable, str(ROOT / "hf_transfer" / "run.py"), str(RECIPE), f"output_dir={output}", "--json"]
    seconds, printed = _process([*command, *_overrides(options), *more], HF_TRANSFER_CACHE=str(cache))
    metrics = json.loads(printed)["metrics"]
    probe = json.loads((output / "probe.json").read_text(encoding="utf-8"))
    test = metrics["test"]
    return Run(
        process_seconds=seconds,
        inner_seconds=metrics["cost"]["total_seconds"],
        head_seconds=probe["head_seconds"],
        train_seconds=None,
        accuracy=test["accuracy"],
        interval=tuple(test["accuracy_ci95"]),
        count=test["n"],
        computed=probe["features"]["computed"],
    )


def _run_example(options: argparse.Namespace, scratch: Path, repeat: int) -> Run:
    """Run the example and return its seconds as those of 10 epochs."""
    command = [sys.executable, str(Path(__file__).resolve()), "--run-example", str(options.example_epochs)]
    seconds, printed = _process([*command, "--folder", str(scratch), "--seed", str(repeat), *_passed_on(options)])
    found = _last_json(printed)
    missing = found["train_seconds"] * (CLAIMED_EPOCHS / options.example_epochs - 1)
    return Run(
        process_seconds=seconds + missing,
        inner_seconds=found["seconds"] + missing,
        head_seconds=None,
        train_seconds=found["train_seconds"],
        accuracy=found["accuracy"],
        interval=wilson_interval(round(found["accuracy"] * found["n"]), found["n"]),
        count=found["n"],
        computed=None,
    )


def run_example(options: argparse.Namespace) -> dict[str, Any]:
    """Train and score as a user does who follows the transformers example with a frozen backbone; this process does no more."""
    began = time.perf_counter()
    _quiet()
    register()
    folder: Path = options.folder
    facts = json.loads((folder / "example.json").read_text(encoding="utf-8"))
    recipe = load_recipe(RECIPE, _overrides(options))
    tables = build_splits(recipe.data, recipe.evaluation.splits, training=True).tables
    size = tuple(facts["size"]) if isinstance(facts["size"], list) else facts["size"]
    normalize = Normalize(facts["mean"], facts["std"])
    augmented = Compose([RandomResizedCrop(size), RandomHorizontalFlip(), ToTensor(), normalize])
    centred = Compose([Resize(size), CenterCrop(size), ToTensor(), normalize])
    model = AutoModelForImageClassification.from_pretrained(folder / "model")
    model.requires_grad_(False)
    for head in facts["heads"]:
        model.get_submodule(head).requires_grad_(True)
    with tempfile.TemporaryDirectory(dir=folder) as output:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=output,
                remove_unused_columns=False,
                learning_rate=1e-3,
                num_train_epochs=options.run_example,
                per_device_train_batch_size=32,
                per_device_eval_batch_size=32,
                eval_strategy="epoch",
                save_strategy="epoch",
                load_best_model_at_end=True,
                metric_for_best_model="accuracy",
                report_to="none",
                disable_tqdm=True,
                seed=options.seed,
            ),
            data_collator=_example_collate,
            train_dataset=_example_dataset(tables["train"], augmented),
            eval_dataset=_example_dataset(tables["validation"], centred),
            compute_metrics=_example_accuracy,
        )
        training = time.perf_counter()
        trainer.train()
        trained = time.perf_counter()
        accuracy = trainer.evaluate(_example_dataset(tables["test"], centred))["eval_accuracy"]
        ended = time.perf_counter()
    return {"seconds": ended - began, "train_seconds": trained - training, "accuracy": accuracy, "n": len(tables["test"])}


def _check_equal_work(runs: dict[str, list[Run]]) -> None:
    """Stop when the sides scored different numbers of images, or when a cache was not what its name says."""
    counts = {name: sorted({run.count for run in sample}) for name, sample in runs.items() if sample}
    if len({tuple(found) for found in counts.values()}) > 1:
        sys.exit(f"the sides scored different numbers of test images: {counts}")
    if not all(run.computed for run in runs["cold"]) or any(run.computed for run in runs["warm"]):
        computed = {name: [run.computed for run in runs[name]] for name in ("cold", "warm")}
        sys.exit(f"expected no cached feature in cold runs and nothing else in warm runs; features computed: {computed}")


def probe_ratios(runs: dict[str, list[Run]]) -> dict[str, list[float]]:
    """Return how many times as long the example takes, repeat by repeat; repeats without one of their own take its last."""
    if not runs["example"]:
        return {}
    beside = [runs["example"][min(repeat, len(runs["example"]) - 1)] for repeat in range(len(runs["cold"]))]
    return {
        "after start": [e.inner_seconds / r.inner_seconds for e, r in zip(beside, runs["cold"], strict=True)],
        "whole process": [e.process_seconds / r.process_seconds for e, r in zip(beside, runs["cold"], strict=True)],
        "head": [e.inner_seconds / (r.head_seconds or np.nan) for e, r in zip(beside, runs["warm"], strict=True)],
    }


def _tell_probe(runs: dict[str, list[Run]], epochs: int) -> None:
    scaled = f"scaled from {epochs} epoch{'s' if epochs > 1 else ''}" if epochs != CLAIMED_EPOCHS else ""
    example = f"example, {CLAIMED_EPOCHS} epochs" + (f" ({scaled})" if scaled else "")
    rows = []
    for name, sample in runs.items():
        if sample:
            middle = sorted(sample, key=lambda run: run.accuracy)[(len(sample) - 1) // 2]
            low, high = middle.interval
            heads = [run.head_seconds for run in sample if run.head_seconds is not None]
            rows.append(
                (
                    example if name == "example" else name,
                    str(len(sample)),
                    spread([run.process_seconds for run in sample]),
                    spread([run.inner_seconds for run in sample]),
                    spread(heads, ".3f") if heads else "",
                    f"{middle.accuracy:.4f} [{low:.4f}, {high:.4f}] n={middle.count}",
                )
            )
    print("probe: seconds, median (min..max); test accuracy of the median run [95 % Wilson interval]")
    if scaled:
        print(f"the example ran {epochs} of {CLAIMED_EPOCHS} epochs: seconds {scaled}, accuracy after {epochs}")
    print_table(("run", "runs", "whole process", "after start", "head", "test accuracy"), rows)
    ratios = probe_ratios(runs)
    if not ratios:
        return
    if len(runs["example"]) < len(runs["cold"]):
        print(
            f"the example ran in {len(runs['example'])} of {len(runs['cold'])} repeats; the others are set against its last run"
        )
    names = {
        "after start": "example / cold, after start",
        "whole process": "example / cold, whole process",
        "head": "example / warm's head alone",
    }
    suffix = f" ({scaled})" if scaled else ""
    print_table(
        ("ratio of seconds", "median (min..max)", "goal"),
        [(names[name] + suffix, spread(found, ".1f"), f">= {GOALS[name]:g}") for name, found in ratios.items()],
    )


@dataclasses.dataclass(frozen=True)
class CompiledExtractor(Extractor):
    """An extractor whose forward pass has been compiled before, so that compiling is not timed.

    Args:
        compute: the compiled pass.
    """

    compute: Callable[[torch.Tensor], torch.Tensor] | None = None

    @contextlib.contextmanager
    def ready(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """Yield the pass."""
        if self.compute is None:
            raise ValueError("compute: expected a compiled forward pass")
        yield self.compute


def measure_extraction(options: argparse.Namespace, scratch: Path) -> dict[str, dict[str, list[float]]]:
    """Time `extract`, the bare forward pass and the bare decoding loop in turn, and print images/s beside the bound."""
    use_cpu = computes_on_cpu({})
    if use_cpu:
        keep_freed_memory()
    device = PartialState(cpu=use_cpu).device
    recipe = load_recipe(RECIPE, _overrides(options))
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
    table = splits.tables["train"]
    backbone = build_backbone(recipe.model, splits.class_names, recipe.seed)
    weights = weights_digest(backbone.model, backbone.heads)
    data, ids, workers = ImageDataset(table, backbone.preprocessing), view_ids(table, None), loader_workers(use_cpu)
    if len(np.unique(ids)) != len(ids):
        sys.exit("the training images repeat, so that extract would compute fewer than the loops beside it")
    indices = np.arange(len(table))
    with contextlib.ExitStack() as stack:
        extractors = {}
        for compiled in (False, True) if options.compile else (False,):
            for name, autocast in (("bf16", torch.bfloat16), ("float32", None)):
                own = dataclasses.replace(backbone, model=copy.deepcopy(backbone.model))
                extractor = Extractor(own, device, autocast, compiled, workers)
                if compiled:
                    compute = stack.enter_context(extractor.ready())
                    extractor = CompiledExtractor(own, device, autocast, compiled, workers, compute)
                extractors[f"{name}, compiled" if compiled else name] = extractor
        decoded = [pixels for pixels, _ in _batches(next(iter(extractors.values())), data, indices)]

        def forward(extractor: Extractor) -> float:
            with extractor.ready() as compute:
                began = time.perf_counter()
                for pixels in decoded:
                    compute(pixels)
                return time.perf_counter() - began

        def decode(extractor: Extractor) -> float:
            began = time.perf_counter()
            for _ in _batches(extractor, data, indices):
                pass
            return time.perf_counter() - began

        def whole(extractor: Extractor, few: int | None = None) -> float:
            dtype = extractor.autocast or torch.float32
            space = feature_space(backbone, weights=weights, device=device, dtype=dtype, compiled=extractor.compiled)
            with tempfile.TemporaryDirectory(dir=scratch) as root:
                folder = FeatureStore(Path(root)).folder(space)
                began = time.perf_counter()
                with extractor.ready() as compute:
                    (found,) = extract([Job(extractor, compute, folder, data, ids[:few])])
                seconds = time.perf_counter() - began
            if found.computed != len(ids[:few]):
                sys.exit(f"extract computed {found.computed} of {len(ids[:few])} features of a fresh store")
            return seconds

        loops: dict[str, Callable[[Extractor], float]] = {"forward": forward, "decode": decode, "extract": whole}
        seconds: dict[str, dict[str, list[float]]] = {name: {loop: [] for loop in loops} for name in extractors}
        for name, extractor in extractors.items():
            began = time.perf_counter()
            whole(extractor, min(len(table), 2 * extractor.batch_size))
            forward(extractor)
            _progress(f"extraction: {name} warmed up in {time.perf_counter() - began:.1f} s")
        order = [(name, loop) for name in extractors for loop in loops]
        for repeat in range(options.repeats):
            shift = repeat % len(order)
            for name, loop in order[shift:] + order[:shift]:
                seconds[name][loop].append(loops[loop](extractors[name]))
            _progress(f"extraction {repeat + 1}/{options.repeats}")
    batch_size = next(iter(extractors.values())).batch_size
    print(
        f"extraction: {len(table)} images, batches of {batch_size}, {device_name(device)}, {workers} loader processes; "
        f"images/s, median (min..max) of {options.repeats} repeats"
    )
    rows = []
    for name, found in seconds.items():
        bounds = [
            max(f, d) if workers else f + d for f, d in zip(found["forward"], found["decode"], strict=True)
        ]  # seconds of the same images
        rates = [spread([len(table) / s for s in found[loop]], ".1f") for loop in loops]
        bound = spread([len(table) / s for s in bounds], ".1f")
        ratio = spread([b / s for b, s in zip(bounds, found["extract"], strict=True)], ".3f")
        rows.append((name, *rates, bound, ratio, f">= {GOALS['extraction']:g}"))
    print_table(("computed in", *loops, "bound", "extract / bound", "goal"), rows)
    return seconds


def measure_memory(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Extract few and many synthetic images, each in a process of its own, and print the peaks."""
    counts = (options.memory_images, MEMORY_FACTOR * options.memory_images)
    found: list[dict[str, Any]] = []
    for count in counts:
        began = time.perf_counter()
        write_images(scratch / f"images-{count}", count)
        _progress(f"memory: wrote {count} images in {time.perf_counter() - began:.1f} s")
    for repeat in range(options.memory_repeats):
        for count in counts if repeat % 2 == 0 else reversed(counts):
            command = [sys.executable, str(Path(__file__).resolve()), "--run-memory", str(scratch / f"images-{count}")]
            found.append(_last_json(_process(command)[1]))
            if found[-1]["images"] != count:
                sys.exit(f"expected {count} features to be computed, found {found[-1]['images']}")
            _progress(f"memory {repeat + 1}/{options.memory_repeats}: {count} images in {found[-1]['seconds']:.1f} s")
    samples = {count: [entry for entry in found if entry["images"] == count] for count in counts}
    print(f"memory: {found[0]['measure']} of the extraction stage, MB, median (min..max) of {options.memory_repeats}")
    print_table(
        ("images", "before the stage", "peak", "seconds"),
        [
            (str(count), *(spread([e[key] for e in s], ".1f") for key in ("before", "peak", "seconds")))
            for count, s in samples.items()
        ],
    )
    few, many = samples.values()
    difference = spread([m["peak"] - f["peak"] for f, m in zip(few, many, strict=True)], ".1f")
    print(f"peak with {MEMORY_FACTOR} times the images: + {difference} MB (goal <= {GOALS['memory']:g})\n", flush=True)
    return found


def write_images(root: Path, count: int) -> None:
    """Write `count` JPEGs of 32 x 32 in two class folders, quickly: a few images, told apart by bytes after their end."""
    noise = np.random.default_rng(0)
    encoded = []
    for number in range(8):
        pixels = noise.integers(60, 196, (32, 32, 3), dtype=np.uint8)
        pixels[:: 2 + number % 2] //= 2
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
        encoded.append(buffer.getvalue())
    for name in ("even", "odd"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        (root / ("odd" if index % 2 else "even") / f"{index:07d}.jpg").write_bytes(encoded[index % 8] + b"%07d" % index)


class MemoryWatch:
    """The peak of this process's anonymous memory inside a `with` block, read by a thread every 20 ms."""

    def __init__(self) -> None:
        self.measure = "RssAnon" if _status_mb("RssAnon") is not None else "VmHWM" if _status_mb("VmHWM") else "peak resident"
        self.before = self.peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, self._now())

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self._now())

    def _now(self) -> float:
        found = _status_mb(self.measure)
        return peak_memory_mb(torch.device("cpu")) if found is None else found


def _status_mb(field: str) -> float | None:
    """Return a field of /proc/self/status in MB, None where there is none."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def run_memory(folder: Path) -> dict[str, Any]:
    """Extract the images of a folder, and return the peak of that stage; this process does no more."""
    _quiet()
    keep_freed_memory()
    state = PartialState(cpu=True)
    recipe = parse_recipe(
        {
            "output_dir": "unused",
            "data": {"source": str(folder)},
            "model": {"backbone": "timm:test_resnet", "pretrained": False},
        }
    )
    splits = build_splits(recipe.data, ["test"], training=False)
    backbone = build_backbone(recipe.model, splits.class_names, 0)
    with tempfile.TemporaryDirectory(dir=folder.parent) as root, MemoryWatch() as watch:
        asked = Request(
            backbone,
            splits.tables,
            fast=list(splits.tables),
            exact=[],
            device=state.device,
            autocast=autocast_dtype(feature_defaults({"use_cpu": True})),
            compile_mode="never",
        )
        features = extract_splits(asked, FeatureStore(Path(root)))
    return {
        "images": features.computed,
        "before": watch.before,
        "peak": watch.peak,
        "seconds": features.seconds,
        "measure": watch.measure,
    }


def measure_processes(options: argparse.Namespace, scratch: Path) -> dict[str, list[float]]:
    """Extract in one process and in two, in turn, and print images/s."""
    script = [str(Path(__file__).resolve()), "--run-extraction", *_passed_on(options)]
    configuration = str(ROOT / "accelerate_configs" / "cpu_2proc.yaml")
    rates: dict[str, list[float]] = {"one": [], "two": [], "one, bare": [], "two, bare": []}
    images = 0
    for repeat in range(options.repeats):
        for name in ("one", "two") if repeat % 2 == 0 else ("two", "one"):
            launcher = [sys.executable]
            if name == "two":
                launcher += ["-m", "accelerate.commands.launch", "--config_file", configuration]
                launcher += ["--main_process_port", str(_free_port())]
            cache = scratch / f"processes-{name}-{repeat}"
            _, printed = _process([*launcher, *script, "--folder", str(cache)], OMP_NUM_THREADS="1")
            found = _last_json(printed)
            if found["processes"] != (2 if name == "two" else 1) or found["computed"] != found["images"]:
                sys.exit(f"expected {name} process and no cached feature, found {found}")
            images = found["images"]
            rates[name].append(images / found["seconds"])
            rates[f"{name}, bare"].append(images / found["bare_seconds"])
            _progress(f"processes {repeat + 1}/{options.repeats}: {name} {rates[name][-1]:.1f} images/s")
    print(f"processes: {images} images, one thread each; images/s, median (min..max) of {options.repeats} repeats")
    print_table(("processes", "images/s"), [(name, spread(sample, ".1f")) for name, sample in rates.items()])
    ratio = spread([two / one for one, two in zip(rates["one"], rates["two"], strict=True)])
    bare = spread([two / one for one, two in zip(rates["one, bare"], rates["two, bare"], strict=True)])
    print(f"two / one: {ratio} (goal >= {GOALS['processes']:g}); of the bare loop: {bare}\n", flush=True)
    return rates


def run_extraction(options: argparse.Namespace) -> dict[str, Any] | None:
    """Extract the training images with one thread a process, and return the seconds of that on the main process."""
    _quiet()
    torch.set_num_threads(1)
    keep_freed_memory()
    state = PartialState(cpu=True)
    recipe = load_recipe(RECIPE, _overrides(options))
    splits = build_splits(recipe.data, recipe.evaluation.splits, training=True)
    backbone = build_backbone(recipe.model, splits.class_names, recipe.seed)
    table = splits.tables["train"]
    given: dict[str, Any] = {
        "fast": ["train"],
        "exact": [],
        "device": state.device,
        "autocast": autocast_dtype(feature_defaults({"use_cpu": True})),
        "compile_mode": "never",
    }
    few = table.select(np.arange(min(len(table), 64)))
    extract_splits(Request(backbone, {"train": few}, **given), FeatureStore(options.folder / "unmeasured"))
    state.wait_for_everyone()
    features = extract_splits(Request(backbone, {"train": table}, **given), FeatureStore(options.folder / "measured"))
    extractor = Extractor(backbone, state.device, given["autocast"], compiled=False, workers=0)
    own = own_part(len(table), state.process_index, state.num_processes)
    state.wait_for_everyone()
    began = time.perf_counter()
    with extractor.ready() as compute:
        for pixels, _ in _batches(extractor, ImageDataset(table, backbone.preprocessing), np.asarray(own)):
            compute(pixels)
    state.wait_for_everyone()
    bare_seconds = time.perf_counter() - began
    if not state.is_main_process:
        return None
    return {
        "seconds": features.seconds,
        "bare_seconds": bare_seconds,
        "computed": features.computed,
        "images": len(table),
        "processes": state.num_processes,
        "threads": torch.get_num_threads(),
    }


PARTS: dict[str, Callable[[argparse.Namespace, Path], Any]] = {
    "probe": measure_probe,
    "extraction": measure_extraction,
    "memory": measure_memory,
    "processes": measure_processes,
}


def main() -> None:
    options = _parser().parse_args()
    if torch.cuda.device_count() > 1:
        sys.exit("expected at most one GPU, since the stock Trainer would use them all; set CUDA_VISIBLE_DEVICES=0")
    if options.run_example is not None:
        print(json.dumps(run_example(options)))
        return
    if options.run_memory is not None:
        print(json.dumps(run_memory(options.run_memory)))
        return
    if options.run_extraction:
        found = run_extraction(options)
        if found is not None:
            print(json.dumps(found))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        return

    _quiet()
    register()
    facts = machine_facts() | {"torch_threads": str(torch.get_num_threads())}
    print_facts(facts)
    content: dict[str, Any] = {"machine": facts, "settings": {name: str(value) for name, value in vars(options).items()}}
    for name in dict.fromkeys(options.parts):
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            content[name] = PARTS[name](options, Path(scratch))
        if options.json is not None:  # after each part: the whole takes long
            options.json.write_text(json.dumps(content, indent=2, default=dataclasses.asdict) + "\n", encoding="utf-8")


def _overrides(options: argparse.Namespace) -> list[str]:
    """Return what both sides change in the recipe."""
    changed = []
    if not options.recipe_crop and "crop_pct" in json.loads(RECIPE.read_text(encoding="utf-8"))["model"]:
        changed.append("model.crop_pct=null")
    if options.images:
        changed += [f"data.max_{split}_samples={options.images}" for split in ("train", "validation", "test")]
    return changed


def _passed_on(options: argparse.Namespace) -> list[str]:
    """Return the options that a process of this script needs to see the same images."""
    images = ["--images", str(options.images)] if options.images else []
    return images + (["--recipe-crop"] if options.recipe_crop else [])


def _process(command: list[str], **environment: str) -> tuple[float, str]:
    """Run a command in the repository root; return its wall-clock seconds and what it printed. Stop when it fails."""
    began = time.perf_counter()
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env=_ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if finished.returncode != 0:
        sys.exit(f"{' '.join(command)} returned {finished.returncode}:\n{finished.stderr[-4000:]}")
    return seconds, finished.stdout


def _last_json(printed: str) -> dict[str, Any]:
    """Return the last line that is a JSON object; launchers and libraries may print before it."""
    return json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure (all)")
    parser.add_argument("--repeats", type=_positive, default=5, help="measured runs of each side (default 5)")
    parser.add_argument("--example-epochs", type=_positive, default=CLAIMED_EPOCHS, help="epochs of the example (default 10)")
    parser.add_argument("--example-repeats", type=int, default=1, help="in how many repeats the example runs (default 1)")
    parser.add_argument(
        "--images", type=_positive, metavar="N", help="at most N textile images of each split, for a quick look"
    )
    parser.add_argument("--recipe-crop", action="store_true", help="keep the recipe's model.crop_pct on our side")
    parser.add_argument("--compile", action="store_true", help="extraction: the compiled forward pass, too")
    parser.add_argument("--memory-images", type=_positive, metavar="N", default=500, help="memory: N and 100 N (default 500)")
    parser.add_argument("--memory-repeats", type=_positive, default=1, help="memory: runs of each size (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single figure")
    # What this program passes to the processes it starts.
    parser.add_argument("--run-example", type=int, metavar="EPOCHS", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--run-memory", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--run-extraction", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("expected a number from 1 on")
    return int(text)


if __name__ == "__main__":
    main()
