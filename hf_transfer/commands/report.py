"""`hf-transfer report`: the pictures and the HTML report of a finished run, or of all runs below a folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import UserError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `report` to the command line."""
    report = commands.add_parser(
        "report",
        help="draw the pictures and the HTML report of a finished run, or of a folder of runs",
        description="Draw plots/ and report.html from files; no model is loaded. Of a finished run: its own report, and the "
        "model card where there is none. Of any other folder, such as a study's: the leaderboard of the runs below it with a "
        "verdict, their curves, and the state of those that are still training.",
    )
    report.add_argument("directory", metavar="DIR", help="the directory of a finished run, or a folder with runs below it")
    report.add_argument("--output", metavar="FILE", help="the HTML file to write; by default DIR/report.html")
    report.add_argument("--overwrite", action="store_true", help="replace files that are there")
    report.add_argument(
        "--overlay",
        action="append",
        default=[],
        metavar="PATTERN",
        help="of a folder: overlay the curves of these runs only, in the report and in plots/overlay.png and .svg; a shell "
        "pattern of their directories, from DIR; may be given several times",
    )
    report.add_argument(
        "--summary",
        action="store_true",
        help="write nothing; print, for each split, each run's step chosen on validation and its accuracy (or mAP) there, "
        "as Markdown",
    )
    report.add_argument("--json", action="store_true", help="print where everything is, or the summary, as JSON")
    report.set_defaults(function=_report)


def _report(options: argparse.Namespace) -> int:
    root = Path(options.directory)
    if not root.is_dir():
        raise UserError(f"report: expected the directory of a finished run, or a folder of runs; found no directory {root}")
    output = None if options.output is None else Path(options.output)
    if options.summary:
        if output is not None:
            raise UserError("report: --summary prints and writes nothing; leave --output out")
        return _print_summary(root, options.overlay, as_json=options.json)
    if output is not None and output.is_dir():
        raise UserError(f"report: --output: expected a file, found the directory {output}")
    if output is not None and output.exists() and not options.overwrite:
        raise UserError(f"report: --output: {output} is there already; nothing was touched. Replace it with --overwrite.")
    is_run = any((root / name).is_file() for name in ("recipe.json", "metrics.json"))
    if is_run and options.overlay:
        raise UserError(f"report: --overlay chooses among the runs of a folder; {root} is one run")
    try:
        return _report_run(root, output, options.json) if is_run else _report_folder(root, output, options)
    except OSError as error:
        raise UserError(f"report: cannot write to {error.filename or output or root}: {error.strerror or error}") from None


def _report_run(root: Path, output: Path | None, as_json: bool) -> int:
    from ..report.saved_run import SavedRun

    run = SavedRun.read(root)
    _stay_offline_if_need_be(run.section("data").get("source"))
    from ..report import write_model_card, write_plots, write_report
    from ..report.temperatures import learned_temperatures

    page = write_report(root, output, write_plots(root))
    if not (root / "README.md").exists():
        write_model_card(root)
    pictures = sorted(str(path) for path in (root / "plots").glob("*.png"))
    if as_json:
        print(json.dumps({"report": str(page), "plots": pictures}, indent=2))
        return 0
    if temperatures := learned_temperatures(run.metrics):
        print(f"learned temperatures of the attention: {temperatures.words}")
    print(f"{page}\n{len(pictures)} pictures in {root / 'plots'}")
    return 0


def _report_folder(root: Path, output: Path | None, options: argparse.Namespace) -> int:
    from ..errors import listed
    from ..report.study_page import write_study_report, written_by_others

    there = [] if options.overwrite else written_by_others(root)
    if there:
        raise UserError(
            f"report: {root} has files that no report wrote ({listed([path.name for path in there])}); nothing was touched. "
            "Replace them with --overwrite."
        )
    written = write_study_report(root, output, overlay=options.overlay)
    verdicts = [table.verdict.words for table in written.board.tables]
    if options.json:
        told = {
            "report": str(written.page),
            "plots": [str(path) for path in written.pictures],
            "leaderboard": [str(path) for path in written.leaderboard],
            "verdicts": verdicts,
        }
        print(json.dumps(told, indent=2))
        return 0
    for said in verdicts or ["No run is finished: no verdict yet."]:
        print(said)
    print(f"{written.page}\n{len(written.pictures)} pictures in {root / 'plots'}; {written.leaderboard[-1]}, .csv and .json")
    return 0


def _print_summary(root: Path, patterns: list[str], *, as_json: bool) -> int:
    from ..report.leaderboard import build_leaderboard
    from ..report.run_overlay import choose_runs, read_runs
    from ..report.step_summary import summarise_steps, summary_json, summary_markdown

    summary = summarise_steps(choose_runs(read_runs(root, build_leaderboard(root)), patterns))
    print(json.dumps(summary_json(summary), indent=2) if as_json else summary_markdown(summary), end="\n" if as_json else "")
    return 0


def _stay_offline_if_need_be(source: object) -> None:
    """Ask once whether the Hub is there, where example images may have to be read from it."""
    from ..data.sources.source import is_hub_source

    if isinstance(source, str) and is_hub_source(source):
        from ..connection import go_offline_if_unreachable

        go_offline_if_unreachable()
