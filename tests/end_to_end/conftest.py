import json
import subprocess
import sys
from pathlib import Path

import pytest

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
