"""`hf-transfer evaluate`: score checkpoints as they are, on one data set or several."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from ..errors import UserError, listed
from .predict import REVISION_HELP
from .printing import OVERRIDE_HELP
from .run import carry_out


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `evaluate` to the command line."""
    evaluate = commands.add_parser(
        "evaluate",
        help="score checkpoints on data sets",
        description="Score checkpoints as they are, with their latency and throughput; nothing is trained. Several checkpoints "
        "or data sets give a table.",
    )
    evaluate.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="run directory, model directory, Hub id, timm:, torchvision: or package:; and KEY=VALUE to " + OVERRIDE_HELP,
    )
    evaluate.add_argument(
        "--data",
        nargs="+",
        metavar="SOURCE",
        help="Hub dataset id, folder of class folders or package:; by default the data that a run was trained with",
    )
    evaluate.add_argument("--revision", metavar="REV", help=f"{REVISION_HELP}; short for model.revision=REV")
    evaluate.add_argument("--split", choices=["train", "validation", "test"], default="test")
    evaluate.add_argument("--label-map", metavar="NAME|FILE", help="map from the data set's classes to the checkpoint's")
    evaluate.add_argument("--tta", choices=["flip", "five_crop", "dihedral"], help="average over views of each image")
    evaluate.add_argument("--corruptions", nargs="+", metavar="NAME", help="also score images with noise, blur, jpeg ...")
    evaluate.add_argument("--output-dir", metavar="DIR", help="by default runs/evaluate-MODEL-DATA")
    start = evaluate.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="keep the evaluations that are finished")
    start.add_argument("--overwrite", action="store_true", help="start anew where an old run is")
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")
    evaluate.set_defaults(function=_evaluate, overrides=[])


def _evaluate(options: argparse.Namespace) -> int:
    from ..recipe import parse_any

    models, overrides = _without_overrides(options.models)
    sources, more = _without_overrides(options.data or [])
    corruptions, still_more = _without_overrides(options.corruptions or [])
    overrides += [*more, *still_more, *options.overrides]
    if not models:
        raise UserError(f"evaluate: expected a model, found only {listed(overrides)}")
    if options.revision is not None:
        if len(models) > 1:
            raise UserError(f"evaluate: --revision: expected one MODEL, found {len(models)}")
        overrides.append(f"model.revision={json.dumps(options.revision)}")  # as text, also where all of it are digits
    revision = _revision(overrides)
    data: list[dict[str, Any]] = [{"source": source} for source in sources]
    data = data or _own_data(models, revision, options.split)
    names = [Path(part.replace(":", "-").rstrip("/")).name for part in (models[0], data[0]["source"])]
    if revision is not None:
        names.insert(1, revision.replace("/", "-"))
    several = len(models) > 1 or len(data) > 1
    # The training images of a run are those that its validation split left.
    splits = ["train", "validation"] if options.split == "train" and not sources else [options.split]
    evaluation: dict[str, Any] = {"splits": splits, "label_map": _label_map(options.label_map)}
    if options.tta:
        evaluation["tta"] = options.tta
    if corruptions:
        evaluation["corruptions"] = corruptions
    raw = {
        "mode": "evaluate",
        "output_dir": options.output_dir or ("runs/benchmark" if several else f"runs/evaluate-{'-'.join(names)}"),
        "data": data if len(data) > 1 else data[0],
        "model": [{"backbone": model} for model in models] if len(models) > 1 else {"backbone": models[0]},
        "evaluation": evaluation,
    }
    return carry_out(parse_any(raw, overrides, source="the command line"), options, resume=options.resume)


def _without_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words that are no `key=value`, and those that are."""
    overrides = [word for word in words if re.match(r"[a-z_]+(\.[\w-]+)*=", word)]
    return [word for word in words if word not in overrides], overrides


def _revision(overrides: list[str]) -> str | None:
    """Return what the overrides make of `model.revision`; what is wrong with it is told with the other problems."""
    from ..recipe.loading import apply_overrides

    raw: dict[str, Any] = {}
    apply_overrides(raw, overrides)
    model = raw.get("model")
    revision = model.get("revision") if isinstance(model, dict) else None
    return revision if isinstance(revision, str) else None


def _own_data(models: list[str], revision: str | None, split: str) -> list[dict[str, Any]]:
    """Return the `data` section that runs were trained with, as a list of one."""
    from ..recipe.trained_run import is_hub_id, trained_run

    found = {model: trained_run(model, revision) for model in models}
    unknown = [model for model, run in found.items() if run is None]
    if unknown:
        pushed = ", nor was it pushed from one" if any(map(is_hub_id, unknown)) else ""
        raise UserError(
            f"evaluate: expected --data SOURCE; only the directory of a training run says what to evaluate on, and "
            f"{listed(unknown)} is none{pushed}"
        )
    elsewhere = [f"{model} was trained on '{run.data.source}'" for model, run in found.items() if run and not run.is_readable]
    if elsewhere:
        raise UserError(
            f"evaluate: expected --data SOURCE; {listed(elsewhere)}, which is known by that name only where that was done"
        )
    without = [model for model, run in found.items() if run is not None and split not in run.splits]
    if without:
        raise UserError(
            f"evaluate: {listed(without)} scored no {split} split; choose another with --split, or say --data SOURCE"
        )
    sections = [run.data.model_dump(mode="json") for run in found.values() if run is not None]
    if any(section != sections[0] for section in sections):
        raise UserError("evaluate: the runs were trained on different data; say with --data what to evaluate them on")
    return sections[:1]


def _label_map(given: str | None) -> Any:
    if given is None or not Path(given).is_file():
        return given
    try:
        return json.loads(Path(given).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"--label-map: {given} is not valid JSON: {error}") from None
