"""What every benchmark prints: the machine it ran on, and a sample of figures as median and spread.

Imports neither torch nor the package, so that `startup.py` stays light.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "timm", "pillow", "pydantic")


def machine_facts() -> dict[str, str]:
    """Return the processor, how many of its cores this process may use, the load before the start, and versions."""
    facts = {
        "cpu": _cpu_model(),
        "processors": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "load_before": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return `median (min..max)` of a sample."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def print_facts(facts: dict[str, str]) -> None:
    """Print facts as one block of `name: value` lines."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:>{width}}: {value}")
    print(flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, the first column left-aligned, the others right-aligned."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    for line in (header, *rows):
        cells = [f"{line[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
    print(flush=True)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
