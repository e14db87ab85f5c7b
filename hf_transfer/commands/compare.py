"""`hf-transfer compare`: which backbone suits a folder of images, within a time, without a line of JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunDirectoryError, UserError, listed, require

if TYPE_CHECKING:
    from ..data.table import ImageTable
    from ..studies.backbone_cost import BackboneCost
    from ..studies.comparison import Plan

_FILE = "compare.json"
_MOST = 12  # backbones, where --limit says nothing


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `compare` to the command line."""
    compare = commands.add_parser(
        "compare",
        help="find the backbone that suits your images",
        description="Score the frozen features of a varied choice of pretrained backbones on your images, fine-tune the best, "
        "and write a report with a verdict, within a time. What was carried out is a study file that can be edited and carried "
        "out again; the same command goes on with what was interrupted.",
    )
    compare.add_argument("images", metavar="FOLDER", help="a folder with one folder for each class, or any other data.source")
    compare.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="change a key of all recipes, such as data.max_train_samples=2000"
    )
    compare.add_argument("--budget", default="20m", metavar="TIME", help="about how long it may take (default 20m); 90s, 1h30m")
    compare.add_argument("--max-latency", metavar="TIME", help="leave out backbones that take longer for an image")
    compare.add_argument("--backbone", action="append", default=[], metavar="NAME", help="these instead of the shortlist")
    compare.add_argument(
        "--sizes", nargs="+", metavar="SIZE", help="tiny, small, base, large; by default what the device suits"
    )
    compare.add_argument("--commercial", action="store_true", help="only licences that are known to allow commercial use")
    compare.add_argument("--limit", type=int, default=_MOST, metavar="N", help=f"at most so many backbones (default {_MOST})")
    compare.add_argument("--trials", type=int, default=0, metavar="N", help="search the learning rate of what is fine-tuned")
    compare.add_argument("--output", metavar="DIR", help="the folder to write; by default runs/compare_NAME")
    compare.add_argument(
        "--dry-run", action="store_true", help="measure the backbones and print the plan; download, train nothing"
    )
    compare.add_argument("--json", action="store_true", help="print the plan (--dry-run) or the leaderboard as JSON")
    compare.set_defaults(function=_compare)


def _compare(options: argparse.Namespace) -> int:
    from ..connection import go_offline_if_unreachable
    from ..studies.comparison import milliseconds_of, seconds_of

    budget = seconds_of(options.budget)
    longest = None if options.max_latency is None else milliseconds_of(options.max_latency)
    offline = go_offline_if_unreachable()
    _check_options(options)
    root = _output(options)
    said = _description(options)
    if (root / _FILE).is_file():
        _refuse_another(root, said)
        if options.dry_run:
            raise UserError(f"--dry-run: there is a plan already; 'hf-transfer study {root / _FILE} --dry-run' shows it")
        print(f"going on with the plan in {root / _FILE}", file=sys.stderr)
    else:
        _refuse_foreign(root)
        raw, plan, costs = _planned(options, root, said, budget=budget, longest=longest, offline=offline)
        if options.dry_run:
            _print_plan(plan, costs, options.json, raw)
            return 0
        if not options.json:
            _print_plan(plan, costs, as_json=False, raw=raw)
        _write(root, raw)
    from ..studies.study import load_study
    from .study import carry_out_study

    return carry_out_study(load_study(root / _FILE), as_json=options.json, file=root / _FILE)


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what would fail only after everything has been measured."""
    if options.trials and not 2 <= options.trials <= 1000:
        raise UserError(f"--trials: expected 2 to 1000, or 0 for no search; found {options.trials}")
    if options.trials:
        require("optuna", "tune", "--trials")
    if options.limit < 1:
        raise UserError(f"--limit: expected at least 1, found {options.limit}")
    chosen = [name for name in ("sizes", "commercial") if getattr(options, name)]
    if options.backbone and chosen:
        raise UserError(f"--{chosen[0]} chooses from the shortlist, and --backbone replaces it; leave one of them out")


def _output(options: argparse.Namespace) -> Path:
    """Return the folder to write: outside the images, where every folder is a class."""
    images = Path(options.images).expanduser()
    name = images.resolve().name if images.is_dir() else Path(options.images.partition(":")[2] or options.images).name
    root = Path(options.output or f"runs/compare_{name}")
    if images.is_dir() and images.resolve() in (root.resolve(), *root.resolve().parents):
        raise UserError(f"--output: {root} lies in the folder of the images, where every folder is a class; choose another one")
    return root


def _planned(
    options: argparse.Namespace, root: Path, said: str, *, budget: float, longest: float | None, offline: bool
) -> tuple[dict[str, Any], Plan, list[BackboneCost]]:
    """Read the images, measure the backbones and return the study, the plan and what was measured."""
    from ..studies.comparison import make_plan, study_of

    data, class_names, tables = _read(options)
    costs = _measure(_candidates(options, offline=offline), class_names, tables["train"], longest)
    runs = options.trials + 1 if options.trials else 1
    sizes = {split: len(table) for split, table in tables.items()}
    print(
        f"{len(class_names)} classes; images: {', '.join(f'{split} {count}' for split, count in sizes.items())}",
        file=sys.stderr,
    )
    plan = make_plan(costs, sizes, budget, trials=runs)
    return study_of(plan, data, str(root), said, trials=options.trials), plan, costs


def _read(options: argparse.Namespace) -> tuple[dict[str, Any], list[str], dict[str, ImageTable]]:
    """Return the `data` section, with a test split held out where the source brings none, and its images, all checked."""
    from ..data.build import build_splits
    from ..data.sources.source import read_source
    from ..recipe import parse_recipe

    raw: dict[str, Any] = {
        "output_dir": "unused",
        "data": {"source": options.images, "validation_fraction": 0.2},
        "model": {"backbone": "package:efficientnet_lite0"},
    }
    if foreign := [text for text in options.overrides if not text.startswith("data.")]:
        raise UserError(
            f"compare: expected overrides of the data section, such as data.label_column=label; found {listed(foreign)}"
        )
    section = parse_recipe(raw, options.overrides, source="compare").data
    if section.test_fraction is None and "test" not in read_source(section).tables:
        section = section.model_copy(update={"test_fraction": 0.2})
    splits = build_splits(section, ("train", "validation", "test"), training=True)
    kept = {key: value for key, value in section.model_dump().items() if value != type(section).model_fields[key].default}
    return kept, splits.class_names, splits.tables


def _candidates(options: argparse.Namespace, *, offline: bool) -> list[str]:
    """Return the names of the backbones that are asked for, in order of preference; say what cannot be had."""
    from ..backbones.shortlist import choose, reachable, shortlist

    if options.backbone:
        return list(dict.fromkeys(options.backbone))
    import torch

    sizes = options.sizes or (None if torch.accelerator.is_available() else ("tiny", "small"))
    wanted = choose(shortlist(), sizes=sizes, commercial=options.commercial)
    had = [entry for entry in wanted if reachable(entry, hub=not offline)]
    if len(had) < len(wanted):
        why = "the Hub cannot be reached: " if offline else ""
        print(f"{why}{len(had)} of {len(wanted)} backbones of the shortlist can be had here", file=sys.stderr)
    if not had:
        raise UserError(
            "compare: no backbone of the shortlist can be had here: the Hub cannot be reached and its cache holds none; "
            'install the packaged ones with pip install "hf-transfer-learning[demo]", or name others with --backbone'
        )
    return [entry.name for entry in choose(had, limit=options.limit)]


def _measure(names: Sequence[str], class_names: list[str], images: ImageTable, longest: float | None) -> list[BackboneCost]:
    """Return what each backbone costs, without those that cannot be built or take too long for one image; say which."""
    from ..pipeline import quiet_libraries
    from ..studies.backbone_cost import measure_backbone

    quiet_libraries()
    costs, slow = [], []
    for name in names:
        try:
            cost = measure_backbone(name, class_names, images)
        except UserError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            continue
        print(f"{name}: {cost.latency_ms:.1f} ms for one image", file=sys.stderr)
        if longest is not None and cost.latency_ms > longest:
            slow.append(f"{name} ({cost.latency_ms:.1f} ms)")
        else:
            costs.append(cost)
    if slow:
        print(f"left out, slower than --max-latency: {', '.join(slow)}", file=sys.stderr)
    if not costs:
        raise UserError(f"compare: none of {len(names)} backbones can be compared{': all are too slow' if slow else ''}")
    return costs


def _print_plan(plan: Plan, costs: Sequence[BackboneCost], as_json: bool, raw: dict[str, Any]) -> None:
    if as_json:
        measured = {cost.name: vars(cost) for cost in costs}
        print(json.dumps({"plan": vars(plan), "measured": measured, "study": raw}, indent=2))
        return
    words = f"{len(plan.probed)} backbones probed"
    if plan.finetune_top:
        words += f", the best {plan.finetune_top} fine-tuned for {plan.epochs} epochs"
    words += f"; {plan.seeds} seed{'' if plan.seeds == 1 else 's'}"
    print(f"plan: {words}; about {plan.seconds / 60:.0f} minutes, and downloads", flush=True)
    if plan.left_out:
        print(f"no time for: {', '.join(plan.left_out)} (a longer --budget)")


def _description(options: argparse.Namespace) -> str:
    """Return the command in a line: the same command goes on with a plan, another one does not."""
    words = ["hf-transfer compare", options.images, *options.overrides, "--budget", options.budget]
    for name, default in {"max_latency": None, "sizes": None, "commercial": False, "limit": _MOST, "trials": 0}.items():
        value = getattr(options, name)
        if value != default:
            given = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, given)]
    for name in options.backbone:
        words += ["--backbone", name]
    return " ".join(words)


def _refuse_another(root: Path, said: str) -> None:
    from ..recipe.loading import read_recipe

    there = read_recipe(root / _FILE).get("description")
    if there != said:
        raise RunDirectoryError(
            f"--output: {root} holds another comparison ({there}); nothing was touched. Go on with that one by "
            f"'hf-transfer study {root / _FILE}', or choose another --output."
        )


def _refuse_foreign(root: Path) -> None:
    """Refuse a folder with anything in it but what `_write` leaves where it is killed between its files."""
    from ..run_directory import LEFT_OVER
    from ..studies.execution import MARK

    there = [path.name for path in root.iterdir() if not LEFT_OVER.fullmatch(path.name)] if root.is_dir() else []
    if root.is_file() or there not in ([], [MARK]):
        raise RunDirectoryError(
            f"--output: {root} is there already and holds no comparison; nothing was touched. Choose another one."
        )


def _write(root: Path, raw: dict[str, Any]) -> None:
    """Write the mark of a study and the study file, unless another process has made something of the folder meanwhile."""
    from ..run_directory import write_json
    from ..studies.execution import MARK

    try:
        root.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(root)
        write_json(root / MARK, raw)
        write_json(root / _FILE, raw)
    except OSError as error:
        raise RunDirectoryError(f"--output: cannot write to {root}: {error.strerror or error}") from None
