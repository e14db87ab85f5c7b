"""`hf-transfer explain`: what a model looked at."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..run_directory import RunDirectory
from .predict import MODEL_HELP, REVISION_HELP
from .printing import tell_the_card

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..explain.explanations import Question

# The names in explain.maps, which imports torch.
METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "eigencam", "rollout", "integrated_gradients", "occlusion")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `explain` to the command line."""
    explain = commands.add_parser(
        "explain",
        help="show what a model looked at",
        description="Draw where a model looked: a PNG for each image, and explanations.csv with the peak of each map. Without "
        "PLACES, MODEL is a run directory, and images of its test split are drawn into one picture, a row for each class.",
    )
    explain.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    explain.add_argument("images", nargs="*", metavar="PLACE", help="file, folder, quoted pattern or http(s) address")
    explain.add_argument("--revision", metavar="REV", help=REVISION_HELP)
    explain.add_argument("--method", default="gradcam", choices=METHODS, help="how to explain (default gradcam)")
    explain.add_argument(
        "--layers",
        default="last",
        metavar="LAYERS",
        help="last (default); several of first,second,third,last; or paths of modules: a map for each",
    )
    explain.add_argument("--target", default="predicted", metavar="CLASS", help="predicted (default), or a class of the model")
    explain.add_argument(
        "--top-k", type=int, default=1, metavar="K", help="explain the K most probable classes, 20 at most (default 1)"
    )
    explain.add_argument(
        "--output", metavar="DIR", help="where to write; by default explanations/, without PLACES plots/ of the run"
    )
    explain.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (default 8)")
    explain.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ...; by default the accelerator if there is one")
    explain.add_argument(
        "--faithfulness", action="store_true", help="compute insertion and deletion curves too (over 100 passes an image)"
    )
    explain.add_argument("--overwrite", action="store_true", help="replace files of the same name")
    explain.add_argument("--json", action="store_true", help="print the rows of the table as JSON")
    explain.set_defaults(function=_explain)


def _explain(options: argparse.Namespace) -> int:
    if options.batch_size < 1:
        raise UserError(f"--batch-size: expected 1 or more, found {options.batch_size}")
    if options.images:
        return _explain_images(options)
    return _explain_run(options)


def _explain_images(options: argparse.Namespace) -> int:
    from ..data.loose_images import search
    from ..deploy.destination import check_destination, expanded
    from ..explain.records import TABLE, check_output, explain_files

    output = expanded(options.output or "explanations")
    check_destination(output / TABLE, "--output")
    images, passed_over, closed = search(options.images)
    check_output(output, images, overwrite=options.overwrite)
    if passed_over:
        print(f"passed over {passed_over} hidden or other files", file=sys.stderr)
    for folder, reason in closed:
        print(f"cannot read {folder}: {reason}", file=sys.stderr)
    backbone, question = _load(options)
    rows, unreadable = explain_files(backbone, question, images, output, batch_size=options.batch_size)
    _report(rows, options.json, f"{len(images) - unreadable} pictures and {TABLE} in {output}")
    if unreadable:
        print(f"{unreadable} of {len(images)} images could not be read", file=sys.stderr)
    return 1 if unreadable or closed else 0


def _explain_run(options: argparse.Namespace) -> int:
    from ..deploy.destination import check_destination, expanded

    run = RunDirectory(expanded(options.model))
    output = expanded(options.output) if options.output else run.plots
    check_destination(output / "explanations.png", "--output")
    _check_run(options, run, output)
    from ..evaluation.predictions import Predictions
    from ..explain.class_grid import PICTURE, explain_run

    predictions = Predictions.read(run.predictions / "test.parquet")
    backbone, question = _load(options)
    rows, gone = explain_run(run, predictions, backbone, question, output)
    if output == run.plots and run.is_finished:
        from ..report.html_report import write_report

        write_report(run.root)  # which shows the picture, as the card does
        tell_the_card(run.root)
    for name in gone:
        print(f"cannot read {name}", file=sys.stderr)
    _report(rows, options.json, f"{len(rows)} images in {output / PICTURE}")
    return 1 if gone else 0


def _check_run(options: argparse.Namespace, run: RunDirectory, output: Path) -> None:
    problems = []
    if not (run.predictions / "test.parquet").is_file() or not run.recipe.is_file():
        problems.append(
            f"without images, MODEL is the directory of a run that scored a test split; {options.model} is none. Name images"
        )
    if options.target != "predicted" or options.top_k != 1 or "," in options.layers:
        problems.append(
            "without images, one layer and the predicted class are drawn: leave --target and --top-k out and name one layer"
        )
    there = [str(output / name) for name in ("explanations.png", "explanations.csv") if (output / name).exists()]
    if there and not options.overwrite:
        problems.append(
            f"{' and '.join(there)} exist; nothing was touched. Replace them with --overwrite, or choose an --output"
        )
    if problems:
        raise UserError("explain: " + "\n".join(problems))


def _report(rows: list[dict[str, Any]], as_json: bool, done: str) -> None:
    """Say which maps are blank, and where everything is."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        if row["blank"]:
            where = f", {row['layer']}" if row["layer"] else ""
            print(f"{row['file']} ({row['method']}{where}): {row['blank']}")
    print(done)


def _load(options: argparse.Namespace) -> tuple[Backbone, Question]:
    """Return the model on the device that computes, and what is asked of it."""
    from ..deploy.predict import choose_device, load_model
    from ..evaluation.inference import prepare_model
    from ..explain.explanations import ask

    device = choose_device(options.device)
    backbone = load_model(options.model, options.revision)
    prepare_model(backbone.model, device, channels_last=backbone.is_convolutional)
    question = ask(
        backbone,
        options.method,
        layers=options.layers,
        target=options.target,
        top_k=options.top_k,
        faithfulness=options.faithfulness,
    )
    return backbone, question
