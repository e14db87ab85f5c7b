"""What an access token looks like, so that none is ever written down."""

from __future__ import annotations

import re

REMOVED = "(removed)"

_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b|\bgithub_pat_\w{20,}\b|\bgh[pousr]_[A-Za-z0-9]{20,}\b")


def holds_token(text: str) -> bool:
    """Return whether there is anything in a text that looks like an access token of the Hub or of GitHub."""
    return _TOKEN.search(text) is not None


def without_tokens(text: str) -> str:
    """Return a text with every access token replaced by `(removed)`."""
    return _TOKEN.sub(REMOVED, text)
