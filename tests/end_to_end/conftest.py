import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

ROOT = Path(__file__).resolve().parents[2]

# A real backbone with real weights on real images, small enough for a default run.
QUICK = [
    "data.max_train_samples=48",
    "data.max_validation_samples=24",
    "data.max_test_samples=24",
    "training.num_train_epochs=2",
    "training.per_device_train_batch_size=16",
    "training.disable_tqdm=true",
]


@pytest.fixture(scope="session")
def launch():
    """Run a command line in a process of its own, from the repository's root."""

    def run(*command, **options):
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, **options
        )

    return run


@pytest.fixture(scope="session")
def finished_run(launch, tmp_path_factory):
    """The quickstart on a few of its images, by `python hf_transfer/run.py`."""
    root = tmp_path_factory.mktemp("runs") / "quick"
    done = launch("hf_transfer/run.py", "recipes/quickstart.json", f"output_dir={root}", *QUICK)
    assert done.returncode == 0, done.stderr
    return root, done


@pytest.fixture(scope="session")
def metrics(finished_run):
    return json.loads((finished_run[0] / "metrics.json").read_text())


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A tiny ResNet and a tiny ViT, both with a head of seven classes that means nothing here."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    models = {
        "resnet": ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7)
        ),
        "vit": ViTForImageClassification(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                image_size=32,
                patch_size=8,
                num_labels=7,
            )
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / name)
    return root


@pytest.fixture
def recipe(tmp_path, checkpoints):
    """Write a recipe on the digits; return its path."""

    def write(**sections):
        raw = {
            "output_dir": str(tmp_path / "run"),
            "data": {
                "source": "package:digits",
                "test_fraction": 0.2,
                "max_train_samples": 120,
                "max_validation_samples": 40,
                "max_test_samples": 40,
            },
            "model": {"backbone": str(checkpoints / "resnet")},
            "training": {
                "num_train_epochs": 2,
                "learning_rate": 0.01,
                "dataloader_num_workers": 0,
                "disable_tqdm": True,
                "report_to": [],
            },
        }
        for name, section in sections.items():
            raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(raw))
        return str(path)

    return write
