"""What may leave the machine: text without tokens, without credentials in addresses, without the machine's paths."""

from __future__ import annotations

import re
from typing import Any

from ..access_tokens import REMOVED, without_tokens

_SECRET_KEY = re.compile(r"(?:^|[_-])(?:token|password|passwd|secret|api_?key|access_?key|credentials?)$", re.IGNORECASE)

# fsspec joins addresses with "::"; each is looked at by itself.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>(?:(?!::)[^\s\"'<>`])*)")
_LOCAL_SCHEMES = frozenset({"file", "local"})

# A whole text that is a path may hold spaces; inside a sentence a path ends at the first one.
_WHOLE_PATH = re.compile(r"^(?:~?[\\/]|\.{1,2}[\\/]|[A-Za-z]:[\\/])[^\n]*$")
_PATH = re.compile(r"(?<![\w/\\.~<])(?:~?/|[A-Za-z]:[\\/]|\\\\)(?:[^\s\\/\"'`,;:|<>()]+[\\/])+[^\s\\/\"'`,;:|<>()]*")


def public_text(text: str) -> str:
    """Return text fit to be published.

    Args:
        text: a path, an address, a sentence.

    Returns:
        The text with access tokens removed, addresses without user, password, query and fragment, and absolute paths
        (also from the home folder, and texts that are nothing but a path from `.` or `..`) cut to their last part.
    """
    text = without_tokens(text)
    if _WHOLE_PATH.match(text) and "://" not in text and "::" not in text:
        return last_part(text)
    parts, position = [], 0
    for match in _ADDRESS.finditer(text):
        parts += [_PATH.sub(_last_part_of, text[position : match.start()]), _public_address(match)]
        position = match.end()
    return "".join([*parts, _PATH.sub(_last_part_of, text[position:])])


def public(value: Any) -> Any:
    """Return JSON-ready data with every text fit to be published, and without the values of keys that name a secret."""
    if isinstance(value, str):
        return public_text(value)
    if isinstance(value, list):
        return [public(item) for item in value]
    if isinstance(value, dict):
        return {
            key: REMOVED if isinstance(item, str) and _SECRET_KEY.search(str(key)) else public(item)
            for key, item in value.items()
        }
    return value


def last_part(path: str) -> str:
    """Return the last part of a POSIX or Windows path, `.` for one that has none."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1].lstrip("~") or "."


def _last_part_of(match: re.Match[str]) -> str:
    return last_part(match.group())


def _public_address(match: re.Match[str]) -> str:
    scheme, rest = match["scheme"], match["rest"]
    if scheme.lower() in _LOCAL_SCHEMES:
        return last_part(rest)
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    # hf://datasets/NAME@REVISION has its @ after the first slash; before it there is only a user.
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
