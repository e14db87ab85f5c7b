"""Where something is to be written, and whether it can be: asked before the work is done, not after."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UserError


def expanded(name: str) -> Path:
    """Return a path with `~` taken for a home folder; where there is no such user it stays as it is, as in a shell."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib's raises for an unknown user)


def check_destination(path: Path, option: str) -> None:
    """Refuse a file or folder that cannot be made: a file stands where a folder should be, or nothing may be written there.

    Args:
        path: what is to be written; it and the folders above it need not exist.
        option: how the user named it, such as `--output`.

    Raises:
        UserError: naming what is in the way.
    """
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if nearest == path and not nearest.is_dir():  # a file that may be replaced
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{option}: {nearest} is a file, so {path} cannot be written; choose another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{option}: nothing may be written in {nearest}; choose another place")
