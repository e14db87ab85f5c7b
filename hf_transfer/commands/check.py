"""`hf-transfer check`: recipes, and on request their data and layers, without running them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, UserError, listed
from .printing import OVERRIDE_HELP

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..recipe import Recipe


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `check` to the command line."""
    check = commands.add_parser(
        "check", help="check recipes without running them", description="Check recipes; all problems are told at once."
    )
    check.add_argument("recipes", nargs="+", metavar="RECIPE")
    check.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=OVERRIDE_HELP)
    check.add_argument("--data", action="store_true", help="also read and fully decode every image")
    check.add_argument("--layers", action="store_true", help="also print the layer groups of the model and their sizes")
    check.add_argument("--json", action="store_true", help="print the result as JSON")
    check.set_defaults(function=_check)


def _check(options: argparse.Namespace) -> int:
    from ..recipe import Benchmark, load_any
    from ..studies.study import cells, is_study, load_study

    problems: dict[str, list[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    for path in options.recipes:
        try:
            if is_study(path):
                runs = tuple(cell.recipe for cell in cells(load_study(path, options.overrides)))
            else:
                loaded = load_any(path, options.overrides)
                runs = loaded.cells if isinstance(loaded, Benchmark) else (loaded,)
            _check_own_networks(runs)
            _check_watched(runs)
            problems[path] = []
            class_names = None
            if options.data or options.layers:
                from ..connection import go_offline_if_unreachable

                go_offline_if_unreachable()
            if options.data:
                for recipe in {(run.data.model_dump_json(), run.evaluation.model_dump_json()): run for run in runs}.values():
                    class_names, told_sizes = _read_data(recipe)
                    if not options.json:
                        print(f"{path}: {told_sizes}")
            if options.layers and len(runs) > 1:
                raise UserError(f"--layers prints the layers of one model, and these are {len(runs)} runs")
            if options.layers:
                found[path] = _layers(runs[0], class_names)
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


def _check_own_networks(runs: Sequence[Recipe]) -> None:
    """Refuse names of our own networks that stand for none; all of them at once."""
    from ..backbones.scratch.variant import parse_variant

    wrong = []
    for backbone in dict.fromkeys(run.model.backbone for run in runs):
        if backbone.startswith("scratch:"):
            try:
                parse_variant(backbone.removeprefix("scratch:"))
            except UserError as error:
                wrong.append(str(error))
    if wrong:
        raise UserError("\n".join(wrong))


def _check_watched(runs: Sequence[Recipe]) -> None:
    """Refuse runs that are to be watched while they train and evaluate nothing meanwhile."""
    if watched := [run for run in runs if run.evaluation.monitor]:
        from ..pipeline import check_watchable  # which imports numpy

        for run in watched:
            check_watchable(run)


def _read_data(recipe: Recipe) -> tuple[list[str], str]:
    """Read and decode every image of a recipe; return the class names, and the sizes of the splits in words."""
    from ..data.build import build_splits
    from ..training.monitor import check_monitored

    splits = build_splits(
        recipe.data, recipe.evaluation.splits, training=recipe.mode == "train", decode=True, extra=recipe.evaluation.extra
    )
    check_monitored(recipe.evaluation.monitor, splits)
    told = f"{len(splits.class_names)} classes; images: {splits.sizes()}"
    if splits.shared_groups:
        told += f"; groups in more than one split: {listed(splits.shared_groups)}"
    return splits.class_names, told


def _layers(recipe: Recipe, class_names: list[str] | None) -> dict[str, Any]:
    """Return {"layers": [{"group", "parameters"}], "phases": [...], "notes": [...]} of a recipe's model; no weights are read.

    The head is that of the data's classes; where they are not known, because the data is not here, it is that of two classes,
    and a note says why. Phases tell what trains in each, as {"phase", "epochs", "groups", "rates", "parameters"}.
    """
    import transformers

    from ..backbones.build import build_backbone, load_as_it_is

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    notes = []
    if recipe.mode == "evaluate":
        backbone = load_as_it_is(recipe.model)
    else:
        if class_names is None:
            class_names, reason = _class_names(recipe)
            notes = [f"the head is that of 2 classes: {reason}"] if reason else []
        untrained = recipe.model.model_copy(update={"pretrained": False})
        backbone = build_backbone(untrained, class_names, recipe.seed, pooling=recipe.features.pooling)
    sizes = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    layers = [{"group": g.name, "parameters": sum(sizes[name] for name in g.parameters)} for g in backbone.groups]
    trains = recipe.mode == "train" and recipe.strategy.name != "knn"
    return {"layers": layers, "phases": _phases(recipe, backbone) if trains else [], "notes": notes}


def _phases(recipe: Recipe, backbone: Backbone) -> list[dict[str, Any]]:
    from ..adaptation import add_lora
    from ..strategies.schedules import build_schedule
    from ..training.freezing import trained_parameters

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
    from ..data.sources.addresses import is_address
    from ..data.sources.source import is_hub_source, read_source
    from ..errors import DataError

    placeholders = ["0", "1"]
    if is_hub_source(recipe.data.source) or is_address(recipe.data.source):
        kind = "an address" if is_address(recipe.data.source) else "a Hub data set"
        return placeholders, f"'{recipe.data.source}' is no folder here, and {kind} is read with --data only"
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
