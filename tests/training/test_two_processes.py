"""Freezing and thawing under two processes: they stay equal, and do what one process does with the same global batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).parent / "phases_run.py"
PHASES = [
    {"name": "head", "train": ["head"], "epochs": 1},
    {"name": "upper", "train": ["*.2", "head"], "epochs": 1, "rates": {"head": 0.5}},
    {"name": "middle", "train": ["*.1", "*.2"], "epochs": 1},
    {"name": "all", "train": ["*"], "epochs": 1},
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def carry_out(tmp_path):
    def run(processes, checkpoint, strategy, data=None, loss=None, **training):
        folder = tmp_path / f"{processes} processes"
        recipe = {
            "output_dir": str(folder / "run"),
            "data": {
                "source": "package:digits",
                "test_fraction": 0.2,
                "max_train_samples": 24,
                "max_validation_samples": 20,
                "max_test_samples": 20,
                **(data or {}),
            },
            "model": {"backbone": str(checkpoint)},
            "strategy": strategy,
            "augment": {"preset": "basic"},
            "loss": loss or {},
            "training": {
                "learning_rate": 0.003,
                "per_device_train_batch_size": 4 // processes,
                "bf16": False,
                "use_cpu": True,
                "disable_tqdm": True,
                "report_to": [],
                **training,
            },
        }
        folder.mkdir()
        (folder / "recipe.json").write_text(json.dumps(recipe))
        launcher = [sys.executable]
        if processes == 2:
            launcher += ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
            launcher += ["--main_process_port", str(free_port())]
        done = subprocess.run(
            [*launcher, str(DRIVER), str(folder / "notes"), str(folder / "recipe.json")],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        notes = [json.loads(path.read_text()) for path in sorted((folder / "notes").iterdir())]
        assert len(notes) == processes
        metrics = json.loads((folder / "run" / "metrics.json").read_text())
        return notes, load_file(folder / "run" / "model" / "model.safetensors"), metrics

    return run


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_two_processes__equal_each_other_after_every_phase_and_one_process(carry_out, checkpoint_of, family_named, name):
    """dinov2 has a mask token that no gradient reaches: waiting for it would be an error."""
    checkpoint = checkpoint_of(family_named(name, dropout=0.0))
    custom = {"name": "custom", "phases": PHASES}
    (first, second), weights, metrics = carry_out(2, checkpoint, custom)
    assert first == second
    assert [note["phase"] for note in first] == ["head", "upper", "middle", "all"]
    assert {(note["wrapped"], note["finds_unused"]) for note in first} == {("DistributedDataParallel", False)}
    assert len({note["parameters"] for note in first}) == 4
    _, alone, single = carry_out(1, checkpoint, custom)
    assert weights.keys() == alone.keys()
    assert max(float((weights[key] - alone[key]).abs().max()) for key in alone) < 2e-5
    assert metrics["cost"]["trainable_parameters"] == single["cost"]["trainable_parameters"]
    assert metrics["test"]["accuracy"] == single["test"]["accuracy"]


def test_two_processes__batch_norm_statistics_follow_the_first(carry_out, checkpoint_of, family_named):
    checkpoint = checkpoint_of(family_named("resnet"))
    (first, second), _, _ = carry_out(2, checkpoint, {"name": "gradual", "stages": 3, "phase_epochs": 1})
    assert first == second
    assert len({note["buffers"] for note in first}) == 3


def test_two_processes__frozen_batch_norm_equals_one_process(carry_out, checkpoint_of, family_named):
    checkpoint = checkpoint_of(family_named("resnet"))
    strategy = {"name": "gradual", "stages": 3, "phase_epochs": 1, "frozen_batch_norm": True}
    (first, second), weights, _ = carry_out(2, checkpoint, strategy)
    assert first == second and len({note["buffers"] for note in first}) == 1
    _, alone, _ = carry_out(1, checkpoint, strategy)
    assert max(float((weights[key] - alone[key]).abs().max()) for key in alone if alone[key].is_floating_point()) < 2e-5


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        ({"sampling": "balanced"}, None),
        ({"sampling": {str(digit): 1 + digit for digit in range(10)}}, None),
        (None, {"class_weights": "balanced"}),
    ],
    ids=["balanced", "weights", "class weights"],
)
def test_two_processes__weighted_classes_and_a_rest_that_fills_no_step_equal_one_process(
    carry_out, checkpoint_of, family_named, data, loss
):
    """Of 27 images the last step has 3: two for one process, one for the other."""
    checkpoint = checkpoint_of(family_named("vit", dropout=0.0))
    data = {"max_train_samples": 27, **(data or {})}
    (first, second), weights, _ = carry_out(2, checkpoint, "full", data, loss, num_train_epochs=2)
    assert first == second
    _, alone, _ = carry_out(1, checkpoint, "full", data, loss, num_train_epochs=2)
    assert max(float((weights[key] - alone[key]).abs().max()) for key in alone) < 2e-5
