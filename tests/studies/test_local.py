"""Several processes carry out a study together, and what happens to one of them costs one cell."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import repositories

from hf_transfer.studies.execution import run_study, seconds_between_cells
from hf_transfer.studies.local import on_devices
from hf_transfer.studies.study import cells, load_study

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"test_fraction": 0.2, "max_train_samples": 20, "max_validation_samples": 20, "max_test_samples": 20}
TRAINING = {"num_train_epochs": 2, "use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two tiny ViTs, each fine-tuned with two seeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(["left", "right"]):
        repositories.write_vit(tmp_path / name, seed=number)
    raw = {
        "output_dir": "study",
        "base": {
            "data": {"source": "package:digits", **SMALL},
            "model": {"backbone": "left"},
            "strategy": "full",
            "training": TRAINING,
        },
        "axes": {"model.backbone": ["left", "right"], "seed": [0, 1]},
    }
    (tmp_path / "study.json").write_text(json.dumps(raw))
    return load_study("study.json")


def kill_at_work(cell, seen):
    """Kill the process that carries out a cell, as a system short of memory does, once it has written a checkpoint."""
    while not list(Path(cell.recipe.output_dir).glob("checkpoints/*/complete.json")):
        time.sleep(0.02)
    at_it = next(child for child in multiprocessing.active_children() if cell.id in said_by(child.pid))
    seen.append(at_it.pid)
    os.kill(at_it.pid, signal.SIGKILL)


def said_by(pid):
    """Return where the standard error of a process goes now."""
    return str(Path(f"/proc/{pid}/fd/2").readlink())


def test_on_devices__a_process_that_dies_costs_its_cell(study):
    found = cells(study)
    long = [cell.id for cell in found if cell.values == {"model.backbone": "right", "seed": 0}]
    victim = next(cell for cell in found if cell.id in long)
    victim.recipe.training["num_train_epochs"] = 10_000
    killed = []
    killer = threading.Thread(target=kill_at_work, args=(victim, killed))
    killer.start()
    with on_devices(2) as executor:
        result = run_study(study, found, executor=executor)
        killer.join()
    assert multiprocessing.active_children() == []
    assert result.failed == {
        victim.id: "its process ended with signal SIGKILL; the memory may not have sufficed. Its last words are in "
        f"study/logs/{victim.id}.log"
    }
    assert sorted(result.carried_out) == sorted(cell.id for cell in found if cell is not victim)
    assert "10 classes; images: train 20" in Path(f"study/logs/{victim.id}.log").read_text()

    by_cell = {outcome.cell: int(outcome.worker.rpartition(":")[2]) for outcome in result.outcomes if outcome.worker}
    left, right = ([by_cell[cell.id] for cell in cells if cell is not victim] for cells in (found[:2], found[2:]))
    assert left[0] == left[1] != killed[0] and right[0] not in (left[0], killed[0])  # a new process took the dead one's place
    assert seconds_between_cells(result.outcomes) < 0.5
    if len(os.sched_getaffinity(0)) > 1:
        environment = json.loads(Path(found[0].recipe.output_dir, "environment.json").read_text())
        assert environment["device"].endswith(f" {len(os.sched_getaffinity(0)) // 2} threads")


def study_command(*options):
    """Start a study in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "hf_transfer.cli", "study", "study.json", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def nobody_left(group, seconds=15):
    """Return whether a process group is empty, within some seconds."""
    for _ in range(seconds * 10):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whom", "status"),
    [
        (signal.SIGTERM, os.kill, 130),
        (signal.SIGTERM, os.killpg, 130),
        (signal.SIGINT, os.killpg, 130),
        (signal.SIGKILL, os.kill, -signal.SIGKILL),
    ],
)
@pytest.mark.parametrize("options", [(), ("--devices", "2")])
def test_study_command__stopped_at_work_and_gone_on_with(study, number, whom, status, options):
    found = cells(study)
    process = study_command(*options)
    while not list(Path("study").glob("cells/*/checkpoints")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    whom(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status, said
    assert nobody_left(process.pid)
    assert not Path("study/failed").exists()
    if status == 130:
        assert said.endswith("interrupted; the same command goes on with the study\n")
    done = {path: path.stat().st_mtime_ns for path in Path("study").glob("cells/*/README.md")}
    assert len(done) < len(found)

    process = study_command(*options, "--json")
    answer, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert sorted(json.loads(answer)["done"]) == sorted(cell.id for cell in found)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert not list(Path("study").rglob(".*.tmp"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "0"], "argument --devices: expected a number of processes from 1, or all; found '0'"),
        (["--devices", "two"], "argument --devices: expected a number of processes from 1, or all; found 'two'"),
        (["--devices", "2", "--ray"], "argument --ray: not allowed with argument --devices"),
        (["--ray", "--gpus-per-cell", "1.5"], "argument --gpus-per-cell: expected a whole number, or a part of 1; found '1.5'"),
        (["--cpus-per-cell", "2"], "--cpus-per-cell and --gpus-per-cell say what a task of Ray is given; they need --ray"),
    ],
)
def test_study_command__options_that_do_not_go_together(study, capsys, words, said):
    from hf_transfer.cli import main

    try:
        status = main(["study", "study.json", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert capsys.readouterr().err.rstrip().endswith(said)
    assert not Path("study").exists()
