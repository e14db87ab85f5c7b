"""`hf-transfer export`: a model as ONNX or torch.export, checked on real images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .predict import MODEL_HELP, REVISION_HELP
from .printing import tell_the_card

if TYPE_CHECKING:
    from PIL import Image

MOST_IMAGES = 128
"""On how many images, spread over those there are, logits are compared."""

LARGEST_SIDE = 512
"""Images are made no larger than this many pixels before they are compared, so that they fit in memory."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `export` to the command line."""
    export = commands.add_parser(
        "export",
        help="write a model as ONNX or torch.export",
        description="Write a model as files that run without this package, check their logits against the checkpoint's on real "
        "images, and time them. Exit status 1 when they differ; nothing is kept then.",
    )
    export.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    export.add_argument("--revision", metavar="REV", help=REVISION_HELP)
    export.add_argument(
        "--format", default="onnx", metavar="NAMES", help="onnx, torch_export, or both with a comma (default onnx)"
    )
    export.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default 20)")
    export.add_argument(
        "--with-preprocessing", action="store_true", help="let the ONNX file take decoded RGB images and prepare them itself"
    )
    export.add_argument(
        "--images",
        nargs="+",
        metavar="PLACE",
        help="compare on these (file, folder, quoted pattern or address) instead of the run's test split",
    )
    export.add_argument("--output", metavar="DIR", help="by default RUN/export, for other models export-NAME")
    export.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    export.add_argument("--seconds", type=float, default=12.0, metavar="S", help="about how long to time (default 12)")
    export.add_argument("--json", action="store_true", help="print the report as JSON")
    export.set_defaults(function=_export)


def _export(options: argparse.Namespace) -> int:
    formats = list(dict.fromkeys(part.strip() for part in options.format.split(",") if part.strip()))
    from ..deploy.destination import expanded

    run = expanded(options.model)
    is_run = all((run / file).is_file() for file in ("recipe.json", "model/config.json"))
    name = Path(options.model.replace(":", "-")).name
    at = f"@{options.revision}" if options.revision else ""
    output = expanded(options.output) if options.output else run / "export" if is_run else Path(f"export-{name}")
    if not options.images and not is_run:
        raise UserError(f"export: {options.model} is no run directory with images of its own; give some with --images PLACE")
    from ..deploy.export import check_output, export_model
    from ..deploy.onnx_graph import DEFAULT_OPSET
    from ..deploy.predict import load_model
    from ..training.hardware import keep_freed_memory

    check_output(output, overwrite=options.overwrite)
    backbone = load_model(options.model, options.revision)
    images = _places(options.images) if options.images else _held_out(run)
    keep_freed_memory()
    report = export_model(
        backbone,
        output,
        name=run.resolve().name if is_run else f"{options.model}{at}",
        images=images,
        formats=formats,
        opset=DEFAULT_OPSET if options.opset is None else options.opset,
        preprocessing=options.with_preprocessing,
        overwrite=options.overwrite,
        seconds=options.seconds,
    )
    tell_the_card(run)
    print(json.dumps({"directory": str(output)} | report, indent=2) if options.json else _told(report, output))
    if not report["passed"]:
        print("error: the logits differ from the checkpoint's; nothing was written", file=sys.stderr)
    return 0 if report["passed"] else 1


def _places(places: list[str]) -> list[Image.Image]:
    """Return images spread over those at some places.

    Raises:
        UserError: where there are none, or naming one that cannot be read.
    """
    from ..data.images import decode_rgb
    from ..data.loose_images import search

    images = []
    found_images, _, closed = search(places)
    for folder, reason in closed:
        print(f"cannot search {folder}: {reason}", file=sys.stderr)
    for found in _spread(found_images):
        try:
            image = decode_rgb(found.encoded())
        except Exception as error:  # Pillow's decoders raise many kinds for bytes that are no image
            raise UserError(f"--images: cannot read {found.name}: {error or type(error).__name__}") from None
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        images.append(image)
    return images


def _held_out(run: Path) -> list[Image.Image]:
    """Return images spread over the run's test split, or over its validation split where it has no test.

    How many of them are gone is told.

    Raises:
        UserError: when the run has no predictions, or its images are gone.
    """
    from ..data.lookup import read_images
    from ..evaluation.predictions import Predictions
    from ..recipe import load_recipe
    from ..report.plots import plotted_split

    split = plotted_split(run)
    if split is None:
        raise UserError(
            f"{run}: expected predictions/test.parquet, which names the images to compare on; give some with --images PLACE"
        )
    predictions = Predictions.read(run / "predictions" / f"{split}.parquet")
    paths = dict(zip(predictions.sample_ids, predictions.paths, strict=True))
    wanted = _spread(predictions.sample_ids)
    found = read_images(load_recipe(str(run / "recipe.json")).data, wanted, paths, size=LARGEST_SIDE)
    if not found:
        raise UserError(f"{run}: none of the images of its {split} split can be found; give some with --images PLACE")
    if len(found) < len(wanted):
        print(
            f"{len(wanted) - len(found)} of {len(wanted)} images of the {split} split cannot be found or read any more; "
            "compared on the others",
            file=sys.stderr,
        )
    return list(found.values())


def _spread(items: Any) -> list[Any]:
    step = max(1, len(items) / MOST_IMAGES)
    return [items[int(position * step)] for position in range(min(len(items), MOST_IMAGES))]


def _same(parity: dict[str, Any]) -> str:
    return f"same classes on {parity['said_equal']}" if "said_equal" in parity else f"same class on {parity['argmax_equal']}"


def _told(report: dict[str, Any], output: Path) -> str:
    """Return what a person reads: the files, how they agree, how fast they are."""
    lines = []
    for artefact in report["artefacts"]:
        parity = artefact["parity"]
        size = sum(file["bytes"] for file in artefact["files"]) / 1e6
        opset = f", opset {artefact['opset']}" if "opset" in artefact else ""
        lines.append(
            f"{'wrote' if report['passed'] else 'tried'} {output / artefact['files'][0]['name']} ({size:.1f} MB{opset}; "
            f"{artefact['input']['dtype']} [{', '.join(map(str, artefact['input']['shape']))}]): "
            f"largest difference of a logit {parity['max_abs_difference']:.1e} (allowed {parity['tolerance']:.1e}), "
            f"{_same(parity)} of {parity['images']} images"
        )
        if artefact.get("preprocessing"):
            included = artefact["preprocessing"]
            lines.append(
                f"  preprocessing is included ({included['interpolation']}, the bytes of {included['arithmetic']}), at most "
                f"{included['max_difference_in_steps']:.1g} of a pixel's 255 steps from the checkpoint's image processor"
            )
    timing = report["timing"]
    lines.append(f"the network alone on {timing['device']}:")
    for name, latency in timing["latency_ms"].items():
        rates = ", ".join(f"{rate[name]:.0f} images/s by {size}" for size, rate in timing["images_per_second"].items())
        lines.append(f"  {name:<13}{latency['median']:.1f} ms an image (p95 {latency['p95']:.1f}), {rates}")
    return "\n".join(lines)
