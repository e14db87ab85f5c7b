"""A leaderboard in words and tables: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics.headline import ACCURACY
from .formats import NOTHING, count, duration, interval, number
from .leaderboard import Leaderboard, Table
from .markdown import escape, table
from .redaction import public_text
from .selection import Selection

_COLUMNS = [
    "Candidate",
    "Seeds",
    "Accuracy",
    "95 % interval",
    "Between seeds",
    "Validation",
    "Beside the leader",
    "95 % interval",
    "p",
    "Tied",
    "Training",
    "Latency",
    "Parameters",
    "Trained",
    "Trials",
    "ImageNet",
    "Published",
]
_WHERE_KNOWN = {"Latency", "Trials", "ImageNet", "Published"}  # left out where no row has one
SELECTION_TITLE = "What would have picked the backbone to fine-tune"
_SELECTORS = ["Picked by", "Backbones", "Kendall's tau", "First", "Regret"]


def leaderboard_text(board: Leaderboard) -> str:
    """Return the tables and verdicts for a terminal."""
    parts = []
    for found in board.tables:
        parts.append(_aligned(columns(found)))
        parts.append(facts(found))
        parts.append("\n".join([found.verdict.words, *found.verdict.notes, *(f"Mind: {said}" for said in found.warnings)]))
        if found.selection is not None:
            words = selection_words(found.selection, found.verdict.headline.name)
            parts += [f"{SELECTION_TITLE}:", _aligned(selectors(found.selection)), words]
    parts += _rest(board)
    return "\n\n".join(parts)


def leaderboard_markdown(board: Leaderboard, description: str = "") -> str:
    """Return the tables and verdicts as Markdown."""
    parts = ["# Leaderboard", escape(public_text(description)) if description else ""]
    for found in board.tables:
        if len(board.tables) > 1:
            parts.append(f"## {escape(public_text(found.data))}")
        parts.append(f"**{escape(found.verdict.words)}**")
        parts += [_markdown(columns(found)), escape(facts(found))]
        said = [*found.verdict.notes, *found.warnings]
        parts.append("\n".join(f"- {escape(note)}" for note in said))
        if found.selection is not None:
            words = selection_words(found.selection, found.verdict.headline.name)
            parts += [f"## {SELECTION_TITLE}", _markdown(selectors(found.selection)), escape(words)]
    parts += [escape(said) for said in _rest(board)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = [[escape(cell) for cell in line] for line in lines]
    return table(header, rows)


def columns(found: Table) -> list[list[str]]:
    """Return the table as text: its header, and a line for each candidate; columns that no candidate fills are left out."""
    lines = [[found.verdict.headline.title if title == ACCURACY.title else title for title in _COLUMNS], *_lines(found)]
    shown = [
        place
        for place, title in enumerate(_COLUMNS)
        if title not in _WHERE_KNOWN or any(line[place] != NOTHING for line in lines[1:])
    ]
    return [[line[place] for place in shown] for line in lines]


def selectors(selection: Selection) -> list[list[str]]:
    """Return what picks a backbone how well, as text: a header and lines."""
    several = selection.top > 1
    lines = [[*_SELECTORS, *([f"Regret of {selection.top}"] if several else [])]]
    for found in selection.selectors:
        regrets = [found.regret, *([found.regret_of_top] if several else [])]
        shown = [f"{100 * regret:.1f} points" for regret in regrets]
        lines.append([found.name, str(found.backbones), number(found.tau, 2), found.pick, *shown])
    return lines


def selection_words(selection: Selection, figure: str) -> str:
    """Return how to read that table; `figure` is what the candidates were compared by, such as "accuracy"."""
    more = f", or than the best of the {selection.top} picked first" if selection.top > 1 else ""
    words = f"Regret: by how much the best of the fine-tuned is better than the one picked first{more}, in test {figure}."
    if selection.known > selection.fine_tuned:
        words += (
            f" Only {selection.fine_tuned} of {selection.known} backbones were fine-tuned: what the others would have reached "
            "is not known."
        )
    return words


def _lines(found: Table) -> list[list[str]]:
    comparisons = {comparison.name: comparison for comparison in found.verdict.comparisons}
    lines: list[list[str]] = []
    for standing in found.verdict.standings:
        row, beside = found.rows[standing.name], comparisons.get(standing.name)
        leads = standing.name == found.verdict.leader
        lines.append(
            [
                standing.name,
                str(standing.seeds),
                number(standing.accuracy),
                interval(list(standing.accuracy_ci95)),
                NOTHING if standing.seed_deviation is None else number(standing.seed_deviation),
                number(standing.validation_accuracy),
                "leader" if leads else NOTHING if beside is None else f"{beside.difference:+.4f}",
                NOTHING if beside is None else f"{beside.difference_ci95[0]:+.4f} to {beside.difference_ci95[1]:+.4f}",
                NOTHING if beside is None else "< 0.001" if beside.p_adjusted < 0.001 else number(beside.p_adjusted, 3),
                "yes" if standing.tied else "no",
                duration(row.costs.get("train_seconds")),
                _milliseconds(row.costs.get("latency_ms")),
                count(row.costs.get("parameters")),
                count(row.costs.get("trainable_parameters")),
                NOTHING if row.trials is None else str(row.trials),
                number(row.imagenet_top1),
                number(row.published),
            ]
        )
    return lines


def _milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f} ms"


def facts(found: Table) -> str:
    """Return what the table rests on, in a sentence or two."""
    baselines = {row.majority_baseline for row in found.rows.values()}
    words = found.verdict.headline.baseline_words
    baseline = f"; {words} gives {number(baselines.pop())}" if len(baselines) == 1 else ""
    groups = f" in {count(found.verdict.groups)} groups" if found.verdict.groups else ""
    chosen = found.verdict.chosen_on
    sources = dict.fromkeys(row.published_source for row in found.rows.values() if row.published_source is not None)
    published = (
        f" Published figures, which no test compares with those here: {public_text('; '.join(sources))}." if sources else ""
    )
    return (
        f"{count(found.verdict.images)} test images{groups}{baseline}. The leader was chosen on {chosen}; p is adjusted for "
        "the number of comparisons; times are those of the longest run, features of a frozen backbone included." + published
    )


def _rest(board: Leaderboard) -> Sequence[str]:
    parts = []
    if len({found.verdict.headline for found in board.tables}) > 1:
        parts.append(
            "Runs of one label an image and runs of several are in tables of their own: an accuracy and a mean average "
            "precision do not compare."
        )
    if board.unfinished:
        parts.append(f"Not finished: {', '.join(board.unfinished)}.")
    if board.left_out:
        parts.append("Left out: " + "; ".join(f"{name}: {why}" for name, why in board.left_out.items()) + ".")
    return parts
