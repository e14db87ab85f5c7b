"""What `measure_speed` says of a model, beside a bare timing loop of the same model.

Two networks in float32: `package:efficientnet_lite0` with its weights, and a ViT-S/16 of transformers with random weights.

- `ours`: `hf_transfer.evaluation.speed.measure_speed`, whose figures `hf-transfer evaluate` reports;
- `bare`: the same module, batch and memory layout in a loop of `perf_counter`, the call, `perf_counter`; the latency is the
  median of batch 1, the throughput the batch size divided by the median of a batch.

Why it is fair: both time one model object in one process, for the same number of seconds, in turn and in an order that
alternates, after a warm-up; ratios are formed within each repeat. First the batch size is chosen by a measurement as users get
it, whose figures and duration are printed too. Nothing is asserted about time.

Run from the repository root, alone on the machine: python benchmarks/latency.py
Needs the packages of the `demo` extra.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from printing import machine_facts, print_facts, print_table, spread
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.evaluation.speed import measure_speed
from hf_transfer.recipe.schema import Model
from hf_transfer.training.hardware import keep_freed_memory

CPU = torch.device("cpu")
GOAL = "goal 0.95..1.05"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default 10)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single figure")
    options = parser.parse_args()
    keep_freed_memory()
    facts = machine_facts() | {"torch_threads": str(torch.get_num_threads())}
    print_facts(facts)
    results = {name: compare(name, backbone, options) for name, backbone in backbones().items()}
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts, "results": results}, indent=2) + "\n", encoding="utf-8")


def backbones() -> dict[str, Backbone]:
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    vit = ViTForImageClassification(config)
    return {
        "package:efficientnet_lite0": load_as_it_is(Model(backbone="package:efficientnet_lite0")),
        "ViT-S/16, random weights": Backbone(vit, ViTImageProcessor(), ("classifier",), Provenance("random")),
    }


def compare(name: str, backbone: Backbone, options: argparse.Namespace) -> dict[str, object]:
    """Print and return what one network's measurements say."""
    began = time.perf_counter()
    chosen = measure_speed(backbone, device=CPU, seconds=options.seconds)
    took = time.perf_counter() - began
    figures: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
    for repeat in range(options.repeats):
        for who in ("ours", "bare") if repeat % 2 == 0 else ("bare", "ours"):
            if who == "ours":
                speed = measure_speed(backbone, device=CPU, batch_sizes=[chosen.batch_size], seconds=options.seconds)
                figures[who].append((speed.latency_ms, speed.images_per_second))
            else:
                figures[who].append(bare(backbone, chosen.batch_size, options.seconds))
        print(f"{name}: repeat {repeat + 1}/{options.repeats}", file=sys.stderr, flush=True)
    tried = ", ".join(f"{size}: {rate:.1f}" for size, rate in chosen.throughput)
    print(
        f"{name}: {(chosen.macs or 0) / 1e9:.3f} GMACs, {chosen.parameters / 1e6:.2f} M parameters; measured in {took:.1f} s:\n"
        f"  {chosen.latency_ms:.2f} ms (p95 {chosen.latency_p95_ms:.2f}, {chosen.latency_runs} runs), peak "
        f"{chosen.peak_memory_mb:.0f} MB, {chosen.images_per_second:.1f} images/s at batch {chosen.batch_size}; images/s by "
        f"batch: {tried}"
    )
    latency, throughput = ({who: [pair[place] for pair in pairs] for who, pairs in figures.items()} for place in (0, 1))
    print_table(
        ("", "latency, ms", f"images/s at batch {chosen.batch_size}"),
        [(who, spread(latency[who]), spread(throughput[who], ".1f")) for who in figures],
    )
    for what, found in (("latency", latency), ("throughput", throughput)):
        ratios = [ours / other for ours, other in zip(found["ours"], found["bare"], strict=True)]
        print(f"{what}, ours / bare: {spread(ratios, '.3f')} ({GOAL})", flush=True)
    print()
    return {"chosen": asdict(chosen), "chosen_seconds": took, "figures": figures}


def bare(backbone: Backbone, batch_size: int, seconds: float) -> tuple[float, float]:
    """Return milliseconds of one image and images a second, by loops a user would write."""
    model, layout = backbone.model, torch.channels_last if backbone.is_convolutional else torch.contiguous_format
    model.eval().to(memory_format=layout)
    medians = []
    for size in (1, batch_size):
        pixels = torch.randn(size, 3, *backbone.preprocessing.size).to(memory_format=layout)
        took = []
        with torch.no_grad():
            for _ in range(2):
                model(pixel_values=pixels)
            end = time.perf_counter() + seconds / 2
            while time.perf_counter() < end:
                began = time.perf_counter()
                model(pixel_values=pixels)
                took.append(time.perf_counter() - began)
        medians.append(statistics.median(took))
    return 1000 * medians[0], batch_size / medians[1]


if __name__ == "__main__":
    main()
