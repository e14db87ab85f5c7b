"""Class names and other foreign text, made fit to be shown: one line, no invisible tricks, no more than so wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

ELLIPSIS = "\u2026"

# Embeddings, overrides and isolates reorder the text that follows them; in a table they could reorder its cells.
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: object) -> str:
    """Return text as one line of valid unicode without control characters.

    Args:
        text: a class name, a description, a file name; anything else is turned into text first.

    Returns:
        The text with whitespace and control characters collapsed into single spaces, lone surrogates replaced by U+FFFD
        and bidirectional controls removed; `(empty)` when nothing is left.
    """
    characters = []
    for character in str(text):
        category = unicodedata.category(character)
        if category == "Cs":
            characters.append("\ufffd")
        elif category in ("Cc", "Zl", "Zp"):
            characters.append(" ")
        elif character not in _BIDI_CONTROLS:
            characters.append(character)
    return " ".join("".join(characters).split()) or "(empty)"


def display_width(text: str) -> int:
    """Return how many columns a text takes: two for a wide character, none for a combining one."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def shorten(text: str, width: int) -> str:
    """Return a text cut to `width` columns, its last one an ellipsis; a text that fits comes back unchanged."""
    if display_width(text) <= width:
        return text
    return _head(text, width - 1).rstrip() + ELLIPSIS


def shown_names(names: Sequence[object], width: int) -> list[str]:
    """Return names cut to `width` columns that can still be told apart.

    Names are cut at the end. Those that would then read the same are cut in the middle instead, because names that
    share a long beginning mostly differ at their end.

    Args:
        names: class names [C].
        width: columns that each may take, at least 8.

    Returns:
        The names to show [C]. Two of them are equal only if the names differ in neither their beginning nor their end.
    """
    whole = [plain(name) for name in names]
    cut = [shorten(name, width) for name in whole]
    twice = {name for name in cut if cut.count(name) > 1} if len(set(cut)) < len(cut) else set()
    return [_middle_cut(name, width) if short in twice else short for name, short in zip(whole, cut, strict=True)]


def _head(text: str, width: int) -> str:
    used = 0
    for position, character in enumerate(text):
        used += display_width(character)
        if used > width:
            return text[:position]
    return text


def _middle_cut(text: str, width: int) -> str:
    if display_width(text) <= width:
        return text
    tail = _head(text[::-1], (width - 1) // 2)[::-1]
    return _head(text, width - 1 - display_width(tail)).rstrip() + ELLIPSIS + tail.lstrip()
