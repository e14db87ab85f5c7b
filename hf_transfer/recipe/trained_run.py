"""What a run directory, or the Hub repository that was made of it, says of its own training, without importing torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..connection import go_offline_if_unreachable
from ..errors import BackboneError
from ..hub_errors import hub_failure, reading_problem, wanted_model
from .schema import SCHEMA_VERSION, Data

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_DATA_SET = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)  # old ones have no owner
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class TrainedRun:
    """What training left, in a directory or on the Hub.

    Args:
        data: the `data` section of its recipe; a Hub data set is pinned to the commit that was read.
        splits: what was evaluated when training was over.
        fingerprint: digest of everything it read; None where the run was cut off before that was written.
        is_readable: whether `data.source` means the same here as where it was trained. A pushed recipe names no more of a
            folder than its last part.
    """

    data: Data
    splits: tuple[str, ...]
    fingerprint: str | None
    is_readable: bool = True


def trained_run(checkpoint: str, revision: str | None = None) -> TrainedRun | None:
    """Return what is known of a run; None for a checkpoint that no training run of this format left.

    Args:
        checkpoint: a run directory, or the Hub id of a model; of anything else nothing is known.
        revision: branch, tag or commit of a Hub id.

    Raises:
        BackboneError: when the Hub cannot be asked.
    """
    try:
        root = Path(checkpoint).expanduser()
        is_here = root.exists()
    except (OSError, RuntimeError, ValueError):
        return None
    if is_here:
        recipe, environment = _object(root / "recipe.json"), _object(root / "environment.json")
        return _described(recipe, environment)
    if not is_hub_id(checkpoint):
        return None
    go_offline_if_unreachable()
    file = _download(checkpoint, "recipe.json", revision)
    if file is None:
        return None
    recipe = _object(file)
    facts = _download(checkpoint, "environment.json", file.parent.name)  # of the same commit, whatever is pushed meanwhile
    environment = {} if facts is None else _object(facts)
    run = _described(recipe, environment)
    return run if run is None else replace(run, is_readable=_is_readable(run.data.source, environment))


def is_hub_id(checkpoint: str) -> bool:
    """Return whether the name of a checkpoint that is not here may be a Hub id, OWNER/NAME."""
    return _HUB_ID.fullmatch(checkpoint) is not None


def _described(recipe: dict[str, Any], environment: dict[str, Any]) -> TrainedRun | None:
    """Return what a recipe and the environment beside it tell; neither is trusted to be what it should."""
    try:
        if recipe["mode"] != "train" or recipe.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            return None
        data, splits = Data.model_validate(recipe["data"]), tuple(map(str, recipe["evaluation"]["splits"]))
    except (ValueError, LookupError, TypeError):
        return None
    commit, fingerprint = environment.get("data_revision"), environment.get("data_fingerprint")
    if environment.get("data_hub_id") == data.source and isinstance(commit, str) and _COMMIT.fullmatch(commit):
        data = data.model_copy(update={"revision": commit})
    return TrainedRun(data, splits, None if fingerprint is None else str(fingerprint))


def _is_readable(source: str, environment: dict[str, Any]) -> bool:
    """Return whether a published source is a package's, or a Hub data set that no folder here hides."""
    if source.startswith("package:"):
        return True
    is_hub = environment.get("data_hub_id") == source and _DATA_SET.fullmatch(source) is not None
    return is_hub and not Path(source).exists()


def _object(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one for a file that is missing or holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _download(repo_id: str, name: str, revision: str | None) -> Path | None:
    """Return a file of a repository; None where it has none of this name."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        return Path(hf_hub_download(repo_id, name, revision=revision))
    except Exception as error:
        failure = hub_failure(error)
        if failure is None:
            raise
        is_known = try_to_load_from_cache(repo_id, name, revision=revision) is not None  # to be missing, or it were found
        if failure.kind == "no_file" or (failure.kind == "offline" and is_known):
            return None
        if failure.kind == "offline" and try_to_load_from_cache(repo_id, "config.json", revision=revision):
            raise BackboneError(
                f"model.backbone: what {repo_id} was trained on is not in the cache ({name}), and the Hub cannot be reached; "
                "name the data, or connect once"
            ) from None
        raise BackboneError(reading_problem(failure, wanted_model(repo_id, revision))) from None
