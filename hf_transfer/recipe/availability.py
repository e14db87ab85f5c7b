"""Keys of the recipe format that this version does not carry out yet: using one is an error that says so, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Problem

# Each key with what of its values waits for a later version (None is never among them), and what to do meanwhile.
_LATER: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("data.task", lambda v: v != "single_label", "use 'single_label'"),
    ("features.pooling", lambda v: v != "default", "use 'default'"),
)


def check_availability(raw: Mapping[str, Any]) -> list[Problem]:
    """Return one `Problem` for each key that asks for something a later version brings.

    Args:
        raw: a recipe as it was written, the strategy spelt out; it may hold other mistakes, which are not judged here.
    """
    return [
        Problem(path, f"is not available in this version; {advice}")
        for path, later, advice in _LATER
        if (value := _value_at(raw, path)) is not None and later(value)
    ]


def _value_at(node: Any, path: str) -> Any:
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
