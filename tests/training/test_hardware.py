import os
import platform
import subprocess
import sys

import pytest
import torch

from hf_transfer.training import hardware


@pytest.mark.parametrize(("bf16", "amx", "pays"), [(False, False, False), (True, False, True), (False, True, True)])
def test_bf16_pays__on_a_cpu_with_instructions_for_it(monkeypatch, bf16, amx, pays):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert hardware.bf16_pays(use_cpu=True) is pays


@pytest.mark.parametrize(("capability", "pays"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bf16_pays__on_a_gpu_from_ampere_on(monkeypatch, capability, pays):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert hardware.bf16_pays(use_cpu=False) is pays


@pytest.mark.parametrize(("processors", "local", "workers"), [(1, 1, 1), (4, 1, 3), (64, 1, 8), (16, 4, 3), (2, 8, 1)])
def test_loader_workers__on_a_gpu(monkeypatch, processors, local, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "_processors", lambda: processors)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert hardware.loader_workers(use_cpu=False) == workers


@pytest.mark.parametrize(("processors", "workers"), [(1, 0), (2, 0), (8, 1), (64, 4)])
def test_loader_workers__on_a_cpu(monkeypatch, processors, workers):
    monkeypatch.setattr(hardware, "_processors", lambda: processors)
    assert hardware.loader_workers(use_cpu=True) == workers


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, 4),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}, 8),
        ({"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "3"}, None),
        ({"OMP_NUM_THREADS": "1"}, None),
    ],
)
def test_use_all_processors__only_where_the_launcher_took_them(monkeypatch, environment, threads):
    for name in ("ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setattr(hardware, "_processors", lambda: 8)
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    hardware.use_all_processors()
    assert chosen == ([] if threads is None else [threads])


PAGE_FAULTS = """
import resource, sys, torch
from hf_transfer.training.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
network = torch.nn.Sequential(*[torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])
images = torch.ones(32, 8, 224, 224)
with torch.no_grad():
    for _ in range(3):
        network(images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        network(images)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide for themselves")
def test_keep_freed_memory__freed_blocks_are_used_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", PAGE_FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "return")
    }
    assert faults["keep"] * 10 < faults["return"]


def test_device_name__of_the_cpu():
    name = hardware.device_name(torch.device("cpu"))
    assert name.startswith("CPU: ")
    assert name.endswith(f", {torch.get_num_threads()} threads")
    assert hardware.device_name(torch.device("meta")) == "meta"


def test_peak_memory_mb__of_this_process():
    assert 50 < hardware.peak_memory_mb(torch.device("cpu")) < 100_000


def test_reset_peak_memory__begins_anew():
    cpu = torch.device("cpu")
    hardware.reset_peak_memory(cpu)
    before = hardware.peak_memory_mb(cpu)
    ballast = torch.ones(256 * 2**20, dtype=torch.uint8)
    assert hardware.peak_memory_mb(cpu) > before + 200
    del ballast
    hardware.reset_peak_memory(cpu)
    assert hardware.peak_memory_mb(cpu) < before + 100
