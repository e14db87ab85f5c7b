"""What keeping freed memory brings on a CPU: the same evaluation in a process that keeps it and in one that returns it.

Both score the same synthetic images with the same network through `predict_logits` (float32, as every final figure is
computed); one process has called `keep_freed_memory`, as the pipeline does, the other has not. They work in turn, in an order
that alternates, after a warm-up, and must return the same logits to the last bit. Decoding is part of what is timed.

Run from the repository root: python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import transformers
from finetune import synthesize
from printing import machine_facts, print_facts, print_table, spread

from hf_transfer import register
from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.build import build_splits
from hf_transfer.evaluation.inference import predict_logits
from hf_transfer.recipe import parse_recipe
from hf_transfer.training.hardware import keep_freed_memory, peak_memory_mb

_PREPARED: list = []


def _start(folder: Path, backbone: str, keep: bool) -> None:
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    transformers.utils.logging.set_verbosity_error()
    register()
    if keep:
        keep_freed_memory()
    recipe = parse_recipe(
        {"output_dir": "unused", "data": {"source": str(folder)}, "model": {"backbone": backbone, "pretrained": False}}
    )
    splits = build_splits(recipe.data, ["test"], training=False)
    _PREPARED.extend([build_backbone(recipe.model, splits.class_names, 0), splits.tables["test"]])


def _score(batch_size: int) -> tuple[float, float, np.ndarray]:
    """Return seconds, peak memory in MB, and the logits."""
    backbone, table = _PREPARED
    began = time.perf_counter()
    logits = predict_logits(
        backbone.model,
        backbone.preprocessing,
        table,
        device=torch.device("cpu"),
        batch_size=batch_size,
        workers=0,
        channels_last=backbone.is_convolutional,
    )
    return time.perf_counter() - began, peak_memory_mb(torch.device("cpu")), logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="package:efficientnet_lite0", help="built with random weights")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    names = ["kept", "returned"]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch, "images")
        synthesize(folder, options.images)
        context = multiprocessing.get_context("spawn")
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, context, _start, (folder, options.backbone, name == "kept")))
            for name in names
        }
        for pool in pools.values():
            pool.submit(_score, options.batch_size).result()
        seconds: dict[str, list[float]] = {name: [] for name in names}
        peaks: dict[str, float] = {}
        results: dict[str, np.ndarray] = {}
        for repeat in range(options.repeats):
            for name in names if repeat % 2 == 0 else reversed(names):
                took, peaks[name], results[name] = pools[name].submit(_score, options.batch_size).result()
                seconds[name].append(took)
    if not np.array_equal(results["kept"], results["returned"]):
        sys.exit("the two processes did not compute the same logits")
    print_facts(machine_facts())
    print(f"{options.backbone}, {options.images} images, batches of {options.batch_size}, {options.repeats} repeats")
    rows = [(name, spread([options.images / took for took in seconds[name]], ".1f"), f"{peaks[name]:.0f}") for name in names]
    print_table(("freed memory is", "images/s", "peak MB"), rows)
    ratios = [slow / fast for fast, slow in zip(seconds["kept"], seconds["returned"], strict=True)]
    print(f"kept / returned: {spread(ratios)} (median {statistics.median(ratios):.2f})")


if __name__ == "__main__":
    main()
