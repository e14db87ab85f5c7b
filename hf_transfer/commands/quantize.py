"""`hf-transfer quantize`: an int8 copy of a classifier, with what it costs in accuracy and brings in size and speed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..deploy.destination import expanded
from ..errors import UserError
from .predict import MODEL_HELP, REVISION_HELP
from .printing import tell_the_card

if TYPE_CHECKING:
    from ..data.transforms import Preprocessing
    from ..deploy.quantize import LooseInputs


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `quantize` to the command line."""
    quantize = commands.add_parser(
        "quantize",
        help="write an int8 copy of a model",
        description="Write a copy of a model that computes with 8-bit integers, as ONNX for onnxruntime. The copy of a run's "
        "model is scored on the run's test images and compared with the float model by a paired test.",
    )
    quantize.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    quantize.add_argument("--revision", metavar="REV", help=REVISION_HELP)
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
        help="static: calibrate with these images (file, folder, quoted pattern or http(s) address), by default with a run's "
        "training split; the copy of a model that is no run is compared with the float model on them, in either mode",
    )
    quantize.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="about how long the comparison of speed may take (default 10)"
    )
    quantize.add_argument("--output", metavar="DIR", help="folder to write; by default RUN/quantized")
    quantize.add_argument("--overwrite", action="store_true", help="replace the quantized model that is there")
    quantize.add_argument("--json", action="store_true", help="print the report as JSON")
    quantize.set_defaults(function=_quantize)


def _quantize(options: argparse.Namespace) -> int:
    root = expanded(options.model)
    is_run = _is_run(root)
    output = _output(options, root, is_run)
    from ..errors import require

    require("onnxruntime", "export", "'hf-transfer quantize'")
    from ..deploy.predict import load_model
    from ..deploy.quantize import CALIBRATION_IMAGES, check_output, natural_mode, quantize_other, quantize_run
    from ..run_directory import RunDirectory

    check_output(output, overwrite=options.overwrite)
    backbone = load_model(options.model, options.revision)
    mode = options.mode or natural_mode(backbone)
    count = options.calibration_images or CALIBRATION_IMAGES
    if mode == "dynamic" and options.calibration_images:
        raise UserError("--calibration-images: dynamic quantization calibrates nothing; leave it out, or say --mode static")
    if mode == "dynamic" and is_run and options.images:
        raise UserError(
            "--images: dynamic quantization calibrates nothing, and the copy of a run is compared on the run's test images; "
            "leave it out, or say --mode static"
        )
    images = _find(options.images, count, backbone.preprocessing) if options.images else None
    if is_run:
        report = quantize_run(
            RunDirectory(root),
            backbone,
            output,
            mode=mode,
            calibration_images=count,
            images=images,
            seconds=options.seconds,
        )
        tell_the_card(root)
    else:
        name = f"{options.model}@{options.revision}" if options.revision else options.model
        report = quantize_other(name, backbone, output, mode=mode, images=images, seconds=options.seconds)
    for name, reason in images.unreadable.items() if images else ():
        print(f"left out {name}: {reason}", file=sys.stderr)
    print(json.dumps(report, indent=2) if options.json else _summary(report, output))
    return 0


def _is_run(root: Path) -> bool:
    """Return whether a folder is laid out as a run, its model in model/; a published model has its own files at the root."""
    return (root / "recipe.json").is_file() and not (root / "config.json").is_file()


def _output(options: argparse.Namespace, root: Path, is_run: bool) -> Path:
    """Check the options, and return the folder to write."""
    if options.calibration_images is not None and options.calibration_images < 1:
        raise UserError(f"--calibration-images: expected 1 or more, found {options.calibration_images}")
    if options.output:
        return expanded(options.output)
    if not is_run:
        raise UserError(f"--output: say where to write; only for a run is there a default, and {options.model} is none")
    return root / "quantized"


def _find(places: list[str], count: int, preprocessing: Preprocessing) -> LooseInputs:
    """Return the inputs of up to `count` images, evenly spread over those found."""
    from ..data.loose_images import find_images
    from ..deploy.quantize import LooseInputs, calibration_rows

    found = find_images(places)
    return LooseInputs([found[row] for row in calibration_rows(found, count)], preprocessing)


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
    if ranking := report.get("mean_average_precision"):
        low, high = ranking["difference_ci95"]
        lines.append(
            f"  mAP       {ranking['before']:.4f} -> {ranking['after']:.4f} on {ranking['n']} test images; difference "
            f"{ranking['difference']:+.4f} [{low:+.4f}, {high:+.4f}], paired bootstrap p = {ranking['p_value']:.3f}"
        )
    if same := report.get("same_classes"):
        lines.append(f"  agreement {same['count']} of {same['images']} {same['measured_on']} have the same classes, or none")
    if same := report.get("same_class"):
        lines.append(f"  agreement {same['count']} of {same['images']} {same['measured_on']} have the same class")
    speed = report["speed"]
    for key, words in (("torch_fp32", "torch"), ("onnxruntime_fp32", "onnxruntime"), ("onnxruntime_int8", "int8")):
        found = speed[key]
        lines.append(
            f"  {words:<11} one image {found['latency_ms']:.1f} ms (95 % within {found['latency_p95_ms']:.1f}), "
            f"{found['images_per_second']:.0f} images/s in batches of {speed['batch_size']}"
        )
    return "\n".join(lines)
