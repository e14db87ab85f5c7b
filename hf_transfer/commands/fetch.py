"""`hf-transfer fetch`: download what studies and recipes need, for use without a network."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError, listed


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `fetch` to the command line."""
    fetch = commands.add_parser(
        "fetch",
        help="download what a study needs",
        description="Load every model and data set that studies and recipes name, so that their files are in this machine's "
        "caches and the same files run without a network later. Exit status 2 where something could not be had.",
    )
    fetch.add_argument(
        "files", nargs="+", metavar="STUDY", help="study files or recipes; KEY=VALUE changes a key in each of them"
    )
    fetch.add_argument("--json", action="store_true", help="print what was fetched as JSON")
    fetch.set_defaults(function=_fetch)


def _fetch(options: argparse.Namespace) -> int:
    from ..recipe import Benchmark, Recipe, load_any
    from ..studies.study import cells, is_study, load_study

    recipes: list[Recipe] = []
    changes = [word for word in options.files if "=" in word and not Path(word).exists()]
    files = [word for word in options.files if word not in changes]
    if not files:
        raise UserError(f"fetch: expected a study file or a recipe; found only changes of keys: {listed(changes)}")
    for path in files:
        if is_study(path):
            recipes += [cell.recipe for cell in cells(load_study(path, changes))]
        else:
            loaded = load_any(path, changes)
            recipes += loaded.cells if isinstance(loaded, Benchmark) else [loaded]
    from ..connection import go_offline_if_unreachable

    if go_offline_if_unreachable():
        print("the Hub cannot be reached: what is not in this machine's caches cannot be fetched", file=sys.stderr)
    from ..pipeline import quiet_libraries
    from ..studies.needs import fetch, needs_of

    quiet_libraries()
    found = []
    for fetched in fetch(needs_of(recipes)):
        found.append(fetched)
        if fetched.problem:
            print(f"missing: {fetched.kind} {fetched.name}: {fetched.problem}", file=sys.stderr)
        elif not options.json:
            print(f"{fetched.kind} {fetched.name}: {fetched.holds}", flush=True)
    if options.json:
        print(json.dumps([asdict(fetched) for fetched in found], indent=2))
    return 2 if any(fetched.problem for fetched in found) else 0
