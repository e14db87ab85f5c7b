"""Checkpoints: a mark, written last and read before use, says that one is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

from ..run_directory import write_json

_MARK = "complete.json"


def mark_complete(checkpoint: Path) -> None:
    """Write the mark: name and size of every file that is there. To be called when nothing more will be written."""
    paths = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != _MARK)
    files = {str(path.relative_to(checkpoint)): path.stat().st_size for path in paths}
    write_json(checkpoint / _MARK, {"files": files})


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint has its mark, and every file that the mark names in its full size."""
    try:
        files = json.loads((checkpoint / _MARK).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def checkpoints(folder: Path) -> list[Path]:
    """Return the `checkpoint-N` directories in a folder, in the order of their steps."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the number of optimizer steps that a checkpoint was saved after."""
    return int(checkpoint.name.rpartition("-")[2])


def last_complete(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, or None; warn of newer ones that are not complete."""
    for checkpoint in reversed(checkpoints(folder)):
        if is_complete(checkpoint):
            return checkpoint
        if int(os.environ.get("RANK", "0")) == 0:
            words = "is incomplete, as a run killed while saving leaves it; it is passed over"
            print(f"warning: {checkpoint} {words}", file=sys.stderr)
    return None


def rotate(folder: Path, limit: int | None, best: Path | None) -> None:
    """Remove what is incomplete, and the oldest checkpoints, down to `limit`; the newest and the best stay in any case."""
    if limit is None:
        return
    found = checkpoints(folder)
    for checkpoint in [checkpoint for checkpoint in found if not is_complete(checkpoint)]:
        shutil.rmtree(checkpoint)
        found.remove(checkpoint)
    kept = {path.resolve() for path in ([best] if best else []) + found[-1:]}
    for checkpoint in reversed(found):
        if len(kept) < limit:
            kept.add(checkpoint.resolve())
    for checkpoint in found:
        if checkpoint.resolve() not in kept:
            shutil.rmtree(checkpoint)
