"""SIGTERM ends a training with a checkpoint of the very step, and the run goes on from there as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TERMINATED = 143


@pytest.mark.parametrize("place", ["step:10", "saving:4"])
def test_sigterm__writes_a_checkpoint_and_the_rest_is_as_if_it_had_not_come(recipe_of, carry_out, result, tmp_path, place):
    recipe = recipe_of("vit")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert carry_out("never", recipe, whole).returncode == 0
    done = carry_out(f"{place}:TERM", recipe, stopped)
    assert done.returncode == TERMINATED, done.stderr
    assert "SIGTERM: writing a checkpoint after this step" in done.stderr
    assert done.stderr.rstrip().endswith("terminated; a run that has begun continues with --resume")
    steps = sorted(int(path.name.rpartition("-")[2]) for path in (stopped / "checkpoints").glob("checkpoint-*"))
    assert steps[-1] == {"step:10": 10, "saving:4": 9}[place]  # after the step; while a checkpoint is written, after the next
    state = json.loads((stopped / "checkpoints" / f"checkpoint-{steps[-1]}" / "trainer_state.json").read_text())
    assert state["global_step"] == steps[-1]
    resumed = carry_out("never", recipe, stopped, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert result(stopped) == result(whole)


@pytest.mark.parametrize("place", ["reading:1", "scoring:1"])
def test_sigterm__before_and_after_the_training_ends_at_once(recipe_of, carry_out, result, tmp_path, place):
    recipe = recipe_of("vit")
    done = carry_out(f"{place}:TERM", recipe, tmp_path / "run")
    assert done.returncode == TERMINATED, done.stderr
    assert "Traceback" not in done.stderr
    assert carry_out("never", recipe, tmp_path / "run", "--resume").returncode == 0
    assert carry_out("never", recipe, tmp_path / "whole").returncode == 0
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_sigterm__to_one_of_two_processes_stops_both_at_the_same_step(recipe_of, carry_out, result, tmp_path):
    recipe, root = recipe_of("vit"), tmp_path / "run"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]

    def launch(place, *options):
        return subprocess.run(
            [*launcher, "tests/resume/killed_run.py", place, str(recipe), f"output_dir={root}", *options],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = launch("step:5:TERM")
    assert done.returncode == 1, "the launcher's own status"
    assert "terminated; a run that has begun continues with --resume" in done.stderr
    assert (root / "checkpoints" / "checkpoint-5" / "rng_state_1.pth").is_file()
    assert launch("never", "--resume").returncode == 0
    assert (root / "README.md").is_file()


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm__to_launcher_and_loader_processes_still_writes_a_checkpoint(recipe_of, carry_out, tmp_path, processes):
    """The whole group gets the signal, as schedulers send it; of two processes the launcher passes it on."""
    recipe, root = recipe_of("vit", training={"dataloader_num_workers": 2, "num_train_epochs": 500}), tmp_path / "run"
    command = ["tests/resume/killed_run.py", "never", str(recipe), f"output_dir={root}"]
    if processes == 2:
        command = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml", *command]
    begun = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        while not any((root / "checkpoints").glob("checkpoint-*/trainer_state.json")):
            assert begun.poll() is None, begun.stderr.read()
            time.sleep(0.05)
        os.killpg(begun.pid, signal.SIGTERM)
        _, said = begun.communicate(timeout=120)
    finally:
        if begun.poll() is None:
            os.killpg(begun.pid, signal.SIGKILL)
    assert "SIGTERM: writing a checkpoint after this step" in said, said[-2000:]
    if processes == 1:
        assert begun.returncode == TERMINATED
    assert "exited unexpectedly" not in said and "is killed by signal" not in said
    assert not (root / "README.md").exists()
