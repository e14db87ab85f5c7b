"""The whole report of one run, from its saved files: pictures, calibration and report.html, in seconds.

A run directory is made with synthetic predictions: logits of a plausible classifier (right about 7 times in 10, too sure of
itself, confusions between neighbouring classes) over the paths of real images, those of the packaged textile set, repeated. By
default 3 and 257 classes, 6,080 test and 6,080 validation images, a training history of five phases, a further test set,
robustness and speed: everything the report can show. Then, in a process of its own each time, as `hf-transfer report` does it:

- `write_plots`: every picture and calibration.json;
- `write_report`: report.html;
- `hf-transfer report`: the whole process, start and imports included (goal: under 20 s).

Run from the repository root: python benchmarks/report.py
Needs the packages of the `demo` extra. Nothing is asserted about time. `--keep FOLDER` keeps the run directory to look at.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from printing import machine_facts, print_facts, print_table, spread

from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics import classification_metrics

GROUPS = ("stem", "stage1", "stage2", "stage3", "head")
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "brightness", "jpeg")
_STEPS = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()
from hf_transfer.report import write_plots, write_report
imported = time.perf_counter()
write_plots(Path(sys.argv[1]))
drawn = time.perf_counter()
write_report(Path(sys.argv[1]))
print(json.dumps({"write_plots": drawn - imported, "write_report": time.perf_counter() - drawn}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 257], help="numbers of classes (default 3 257)")
    parser.add_argument("--images", type=int, default=6080, help="test images (default 6080)")
    parser.add_argument("--repeats", type=int, default=5, help="measured repeats, after one that is not (default 5)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the run directories here")
    options = parser.parse_args()
    print_facts(machine_facts())
    rows = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        for n_classes in options.classes:
            run_dir = (options.keep or Path(scratch)) / f"classes-{n_classes}"
            make_run(run_dir, n_classes, options.images)
            seconds: dict[str, list[float]] = {}
            for repeat in range(options.repeats + 1):
                for name, value in timed(run_dir).items():
                    seconds.setdefault(name, []).extend([value] if repeat else [])
            size = (run_dir / "report.html").stat().st_size / 1e6
            rows.append((f"{n_classes} classes", *(spread(sample) for sample in seconds.values()), f"{size:.1f} MB"))
    print("seconds, median (min..max)")
    print_table(("", "write_plots", "write_report", "hf-transfer report", "report.html"), rows)


def timed(run_dir: Path) -> dict[str, float]:
    """Return the seconds of each step, measured in fresh processes."""
    steps = subprocess.run([sys.executable, "-c", _STEPS, str(run_dir)], capture_output=True, text=True, check=True)
    began = time.perf_counter()
    command = [sys.executable, "-m", "hf_transfer.cli", "report", str(run_dir)]
    subprocess.run(command, capture_output=True, check=True)
    return json.loads(steps.stdout) | {"hf-transfer report": time.perf_counter() - began}


def make_run(run_dir: Path, n_classes: int, n_test: int) -> None:
    """Write a run directory with everything that the report can show."""
    from conformal_clip_data import textile_simulated_root

    shutil.rmtree(run_dir, ignore_errors=True)
    (run_dir / "predictions").mkdir(parents=True)
    names = ["global", "local", "nominal"] if n_classes == 3 else [f"{c:03}.object number {c}" for c in range(n_classes)]
    paths = sorted(Path(str(textile_simulated_root())).rglob("*.jpg"))
    rng = np.random.default_rng(0)
    metrics: dict[str, Any] = {}
    for split, n, margin in (("validation", n_test, 7.5), ("test", n_test, 7.5), ("camera_b", n_test // 2, 6.0)):
        labels = rng.integers(0, n_classes, n)
        logits = rng.normal(scale=2.0, size=(n, n_classes)).astype(np.float32)
        logits[np.arange(n), labels] += margin
        # Neighbouring classes look alike.
        logits[np.arange(n), (labels + 1) % n_classes] += rng.normal(3, 2, n).astype(np.float32)
        logits *= 3
        Predictions(
            sample_ids=[f"{split}/{row}" for row in range(n)],
            paths=[str(paths[row % len(paths)]) for row in range(n)],
            labels=labels,
            predicted=logits.argmax(axis=1),
            logits=logits,
            class_names=names,
        ).write(run_dir / "predictions" / f"{split}.parquet")
        metrics[split] = classification_metrics(logits, labels, names)
    metrics["train"] = metrics["validation"]
    shift = metrics["camera_b"]["accuracy"] - metrics["test"]["accuracy"]
    metrics["camera_b"]["shift"] = {"accuracy": shift, "ci95": [shift - 0.02, shift + 0.02], "against": "test"}
    accuracy = metrics["test"]["accuracy"]
    metrics["test"]["robustness"] = {
        corruption: {
            str(severity): {"accuracy": accuracy * 0.93**severity, "accuracy_ci95": [accuracy * 0.92**severity, accuracy]}
            for severity in range(1, 6)
        }
        for corruption in CORRUPTIONS
    }
    metrics["speed"] = {
        "latency_ms": 11.5,
        "latency_p95_ms": 12.9,
        "images_per_second": 210.4,
        "batch_size": 32,
        "parameters": 11_178_051,
        "flops": 1_820_000_000,
        "peak_memory_mb": 640.0,
        "precision": "fp32",
        "device": "CPU",
    }
    metrics["cost"] = {
        "train_seconds": 91.0,
        "total_seconds": 180.0,
        "parameters": 11_178_051,
        "trainable_parameters": {f"{stage} stages": 11_178_051 * stage // 5 for stage in range(1, 6)},
        "peak_memory_mb": 1234.5,
        "images_per_second": 512.3,
        "device": "CPU",
        "precision": "bf16",
    }
    counts = {split: found["per_class"] for split, found in metrics.items() if "per_class" in found}
    environment = {
        "class_names": names,
        "class_counts": {split: {name: one["n"] for name, one in found.items()} for split, found in counts.items()},
        "versions": {"torch": "2.15.0", "transformers": "5.23.0"},
        "python": "3.11",
    }
    recipe = {
        "description": "Synthetic predictions over real images",
        "mode": "train",
        "seed": 0,
        "data": {"source": "package:textile", "test_fraction": 0.2},
        "model": {"backbone": "package:efficientnet_lite0", "pretrained": True},
        "strategy": {"name": "gradual"},
        "training": {"num_train_epochs": 10, "learning_rate": 1e-3},
    }
    for name, content in (("metrics", metrics), ("environment", environment), ("recipe", recipe)):
        (run_dir / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    _write_history(run_dir / "history.csv")


def _write_history(path: Path) -> None:
    """Write a gradual training of five phases, 400 steps each, logged every 10."""
    columns = ["step", "epoch", "phase", "split", "loss", "accuracy", "macro_f1"]
    columns += [*(f"learning_rate/{group}" for group in GROUPS), "trainable_parameters"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for step in range(10, 2001, 10):
            stage = (step - 1) // 400 + 1
            row = {"step": step, "epoch": step / 200, "phase": f"{stage} stages", "trainable_parameters": stage * 2_200_000}
            row |= {f"learning_rate/{group}": 1e-3 * (1 - (step - 1) % 400 / 400) for group in GROUPS[-stage:]}
            loss = float(np.exp(-step / 800))
            writer.writerow(row | {"split": "train", "loss": loss})
            if step % 200 == 0:
                writer.writerow(row | {"split": "validation", "loss": loss + 0.1, "accuracy": 0.9 - loss / 2})


if __name__ == "__main__":
    main()
