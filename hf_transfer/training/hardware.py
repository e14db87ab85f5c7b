"""What this machine gains from: precision, memory layout, loader processes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def bf16_pays(use_cpu: bool) -> bool:
    """Return whether bf16 autocast makes training faster here: avx512_bf16 or amx on a CPU, compute capability 8 on a GPU."""
    if not use_cpu:
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def loader_workers(use_cpu: bool) -> int:
    """Return how many loader processes suit this machine.

    On a GPU all processors but one, at most 8 to a process. Where the CPU itself computes, one for 8 processors, at most 4:
    decoding takes a tenth of a step's work there, a loader process only moves it, and forking one makes the system copy the
    memory of this process page by page.
    """
    available = _processors()
    if torch.cuda.is_available() and not use_cpu:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min(8, available // local - 1))
    return min(4, available // 8)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_processors() -> None:
    """Undo `accelerate launch`'s default of one thread a process: share this machine's processors among its processes.

    The launcher sets OMP_NUM_THREADS=1 where nothing was said, which halves the speed of two cores. A number of threads other
    than one, or a run that `accelerate launch` did not start, is left as it is.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(max(1, _processors() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, where the CPU computes; return whether the C library could be told.

    glibc hands every block of more than 32 MB back to the system and asks for it anew, zeroed page by page. The activations of
    one batch are such blocks: with the memory kept, evaluation is 2 to 3 times as fast, training 1.1 times
    (benchmarks/memory.py). The price is a peak about a third higher, since blocks of different sizes share the heap.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # names of malloc.h
    # One arena for all threads: another thread's own holds 64 MB, and what does not fit is mapped and handed back after all.
    settings = ((mmap_max, 0), (trim_threshold, -1), (top_pad, 64 * 2**20), (arena_max, 1))
    taken = [mallopt(name, value) for name, value in settings]  # every one is told
    return all(taken)


def device_name(device: torch.device) -> str:
    """Return the name of a device for reports, such as "NVIDIA H100 80GB HBM3" or "CPU: AMD EPYC, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    model = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return f"CPU: {model or 'unknown model'}, {torch.get_num_threads()} threads"


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB since `reset_peak_memory`: allocated on the GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _STATUS.is_file():
        peak_line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak_line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def reset_peak_memory(device: torch.device) -> None:
    """Begin the peak of `peak_memory_mb` anew; on a CPU only Linux can."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)  # what is kept for later is not what comes next
    if _STATUS.is_file():
        with contextlib.suppress(OSError):  # where the system forbids it, the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5")
