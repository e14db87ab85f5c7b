"""Tiny checkpoints, and recipes on real digits that are run, killed and resumed in processes of their own."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).parent / "killed_run.py"

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "backbones" / "tiny_models.py")
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

checkpoint_of = _tiny.checkpoint_of

# 24 images in batches of 4: 6 steps an epoch, a checkpoint every 2, so that the third step of each epoch's parts is unsaved.
RECIPE = {
    "data": {
        "source": "package:digits",
        "test_fraction": 0.2,
        "max_train_samples": 24,
        "max_validation_samples": 20,
        "max_test_samples": 20,
    },
    "training": {
        "num_train_epochs": 3,
        "learning_rate": 0.003,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 0,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 2,
        "logging_steps": 3,
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
    },
}


@pytest.fixture(scope="session")
def recipe_of(checkpoint_of, tmp_path_factory):
    """Write a recipe with a tiny checkpoint of a family, or any backbone; return its path."""
    families = {family.name: family for family in _tiny.FAMILIES}

    def write(backbone, **sections):
        source = str(checkpoint_of(families[backbone])) if backbone in families else backbone
        raw = {**RECIPE, "model": {"backbone": source, "pretrained": backbone in families}}
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(raw.get(name), dict)
            raw[name] = {**raw[name], **section} if both else section
        if "phases" in str(raw.get("strategy")) or "phase_epochs" in str(raw.get("strategy")):
            raw["training"] = {key: value for key, value in raw["training"].items() if key != "num_train_epochs"}
        path = tmp_path_factory.mktemp("recipes") / "recipe.json"
        path.write_text(json.dumps(raw))
        return path

    return write


def _carry_out(place, recipe, output, *options):
    """Run a recipe in a process of its own, one thread, and return what became of it."""
    return subprocess.run(
        [sys.executable, str(DRIVER), place, str(recipe), f"output_dir={output}", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _result(root):
    """Return everything of a run that must not depend on whether it was interrupted."""
    metrics = json.loads((root / "metrics.json").read_text())
    cost = metrics.pop("cost")
    with (root / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    files = sorted(path for folder in ("model", "adapter", "predictions") for path in (root / folder).rglob("*.*"))
    return {
        "metrics": metrics,
        "trainable": cost["trainable_parameters"],
        "history": history,
        "files": {str(path.relative_to(root)): path.read_bytes() for path in files},
    }


@pytest.fixture(scope="session")
def carry_out():
    """`carry_out(place, recipe, output, *options)`: what became of a run in a process of its own."""
    return _carry_out


@pytest.fixture(scope="session")
def result():
    """`result(root)`: everything of a run that must not depend on whether it was interrupted."""
    return _result


@pytest.fixture
def assert_resume_is_exact(tmp_path):
    """Run a recipe whole, and killed and resumed; both must end with the same bytes."""

    def check(recipe, place):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        done = _carry_out("never", recipe, whole)
        assert done.returncode == 0, done.stderr
        died = _carry_out(place, recipe, killed)
        assert died.returncode == -signal.SIGKILL, f"{place} was never reached: {died.stderr}"
        resumed = _carry_out("never", recipe, killed, "--resume")
        assert resumed.returncode == 0, resumed.stderr
        one, other = _result(whole), _result(killed)
        assert other["history"] == one["history"]
        assert other["metrics"] == one["metrics"]
        assert {name for name in one["files"] if one["files"][name] != other["files"].get(name)} == set()
        assert one["files"].keys() == other["files"].keys() and "model/model.safetensors" in one["files"]
        return resumed

    return check
