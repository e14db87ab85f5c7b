"""The `hf-transfer` command. Answers `--help` and plain `check` without importing torch."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .errors import RecipeError, UserError, listed, message_of

OVERRIDE_HELP = "change a key of the recipe, such as training.num_train_epochs=1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 done, 2 the user's mistake, 1 anything else (with its traceback)."""
    options = _parse(_parser(), arguments)
    return _guarded(options.function, options)


def run_main(arguments: Sequence[str] | None = None) -> int:
    """Run one recipe, as `hf_transfer/run.py` does."""
    parser = argparse.ArgumentParser(prog="run.py", description="Run one recipe.")
    _add_run_arguments(parser)
    options = _parse(parser, arguments)
    return _guarded(_run, options)


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, accepting `key=value` overrides before and after options (argparse takes them in one place only)."""
    options, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _guarded(function: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        _refuse_namesake()
        return function(options)
    except UserError as error:
        if int(os.environ.get("RANK", "0")) == 0:  # under a launcher one process speaks for all
            print(f"error: {message_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; continue a begun run with --resume", file=sys.stderr)
        return 130


def _refuse_namesake() -> None:
    """Stop when the other distribution that installs a package called hf_transfer is present: it overwrites our files."""
    try:
        importlib.metadata.distribution("hf_transfer")
    except importlib.metadata.PackageNotFoundError:
        return
    raise UserError(
        "the distribution 'hf_transfer' (a retired download accelerator) is installed beside 'hf-transfer-learning', and both "
        "install a package called hf_transfer. Run: pip uninstall -y hf_transfer && pip install --force-reinstall --no-deps "
        "hf-transfer-learning"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-transfer",
        description="Which pretrained backbone, and which way of adapting it, works best on your images, at what cost.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="carry out a recipe", description="Carry out a recipe in this process.")
    _add_run_arguments(run)
    run.set_defaults(function=_run)

    check = commands.add_parser(
        "check", help="check recipes without running them", description="Check recipes; all problems are told at once."
    )
    check.add_argument("recipes", nargs="+", metavar="RECIPE")
    check.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=OVERRIDE_HELP)
    check.add_argument("--data", action="store_true", help="also read and fully decode every image")
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.set_defaults(function=_check)

    recipes = commands.add_parser("recipes", help="list recipes", description="List the recipes of a folder.")
    recipes.add_argument("folder", nargs="?", default="recipes")
    recipes.add_argument("--json", action="store_true", help="print the list as JSON")
    recipes.set_defaults(function=_recipes)

    features = commands.add_parser(
        "features", help="list or clear cached features", description="Features of frozen backbones, kept between runs."
    )
    actions = features.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what is kept, and how much of the disk it takes")
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    listing.set_defaults(function=_list_features)
    clearing = actions.add_parser("clear", help="remove cached features")
    clearing.add_argument("keys", nargs="*", metavar="KEY", help="a key, or the beginning of one, as 'list' shows them")
    clearing.add_argument("--all", action="store_true", help="remove everything")
    clearing.set_defaults(function=_clear_features)

    evaluate = commands.add_parser(
        "evaluate",
        help="score a checkpoint on a data set",
        description="Score a checkpoint as it is; nothing is trained.",
    )
    evaluate.add_argument(
        "model", metavar="MODEL", help="run directory, model directory, Hub id, timm:, torchvision: or package:"
    )
    evaluate.add_argument("--data", required=True, metavar="SOURCE", help="Hub dataset id, folder of class folders or package:")
    evaluate.add_argument("--split", default="test", choices=["train", "validation", "test"])
    evaluate.add_argument("--label-map", metavar="NAME|FILE", help="map from the data set's classes to the checkpoint's")
    evaluate.add_argument("--output-dir", metavar="DIR", help="by default runs/evaluate-MODEL-DATA")
    evaluate.add_argument("--overwrite", action="store_true", help="start anew where an old run is")
    evaluate.add_argument("--json", action="store_true", help="print the metrics as JSON")
    evaluate.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE_HELP)
    evaluate.set_defaults(function=_evaluate)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("hf-transfer-learning")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE_HELP)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue an unfinished run")
    start.add_argument("--overwrite", action="store_true", help="remove the old run from output_dir and start anew")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def _run(options: argparse.Namespace) -> int:
    from .recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    from . import pipeline

    result = pipeline.run(recipe, resume=options.resume, overwrite=options.overwrite)
    _tell(result, options.json)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .recipe import parse_recipe

    label_map: Any = options.label_map
    if label_map is not None and Path(label_map).is_file():
        try:
            label_map = json.loads(Path(label_map).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"--label-map: {options.label_map} is not valid JSON: {error}") from None
    name = "-".join(Path(part.replace(":", "-").rstrip("/")).name for part in (options.model, options.data))
    raw = {
        "mode": "evaluate",
        "output_dir": options.output_dir or f"runs/evaluate-{name}",
        "data": {"source": options.data},
        "model": {"backbone": options.model},
        "evaluation": {"splits": [options.split], "label_map": label_map},
    }
    recipe = parse_recipe(raw, options.overrides, source="the command line")
    from . import pipeline

    _tell(pipeline.run(recipe, overwrite=options.overwrite), options.json)
    return 0


def _list_features(options: argparse.Namespace) -> int:
    import dataclasses

    from .features.store import FeatureStore

    store = FeatureStore()
    spaces = store.stored()
    if options.json:
        print(json.dumps([dataclasses.asdict(space) for space in spaces], indent=2))
        return 0
    width = max((len(space.name) for space in spaces), default=0)
    for space in spaces:
        print(
            f"{space.key[:12]}  {space.name:<{width}}  {space.dtype:<9}{space.rows:>10,} features{space.megabytes:>10.1f} MB"
            f"  {space.created[:10]}"
        )
    print(f"{sum(space.megabytes for space in spaces):.1f} MB in {store.root}")
    return 0


def _clear_features(options: argparse.Namespace) -> int:
    from .features.store import FeatureStore

    store = FeatureStore()
    known = store.keys()
    if options.all == bool(options.keys):
        raise UserError("features clear: expected keys ('hf-transfer features list' shows them), or --all")
    matches = {asked: [key for key in known if key.startswith(asked)] for asked in options.keys}
    unclear = [f"'{asked}' (found {len(found)})" for asked, found in matches.items() if len(found) != 1]
    if unclear:
        raise UserError(
            f"features clear: expected the beginning of exactly one key each; nothing was removed: {listed(unclear)}"
        )
    keys = known if options.all else sorted({found[0] for found in matches.values()})
    store.clear(keys)
    print(f"removed {len(keys)} of {len(known)} from {store.root}")
    return 0


def _tell(result: Any, as_json: bool) -> None:
    if int(os.environ.get("RANK", "0")) != 0:
        return
    if as_json:
        print(json.dumps({"directory": str(result.directory.root), "metrics": result.metrics}, indent=2))
        return
    from .report.summary import summary

    print(summary(result.directory.root, result.metrics))


def _check(options: argparse.Namespace) -> int:
    from .recipe import load_recipe

    results: dict[str, list[str]] = {}
    for path in options.recipes:
        try:
            recipe = load_recipe(path, options.overrides)
            results[path] = []
            if options.data:
                from .connection import go_offline_if_unreachable
                from .data.build import build_splits

                go_offline_if_unreachable()
                splits = build_splits(recipe.data, recipe.evaluation.splits, training=recipe.mode == "train", decode=True)
                sizes = ", ".join(f"{split} {len(table)}" for split, table in splits.tables.items())
                if not options.json:
                    print(f"{path}: {len(splits.class_names)} classes; images: {sizes}")
        except RecipeError as error:
            results[path] = [str(problem) for problem in error.problems]
            if not options.json:
                print(f"error: {error}", file=sys.stderr)
        except UserError as error:
            results[path] = [str(error)]
            if not options.json:
                print(f"error: {path}: {error}", file=sys.stderr)
        else:
            if not options.json:
                print(f"{path}: ok")
    if options.json:
        print(json.dumps(results, indent=2))
    return 2 if any(results.values()) else 0


def _recipes(options: argparse.Namespace) -> int:
    from .recipe import load_recipe

    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    paths = sorted(path for path in folder.rglob("*.json") if path.name != "schema.json")
    rows = []
    for path in paths:
        try:
            rows.append((str(path), load_recipe(path).description))
        except RecipeError as error:
            rows.append((str(path), f"not valid: {error.problems[0]}"))
    if options.json:
        print(json.dumps([{"recipe": path, "description": description} for path, description in rows], indent=2))
    else:
        width = max((len(path) for path, _ in rows), default=0)
        for name, description in rows:
            print(f"{name:<{width}}  {description}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
