"""`hf-transfer report`: the pictures and the HTML report of a finished run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import UserError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `report` to the command line."""
    report = commands.add_parser(
        "report",
        help="draw the pictures and the HTML report of a finished run",
        description="Draw plots/ and report.html of a finished run from its files, and the model card where there is none; "
        "no model is loaded.",
    )
    report.add_argument("run", metavar="RUN", help="the directory of a finished run")
    report.add_argument("--output", metavar="FILE", help="the HTML file to write; by default RUN/report.html")
    report.add_argument("--overwrite", action="store_true", help="replace the file that --output names")
    report.add_argument("--json", action="store_true", help="print where everything is as JSON")
    report.set_defaults(function=_report)


def _report(options: argparse.Namespace) -> int:
    from ..report.saved_run import SavedRun

    root = Path(options.run)
    if not root.is_dir():
        raise UserError(f"report: expected the directory of a finished run, found no directory {root}")
    output = None if options.output is None else Path(options.output)
    if output is not None and output.is_dir():
        raise UserError(f"report: --output: expected a file, found the directory {output}")
    if output is not None and output.exists() and not options.overwrite:
        raise UserError(f"report: --output: {output} is there already; nothing was touched. Replace it with --overwrite.")
    run = SavedRun.read(root)
    _stay_offline_if_need_be(run.section("data").get("source"))
    from ..report import write_model_card, write_plots, write_report

    try:
        page = write_report(root, output, write_plots(root))
        if not (root / "README.md").exists():
            write_model_card(root)
    except OSError as error:
        raise UserError(f"report: cannot write to {error.filename or output or root}: {error.strerror or error}") from None
    pictures = sorted(str(path) for path in (root / "plots").glob("*.png"))
    if options.json:
        print(json.dumps({"report": str(page), "plots": pictures}, indent=2))
    else:
        print(f"{page}\n{len(pictures)} pictures in {root / 'plots'}")
    return 0


def _stay_offline_if_need_be(source: object) -> None:
    """Ask once whether the Hub is there, where example images may have to be read from it."""
    from ..data.sources import is_hub_source

    if isinstance(source, str) and is_hub_source(source):
        from ..connection import go_offline_if_unreachable

        go_offline_if_unreachable()
