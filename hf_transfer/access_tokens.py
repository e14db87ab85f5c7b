"""What an access token looks like, so that none is ever written down."""

from __future__ import annotations

import re

REMOVED = "(removed)"

# The Hub's are 34 random letters; a file called hf_efficientnet_lite0 is none, and neither is hf_efficientnetlite0textile.
_TOKEN = re.compile(
    r"\b(?:hf|api_org)_(?=[a-z0-9]*[A-Z])(?=[A-Z0-9]*[a-z])[A-Za-z0-9]{16,}\b"
    r"|\bgithub_pat_\w{20,}\b|\bgh[pousr]_[A-Za-z0-9]{20,}\b"
)


def holds_token(text: str) -> bool:
    """Return whether there is anything in a text that looks like an access token of the Hub or of GitHub."""
    return _TOKEN.search(text) is not None


def without_tokens(text: str) -> str:
    """Return a text with every access token replaced by `(removed)`."""
    return _TOKEN.sub(REMOVED, text)
