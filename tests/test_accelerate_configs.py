"""The placements load in the installed accelerate, and those that need no GPU start as many processes as they say."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
SAY = """
import json, sys
from accelerate import PartialState
state = PartialState(cpu=True)
with open(f"{sys.argv[1]}/{state.process_index}.json", "w") as file:
    json.dump([state.num_processes, state.process_index, state.local_process_index, state.device.type], file)
state.destroy_process_group()
"""


def arguments(path, *options):
    parsed = launch_command_parser().parse_args(["--config_file", str(path), *options, "run.py"])
    return _validate_launch_command(parsed)[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder, path, *options):
    (folder / "say.py").write_text(SAY)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), *options]
    return subprocess.Popen(
        [*command, str(folder / "say.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(folder, launches):
    for launch in launches:
        output, _ = launch.communicate(timeout=120)
        assert launch.returncode == 0, output[-2000:]
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_configs__are_those_that_the_readme_tells_of():
    assert [path.stem for path in CONFIGS] == ["cpu", "cpu_2proc", "multi_gpu", "multi_node", "single_gpu"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs__hold_placement_only_and_load(path):
    found = arguments(path)
    assert found.mixed_precision == "no"
    assert found.num_processes == {"cpu": 1, "cpu_2proc": 2, "multi_gpu": 8, "multi_node": 16, "single_gpu": 1}[path.stem]
    assert found.num_machines == (2 if path.stem == "multi_node" else 1)
    assert bool(found.multi_gpu) == (found.num_processes > 1)
    assert bool(found.use_cpu) == path.stem.startswith("cpu")


def test_cpu__is_one_process(tmp_path):
    assert said(tmp_path, [start(tmp_path, ROOT / "accelerate_configs" / "cpu.yaml")]) == [[1, 0, 0, "cpu"]]


def test_cpu_2proc__is_two_processes(tmp_path):
    launch = start(tmp_path, ROOT / "accelerate_configs" / "cpu_2proc.yaml", "--main_process_port", str(free_port()))
    assert said(tmp_path, [launch]) == [[2, 0, 0, "cpu"], [2, 1, 1, "cpu"]]


def test_cpu_2proc__two_machines_of_one_process_find_each_other(tmp_path):
    options = ["--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    path = ROOT / "accelerate_configs" / "cpu_2proc.yaml"
    launches = [start(tmp_path, path, *options, "--machine_rank", str(rank)) for rank in (0, 1)]
    assert said(tmp_path, launches) == [[2, 0, 0, "cpu"], [2, 1, 0, "cpu"]]
