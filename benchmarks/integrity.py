"""What finding bad images costs before a run: the fast pass (headers and ends) beside the full one (everything decoded).

Processor seconds of a pass over JPEGs, as neighbours on the machine disturb them least, and how much a process grows with ten
times the images. One file of a hundred is cut off: both passes must name the same ones.

Run from the repository root: python benchmarks/integrity.py
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from printing import machine_facts, print_facts, print_table

from hf_transfer.data.integrity import scan
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.training.hardware import peak_memory_mb


def write_images(folder: Path, count: int, side: int) -> int:
    """Write JPEGs of smooth noise into one class folder; return the bytes of one."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(buffer, "JPEG", quality=85)
    whole = buffer.getvalue()
    (folder / "class").mkdir(parents=True)
    for number in range(count):
        content = whole[: len(whole) // 2] if number % 100 == 99 else whole
        (folder / "class" / f"{number}.jpg").write_bytes(content)
    return len(whole)


def measure(folder: str, decode: bool) -> tuple[int, float, float, float]:
    """Scan in this process; return how many are bad, processor seconds, seconds, and the peak memory in MB."""
    table = read_class_folders(Path(folder)).tables["train"]
    began, spent = time.perf_counter(), time.process_time()
    found = scan(table, decode=decode)
    return len(found.bad), time.process_time() - spent, time.perf_counter() - began, peak_memory_mb(torch.device("cpu"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="images")
    parser.add_argument("--side", type=int, default=500, help="pixels of a side")
    options = parser.parse_args()
    print_facts(machine_facts())
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for count in (options.count // 10, options.count):
            size = write_images(Path(root, str(count)), count, options.side)
            for decode in (False, True):
                with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    bad, processor, seconds, peak = pool.submit(measure, str(Path(root, str(count))), decode).result()
                assert bad == count // 100
                name = "full" if decode else "fast"
                rows.append([name, f"{count:,}", f"{size / 1000:.0f}", f"{processor:.2f}", f"{seconds:.2f}", f"{peak:.0f}"])
    print_table(["pass", "images", "KB each", "processor s", "s", "peak MB"], rows)


if __name__ == "__main__":
    main()
