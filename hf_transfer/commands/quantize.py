"""`hf-transfer quantize`: an int8 copy of a classifier, with what it costs in accuracy and brings in size and speed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch

    from ..data.transforms import Preprocessing


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `quantize` to the command line."""
    quantize = commands.add_parser(
        "quantize",
        help="write an int8 copy of a model",
        description="Write a copy of a model that computes with 8-bit integers, as ONNX for onnxruntime. The copy of a run's "
        "model is scored on the run's test images and compared with the float model by a paired test.",
    )
    quantize.add_argument(
        "model", metavar="MODEL", help="run directory, model directory, Hub id, timm:, torchvision: or package:"
    )
    quantize.add_argument(
        "--mode",
        choices=["static", "dynamic"],
        help="static: ranges of activations from calibration images; dynamic: linear layers only, ranges measured in each "
        "pass; by default static for convolutional networks, dynamic for others",
    )
    quantize.add_argument(
        "--calibration-images", type=int, metavar="N", help="static: how many images calibrate (default 128), evenly spread"
    )
    quantize.add_argument(
        "--images",
        nargs="+",
        metavar="PLACE",
        help="static: calibrate with these images (file, folder, quoted pattern or address); by default a run's training split",
    )
    quantize.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="about how long the comparison of speed may take (default 10)"
    )
    quantize.add_argument("--output", metavar="DIR", help="folder to write; by default RUN/quantized")
    quantize.add_argument("--overwrite", action="store_true", help="replace the quantized model that is there")
    quantize.add_argument("--json", action="store_true", help="print the report as JSON")
    quantize.set_defaults(function=_quantize)


def _quantize(options: argparse.Namespace) -> int:
    root = Path(options.model).expanduser()
    is_run = (root / "recipe.json").is_file()
    output = _output(options, root, is_run)
    from ..errors import require

    require("onnxruntime", "export", "'hf-transfer quantize'")
    from ..deploy.predict import load_model
    from ..deploy.quantize import CALIBRATION_IMAGES, check_output, natural_mode, quantize_other, quantize_run
    from ..run_directory import RunDirectory

    check_output(output, overwrite=options.overwrite)
    backbone = load_model(options.model)
    mode = options.mode or natural_mode(backbone)
    count = options.calibration_images or CALIBRATION_IMAGES
    if mode == "dynamic" and (options.images or options.calibration_images):
        raise UserError(
            "--images and --calibration-images: dynamic quantization needs no calibration images; leave them out, or say "
            "--mode static"
        )
    calibration = _read(options.images, count, backbone.preprocessing) if options.images else None
    if is_run:
        report = quantize_run(
            RunDirectory(root),
            backbone,
            output,
            mode=mode,
            calibration_images=count,
            calibration=calibration,
            seconds=options.seconds,
        )
    else:
        report = quantize_other(options.model, backbone, output, mode=mode, calibration=calibration, seconds=options.seconds)
    print(json.dumps(report, indent=2) if options.json else _summary(report, output))
    return 0


def _output(options: argparse.Namespace, root: Path, is_run: bool) -> Path:
    """Check the options, and return the folder to write."""
    if options.calibration_images is not None and options.calibration_images < 1:
        raise UserError(f"--calibration-images: expected 1 or more, found {options.calibration_images}")
    if options.output:
        return Path(options.output).expanduser()
    if not is_run:
        raise UserError(f"--output: say where to write; only for a run is there a default, and {options.model} is none")
    return root / "quantized"


def _read(places: list[str], count: int, preprocessing: Preprocessing) -> tuple[list[str], list[torch.Tensor]]:
    """Return the names of up to `count` images, evenly spread over those found, and batches of their inputs."""
    import numpy as np

    from ..data.loose_images import find_images, read_batches

    found = find_images(places)
    rows = np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)
    names, batches = [], []
    for batch in read_batches([found[row] for row in rows], preprocessing, 32, keep_images=False):
        for name, reason in batch.unreadable:
            print(f"left out {name}: {reason}", file=sys.stderr)
        if batch.names:
            names += batch.names
            batches.append(batch.pixels)
    if not names:
        raise UserError(f"--images: none of the {len(rows)} images can be read")
    return names, batches


def _summary(report: dict[str, Any], output: Path) -> str:
    lines = [f"{output / 'model.int8.onnx'}: {report['mode']} quantization"]
    if report["calibration"]:
        lines[0] += f", calibrated with {report['calibration']['images']} images ({report['calibration']['source']})"
    size = report["size_mb"]
    lines.append(
        f"  size      {size['float']:.2f} MB -> {size['int8']:.2f} MB ({size['float'] / size['int8']:.1f} times smaller)"
    )
    if accuracy := report.get("accuracy"):
        low, high = accuracy["difference_ci95"]
        lines.append(
            f"  accuracy  {accuracy['before']:.4f} -> {accuracy['after']:.4f} on {accuracy['n']} test images; difference "
            f"{accuracy['difference']:+.4f} [{low:+.4f}, {high:+.4f}], {accuracy['gained']} gained, {accuracy['lost']} lost, "
            f"McNemar p = {accuracy['p_value']:.3f}"
        )
    if same := report.get("same_class"):
        lines.append(f"  agreement {same['count']} of {same['images']} images have the same class")
    speed = report["speed"]
    for key, words in (("torch_fp32", "torch"), ("onnxruntime_fp32", "onnxruntime"), ("onnxruntime_int8", "int8")):
        found = speed[key]
        lines.append(
            f"  {words:<11} one image {found['latency_ms']:.1f} ms (95 % within {found['latency_p95_ms']:.1f}), "
            f"{found['images_per_second']:.0f} images/s in batches of {speed['batch_size']}"
        )
    return "\n".join(lines)
