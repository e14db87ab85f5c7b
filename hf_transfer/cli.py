"""The `hf-transfer` command. Answers `--help` and plain `check` without importing torch."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RecipeError, UserError, listed, message_of

if TYPE_CHECKING:
    from .backbones.backbone import Backbone
    from .recipe import Recipe

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
    check.add_argument("--layers", action="store_true", help="also print the layer groups of the model and their sizes")
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

    find_lr = commands.add_parser(
        "find-lr",
        help="suggest a learning rate",
        description="Let the learning rate grow over some steps of training, suggest one and draw the losses; nothing is kept.",
    )
    find_lr.add_argument("recipe", metavar="RECIPE")
    find_lr.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE_HELP)
    find_lr.add_argument("--low", type=float, default=1e-7, metavar="RATE", help="the first learning rate (default 1e-7)")
    find_lr.add_argument("--high", type=float, default=1.0, metavar="RATE", help="the last one (default 1)")
    find_lr.add_argument("--steps", type=int, default=100, metavar="N", help="how many steps (default 100)")
    find_lr.add_argument("--plot", metavar="FILE", help="the PNG to write; by default NAME-OF-THE-RECIPE.find-lr.png")
    find_lr.add_argument("--json", action="store_true", help="print rates and losses as JSON")
    find_lr.set_defaults(function=_find_lr)

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


def _find_lr(options: argparse.Namespace) -> int:
    from .recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    plot = Path(options.plot or f"{Path(options.recipe).stem}.find-lr.png")
    from .find_lr import find_learning_rate, plot_range_test

    found = find_learning_rate(recipe, low=options.low, high=options.high, steps=options.steps)
    plot_range_test(found, plot)
    if options.json:
        print(json.dumps(vars(found) | {"plot": str(plot)}, indent=2))
        return 0
    print(
        f"suggested learning rate {found.suggestion:.1e} (steepest fall of the loss); a tenth of the rate at its minimum: "
        f"{found.minimum / 10:.1e}; {len(found.losses)} steps, drawn in {plot}"
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    from .recipe import load_recipe

    problems: dict[str, list[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    for path in options.recipes:
        try:
            recipe = load_recipe(path, options.overrides)
            problems[path] = []
            class_names = None
            if options.data or options.layers:
                from .connection import go_offline_if_unreachable

                go_offline_if_unreachable()
            if options.data:
                from .data.build import build_splits

                splits = build_splits(recipe.data, recipe.evaluation.splits, training=recipe.mode == "train", decode=True)
                class_names = splits.class_names
                sizes = ", ".join(f"{split} {len(table)}" for split, table in splits.tables.items())
                if not options.json:
                    print(f"{path}: {len(class_names)} classes; images: {sizes}")
            if options.layers:
                found[path] = _layers(recipe, class_names)
                if not options.json:
                    _print_layers(path, **found[path])
        except RecipeError as error:
            problems[path] = [str(problem) for problem in error.problems]
            if not options.json:
                print(f"error: {error}", file=sys.stderr)
        except UserError as error:
            problems[path] = [str(error)]
            if not options.json:
                print(f"error: {path}: {error}", file=sys.stderr)
        else:
            if not options.json:
                print(f"{path}: ok")
    if options.json:
        told = {
            path: {"problems": wrong, "layers": [], "phases": [], "notes": [], **found.get(path, {})}
            for path, wrong in problems.items()
        }
        print(json.dumps(told if options.layers else problems, indent=2))
    return 2 if any(problems.values()) else 0


def _layers(recipe: Recipe, class_names: list[str] | None) -> dict[str, Any]:
    """Return {"layers": [{"group", "parameters"}], "phases": [...], "notes": [...]} of a recipe's model; no weights are read.

    The head is that of the data's classes; where they are not known, because the data is not here, it is that of two classes,
    and a note says why. Phases tell what trains in each, as {"phase", "epochs", "groups", "rates", "parameters"}.
    """
    import transformers

    from .backbones.build import build_backbone, load_as_it_is

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    notes = []
    if recipe.mode == "evaluate":
        backbone = load_as_it_is(recipe.model)
    else:
        if class_names is None:
            class_names, reason = _class_names(recipe)
            notes = [f"the head is that of 2 classes: {reason}"] if reason else []
        backbone = build_backbone(recipe.model.model_copy(update={"pretrained": False}), class_names, recipe.seed)
    sizes = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    layers = [{"group": g.name, "parameters": sum(sizes[name] for name in g.parameters)} for g in backbone.groups]
    trains = recipe.mode == "train" and recipe.strategy.name != "knn"
    return {"layers": layers, "phases": _phases(recipe, backbone) if trains else [], "notes": notes}


def _phases(recipe: Recipe, backbone: Backbone) -> list[dict[str, Any]]:
    from .adaptation import add_lora
    from .strategies.schedules import build_schedule
    from .training.freezing import trained_parameters

    schedule = build_schedule(
        recipe.strategy, [group.name for group in backbone.groups], recipe.training.get("num_train_epochs")
    )
    adapters = add_lora(recipe, backbone)
    sizes = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    phases = []
    if recipe.strategy.name == "two_phase":
        head = sum(sizes[name] for name in backbone.groups[-1].parameters)
        phases = [{"phase": "head, on features", "epochs": None, "groups": ["head"], "rates": {}, "parameters": head}]
    for phase in schedule.phases:
        trained = trained_parameters(
            backbone.model, backbone.groups, phase, frozen_batch_norm=schedule.frozen_batch_norm
        ) & set(adapters.trained if adapters else sizes)
        count = sum(sizes[name] for name in trained)
        rates = {name: rate for name, rate in phase.rates.items() if rate != 1}
        phases.append(
            {"phase": phase.name, "epochs": phase.epochs, "groups": list(phase.groups), "rates": rates, "parameters": count}
        )
    return phases


def _class_names(recipe: Recipe) -> tuple[list[str], str]:
    """Return the classes of a recipe's data; where reading them takes a download or fails, two that stand for them, and why."""
    from .data.sources import is_hub_source, read_source
    from .errors import DataError

    placeholders = ["0", "1"]
    if is_hub_source(recipe.data.source):
        return placeholders, f"'{recipe.data.source}' is no folder here, and a Hub data set is read with --data only"
    try:
        return read_source(recipe.data).class_names, ""
    except DataError as error:
        return placeholders, str(error).splitlines()[0]


def _print_layers(path: str, layers: list[dict[str, Any]], phases: list[dict[str, Any]], notes: list[str]) -> None:
    total = sum(layer["parameters"] for layer in layers)
    width = max(len(layer["group"]) for layer in layers)
    count = max(len(f"{total:,}"), len("parameters"))
    print(f"{path}: {len(layers)} layer groups, {total:,} parameters")
    for note in notes:
        print(f"{path}: note: {note}")
    print(f"  {'group':<{width}}  {'parameters':>{count}}  {'share':>7}")
    for layer in layers:
        parameters = layer["parameters"]
        print(f"  {layer['group']:<{width}}  {parameters:>{count},}  {100 * parameters / total:>5.1f} %")
    for number, phase in enumerate(phases, start=1):
        length = "" if phase["epochs"] is None else f", at most {phase['epochs']:g} epochs"
        groups = [f"{name} x {phase['rates'][name]:g}" if name in phase["rates"] else name for name in phase["groups"]]
        print(f"  phase {number}, '{phase['phase']}'{length}: {phase['parameters']:,} parameters train ({', '.join(groups)})")


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
