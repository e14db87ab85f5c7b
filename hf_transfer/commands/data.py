"""`hf-transfer data`: what can be done with images before anyone trains."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Problem, RecipeError, UserError, listed

if TYPE_CHECKING:
    from ..data.folder_split import FolderSplit
    from ..data.inspection import Plan
    from ..recipe import Recipe

_CLASSES = 20
"""So many classes are counted in the terminal one by one."""

_SHOWN = 5
"""How many things of a kind are told in the terminal; --json tells all."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `data` to the command line."""
    data = commands.add_parser("data", help="inspect or split images", description="Images before anyone trains.")
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_inspect(actions)
    split = actions.add_parser(
        "split",
        help="split a folder of class folders into train, validation and test",
        description="Copy a folder of class folders into OUT/train, OUT/validation and OUT/test, every class shared out by "
        "itself, with split.json beside them. The same seed gives the same split on every machine; the source is only read.",
    )
    split.add_argument("source", metavar="SOURCE", help="a folder with one folder for each class")
    split.add_argument("out", metavar="OUT", help="a folder that is empty or not there yet")
    sizes = split.add_mutually_exclusive_group()
    sizes.add_argument(
        "--fractions",
        nargs=3,
        type=float,
        default=[0.7, 0.1, 0.2],
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of every class, together 1; 0 for no validation or no test (default: 0.7 0.1 0.2)",
    )
    sizes.add_argument(
        "--per-class",
        nargs="+",
        type=int,
        metavar="N",
        help="images of every class for train, validation and test; without the third the rest is test",
    )
    split.add_argument("--drop", nargs="+", action="extend", default=[], metavar="CLASS", help="class folders to leave out")
    split.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    split.add_argument(
        "--group-by",
        metavar="RULE",
        help="keep images together: 'folder' (those of one folder inside the class folders), or 'path:REGEX', whose one group "
        "in parentheses names the group in a path such as cat/walk_07/0001.jpg",
    )
    how = split.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the images (default)")
    how.add_argument("--link", action="store_true", help="make hard links instead: no disk space, same file system only")
    split.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    split.add_argument("--json", action="store_true", help="print the content of split.json")
    split.set_defaults(function=_split)


def _add_inspect(actions: argparse._SubParsersAction) -> None:
    inspect = actions.add_parser(
        "inspect",
        help="show what would be loaded: splits, classes, bad images, duplicates",
        description="Read every image once and tell what would be loaded: splits, classes, sizes, unreadable and odd files, "
        "exact and near duplicates, suspicious classes. Nothing is changed.",
    )
    inspect.add_argument(
        "source", metavar="SOURCE", help="folder, Hub dataset id or package: as for data.source; or a recipe (FILE.json)"
    )
    inspect.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change a key of the recipe, or of a source's data section, such as data.test_fraction=0.2",
    )
    inspect.add_argument("--limit", type=int, metavar="N", help="read N images of each split only, for a quick look")
    inspect.add_argument("--sheet", metavar="FILE", help="also draw some images of each class and split into this PNG")
    inspect.add_argument("--overwrite", action="store_true", help="replace the sheet where there is one")
    inspect.add_argument("--json", action="store_true", help="print everything that was found as JSON")
    inspect.set_defaults(function=_inspect)


def _split(options: argparse.Namespace) -> int:
    from ..data.folder_split import check_request, describe, plan_split, write_split

    source, out = Path(options.source).expanduser(), Path(options.out).expanduser()
    asked = {name: getattr(options, name) for name in ("fractions", "per_class", "drop", "group_by")}
    check_request(source, out, **asked)
    split = plan_split(source.resolve(), seed=options.seed, **asked)
    manifest = describe(split)
    if not options.dry_run:
        write_split(split, out, manifest, link=options.link)
    if options.json:
        print(json.dumps(manifest, indent=2, ensure_ascii=False))
        return 0
    _tell(split, manifest)
    print(f"nothing was written: --dry-run ({out})" if options.dry_run else f"written: {out}")
    return 0


def _tell(split: FolderSplit, manifest: dict[str, Any]) -> None:
    parts, counts = list(split.tables), manifest["counts"]
    smallest = min(counts, key=lambda name: sum(counts[name].values()))
    width = max(len(smallest) + 2, len(f"{len(counts)} classes"), len("smallest class"))
    print(f"{'':<{width}}" + "".join(f"{part:>12}" for part in parts))
    print(f"{f'{len(counts)} classes':<{width}}" + "".join(f"{manifest['images'][part]:>12,}" for part in parts))
    print(f"{'smallest class':<{width}}" + "".join(f"{counts[smallest][part]:>12,}" for part in parts) + f"  ({smallest})")
    if groups := manifest.get("groups"):
        print(f"{'groups':<{width}}" + "".join(f"{groups[part]:>12,}" for part in parts))
    if left_out := sum(manifest["left_out"].values()):
        print(f"{left_out:,} images are in no split")
    if duplicates := manifest["duplicates_across_splits"]:
        several = (
            f"{len(duplicates)} groups of images that are equal byte for byte stand"
            if len(duplicates) > 1
            else "equal images stand"
        )
        print(
            f"warning: {several} in more than one split, such as {'; '.join(duplicates[0])}; split.json lists them",
            file=sys.stderr,
        )
    if unreadable := manifest["unreadable"]:
        print(
            f"warning: {len(unreadable)} files are no readable images: {listed(unreadable, 3)}; split.json lists them",
            file=sys.stderr,
        )


def _inspect(options: argparse.Namespace) -> int:
    from ..deploy.destination import expanded

    sheet = None if options.sheet is None else expanded(options.sheet)
    _check_inspect(options.limit, sheet, overwrite=options.overwrite)
    plan = _plan(options.source, options.overrides)
    from ..data.inspection import inspect_images
    from ..report.sample_sheet import TILES, draw_samples

    found = inspect_images(plan, limit=options.limit, samples=0 if sheet is None else TILES)
    if sheet is not None:
        draw_samples(found, sheet)
    if options.json:
        print(json.dumps(found.report | {"sheet": None if sheet is None else str(sheet)}, indent=2, ensure_ascii=False))
        return 0
    print("\n".join(_told(found.report)))
    if sheet is not None:
        print(f"written: {sheet}")
    return 0


def _check_inspect(limit: int | None, sheet: Path | None, *, overwrite: bool) -> None:
    from ..deploy.destination import check_destination

    problems = []
    if limit is not None and limit < 1:
        problems.append(f"--limit: expected 1 or more, found {limit}")
    if sheet is not None and sheet.suffix.lower() != ".png":
        problems.append(f"--sheet: expected the name of a PNG file, found {sheet}")
    elif sheet is not None and sheet.is_dir():
        problems.append(f"--sheet: {sheet} is a folder; expected the name of a PNG file")
    elif sheet is not None and sheet.exists() and not overwrite:
        problems.append(f"--sheet: {sheet} exists; nothing was touched. Choose another name, or replace it with --overwrite.")
    elif sheet is not None:
        check_destination(sheet, "--sheet")
    if problems:
        raise UserError("\n".join(problems))


def _plan(source: str, overrides: Sequence[str]) -> Plan:
    """Return who would be in which split of a source, or of a recipe's data."""
    from ..connection import go_offline_if_unreachable
    from ..recipe import parse_recipe

    if source.lower().endswith(".json"):
        recipe = _recipe(source, overrides)
        wanted, training = recipe.evaluation.splits, recipe.mode == "train"
    else:
        words = "is no key of a data source; expected keys such as data.test_fraction"
        foreign = [key for key in (text.partition("=")[0] for text in overrides) if not key.startswith("data.")]
        if foreign:
            raise RecipeError([Problem(key, words) for key in foreign], "the command line")
        # A recipe of which only the data section matters.
        raw = {"data": {"source": source}, "model": {"backbone": "none"}, "output_dir": "none"}
        recipe = parse_recipe(raw, overrides, source="the command line")
        wanted, training = [], True
    go_offline_if_unreachable()
    from ..data.inspection import plan_splits

    return plan_splits(recipe.data, wanted, training=training)


def _recipe(path: str, overrides: Sequence[str]) -> Recipe:
    """Return a recipe, or any run of a benchmark or study whose runs share their data."""
    from ..recipe import Benchmark, load_any
    from ..studies.study import cells, is_study, load_study

    if is_study(path):
        runs = [cell.recipe for cell in cells(load_study(path, overrides))]
    else:
        loaded = load_any(path, overrides)
        runs = list(loaded.cells) if isinstance(loaded, Benchmark) else [loaded]
    different = {run.data.model_dump_json(): run.data.source for run in runs}
    if len(different) > 1:
        raise UserError(
            f"data inspect: the runs of {path} read their data in {len(different)} ways; name one of their sources: "
            f"{listed(dict.fromkeys(different.values()))}"
        )
    return runs[0]


def _told(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that a person reads of an inspection."""
    yield from _told_splits(report)
    yield from _told_classes(report)
    yield from _told_images(report)
    yield from _told_duplicates(report)
    if report["problems"]:
        yield "a run would stop:"
        yield from (f"  {problem}" for problem in report["problems"])


def _told_splits(report: dict[str, Any]) -> Iterator[str]:
    from ..report.names import display_width, plain

    splits, names = report["splits"], report["class_names"]
    rows = [("images", "images", None)]
    if report["limit"] is not None:
        rows.append(("images read", "read", None))
    if any(found["groups"] is not None for found in splits.values()):
        rows.append(("groups", "groups", None))
    shown = names
    if len(names) > _CLASSES:
        by_size = sorted(names, key=lambda name: sum(found["classes"][name] for found in splits.values()))
        shown = [by_size[0], by_size[len(names) // 2], by_size[-1]]
    rows += [(f"  {plain(name)}", "classes", name) for name in shown]
    width = max(display_width(title) for title, _, _ in rows)
    left_out = "" if shown is names else ", of which the smallest, the median and the largest are shown"
    yield f"{report['source']}: {len(names)} classes{left_out}"
    yield " " * width + "".join(f"{split:>12}" for split in splits)
    for title, key, name in rows:
        cells = (found[key] if name is None else found[key][name] for found in splits.values())
        yield title + " " * (width - display_width(title)) + "".join(f"{cell:>12,}" for cell in cells)
    if held_out := [split for split, found in splits.items() if found["from"] == "held out"]:
        yield f"held out of the source's train split: {' and '.join(held_out)}"
    if (limit := report["limit"]) is not None:
        yield f"--limit: what follows on images is of {limit:,} of each split at most"
    if "test" not in splits:
        yield "no test split; data.test_fraction=0.2 would hold one out"
    for split, found in splits.items():
        if found["width"] is not None:
            sizes = ", ".join(f"{side} {_range(found[side])}" for side in ("width", "height"))
            yield f"{split}: {sizes}; {_counted(found['modes'])}; {_counted(found['formats'])}"


def _range(found: dict[str, float]) -> str:
    low, middle, high = (f"{found[key]:g}" for key in ("min", "median", "max"))
    return low if low == high else f"{low} to {high} (median {middle})"


def _counted(found: dict[str, int]) -> str:
    return next(iter(found)) if len(found) == 1 else ", ".join(f"{name} {count:,}" for name, count in found.items())


def _told_classes(report: dict[str, Any]) -> Iterator[str]:
    from ..report.names import plain

    odd = report["classes"]
    if few := odd["few"]:
        yield f"classes of few training images: {listed((f'{plain(name)} ({count})' for name, count in few.items()), _SHOWN)}"
    if missing := odd["not_in_train"]:
        shown = (
            f"{plain(name)} ({', '.join(f'{split} {count}' for split, count in found.items()) or 'no image at all'})"
            for name, found in missing.items()
        )
        yield f"classes without training images: {listed(shown, _SHOWN)}"
    for split, names in odd["not_in"].items():
        yield f"classes of train that {split} lacks: {listed(map(plain, names), _SHOWN)}"
    if alike := odd["alike"]:
        yield f"names of classes that are hardly different: {listed((' / '.join(map(repr, same)) for same in alike), _SHOWN)}"
    if numeric := odd["numeric"]:
        every = len(numeric) == len(report["class_names"])
        yield f"names of classes that are numbers: {'all' if every else listed(numeric, _SHOWN)}"
    if shared := report["groups_across_splits"]:
        yield f"groups in more than one split: {listed(map(plain, shared), _SHOWN)}"


def _told_images(report: dict[str, Any]) -> Iterator[str]:
    kinds = {
        "unreadable": "unreadable",
        "wrong_suffix": "another format than the name says",
        "rotated": "turned upright as their EXIF data says",
        "several_frames": "several frames, of which the first is taken",
        "blank": "blank (next to no contrast)",
    }
    for kind, words in kinds.items():
        if found := report[kind]:
            yield f"{words}: {len(found):,}"
            for image in found[:_SHOWN]:
                detail = image.get("reason") or image.get("format")
                yield f"  {_placed(image)}" + (f": {detail}" if detail else "")
            yield from _rest(len(found))


def _told_duplicates(report: dict[str, Any]) -> Iterator[str]:
    from ..report.names import plain

    near = report["near_duplicates"]
    for words, groups in (("equal byte for byte", report["exact_duplicates"]), ("near duplicates", near["groups"])):
        images = sum(len(group["images"]) for group in groups)
        across = sum(len(group["splits"]) > 1 for group in groups)
        torn = sum(len(group["classes"]) > 1 for group in groups)
        if not groups:
            yield f"{words}: none"
            continue
        of_them = f"{across:,} in several splits, {torn:,} in several classes"
        yield f"{words}: {images:,} images in {len(groups):,} group{'s' if len(groups) > 1 else ''}; {of_them}"
        # Those first that would spoil a test, or teach a contradiction.
        worst = sorted(groups, key=lambda group: (len(group["classes"]) < 2, len(group["splits"]) < 2))
        for group in worst[:_SHOWN]:
            classes = {image["image"]: f" ({plain(image['class'])})" for image in group["images"] if len(group["classes"]) > 1}
            yield "  " + listed((_placed(image) + classes.get(image["image"], "") for image in group["images"]), 4)
        yield from _rest(len(groups))
    if near["groups"]:
        yield f"  near: {near['method']}"


def _placed(image: dict[str, str]) -> str:
    """Return where an image is: its sample id, and its split where that does not begin with it."""
    from ..report.names import plain

    within = image["image"].startswith(f"{image['split']}/")
    return plain(image["image"]) if within else f"{image['split']}: {plain(image['image'])}"


def _rest(count: int) -> Iterator[str]:
    if count > _SHOWN:
        yield f"  and {count - _SHOWN:,} more, which --json lists"
