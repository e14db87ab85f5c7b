"""Markdown in which foreign text stays text: no tag, no link, no broken table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .names import plain

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# An underscore inside a word starts no emphasis, elsewhere it may. The last line: addresses that would become links.
_SPECIAL = re.compile(
    r"[\\`*\[|~$]|(?<![^\W_])_|_(?![^\W_])"
    r"|:(?=//)|(?<=\bwww)\.|@(?=\w)",
)
# What would start a heading, a list or a rule.
_BLOCK_START = re.compile(r"^(\d*)([#+=.)-])")


def escape(text: object) -> str:
    """Return text as Markdown that shows just it on one line: in a table cell, or inside a paragraph."""
    escaped = _SPECIAL.sub(lambda match: "\\" + match.group(), plain(text))
    return re.sub(r"[&<>]", lambda match: _HTML[match.group()], escaped)


def paragraph(text: object) -> str:
    """Return text as a Markdown paragraph of its own, whatever it starts with."""
    return _BLOCK_START.sub(r"\1\\\2", escape(text))


def code(text: object) -> str:
    """Return text as inline code that also fits a table cell."""
    text = plain(text)
    fence = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    if "|" in text:
        # Inside code a backslash is text, unless it precedes a pipe in a table: escaped text is the same everywhere.
        return escape(text)
    return f"{fence}{space}{text}{space}{fence}"


def code_block(text: str, language: str) -> str:
    """Return a fenced code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a table, its first `left` columns aligned left and the others right.

    Args:
        header: Markdown for each column.
        rows: Markdown for each cell; foreign text must have gone through `escape`.
        left: how many columns hold text.
    """
    rule = [":--" if column < left else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [list(header), rule, *map(list, rows)])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
