"""A study that is killed anywhere and started again ends as one that was not: same metrics, same predictions, no cell twice.

Every study is the real command in a process of its own. As a script this file is that command, dying by SIGKILL at a place:
`test_study_kill.py PLACE:N STUDY ...`. Places are those of killed_run.py, and `shard` before the N-th shard of features is
written; `cell` before the N-th cell is locked; `recipe`, `metrics`, `card`, `board` between writing the N-th of these files and
giving it its name.
"""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "mark": "study.json",
    "recipe": "recipe.json",
    "metrics": "metrics.json",
    "card": "README.md",
    "board": "leaderboard.json",
}
STUDY = {
    "output_dir": "study",
    "base": {
        "data": {
            "source": "package:digits",
            "test_fraction": 0.2,
            "max_train_samples": 24,
            "max_validation_samples": 20,
            "max_test_samples": 20,
        },
        "model": {"backbone": "vit"},
        "strategy": "linear_probe",
    },
    "axes": {"strategy": ["linear_probe", "full"], "seed": [0, 1]},
    "overrides": [
        {
            "when": {"strategy": "full"},
            "set": {
                "training.num_train_epochs": 3,
                "training.learning_rate": 0.003,
                "training.per_device_train_batch_size": 4,
                "training.eval_strategy": "steps",
                "training.eval_steps": 2,
                "training.save_steps": 2,
                "training.report_to": [],
            },
        },
    ],
}
STUDY["base"]["training"] = {"bf16": False, "use_cpu": True, "dataloader_num_workers": 0, "disable_tqdm": True}


def carry_out(folder, place, *options):
    """Carry out the study of a folder, one thread, and return what became of the process."""
    return subprocess.run(
        [sys.executable, __file__, place, "study.json", *options],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            "OMP_NUM_THREADS": "1",
            "HF_TRANSFER_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def result(root):
    """Return everything of a study that must not depend on whether it was interrupted."""
    found = {}
    for cell in sorted((root / "cells").iterdir()):
        metrics = json.loads((cell / "metrics.json").read_text())
        del metrics["cost"]
        predictions = {path.name: path.read_bytes() for path in (cell / "predictions").iterdir()}
        found[cell.name] = {"metrics": metrics, "predictions": predictions}
    return found


def begun(said):
    """Return the cells that a study says it has begun."""
    return re.findall(r"^\d+ of \d+: (\S+)", said, re.MULTILINE)


def finished(root):
    """Return when the metrics of each finished cell were written."""
    return {path.parent.name: path.with_name("metrics.json").stat().st_mtime_ns for path in root.glob("cells/*/README.md")}


@pytest.fixture(scope="module")
def new_study(tmp_path_factory):
    """Return a function that makes a folder with the study and its backbone in it."""
    import repositories

    def make():
        folder = tmp_path_factory.mktemp("study")
        repositories.write_vit(folder / "vit")
        (folder / "study.json").write_text(json.dumps(STUDY))
        return folder

    return make


@pytest.fixture(scope="module")
def whole(new_study):
    """Return a function that gives the result of a study with some seeds that nobody interrupted."""

    @functools.cache
    def carried_out(seeds):
        folder = new_study()
        done = carry_out(folder, "never", seeds)
        assert done.returncode == 0, done.stderr
        return result(folder / "study")

    return carried_out


@pytest.fixture
def assert_killed_study_goes_on(new_study, whole):
    """Kill a study at some places, one after another, and let it come to its end; it must be the whole one."""

    def check(*places, seeds="axes.seed=[0,1]"):
        expected = whole(seeds)
        folder = new_study()
        root = folder / "study"
        beginnings = 0
        for place in places:
            died = carry_out(folder, place, seeds)
            assert died.returncode == -signal.SIGKILL, f"{place} was never reached: {died.stderr}"
            beginnings += len(begun(died.stderr))
            before = finished(root)
        done = carry_out(folder, "never", seeds)
        assert done.returncode == 0, done.stderr
        beginnings += len(begun(done.stderr))
        assert result(root) == expected
        assert {cell: when for cell, when in finished(root).items() if cell in before} == before
        assert not set(begun(done.stderr)) & before.keys()
        assert len(expected) <= beginnings <= len(expected) + len(places)
        assert not [*(root / "cells").rglob("*.tmp"), *(folder / "cache").rglob("*.tmp")]
        assert not (root / "failed").exists()
        board = json.loads((root / "leaderboard.json").read_text())
        assert board["unfinished"] == [] and len(board["tables"]) == 1

    return check


@pytest.mark.resume
def test_study__killed_in_a_training_and_gone_on_with(assert_killed_study_goes_on):
    assert_killed_study_goes_on("step:10", seeds="axes.seed=[0]")


@pytest.mark.resume
@pytest.mark.parametrize(
    "places",
    [
        ("shard:1",),
        ("shard:2",),
        ("cell:1", "recipe:2", "cell:2"),
        ("metrics:2", "step:10"),
        ("epoch:5", "epoch:2"),
        ("saving:4",),
        ("finished:2",),
        ("metrics:1", "metrics:3"),
        ("card:1", "card:3"),
        ("mark:1",),
        ("board:1",),
    ],
)
def test_study__killed_anywhere_and_gone_on_with(assert_killed_study_goes_on, places):
    assert_killed_study_goes_on(*places)


def kill_at_naming(name, count):
    """Let giving a file its name, for the `count`-th time, be what this process dies before."""
    replace, calls = Path.replace, 0

    def counted(self, target):
        nonlocal calls
        calls += Path(target).name == name
        if Path(target).name == name and calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted


if __name__ == "__main__":
    import killed_run

    from hf_transfer.cli import main
    from hf_transfer.features.store import FeatureFolder
    from hf_transfer.studies import execution

    place, _, count = sys.argv[1].partition(":")
    places = {**killed_run.PLACES, "shard": (FeatureFolder, "write"), "cell": (execution, "take")}
    if place in FILES:
        kill_at_naming(FILES[place], int(count))
    elif place != "never":
        killed_run.kill_at(*places[place], int(count))
    sys.exit(main(["study", *sys.argv[2:]]))
