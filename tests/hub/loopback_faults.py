"""What goes wrong on purpose between the loopback Hub and its client."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """Requests to spoil, and how; a field left out matches every request.

    Args:
        method: Regular expression for the whole method, such as "PUT|POST".
        path: Regular expression looked for in the unquoted path with its query.
        repo: Text looked for in the path and the body, such as "ann/cats"; finds the repository of /api/repos/create, too.
        status: HTTP status to answer with, instead of doing what was asked.
        headers: Headers of that answer, such as {"Retry-After": "1"}.
        message: What the answer says.
        delay: Seconds to wait before the (rest of the) body is read and the request is answered.
        drop: Close the connection without an answer: "during" the body, when `read_bytes` of it were read (all of it, if it is
            short and no PUT); "before" anything is done; "after" all was done.
        read_bytes: See `drop`.
        times: How often to do so; None is always.

    Attributes:
        hits: How often it was done.
    """

    method: str = ".*"
    path: str = ""
    repo: str = ""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "This fault was asked for."
    delay: float = 0.0
    drop: str | None = None
    read_bytes: int = 0
    times: int | None = None
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.drop not in (None, "during", "before", "after"):
            raise ValueError(f'drop is "during", "before" or "after", not "{self.drop}"')

    def matches(self, method: str, path: str, body: bytes) -> bool:
        """Tell whether to spoil a request; `body` is empty where it is long."""
        if self.times is not None and self.hits >= self.times:
            return False
        found = re.fullmatch(self.method, method) and re.search(self.path, path)
        return bool(found) and self.repo in f"{path} {_repository_id(body)} {body.decode(errors='replace')}"


def _repository_id(body: bytes) -> str:
    """Put together what the body of /api/repos/create has in two fields."""
    try:
        value: Any = json.loads(body)
    except ValueError:
        return ""
    return f"{value.get('organization')}/{value.get('name')}" if isinstance(value, dict) else ""
