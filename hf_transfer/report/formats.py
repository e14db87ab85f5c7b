"""How the card writes numbers, and what it writes where there is none."""

from __future__ import annotations

import math

NOTHING = "\u2013"


def finite(value: object) -> float | None:
    """Return a number as it is, None for everything that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def number(value: object, digits: int = 4) -> str:
    """Return a number with so many decimals."""
    found = finite(value)
    return NOTHING if found is None else f"{found:,.{digits}f}"


def count(value: object) -> str:
    """Return a whole number with its thousands apart."""
    return number(value, digits=0)


def interval(bounds: object) -> str:
    """Return [low, high] as `low to high`."""
    if not isinstance(bounds, list) or len(bounds) != 2 or None in map(finite, bounds):
        return NOTHING
    return f"{number(bounds[0])} to {number(bounds[1])}"


def duration(seconds: object) -> str:
    """Return seconds as seconds, minutes or hours."""
    found = finite(seconds)
    if found is None:
        return NOTHING
    if found < 120:
        return f"{found:.1f} s"
    return f"{found / 60:.1f} min" if found < 7200 else f"{found / 3600:.1f} h"


def megabytes(value: object) -> str:
    """Return megabytes with their unit."""
    return NOTHING if finite(value) is None else f"{count(value)} MB"
