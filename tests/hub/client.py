"""The library and the real Hub client in a process of their own, against a loopback Hub.

The client reads its environment when it is imported: a test that wants another endpoint, token or cache needs a new process.
Importing transformers takes seconds, so one process does many jobs, each a dictionary whose `job` names its function:

    {"job": "backbone", "model": {...}, "classes": [...]}    the recipe's model section; classes null keeps the own head
    {"job": "splits", "data": {...}}                         the recipe's data section
    {"job": "snapshot", "repo_id": ..., "repo_type": ...}    what `hf download` does
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def client_environment(url: str, home: Path, token: str | None = None) -> dict[str, str]:
    """Return the environment of a process whose client knows this Hub alone, with its caches below `home`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
    }
    return inherited | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        **({"HF_TOKEN": token} if token else {}),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # a HEAD request to Amazon
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_jobs(environment: dict[str, str], jobs: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """Do the jobs in one new process with nothing on stdin; return what each gave, or the `error` a user would read."""
    request, answer = folder / "jobs.json", folder / "results.json"
    request.write_text(json.dumps(jobs))
    answer.unlink(missing_ok=True)
    done = _python(environment, folder, __file__, str(request), str(answer))
    assert done.returncode == 0, done.stderr
    results = json.loads(answer.read_text())
    for name, result in results.items():
        assert "traceback" not in result, f"{name}: {result['traceback']}"
    return results


def run_recipe(environment: dict[str, str], recipe: dict[str, Any], folder: Path) -> tuple[int, str, float]:
    """Carry out a recipe by the command line; return its exit status, what it said on stderr, and the seconds it took."""
    (folder / "recipe.json").write_text(json.dumps(recipe))
    started = time.perf_counter()
    done = _python(environment | {"PYTHONPATH": str(ROOT)}, folder, "-m", "hf_transfer.cli", "run", "recipe.json")
    return done.returncode, done.stderr, time.perf_counter() - started


def run_command(environment: dict[str, str], words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Carry out one `hf-transfer` command."""
    return _python(environment | {"PYTHONPATH": str(ROOT)}, folder, "-m", "hf_transfer.cli", *words)


def _python(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _backbone(model: dict[str, Any], classes: list[str] | None) -> dict[str, Any]:
    from hf_transfer.backbones.build import build_backbone, load_as_it_is
    from hf_transfer.recipe.schema import Model

    section = Model(**model)
    backbone = load_as_it_is(section) if classes is None else build_backbone(section, classes, 0)
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    origin = backbone.provenance
    return {
        "class": type(backbone.model).__name__,
        "weights": digest.hexdigest(),
        "labels": [backbone.model.config.id2label[label] for label in sorted(backbone.model.config.id2label)],
        "size": backbone.processor.to_dict().get("size"),
        "hub_id": origin.hub_id,
        "revision": origin.revision,
        "license": origin.license,
    }


def _splits(data: dict[str, Any]) -> dict[str, Any]:
    from hf_transfer.data.build import build_splits
    from hf_transfer.recipe.schema import Data

    splits = build_splits(Data(**data), ["train", "test"], training=True, decode=True)
    return {
        "class_names": splits.class_names,
        "revision": splits.revision,
        "fingerprint": splits.fingerprint,
        "tables": {
            split: {
                "sample_ids": [str(sample_id) for sample_id in table.sample_ids],
                "labels": table.labels.tolist(),
                "images": [hashlib.sha256(table.encoded(index)).hexdigest() for index in range(len(table))],
            }
            for split, table in splits.tables.items()
        },
    }


def _snapshot(repo_id: str, repo_type: str) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    return {"path": snapshot_download(repo_id, repo_type=repo_type)}


def _main(jobs: Path, results: Path) -> None:
    sys.path[0] = str(ROOT)
    from hf_transfer.connection import go_offline_if_unreachable
    from hf_transfer.errors import UserError

    offline = go_offline_if_unreachable()
    given = {}
    for name, arguments in json.loads(jobs.read_text()).items():
        function = {"backbone": _backbone, "splits": _splits, "snapshot": _snapshot}[arguments.pop("job")]
        try:
            result = function(**arguments)
        except UserError as error:
            result = {"error": str(error)}
        except Exception:
            result = {"traceback": traceback.format_exc()}
        given[name] = {**result, "offline": offline}
    results.write_text(json.dumps(given))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
