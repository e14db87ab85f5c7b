"""What an exported classifier brings on a CPU: onnxruntime and torch.export beside the same network in torch.

All compute float32 logits of the same random inputs with the same number of threads: torch as this package evaluates (eager
mode, channels_last for convolutional networks, freed memory kept), the ONNX file in onnxruntime, the torch.export file loaded
again, and with --compile the network through torch.compile. They work in turn, in an order that alternates. Each turn begins
with a pass that is not timed, so that spinning threads of the one before do not count. The network alone is timed. The logits
must agree.

Run from the repository root: python benchmarks/export.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from printing import machine_facts, print_facts, print_table, spread

from hf_transfer.deploy.export import write_torch_export
from hf_transfer.deploy.onnx_graph import LogitsOnly, run_onnx, write_onnx
from hf_transfer.deploy.predict import load_model
from hf_transfer.evaluation.inference import prepare_model
from hf_transfer.training.hardware import keep_freed_memory


def _seconds(forward, inputs, passes):
    """Return the median seconds of some passes, after one that is not timed."""
    forward(inputs)
    took = []
    for _ in range(passes):
        began = time.perf_counter()
        forward(inputs)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _candidates(name: str, folder: Path, compiled: bool):
    """Return {name: function of float32 [n, 3, height, width]} and the size of the input."""
    backbone = load_model(name)
    prepare_model(backbone.model.float(), torch.device("cpu"), channels_last=False)
    network, size = LogitsOnly(backbone.model), backbone.preprocessing.size
    example = torch.zeros((2, 3, *size))
    write_onnx(network, example, folder / "model.onnx")
    write_torch_export(network, example, folder / "model.pt2")
    prepare_model(backbone.model, torch.device("cpu"), channels_last=backbone.is_convolutional)
    layout = torch.channels_last if backbone.is_convolutional else torch.contiguous_format
    session, loaded = run_onnx(folder / "model.onnx"), torch.export.load(folder / "model.pt2").module()

    def in_torch(module):
        return lambda pixels: module(pixels.to(memory_format=layout)).numpy()

    found = {
        "torch": in_torch(network),
        "onnxruntime": lambda pixels: session.run(None, {"pixel_values": pixels.numpy()})[0],
        "torch.export": lambda pixels: loaded(pixels).numpy(),
    }
    return found | ({"torch.compile": in_torch(torch.compile(network))} if compiled else {}), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:efficientnet_lite0")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes a minute or more for each size")
    options = parser.parse_args()
    keep_freed_memory()
    facts = machine_facts() | {"threads": str(torch.get_num_threads())}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, torch.no_grad():
        candidates, size = _candidates(options.model, Path(folder), options.compile)
        print_facts(facts)
        print(f"{options.model}, {size[0]} x {size[1]} pixels, {options.repeats} repeats")
        rows = []
        for batch in options.batch_sizes:
            pixels = torch.randn((batch, 3, *size), generator=torch.Generator().manual_seed(0))
            logits = {name: forward(pixels) for name, forward in candidates.items()}
            scale = max(1.0, float(np.abs(logits["torch"]).max()))
            if any(np.abs(found - logits["torch"]).max() > 1e-4 * scale for found in logits.values()):
                sys.exit("the candidates did not compute the same logits")
            took: dict[str, list[float]] = {name: [] for name in candidates}
            for repeat in range(options.repeats):
                for name in list(candidates) if repeat % 2 == 0 else reversed(candidates):
                    took[name].append(_seconds(candidates[name], pixels, 20 if batch == 1 else 3))
            for name, seconds in took.items():
                ratios = [base / own for base, own in zip(took["torch"], seconds, strict=True)]
                milliseconds = spread([1000 * value for value in seconds], ".1f")
                rows.append((f"{name}, {batch}", milliseconds, f"{batch / statistics.median(seconds):.1f}", spread(ratios)))
    print_table(("candidate, batch size", "ms a batch", "images/s", "times as fast as torch"), rows)


if __name__ == "__main__":
    main()
