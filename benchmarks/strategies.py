"""Every strategy on the packaged textile images: test accuracy, seconds, trainable parameters, each paired with `full`.

Each strategy is a run of `hf_transfer/run.py` in a process of its own, one at a time, for each of the seeds (default 0, 1, 2),
with EfficientNet-Lite0 and the settings in `SETTINGS`. The split is the same in all runs (`split_seed` 0), so every seed and
every strategy is scored on the same 400 test images. Settings were chosen by validation accuracy (`--splits validation` shows
it and does not score the test split); the test split is read once for each run that the table holds.

- `accuracy`: mean over seeds, with a 95 % interval by a bootstrap over test images (10,000 resamples; an image's value is the
  share of seeds that had it right: the interval is that of a test set of this size); the seeds' own figures beside it;
- `- full`: the mean difference to `full`, paired by image, with the bootstrap interval of the same resamples;
- `seconds`: `cost.train_seconds`, training with its evaluations and checkpoints, features included; median (min..max);
- `whole`: `cost.total_seconds`;
- `trainable`: parameters in each phase.

A feature cache of its own, emptied before each run, keeps runs from helping one another.

Run from the repository root: python benchmarks/strategies.py --markdown docs/strategies-table.md
Needs the packages of the `demo` and `lora` extras. Nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from printing import machine_facts, print_facts, print_table, spread

from hf_transfer.evaluation.predictions import Predictions

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "quickstart.json"

# What differs from recipes/quickstart.json (full fine-tuning, 3 epochs of batches of 32, learning rate 1e-3, cosine, no
# augmentation). Only the settings of `partial` were searched, on validation with seed 0; the others are one plausible choice
# each. (`lora` at a learning rate of 5e-3 had fallen back to 0.75 with two of three seeds.)
_SHORT = {"num_train_epochs": 2, "per_device_train_batch_size": 16}
_PARTIAL = {"name": "partial", "frozen_batch_norm": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "partial, 4 frozen": {
        "strategy": {**_PARTIAL, "frozen_groups": 4},
        "training": {**_SHORT, "learning_rate": 2e-3, "label_smoothing_factor": 0.1},
    },
    "partial, 3 frozen": {"strategy": {**_PARTIAL, "frozen_groups": 3}, "training": _SHORT},
    "linear_probe": {"strategy": "linear_probe", "training": {}},
    "knn": {"strategy": "knn", "training": {}},
    "two_phase": {"strategy": "two_phase"},
    "lora": {"strategy": "lora"},
    "norm_only": {"strategy": "norm_only", "training": {"learning_rate": 1e-2}},
    "gradual": {"strategy": {"name": "gradual", "stages": 3}},
    "discriminative": {"strategy": "discriminative", "training": {"learning_rate": 2e-3, "lr_scheduler_type": "cosine"}},
    "complete": {"strategy": {"name": "complete", "stages": 3}, "training": {"learning_rate": 2e-3}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--splits", choices=["validation", "test"], default="test", help="the split that is scored")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key in every run")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="keep the run directories, and use those that are there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table as Markdown")
    options = parser.parse_args()
    print_facts(machine_facts())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        folder = options.runs or Path(scratch)
        found = {
            name: [carry_out(name, seed, options, folder, Path(scratch)) for seed in options.seeds] for name in options.only
        }
        rows = table(found, options.splits)
    header = ("strategy", "accuracy", "seeds", "- full", "seconds", "whole", "trainable")
    print_table(header, rows)
    if options.markdown is not None:
        lines = [header, ("---",) * len(header), *rows]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        options.markdown.write_text(text, encoding="utf-8")


def carry_out(name: str, seed: int, options: argparse.Namespace, folder: Path, scratch: Path) -> Path:
    """Run a strategy with a seed; return its run directory."""
    raw = json.loads(RECIPE.read_text(encoding="utf-8"))
    raw.pop("expected", None)
    settings = SETTINGS[name]
    if settings.get("training") == {}:
        raw.pop("training")
    raw |= {key: value for key, value in settings.items() if key != "training"}
    if settings.get("training"):
        raw["training"] |= settings["training"]
    short = name.replace(", ", "-").replace(" ", "-")
    recipe = scratch / f"{short}.json"
    recipe.write_text(json.dumps(raw), encoding="utf-8")
    root = folder / f"{short}-{seed}"
    if (root / "README.md").is_file():
        return root
    cache = scratch / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, "hf_transfer/run.py", str(recipe), f"output_dir={root}", f"seed={seed}", *options.set]
    command += [f'evaluation.splits=["{options.splits}"]']
    environment = os.environ | {"HF_TRANSFER_CACHE": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{name}, seed {seed}: {done.stderr[-3000:]}")
    metrics = json.loads((root / "metrics.json").read_text(encoding="utf-8"))
    words = f"{metrics[options.splits]['accuracy']:.4f}, {metrics['cost']['train_seconds']:.1f} s"
    print(f"{name}, seed {seed}: {words}", file=sys.stderr, flush=True)
    return root


def table(found: dict[str, list[Path]], split: str) -> list[tuple[str, ...]]:
    """Return the rows of the table."""
    correct = {name: np.stack([_correct(root, split) for root in roots]) for name, roots in found.items()}
    count = next(iter(correct.values())).shape[1]
    resamples = np.random.default_rng(0).integers(0, count, (10_000, count))
    rows = []
    for name, roots in found.items():
        values = correct[name].mean(axis=0)
        costs = [json.loads((root / "metrics.json").read_text(encoding="utf-8"))["cost"] for root in roots]
        difference = (
            "" if name == "full" or "full" not in correct else _interval(values - correct["full"].mean(axis=0), resamples)
        )
        seeds = correct[name].mean(axis=1)
        phases = ", ".join(f"{phase} {number:,}" for phase, number in costs[0]["trainable_parameters"].items()) or "none"
        rows.append(
            (
                name,
                _interval(values, resamples),
                f"{seeds.min():.4f}..{seeds.max():.4f}",
                difference,
                spread([cost["train_seconds"] for cost in costs], ".0f"),
                spread([cost["total_seconds"] for cost in costs], ".0f"),
                phases,
            )
        )
    return rows


def _correct(root: Path, split: str) -> np.ndarray:
    """Return 1.0 for each image of a split that was classified rightly, in the order of sample ids; float64 [n]."""
    predictions = Predictions.read(root / "predictions" / f"{split}.parquet")
    right = np.asarray(predictions.labels) == np.asarray(predictions.predicted)
    return right[np.argsort(np.asarray(predictions.sample_ids))].astype(float)


def _interval(values: np.ndarray, resamples: np.ndarray) -> str:
    means = values[resamples].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():.4f} [{low:.4f}, {high:.4f}]"


if __name__ == "__main__":
    main()
