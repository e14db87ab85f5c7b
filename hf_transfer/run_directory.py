"""A run directory: where each file of a run is, who may write into it, and when it counts as finished.

It is the only interface between running and reporting. Every file appears under its name only when it is whole; the metrics
and then the card come last, so a run that has both is a finished one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import RunDirectoryError, listed

# What a run writes; an --overwrite removes these and nothing else.
_CONTENTS = (
    "recipe.json",
    "environment.json",
    "history.csv",
    "probe.json",
    "tuning.json",
    "label_quality.json",
    "predictions",
    "model",
    "adapter",
    "export",
    "quantized",
    "plots",
    "tensorboard",
    "checkpoints",
    "report.html",
    "calibration.json",
    "hub.json",
    ".hub-push",
    "metrics.json",
    "README.md",
)

# A resolved recipe, as a run writes it, has all of these keys; a recipe that a user wrote and keeps here hardly does.
_RESOLVED = frozenset(
    ("schema_version", "mode", "seed", "output_dir", "data", "model", "strategy", "training", "evaluation", "hub")
)
# What may differ when a run is resumed: it changes nothing that is computed.
REMARKS = frozenset(("$schema", "description", "output_dir", "reference", "expected", "hub"))
MACHINE = frozenset(("training.dataloader_num_workers", "training.disable_tqdm"))


_LOCK = ".lock"

LEFT_OVER = re.compile(r"\..+\.\d+\.tmp")
"""Names that `replacing` gives for a while: one that is still there was left by a killed process."""


class RunDirectory:
    """Paths of a run, and the rules of its life.

    Args:
        root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.json"
        self.environment = root / "environment.json"
        self.metrics = root / "metrics.json"
        self.history = root / "history.csv"
        self.probe = root / "probe.json"
        self.label_quality = root / "label_quality.json"
        self.predictions = root / "predictions"
        self.model = root / "model"
        self.adapter = root / "adapter"
        self.card = root / "README.md"
        self.plots = root / "plots"
        self.tensorboard = root / "tensorboard"
        self.checkpoints = root / "checkpoints"
        self.published = root / "hub.json"
        self.staged = root / ".hub-push"
        self.phase0 = self.checkpoints / "phase0"

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return self.metrics.is_file() and self.card.is_file()

    def check(self, recipe: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Refuse to start where something would be lost or silently reused; writes nothing.

        Args:
            recipe: the resolved recipe that is about to run.
            resume: the user asked to continue; a finished run of the same recipe passes, with nothing left to do.
            overwrite: the user asked to start anew.

        Raises:
            RunDirectoryError: saying what is there and which option does what.
        """
        there = next(path for path in (self.root, *self.root.absolute().parents) if os.path.lexists(path))
        if not there.is_dir():
            raise RunDirectoryError(f"output_dir: {there} is a file; expected a directory or nothing")
        if not os.access(there, os.W_OK | os.X_OK):
            raise RunDirectoryError(f"output_dir: cannot write to {there}: Permission denied")
        content = _content(self.root)
        if not content:
            return
        if self._recipe_there() is None:
            raise RunDirectoryError(
                f"output_dir: {self.root} is not empty and holds no run of this package "
                f"({listed(content, 3)}); nothing was touched. Choose another output_dir."
            )
        if overwrite:
            return
        if self.is_finished and not resume:
            raise RunDirectoryError(
                f"output_dir: {self.root} holds a finished run; nothing was touched. Choose another output_dir, or start anew "
                "with --overwrite."
            )
        if not resume:
            raise RunDirectoryError(
                f"output_dir: {self.root} holds an unfinished run; nothing was touched. Continue it with --resume, start anew "
                "with --overwrite, or choose another output_dir."
            )
        self._check_same(recipe)

    def _recipe_there(self) -> dict[str, Any] | None:
        """Return the resolved recipe of the run that is there, or None where there is no run of this package."""
        try:
            found = json.loads(self.recipe.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.keys() >= _RESOLVED else None

    def _check_same(self, recipe: dict[str, Any]) -> None:
        before = flat(self._recipe_there())
        now = flat(recipe)
        changed = [
            f"{key}: was {json.dumps(before.get(key))}, is {json.dumps(now.get(key))}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key.partition(".")[0] not in REMARKS and key not in MACHINE
        ]
        if changed:
            raise RunDirectoryError(
                f"output_dir: {self.root} was begun with another recipe, so it cannot be resumed:\n"
                + "\n".join(f"  - {line}" for line in changed)
                + "\nRestore those values, or start anew with --overwrite or another output_dir."
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory, which is made if need be, for writing; it is let go when the process ends, however that may be.

        Raises:
            RunDirectoryError: when another process holds it.
        """
        import filelock

        lock = filelock.FileLock(self.root / _LOCK)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise RunDirectoryError(
                f"output_dir: another run is writing into {self.root} at this moment; nothing was touched. Wait until it is "
                "done, or choose another output_dir."
            ) from None
        except OSError as error:
            raise RunDirectoryError(f"output_dir: cannot write to {self.root}: {error.strerror or error}") from None
        try:
            yield
        finally:
            (self.root / _LOCK).unlink(missing_ok=True)
            lock.release()

    def begin(self, recipe: dict[str, Any], *, overwrite: bool) -> None:
        """Make the directory and write the resolved recipe, after removing an old run if that was asked for."""
        try:
            if overwrite and self._recipe_there() is not None:
                # The marks of a finished run go first and the mark of a run last: an interruption leaves an unfinished run.
                for name in reversed(_CONTENTS):
                    _remove(self.root / name)
            self.root.mkdir(parents=True, exist_ok=True)
            _remove(self.staged)  # of a run that was killed while it pushed
            if not self.recipe.exists():
                write_json(self.recipe, recipe)
        except OSError as error:
            raise RunDirectoryError(f"output_dir: cannot write to {self.root}: {error.strerror or error}") from None

    def read_environment(self) -> dict[str, Any]:
        """Return what is written down of where and on what a run was carried out; empty where nothing is yet."""
        return json.loads(self.environment.read_text(encoding="utf-8")) if self.environment.is_file() else {}

    def read_metrics(self) -> dict[str, Any]:
        """Return the metrics of a finished run."""
        return json.loads(self.metrics.read_text(encoding="utf-8"))


def check_folder_of_runs(root: Path, mark: str, kind: str) -> bool:
    """Refuse a folder that holds something else than several runs of ours; return whether it holds any.

    Args:
        root: the folder.
        mark: name of the file by which such a folder is known.
        kind: what it is called, such as "study".

    Raises:
        RunDirectoryError: saying what is there.
    """
    if root.is_file():
        raise RunDirectoryError(f"output_dir: {root} is a file; expected a folder or nothing")
    there = _content(root)
    if there and mark not in there:
        raise RunDirectoryError(
            f"output_dir: {root} is not empty and holds no {kind} ({listed(there, 3)}); nothing was touched. Choose another "
            "output_dir."
        )
    return bool(there)


def _content(root: Path) -> list[str]:
    """Return the names in a folder, without what a killed process left unfinished; empty where there is no folder."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(name for name in names if name != _LOCK and not LEFT_OVER.fullmatch(name))


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that the file is either absent, old, or whole."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that takes its place when the block ends without an error."""
    # A thread's number is no process's and no other thread's at the same time; the main thread's is that of its process.
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
    _remove(temporary)  # of a killed process whose number this one has
    try:
        yield temporary
        if path.is_dir():
            _remove(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the values of a nested object by their dotted keys; an empty object is a value."""
    if isinstance(value, dict) and value:
        items = (flat(child, f"{path}.{key}" if path else str(key)) for key, child in value.items())
        return {key: leaf for item in items for key, leaf in item.items()}
    return {path: value}
