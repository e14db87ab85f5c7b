"""Whether somebody has edited a card: its last line holds a digest of what stood above it when it was written."""

from __future__ import annotations

import hashlib
import re

_SEAL = re.compile(r"\n<!-- written by hf-transfer; SHA-256 of the text above, by which an edit shows: ([0-9a-f]{64}) -->\s*$")


def sealed(text: str) -> str:
    """Return a card with its seal below it, as a comment that no reader sees."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}\n<!-- written by hf-transfer; SHA-256 of the text above, by which an edit shows: {digest} -->\n"


def is_unedited(text: str) -> bool:
    """Return whether a card is as it was written, by whatever version of this package."""
    seal = _SEAL.search(text)
    return seal is not None and hashlib.sha256(text[: seal.start()].encode()).hexdigest() == seal[1]


def seal_of(text: str) -> str | None:
    """Return the digest that a card holds, of what it was before any edit; None where it has none."""
    seal = _SEAL.search(text)
    return seal and seal[1]
