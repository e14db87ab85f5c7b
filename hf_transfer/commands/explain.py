"""`hf-transfer explain`: what a model looked at."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..run_directory import RunDirectory
from .predict import MODEL_HELP, REVISION_HELP
from .printing import tell_the_card

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..explain.explanations import Question

# The names in explain.class_grid and explain.maps, which import torch.
PICTURE = "explanations.png"
METHODS = ("gradcam", "gradcam++", "layercam", "hirescam", "eigencam", "rollout", "integrated_gradients", "occlusion")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `explain` to the command line."""
    explain = commands.add_parser(
        "explain",
        help="show what a model looked at",
        description="Draw where a model looked: a PNG for each image, and explanations.csv with the peak of each map. Without "
        "PLACES, MODEL is a run directory, and images of its test split are drawn into one picture, a row for each class; or a "
        "folder of runs, such as a study's: each run below it gets its picture, and the folder's report shows them all.",
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
    explain.add_argument(
        "--target",
        default="predicted",
        metavar="CLASS",
        help="predicted (default; of a model of several labels an image: every class that it says), or a class of the model",
    )
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
    runs = _runs_below(options.model)
    return _explain_folder(options, runs) if runs else _explain_one(options)


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


def _runs_below(folder: str) -> list[RunDirectory]:
    """Return the runs below a folder; none where it is a run itself, or no folder at all."""
    from ..deploy.destination import expanded
    from ..report.run_entries import run_directories

    root = expanded(folder)
    return [] if (root / "recipe.json").is_file() else [RunDirectory(path) for path in run_directories(root)]


def _explain_folder(options: argparse.Namespace, runs: Sequence[RunDirectory]) -> int:
    """Give each finished run its picture, one after another, and the folder a report that shows them."""
    from ..deploy.destination import expanded
    from ..report.study_page import write_study_report, written_by_others

    problems = _question_problems(options)
    if options.output:
        problems.append("--output: each run of a folder has its picture in its own plots/; leave it out")
    if problems:
        raise UserError("explain: " + "\n".join(problems))
    rows: list[dict[str, Any]] = []
    status = 0
    for run in runs:
        if not run.is_finished:
            print(f"{run.root}: not finished, passed over", file=sys.stderr)
        elif (run.plots / PICTURE).exists() and not options.overwrite:
            print(f"{run.root}: has its picture already; --overwrite draws it again", file=sys.stderr)
        else:
            try:
                found, gone = _explain_run(argparse.Namespace(**{**vars(options), "model": str(run.root)}))
            except UserError as error:  # such as of nearest neighbours, which leave no model
                print(f"{run.root}: {error}", file=sys.stderr)
                status = 1
                continue
            status = 1 if gone else status
            rows += [{"run": str(run.root), **row} for row in found]
            print(f"{run.root}: {len(found)} images", file=sys.stderr)
    folder = expanded(options.model)
    page = "" if written_by_others(folder) else f"; {write_study_report(folder).page}"
    _report(rows, options.json, f"{len(rows)} images of {len({row['run'] for row in rows})} runs{page}")
    return status


def _explain_one(options: argparse.Namespace) -> int:
    rows, gone = _explain_run(options)
    from ..deploy.destination import expanded

    output = expanded(options.output) if options.output else RunDirectory(expanded(options.model)).plots
    _report(rows, options.json, f"{len(rows)} images in {output / PICTURE}")
    return 1 if gone else 0


def _explain_run(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw a run's picture, and return the rows of its table and which of the chosen images are gone."""
    from ..deploy.destination import check_destination, expanded

    run = RunDirectory(expanded(options.model))
    output = expanded(options.output) if options.output else run.plots
    check_destination(output / PICTURE, "--output")
    _check_run(options, run, output)
    from ..evaluation.predictions import Predictions
    from ..explain.class_grid import explain_run

    predictions = Predictions.read(run.predictions / "test.parquet")
    backbone, question = _load(options)
    rows, gone = explain_run(run, predictions, backbone, question, output)
    if output == run.plots and run.is_finished:
        from ..report.html_report import write_report

        write_report(run.root)  # which shows the picture, as the card does
        tell_the_card(run.root)
    for name in gone:
        print(f"cannot read {name}", file=sys.stderr)
    return rows, gone


def _check_run(options: argparse.Namespace, run: RunDirectory, output: Path) -> None:
    problems = []
    if not (run.predictions / "test.parquet").is_file() or not run.recipe.is_file():
        problems.append(
            f"without images, MODEL is the directory of a run that scored a test split; {options.model} is none. Name images"
        )
    problems += _question_problems(options)
    there = [str(output / name) for name in (PICTURE, "explanations.csv") if (output / name).exists()]
    if there and not options.overwrite:
        problems.append(
            f"{' and '.join(there)} exist; nothing was touched. Replace them with --overwrite, or choose an --output"
        )
    if problems:
        raise UserError("explain: " + "\n".join(problems))


def _question_problems(options: argparse.Namespace) -> list[str]:
    """Return what of a question does not fit into the picture of a run."""
    if options.target != "predicted" or options.top_k != 1 or "," in options.layers:
        return [
            "without images, one layer and the predicted class are drawn: leave --target and --top-k out and name one layer"
        ]
    return []


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
