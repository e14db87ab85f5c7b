"""A fine-tuned model in float32, bfloat16 and int8: size, latency, throughput, accuracy and a paired test, on its test split.

Rows: torch in float32 and under bf16 autocast (convolutional networks in NHWC layout), onnxruntime in float32, and the int8
copies that `hf-transfer quantize` writes: static (128 calibration images of the training split), dynamic (linear layers only).
With `--torchao` also torchao's int8, compiled by inductor, which its int8 kernels need: static for the whole network (PT2E, x86
quantizer) where the network is convolutional, otherwise dynamic for linear layers.

- `MB`: of the weights, or of the ONNX file; for torchao what `torch.save` of the state dict takes.
- `one image`, `images/s`: medians, one image and batches of 32, each network three times in turn (`compare_speed`); decoding is
  not part of it. `prepared`: seconds from the float model to the first result, calibration and compilation included.
- `accuracy`: on the same test images; `- float` the difference to the first row with Tango's 95 % interval, and McNemar's p.

Run from the repository root: python benchmarks/quantization.py RUN, where RUN is a finished run, such as that of
recipes/quickstart.json. Needs the packages of the extras `demo` and `export`. Nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from printing import machine_facts, print_facts, print_table

from hf_transfer.backbones.backbone import Backbone
from hf_transfer.data.build import Splits, build_splits
from hf_transfer.deploy.onnx_graph import LogitsOnly, onnx_forward
from hf_transfer.deploy.predict import load_model
from hf_transfer.deploy.quantize import (
    calibration_batches,
    calibration_rows,
    compare_speed,
    megabytes,
    quantize_graph,
    quantize_model,
)
from hf_transfer.metrics.paired import compare_paired
from hf_transfer.recipe import load_recipe
from hf_transfer.training.hardware import keep_freed_memory

Forward = Callable[[torch.Tensor], np.ndarray]


@dataclass
class Network:
    """One way to compute the same model."""

    name: str
    megabytes: float
    seconds: float
    forward: Forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--images", type=int, metavar="N", help="score only the first N test images")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the timing takes (default 60)")
    parser.add_argument("--torchao", action="store_true", help="compare with torchao, which must be installed")
    options = parser.parse_args()
    print_facts(machine_facts())
    keep_freed_memory()
    backbone = load_model(str(options.run))
    splits = build_splits(load_recipe(options.run / "recipe.json").data, ["test"], training=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        networks = build(backbone, splits, Path(scratch), options.torchao)
        speed = compare_speed(
            {network.name: network.forward for network in networks}, backbone.preprocessing.size, options.seconds
        )
        right = score(networks, backbone, splits, options.images)
    rows = []
    for network in networks:
        found = compare_paired(right[networks[0].name], right[network.name])
        low, high = found.difference_ci95
        timing = speed[network.name]
        rows.append(
            (
                network.name,
                f"{network.megabytes:.2f}",
                f"{network.seconds:.0f} s",
                f"{timing['latency_ms']:.1f} ms ({timing['latency_p95_ms']:.1f})",
                f"{timing['images_per_second']:.0f}",
                f"{found.after:.4f}",
                "" if network is networks[0] else f"{found.difference:+.4f} [{low:+.4f}, {high:+.4f}], p = {found.p_value:.3f}",
            )
        )
    print_table(("", "MB", "prepared", "one image (95 %)", "images/s", "accuracy", "- float"), rows)


def build(backbone: Backbone, splits: Splits, scratch: Path, torchao: bool) -> list[Network]:
    """Return the networks, the float one first."""
    train = splits.tables["train"]
    batches = list(calibration_batches(train, backbone.preprocessing, calibration_rows(train)))
    layout = torch.channels_last if backbone.is_convolutional else torch.contiguous_format
    exact, static, dynamic = (scratch / f"{name}.onnx" for name in ("float32", "static", "dynamic"))
    began = time.perf_counter()
    quantize_model(backbone, static, mode="static", calibration=batches, exact=exact)
    static_seconds = time.perf_counter() - began
    began = time.perf_counter()
    quantize_graph(exact, dynamic, mode="dynamic")
    dynamic_seconds = time.perf_counter() - began
    backbone.model.to(memory_format=layout)
    networks = [
        Network("torch float32", megabytes(backbone), 0.0, torch_forward(LogitsOnly(backbone.model), layout, None)),
        Network("torch bf16", megabytes(backbone), 0.0, torch_forward(LogitsOnly(backbone.model), layout, torch.bfloat16)),
    ]
    for name, path, seconds in (
        ("onnxruntime float32", exact, 0.0),
        ("onnxruntime int8 static", static, static_seconds),
        ("onnxruntime int8 dynamic", dynamic, dynamic_seconds),
    ):
        networks.append(Network(name, path.stat().st_size / 1e6, seconds, onnx_forward(path)))
    if torchao:
        networks.append(torchao_network(backbone, batches))
    return networks


def torch_forward(module: torch.nn.Module, layout: Any, autocast: torch.dtype | None) -> Forward:
    def forward(pixels: torch.Tensor) -> np.ndarray:
        with torch.no_grad(), torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            return module(pixels.contiguous(memory_format=layout)).float().numpy()

    return forward


def torchao_network(backbone: Backbone, batches: list[torch.Tensor]) -> Network:
    """Return torchao's int8 network, compiled for one image and for batches of 32."""
    import torch._inductor.config as inductor

    inductor.freezing = True  # without it the weights stay in float32 and are quantized in each pass
    began = time.perf_counter()
    module: Any = LogitsOnly(backbone.model).eval()
    if backbone.is_convolutional:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        sizes = ({0: torch.export.Dim("batch")},)
        observed = prepare_pt2e(torch.export.export(module, (batches[0],), dynamic_shapes=sizes).module(), quantizer)
        with torch.no_grad():
            for batch in batches:
                observed(batch)
        module = convert_pt2e(observed)
    else:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(module, Int8DynamicActivationInt8WeightConfig())
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    forward = torch_forward(torch.compile(module, dynamic=False), torch.contiguous_format, None)
    forward(batches[0][:1])
    forward(batches[0])
    return Network("torchao int8", len(saved.getvalue()) / 1e6, time.perf_counter() - began, forward)


def score(networks: list[Network], backbone: Backbone, splits: Splits, limit: int | None) -> dict[str, np.ndarray]:
    """Return for each network whether each test image was classified rightly; bool [n]."""
    table = splits.tables["test"]
    rows = np.arange(len(table) if limit is None else min(limit, len(table)))
    labels = np.asarray(table.labels)[rows]
    predicted: dict[str, list[np.ndarray]] = {network.name: [] for network in networks}
    for batch in calibration_batches(table, backbone.preprocessing, rows):
        for network in networks:
            predicted[network.name].append(network.forward(batch).argmax(axis=1))
    return {name: np.concatenate(found) == labels for name, found in predicted.items()}


if __name__ == "__main__":
    main()
