"""`hf-transfer study`: every cell of a study once, and the leaderboard."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, listed
from .printing import OVERRIDE_HELP

if TYPE_CHECKING:
    from ..studies.execution import Executor, StudyResult
    from ..studies.study import Cell, Study


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
    where = study.add_argument_group("where", "by default in this process, one cell after another")
    chosen = where.add_mutually_exclusive_group()
    chosen.add_argument(
        "--devices",
        type=_devices,
        metavar="N|all",
        help="one process on each of N GPUs; without GPUs N processes share the CPU",
    )
    chosen.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="a Ray cluster: on this machine, or 'auto' or an address"
    )
    where.add_argument("--cpus-per-cell", type=_amount, metavar="N", help="with --ray: processors of a cell")
    where.add_argument("--gpus-per-cell", type=_amount, metavar="N", help="with --ray: GPUs of a cell, such as 0.5")
    study.set_defaults(function=_study)


def _devices(text: str) -> int | str:
    if text == "all" or (text.isdecimal() and int(text) > 0):
        return text if text == "all" else int(text)
    raise argparse.ArgumentTypeError(f"expected a number of processes from 1, or all; found '{text}'")


def _amount(text: str) -> float:
    with contextlib.suppress(ValueError):
        amount = float(text)
        if 0 <= amount < float("inf") and (amount < 1 or amount.is_integer()):  # what Ray can give
            return amount
    raise argparse.ArgumentTypeError(f"expected a whole number, or a part of 1; found '{text}'")


def _study(options: argparse.Namespace) -> int:
    from ..studies.study import cells, load_study

    if options.ray is not None and "=" in options.ray:  # `--ray axes.seed=[0]`: the address was left out
        options.overrides, options.ray = [*options.overrides, options.ray], "local"
    if options.ray is None and (options.cpus_per_cell is not None or options.gpus_per_cell is not None):
        raise UserError("--cpus-per-cell and --gpus-per-cell say what a task of Ray is given; they need --ray")
    from ..studies.execution import MARK, choose_cells

    study = load_study(options.study, options.overrides)
    if Path(options.study).resolve() == Path(study.output_dir, MARK).resolve():
        raise UserError(f"output_dir: {options.study} would be written over; rename it, or choose another output_dir")
    if options.dry_run:
        _print_cells(study, choose_cells(cells(study), options.only), options.json)
        return 0
    return carry_out_study(
        study, only=options.only, retry_failed=options.retry_failed, executor=_executor(options), as_json=options.json
    )


def carry_out_study(
    study: Study,
    *,
    only: Sequence[str] = (),
    retry_failed: bool = False,
    executor: contextlib.AbstractContextManager[Executor] | None = None,
    as_json: bool = False,
    file: Path | None = None,
) -> int:
    """Carry out a study, write and print its leaderboard, and return the exit status; Ctrl-C and SIGTERM end it alike.

    Args:
        study: the study.
        only: patterns of ids of cells.
        retry_failed: try those again that failed before.
        executor: what carries out the cells; this process by default.
        as_json: print JSON.
        file: where the study can be read again, where that is not what the user named.
    """
    from ..studies.execution import in_turn, run_study
    from ..studies.interruption import interruptible
    from ..studies.study import cells

    found = cells(study)
    try:
        with interruptible():
            with executor or contextlib.nullcontext(in_turn) as carry_out:
                result = run_study(study, found, only=only, retry_failed=retry_failed, executor=carry_out)
            return _conclude(len(found), result, as_json)
    except KeyboardInterrupt:
        again = "" if file is None else f", as does 'hf-transfer study {file}'"
        print(f"interrupted; the same command goes on with the study{again}", file=sys.stderr)
        return 130


def _executor(options: argparse.Namespace) -> contextlib.AbstractContextManager[Executor] | None:
    """Return what carries out the cells: processes on devices, a Ray cluster, or None for this process."""
    if options.devices is not None:
        from ..studies.local import on_devices

        return on_devices(None if options.devices == "all" else options.devices)
    if options.ray is not None:
        from ..studies.ray_cluster import on_ray

        return on_ray(options.ray, cpus=options.cpus_per_cell, gpus=options.gpus_per_cell)
    return None


def _conclude(count: int, result: StudyResult, as_json: bool) -> int:
    """Write the leaderboard and the report, print the former, and return the exit status."""
    from ..report.leaderboard_table import leaderboard_text
    from ..report.study_page import write_study_report

    written = write_study_report(result.root)
    board = written.board
    if as_json:
        told = {"directory": str(result.root), "done": result.done, "failed": result.failed, "elsewhere": result.elsewhere}
        told |= {"left_out": result.left, "report": str(written.page)}
        print(json.dumps(told | {"leaderboard": board.to_json()}, indent=2))
    else:
        print(leaderboard_text(board))
        for name, said in result.failed.items():
            print(f"failed: {name}: {said} (--retry-failed tries it again)", file=sys.stderr)
        if result.elsewhere:
            print(
                f"another process is at {listed(result.elsewhere)}; the same command goes on when it is done", file=sys.stderr
            )
        left_out = f", {len(result.left)} were left out by the funnel" if result.left else ""
        print(f"{len(result.done)} of {count} cells are done{left_out}; {written.page}")
    return 1 if result.failed else 0


def _print_cells(study: Study, cells: Sequence[Cell], as_json: bool) -> None:
    """Print the cells, which of them are done, and what they take: measured where it was, else that of their like."""
    from ..studies.estimate import estimates
    from ..studies.funnel import left_out

    root = Path(study.output_dir)
    left = left_out(study, cells, root)
    rows: list[dict[str, Any]] = estimates(cells, root)
    for row in rows:
        if left is not None and row["id"] in left and row["state"] == "new":
            row["state"] = "left out"
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(row["id"]) for row in rows)
    for row in rows:
        seconds = row["seconds"]
        cost = "?" if seconds is None else f"{'' if row['basis'] == 'measured' else '~'}{seconds:.0f} s"
        source = f"  scaled from {row['measured_on']}" if row["basis"] == "scaled" else ""
        print(f"{row['id']:<{width}}  {row['state']:<8}  {cost:>8}{source}")
    missing = [row for row in rows if row["state"] not in ("done", "left out")]
    known = [row["seconds"] for row in missing if row["seconds"] is not None]
    unknown = (
        f", and {len(missing) - len(known)} cells of which nothing like them was measured yet"
        if len(known) < len(missing)
        else ""
    )
    print(f"{len(rows)} cells, {len(missing)} to be carried out: about {sum(known) / 60:.1f} minutes{unknown}")
    if left is None and study.funnel is not None:
        print(f"the funnel will fine-tune {study.funnel.finetune_top} backbones and leave the others' cells out of these")
