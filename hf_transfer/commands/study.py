"""`hf-transfer study`: every cell of a study once, and the leaderboard."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .printing import OVERRIDE_HELP

if TYPE_CHECKING:
    from ..studies.study import Cell


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `study` to the command line."""
    study = commands.add_parser(
        "study",
        help="compare backbones and strategies",
        description="Carry out every cell of a study and write its leaderboard. What is finished is never carried out again; "
        "what was cut off goes on where it stopped; what fails does not stop the others. Exit status 1 where a cell failed.",
    )
    study.add_argument("study", metavar="STUDY", help="a study file")
    study.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE_HELP.replace("training.", "base.training."))
    study.add_argument(
        "--dry-run", action="store_true", help="list the cells, what is done of them and what they cost; run none"
    )
    study.add_argument("--only", action="append", default=[], metavar="PATTERN", help="cells whose id matches, as in a shell")
    study.add_argument("--retry-failed", action="store_true", help="try cells again that failed before")
    study.add_argument("--json", action="store_true", help="print cells or leaderboard as JSON")
    study.set_defaults(function=_study)


def _study(options: argparse.Namespace) -> int:
    from ..studies.study import cells, load_study

    study = load_study(options.study, options.overrides)
    found = cells(study)
    if options.dry_run:
        _print_cells(found, Path(study.output_dir), options.json)
        return 0
    from ..report.leaderboard import build_leaderboard, write_leaderboard
    from ..report.leaderboard_table import leaderboard_markdown, leaderboard_text
    from ..studies.execution import run_study

    root = Path(study.output_dir)
    try:
        result = run_study(study, found, only=options.only, retry_failed=options.retry_failed)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with the study", file=sys.stderr)
        return 130
    board = build_leaderboard(root, cheapest_by=study.cheapest_by)
    write_leaderboard(root, board, leaderboard_markdown(board, study.description))
    if options.json:
        told = {"directory": str(root), "done": result.done, "failed": result.failed, "elsewhere": result.elsewhere}
        print(json.dumps(told | {"leaderboard": board.to_json()}, indent=2))
    else:
        print(leaderboard_text(board))
        for name, said in result.failed.items():
            print(f"failed: {name}: {said} (--retry-failed tries it again)", file=sys.stderr)
        print(f"{len(result.done)} of {len(found)} cells are done; {root / 'leaderboard.md'}")
    return 1 if result.failed else 0


def _print_cells(cells: Sequence[Cell], root: Path, as_json: bool) -> None:
    """Print the cells, which of them are done, and what they take: measured where it was, else that of their like."""
    from ..studies.estimate import estimates

    rows: list[dict[str, Any]] = estimates(cells, root)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(row["id"]) for row in rows)
    for row in rows:
        seconds = row["seconds"]
        cost = "?" if seconds is None else f"{'' if row['state'] == 'done' else '~'}{seconds:.0f} s"
        print(f"{row['id']:<{width}}  {row['state']:<8}  {cost:>8}")
    missing = [row for row in rows if row["state"] != "done"]
    known = [row["seconds"] for row in missing if row["seconds"] is not None]
    unknown = (
        f", and {len(missing) - len(known)} cells of which nothing like them was measured yet"
        if len(known) < len(missing)
        else ""
    )
    print(f"{len(rows)} cells, {len(missing)} to be carried out: about {sum(known) / 60:.1f} minutes{unknown}")
