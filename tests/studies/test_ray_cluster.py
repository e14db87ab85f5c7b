"""A study on a Ray cluster: what a cell is given, and what happens when a node or the driver dies."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import repositories

from hf_transfer.errors import UserError
from hf_transfer.studies.execution import run_study
from hf_transfer.studies.ray_cluster import NotSharedError, Place, enter, on_ray, resources_of_a_cell
from hf_transfer.studies.study import cells, load_study

ROOT = Path(__file__).resolve().parents[2]
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
        "strategy": "full",
        "training": {
            "num_train_epochs": 40,
            "learning_rate": 0.003,
            "use_cpu": True,
            "bf16": False,
            "report_to": [],
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
        },
    },
    "axes": {"seed": [0, 1, 2, 3]},
}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra 'ray'")


def node(cpus, gpus=0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})}


@pytest.mark.parametrize(
    ("nodes", "asked", "given"),
    [
        ([node(8), node(4)], (None, None), (4, 0)),
        ([node(8), node(4), node(2, alive=False), node(0)], (None, None), (4, 0)),
        ([node(64, 8), node(16, 4), node(4)], (None, None), (4, 1)),
        ([node(64, 8), node(2, 4)], (None, None), (1, 1)),
        ([node(64, 8)], (None, 0.5), (4, 0.5)),
        ([node(64, 8)], (3, 0), (3, 0)),
    ],
)
def test_resources_of_a_cell__what_every_able_node_has(nodes, asked, given):
    assert resources_of_a_cell(nodes, *asked) == given


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((None, 4), "--gpus-per-cell 4: no node of the cluster has as many; the most that one has is 2"),
        ((9, None), "--cpus-per-cell 9: no node with these GPUs has as many; the most that one has is 8"),
        ((65, 0), "--cpus-per-cell 65: no node has as many; the most that one has is 64"),
    ],
)
def test_resources_of_a_cell__more_than_a_node_has(asked, said):
    with pytest.raises(UserError) as error:
        resources_of_a_cell([node(8, 2), node(64)], *asked)
    assert str(error.value) == said


def test_enter__a_node_without_the_folder_of_the_study(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "mark").touch()
    enter(Place(tmp_path, Path("study"), Path("mark")))
    assert Path.cwd() == tmp_path
    with pytest.raises(NotSharedError) as error:
        enter(Place(tmp_path, Path("study"), Path("another")), seen_within=0.0)
    assert str(error.value) == (
        f"output_dir: the node {os.uname().nodename} does not see {tmp_path}/study of the machine where the study was started; "
        "expected a folder at the same path on a file system that all nodes share"
    )


@pytest.fixture
def study(tmp_path, monkeypatch):
    """One tiny ViT fine-tuned with four seeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    repositories.write_vit(tmp_path / "vit")
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    return load_study("study.json")


def study_command(*options):
    return subprocess.Popen(
        [sys.executable, "-m", "hf_transfer.cli", "study", "study.json", *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ray_processes():
    """Return the numbers of the processes of Ray that live on this machine."""
    listed = subprocess.run(["ps", "-eo", "pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s*(\d+) [^Z]\S* .*(?:ray::|/ray/core/|ray/_private)", listed, re.MULTILINE)
    return {int(number) for number in found}


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begun():
    """Return the cells that have a checkpoint and no metrics yet."""
    having = {path.parents[2].name for path in Path("study/cells").glob("*/checkpoints/*/complete.json")}
    return having - {path.parent.name for path in Path("study/cells").glob("*/metrics.json")}


def result(root):
    found = {}
    for cell in sorted((root / "cells").iterdir()):
        metrics = json.loads((cell / "metrics.json").read_text())
        del metrics["cost"]
        predictions = {path.name: path.read_bytes() for path in (cell / "predictions").iterdir()}
        found[cell.name] = {"metrics": metrics, "predictions": predictions}
    return found


@pytest.fixture
def cluster():
    """Three nodes, each with processes of its own; the first one carries nothing out."""
    from ray.cluster_utils import Cluster

    before = ray_processes()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()
    wait_for(lambda: ray_processes() <= before)


@pytest.mark.slow
@needs_ray
def test_study_command__a_node_is_killed(study, cluster):
    process = study_command("--ray", cluster.address, "--json")
    wait_for(lambda: len(begun()) == 2)
    lost = begun()
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    killed = time.time_ns()
    answer, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found = cells(study)
    assert sorted(json.loads(answer)["done"]) == sorted(cell.id for cell in found)
    assert said.count(": carried out") == len(found)
    assert not Path("study/failed").exists() and not list(Path("study/locks").glob("ray-*"))
    on_one, resumed = sorted(lost, key=lambda cell: Path(f"study/logs/{cell}.log").read_text().count("10 classes"))
    assert Path(f"study/logs/{on_one}.log").read_text().count("10 classes") == 1
    assert Path(f"study/logs/{resumed}.log").read_text().count("10 classes") == 2
    assert Path(f"study/cells/{resumed}/recipe.json").stat().st_mtime_ns < killed  # it went on and was not begun anew

    whole = study_command("output_dir=whole")
    _, said = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    assert result(Path("study")) == result(Path("whole"))


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_study_command__a_cluster_of_its_own_ends_with_it(study, number, status):
    before = ray_processes()
    process = study_command("--ray", "--cpus-per-cell", "1")
    wait_for(begun)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    wait_for(lambda: ray_processes() <= before, 120)  # where the driver was killed, agents of Ray notice after a minute
    assert not Path("study/failed").exists()
    if status == 130:
        assert said.endswith("interrupted; the same command goes on with the study\n")


@pytest.mark.slow
@needs_ray
def test_on_ray__a_cell_that_fails_is_not_tried_again(study, cluster):
    Path("empty").mkdir()
    found = cells(study.model_copy(update={"axes": {"model.backbone": ["empty"], "seed": [0]}}))
    with on_ray(cluster.address) as executor:
        result = run_study(study, found, executor=executor)
    assert result.failed == {found[0].id: "model.backbone: expected a config.json in empty (or in its model/), found none"}
    assert Path(f"study/logs/{found[0].id}.log").read_text().count("failed: ") == 1


@needs_ray
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("head", "--ray: expected local, auto, or HOST:PORT of the cluster's head node; found 'head'"),
        ("ray://head:10001", "--ray: expected local, auto, or HOST:PORT of the cluster's head node; found 'ray://head:10001'"),
        ("127.0.0.1:1", "--ray 127.0.0.1:1: expected a running Ray cluster there, but nobody answers ([Errno 111] "),
    ],
)
def test_on_ray__nobody_at_the_address(address, said):
    with pytest.raises(UserError) as error, on_ray(address):
        pass
    assert str(error.value).startswith(said)
