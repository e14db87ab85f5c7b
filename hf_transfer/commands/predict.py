"""`hf-transfer predict`: classes and probabilities of images that have no label."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from ..deploy.predict import Prediction, Unreadable
    from ..deploy.prediction_files import RowWriter

MODEL_HELP = "run directory, model directory, Hub id, timm:, torchvision: or package:"
_TOP_K = 3
REVISION_HELP = "branch, tag or commit of a Hub id"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `predict` to the command line."""
    predict = commands.add_parser(
        "predict",
        help="classify images",
        description="Classify images. What cannot be read is told and passed over; the exit status is then 1.",
    )
    predict.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    predict.add_argument("places", nargs="+", metavar="PLACE", help="file, folder, quoted pattern or http(s) address")
    predict.add_argument("--revision", metavar="REV", help=REVISION_HELP)
    predict.add_argument(
        "--top-k",
        type=int,
        metavar="K",
        help="how many classes to name (default 3); not for a model of several labels an image, which names every class that "
        "reaches its threshold",
    )
    told = predict.add_mutually_exclusive_group()
    told.add_argument("--output", metavar="FILE", help="write a .csv, .json, .jsonl or .parquet file instead of a table")
    told.add_argument("--json", action="store_true", help="print the predictions as JSON")
    predict.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")
    predict.add_argument("--logits", action="store_true", help="with --output or --json: the logits of all classes too")
    predict.add_argument("--batch-size", type=int, default=32, metavar="N", help="images at a time (default 32)")
    predict.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ...; by default the accelerator if there is one")
    predict.add_argument(
        "--precision", choices=["fp32", "bf16", "auto"], default="fp32", help="auto: bf16 where it is faster (default fp32)"
    )
    predict.set_defaults(function=_predict)


def _predict(options: argparse.Namespace) -> int:
    _check(options)
    from ..data.loose_images import search
    from ..deploy.destination import expanded
    from ..deploy.prediction_files import check_output

    output = expanded(options.output) if options.output else None
    if output:
        check_output(output, overwrite=options.overwrite)
    images, passed_over, closed = search(options.places)
    if passed_over:
        print(f"passed over {passed_over} hidden or other files", file=sys.stderr)

    from ..deploy.predict import Unreadable, choose_device, load_model, predict_images
    from ..evaluation.labels import model_class_names
    from ..evaluation.thresholds import model_thresholds

    device = choose_device(options.device)
    backbone = load_model(options.model, options.revision)
    class_names, thresholds = model_class_names(backbone.model.config), model_thresholds(backbone.model.config)
    if thresholds is not None and options.top_k is not None:
        raise UserError(
            f"--top-k: an image may show several classes of {options.model}, or none: every class that reaches its threshold "
            "is named; leave it out. --output and --json have the probabilities of all classes"
        )
    predicted = predict_images(
        backbone,
        images,
        device=device,
        batch_size=options.batch_size,
        top_k=options.top_k or _TOP_K,
        precision=options.precision,
    )
    rows = itertools.chain((Unreadable(folder, reason) for folder, reason in closed), predicted)
    from tqdm.auto import tqdm

    counts: Counter[str] = Counter()
    images_read = unreadable = 0
    quiet = None if options.output or not sys.stdout.isatty() else True  # a bar would run through the table
    with _writer(options, output, [image.name for image in images], class_names, thresholds) as write:
        for row in tqdm(rows, total=len(closed) + len(images), desc="predict", unit="image", leave=False, disable=quiet):
            write(row)
            if isinstance(row, Unreadable):
                unreadable += 1
                with tqdm.external_write_mode(file=sys.stderr):
                    print(f"cannot read {row.file}: {row.reason}", file=sys.stderr)
            else:
                images_read += 1
                counts.update(row.classes if row.every is not None else row.classes[:1])
    if output:
        found = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(10))
        others = f" and {len(counts) - 10} more classes" if len(counts) > 10 else ""
        print(f"{images_read:,} predictions in {output}" + (f": {found}{others}" if found else ""))
    if closed:
        print(f"{len(closed):,} folders could not be searched", file=sys.stderr)
    if unreadable > len(closed):
        print(f"{unreadable - len(closed):,} of {len(images):,} images could not be read", file=sys.stderr)
    return 1 if unreadable else 0


def _check(options: argparse.Namespace) -> None:
    wrong = [
        f"{name}: expected 1 or more, found {value}"
        for name, value in (("--top-k", options.top_k), ("--batch-size", options.batch_size))
        if value is not None and value < 1
    ]
    if options.logits and not (options.output or options.json):
        wrong.append("--logits: the table does not show them; add --output FILE or --json")
    if wrong:
        raise UserError("\n".join(wrong))


@contextlib.contextmanager
def _writer(
    options: argparse.Namespace,
    output: Path | None,
    files: Sequence[str],
    class_names: Sequence[str],
    thresholds: np.ndarray | None,
) -> Iterator[RowWriter]:
    from ..deploy.prediction_files import json_rows, prediction_file

    if output:
        stated = None if thresholds is None else thresholds.tolist()
        top_k = options.top_k or _TOP_K
        with prediction_file(output, class_names, top_k, logits=options.logits, thresholds=stated) as write:
            yield write
    elif options.json:
        with json_rows(sys.stdout, logits=options.logits) as write:
            yield write
    elif thresholds is not None:
        yield _label_table(files)
    else:
        yield _table(files, class_names)


def _label_table(files: Sequence[str]) -> RowWriter:
    """Return what prints a row of the table of a model that may say several classes, or none."""
    from ..deploy.predict import Prediction

    wide = min(60, max(map(len, ["file", *files])))
    print(f"{'file':<{wide}}  classes and their probabilities")

    def write(row: Prediction | Unreadable) -> None:
        if isinstance(row, Prediction):
            said = [f"{name} {chance:.4f}" for name, chance in zip(row.classes, row.probabilities, strict=True)]
            print(f"{row.file:<{wide}}  {', '.join(said) or 'none'}")

    return write


def _table(files: Sequence[str], class_names: Sequence[str]) -> RowWriter:
    """Return what prints a row of the table; the columns are as wide as the longest file and class, within reason."""
    from ..deploy.predict import Prediction

    wide = min(60, max(map(len, ["file", *files])))
    long = min(30, max(map(len, ["class", *class_names])))
    print(f"{'file':<{wide}}  {'class':<{long}}  probability  next")

    def write(row: Prediction | Unreadable) -> None:
        if isinstance(row, Prediction):
            ranked = list(zip(row.classes, row.probabilities, strict=True))
            others = ", ".join(f"{name} {probability:.4f}" for name, probability in ranked[1:])
            print(f"{row.file:<{wide}}  {ranked[0][0]:<{long}}  {ranked[0][1]:>11.4f}  {others}".rstrip())

    return write
