"""The library and the real Hub client in a process of their own, against a loopback Hub.

The client reads its environment when it is imported: a test that wants another endpoint, token or cache needs a new process.
Importing transformers takes seconds, so one process does many jobs, each a dictionary whose `job` names its function:

    {"job": "backbone", "model": {...}, "classes": [...]}    the recipe's model section; classes null keeps the own head
    {"job": "splits", "data": {...}}                         the recipe's data section
    {"job": "snapshot", "repo_id": ..., "repo_type": ...}    what `hf download` does
    {"job": "command", "words": [...], "token": ...}         one `hf-transfer` command: status, stdout, stderr
    {"job": "push", "run": ..., "repo_id": ..., ...}         `push_run`: where it was published
    {"job": "pushes", "pushes": [{...}, ...]}                several at once, each in a thread of its own
    {"job": "reload", "repo_id": ..., "images": [...], ...}  logits of a published model, by every way there is to load it
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
                "groups": None if table.groups is None else table.groups.tolist(),
                "images": [hashlib.sha256(table.encoded(index)).hexdigest() for index in range(len(table))],
            }
            for split, table in splits.tables.items()
        },
    }


def _snapshot(repo_id: str, repo_type: str) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    return {"path": snapshot_download(repo_id, repo_type=repo_type)}


def _command(words: list[str], token: str | None = None) -> dict[str, Any]:
    from hf_transfer.cli import main

    if token is not None:  # which the client reads each time; empty means that nobody is logged in
        os.environ["HF_TOKEN"] = token
    said, warned = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(warned):
        status = main(words)
    return {"status": status, "stdout": said.getvalue(), "stderr": warned.getvalue()}


def _push(run: str, **destination: Any) -> dict[str, Any]:
    from hf_transfer.deploy.hub import Destination, push_run
    from hf_transfer.errors import UserError
    from hf_transfer.run_directory import RunDirectory

    try:
        found = dataclasses.asdict(push_run(RunDirectory(Path(run)), Destination(**destination)))
    except UserError as error:
        found = {"error": str(error), "temporary": getattr(error, "temporary", None)}
    return found


def _pushes(pushes: list[dict[str, Any]]) -> dict[str, Any]:
    with ThreadPoolExecutor(len(pushes)) as pool:
        return {"results": list(pool.map(lambda arguments: _push(**arguments), pushes))}


def _reload(repo_id: str, images: list[str], *, timm: bool, revision: str | None = None) -> dict[str, Any]:
    """Return the logits of each image, as floats, by AutoModel, timm and our own loading; the pipeline's labels and scores."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    from hf_transfer.backbones.build import load_as_it_is
    from hf_transfer.recipe.schema import Model

    pictures = [Image.open(path).convert("RGB") for path in images]
    found: dict[str, Any] = {}
    ours = load_as_it_is(Model(backbone=repo_id, revision=revision))  # which also registers our model type
    with torch.no_grad():
        model = AutoModelForImageClassification.from_pretrained(repo_id, revision=revision).eval()
        processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision)
        found["class"] = type(model).__name__
        found["labels"] = [model.config.id2label[label] for label in range(model.config.num_labels)]
        found["auto"] = [model(**processor(picture, return_tensors="pt")).logits[0].tolist() for picture in pictures]
        pixels = [ours.preprocessing(picture)[None] for picture in pictures]
        found["ours"] = [ours.model.eval()(pixel_values=one).logits[0].tolist() for one in pixels]
        if timm:
            import timm as library

            network = library.create_model(f"hf-hub:{repo_id}", pretrained=True).eval()
            transform = library.data.create_transform(**library.data.resolve_model_data_config(network), is_training=False)
            found["timm"] = [network(transform(picture)[None])[0].tolist() for picture in pictures]
            found["timm_same_input"] = [network(one)[0].tolist() for one in pixels]
    classifier = pipeline("image-classification", model=repo_id, revision=revision)
    found["pipeline"] = [{row["label"]: row["score"] for row in classifier(picture, top_k=None)} for picture in pictures]
    return found


def _main(jobs: Path, results: Path) -> None:
    sys.path[0] = str(ROOT)
    from hf_transfer.connection import go_offline_if_unreachable
    from hf_transfer.errors import UserError

    offline = go_offline_if_unreachable()
    given = {}
    for name, arguments in json.loads(jobs.read_text()).items():
        function, began = _JOBS[arguments.pop("job")], time.perf_counter()
        try:
            result = function(**arguments)
        except UserError as error:
            result = {"error": str(error)}
        except Exception:
            result = {"traceback": traceback.format_exc()}
        given[name] = {**result, "offline": offline, "seconds": time.perf_counter() - began}
    results.write_text(json.dumps(given))


_JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "backbone": _backbone,
    "splits": _splits,
    "snapshot": _snapshot,
    "command": _command,
    "push": _push,
    "pushes": _pushes,
    "reload": _reload,
}


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
