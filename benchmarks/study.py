"""What a study costs beyond its work: shared extraction, scheduling, and the report over many runs.

`probe`: K backbones probed on the packaged textile images, beside the least that this can cost. One side is a study's own way,
with an empty feature store: `share_features` over the cells (reading and hashing the images, loading and hashing the networks,
decoding, forward passes, writing), then for each backbone its features from the store and every candidate head fitted and one
chosen. The other is torch alone: the forward pass of each network over pixels that lie in memory, in the same precision, memory
layout and batches, plus one loop that decodes every image once and resizes it once for every distinct input size. Two sets:

- `lites`: EfficientNet-Lite 0, 1 and 2 with their ImageNet weights, three input sizes: only decoding is shared;
- `one size`: three timm networks (a ResNet, a MobileNet, a ViT) at 224 pixels with random weights, since no others are at hand
  without a network: resizing is shared, too. Their features are no good, which changes no time but that of the heads.

The goal is a ratio of at most 1.1, heads included. Fair because both sides show the same images of the same splits to the same
networks in one process that keeps the memory it frees, in turn, in an order that alternates with each repeat, after one small
unmeasured round; the sides' features are compared before anything is printed. Against us: what the bare side does not do at all
(loading networks, hashing, filling up each split's last batch, writing, reading, fitting heads) counts on ours.

`overhead`: what a study adds to each of its cells. The same linear probes, tiny ones on the packaged digits, are carried out
by `run_study` and, in a plain loop, by `pipeline.run`, in turn, each into fresh folders and a fresh feature store; the
difference is divided by the number of cells. `between` is from one cell's end to the next one's beginning by the study's own
clock, the first cell not counted, and `finished` is `run_study` once more over cells that are all done. The goal is under 0.5 s
a cell.

`report`: `hf-transfer report` on a folder of 50 made-up runs with 10,000 test images each, the whole process with start and
imports. The goal is under 30 s.

Run from the repository root, on a machine that does nothing else: python benchmarks/study.py [--part probe|overhead|report]
Needs the packages of the `demo` extra. Nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from printing import machine_facts, print_facts, print_table, spread

from hf_transfer import pipeline
from hf_transfer.adaptation import features_request
from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.build import Splits, build_splits
from hf_transfer.data.images import decode_rgb
from hf_transfer.features.extraction import FeatureModel
from hf_transfer.features.frozen import FrozenFeatures, extract_splits
from hf_transfer.features.probe import fit_probe
from hf_transfer.recipe import Recipe
from hf_transfer.studies.execution import run_study
from hf_transfer.studies.sharing import share_features
from hf_transfer.studies.study import Cell, Study, cells
from hf_transfer.training.arguments import feature_defaults

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"probe": 1.1, "overhead": 0.5, "report": 30.0}
SETS: dict[str, dict[str, Any]] = {
    "lites": {"backbones": [f"package:efficientnet_lite{number}" for number in range(3)], "model": {}},
    "one size": {
        "backbones": ["timm:resnet18", "timm:mobilenetv3_large_100", "timm:deit_tiny_patch16_224"],
        "model": {"pretrained": False, "crop_pct": 0.875},
    },
}


@dataclass(frozen=True)
class Probed:
    """One round of one side, in seconds.

    Args:
        shared: ours: `share_features`; bare: the forward passes.
        rest: ours: heads on features from the store; bare: decoding and resizing.
    """

    shared: float
    rest: float

    @property
    def total(self) -> float:
        """Seconds of the whole side."""
        return self.shared + self.rest


def measure_probe(options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides of every set in turn, and print ratio and parts."""
    found: dict[str, Any] = {}
    for name in options.sets:
        few = _probe_cells(name, 32)
        with _fresh_store():
            _ours(few)
        _bare(few)
        chosen = _probe_cells(name, options.images)
        sides: dict[str, list[Probed]] = {"ours": [], "bare": []}
        for repeat in range(options.repeats):
            features: dict[str, list[dict[str, torch.Tensor]]] = {}
            for side in ("ours", "bare") if repeat % 2 == 0 else ("bare", "ours"):
                with _fresh_store():
                    taken, features[side] = _ours(chosen) if side == "ours" else _bare(chosen)
                sides[side].append(taken)
                _progress(f"{name} {repeat + 1}/{options.repeats}: {side} {taken.total:.1f} s")
            _check_equal(features["ours"], features["bare"])
        found[name] = {side: [asdict(round_) for round_ in sample] for side, sample in sides.items()}
        found[name]["ratios"] = [ours.total / bare.total for ours, bare in zip(sides["ours"], sides["bare"], strict=True)]
        _tell_probe(name, sides, found[name]["ratios"])
    return found


def _probe_cells(name: str, images: int | None) -> list[Cell]:
    limits = {} if images is None else {f"max_{split}_samples": images for split in ("train", "validation", "test")}
    study = {
        "output_dir": "runs/unused",
        "base": {
            "data": {"source": "package:textile", "test_fraction": 0.2, **limits},
            "model": SETS[name]["model"],
            "strategy": "linear_probe",
            "features": {"compile": "never"},
        },
        "axes": {"model.backbone": SETS[name]["backbones"]},
    }
    return cells(Study.model_validate(study))


def _resolved(cell: Cell) -> Recipe:
    return cell.recipe.model_copy(update={"training": feature_defaults(cell.recipe.training)})


def _splits(cell: Cell) -> Splits:
    return build_splits(cell.recipe.data, cell.recipe.evaluation.splits, training=True)


def _ours(chosen: Sequence[Cell]) -> tuple[Probed, list[dict[str, torch.Tensor]]]:
    """Share the features of all cells, then fit the heads of each; return the features, too."""
    splits = _splits(chosen[0])  # a cell reads them again, but that is no part of sharing
    backbones = [build_backbone(cell.recipe.model, splits.class_names, cell.recipe.seed) for cell in chosen]
    state = PartialState()
    began = time.perf_counter()
    share_features(chosen)
    shared = time.perf_counter() - began
    features: list[FrozenFeatures] = []
    for cell, backbone in zip(chosen, backbones, strict=True):
        features.append(extract_splits(features_request(_resolved(cell), splits, backbone, state)))
        labels, held_out = (torch.from_numpy(splits.tables[split].labels) for split in ("train", "validation"))
        fast, classes = features[-1].fast, len(splits.class_names)
        fit_probe([fast["train"]], labels, fast["validation"], held_out, classes, training={}, seed=cell.recipe.seed)
    seconds = time.perf_counter() - began
    if any(one.computed for one in features):
        sys.exit(f"expected every feature in the store, found {[one.computed for one in features]} missing")
    return Probed(shared, seconds - shared), [one.fast | one.exact for one in features]


def _bare(chosen: Sequence[Cell]) -> tuple[Probed, list[dict[str, torch.Tensor]]]:
    """Time the forward passes of all cells on pixels in memory, and one loop of decoding; return the features, too."""
    splits, state = _splits(chosen[0]), PartialState()
    found, forward, distinct = [], 0.0, {}
    for cell in chosen:
        backbone = build_backbone(cell.recipe.model, splits.class_names, cell.recipe.seed)
        request = features_request(_resolved(cell), splits, backbone, state)
        layout = torch.channels_last if backbone.is_convolutional else torch.contiguous_format
        distinct[backbone.preprocessing.size] = backbone.preprocessing
        backbone.model.to(state.device, memory_format=layout)
        own = {}
        for split, table in request.tables.items():
            model = FeatureModel(backbone, None if split in request.exact else request.autocast)
            pixels = torch.stack([backbone.preprocessing(decode_rgb(table.encoded(row))) for row in range(len(table))])
            batches = [batch.to(memory_format=layout) for batch in pixels.split(32 if state.device.type == "cpu" else 128)]
            began = time.perf_counter()
            with torch.no_grad():
                own[split] = torch.cat([model(batch.to(state.device)).cpu() for batch in batches])
            forward += time.perf_counter() - began
            model.close()
        found.append(own)
    began = time.perf_counter()
    for table in splits.tables.values():
        for row in range(len(table)):
            image = decode_rgb(table.encoded(row))
            for preprocessing in distinct.values():
                preprocessing(image)
    return Probed(forward, time.perf_counter() - began), found


def _check_equal(ours: Sequence[dict[str, torch.Tensor]], bare: Sequence[dict[str, torch.Tensor]]) -> None:
    """Stop when the sides did not compute the same features, to the rounding of their precision."""
    for number, (one, other) in enumerate(zip(ours, bare, strict=True)):
        for split, features in one.items():
            expected = other[split].float()
            difference = float((features.float() - expected).norm() / expected.norm())
            if not difference < (1e-3 if features.dtype == torch.float32 else 5e-2):
                sys.exit(f"the features of network {number} on {split} differ by {difference:.2g} of their size")


def _tell_probe(name: str, sides: dict[str, list[Probed]], ratios: Sequence[float]) -> None:
    print(f"probe, {name}: {', '.join(SETS[name]['backbones'])}; seconds, median (min..max) of {len(ratios)}")
    rows = [
        (f"{side}: {part}", spread([value(one) for one in sides[side]], ".1f"))
        for side, part, value in (
            ("ours", "share_features", lambda one: one.shared),
            ("ours", "heads, from the store", lambda one: one.rest),
            ("bare", "forward passes", lambda one: one.shared),
            ("bare", "decoding once", lambda one: one.rest),
        )
    ]
    print_table(("", "seconds"), rows)
    extraction = [ours.shared / bare.total for ours, bare in zip(sides["ours"], sides["bare"], strict=True)]
    print_table(
        ("ratio", "median (min..max)", "goal"),
        [
            ("ours / bare", spread(ratios, ".3f"), f"<= {GOALS['probe']:g}"),
            ("without the heads", spread(extraction, ".3f"), ""),
        ],
    )


def measure_overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Carry out the same cells by a study and by a loop, in turn, and print what the study adds to each."""
    found: dict[str, list[float]] = {"added": [], "between": [], "finished": []}
    for repeat in range(options.repeats + 1):
        seconds = {}
        for side in ("study", "loop") if repeat % 2 == 0 else ("loop", "study"):
            with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch, _fresh_store():
                study = _tiny_study(Path(scratch), options.cells)
                began = time.perf_counter()
                if side == "loop":
                    for cell in cells(study):
                        pipeline.run(cell.recipe)
                else:
                    result = run_study(study, cells(study))
                seconds[side] = time.perf_counter() - began
                if side == "study":
                    if len(result.carried_out) != options.cells:
                        sys.exit(f"expected {options.cells} cells to be carried out, found {result}")
                    times = [(outcome.began, outcome.ended) for outcome in result.outcomes]
                    between = [after[0] - before[1] for before, after in itertools.pairwise(times)]
                    began = time.perf_counter()
                    run_study(study, cells(study))
                    finished = (time.perf_counter() - began) / options.cells
        if repeat:  # the first round pays for imports
            found["added"].append((seconds["study"] - seconds["loop"]) / options.cells)
            found["between"].append(statistics.mean(between))
            found["finished"].append(finished)
        _progress(f"overhead {repeat}/{options.repeats}: study {seconds['study']:.1f} s, loop {seconds['loop']:.1f} s")
    print(f"overhead: {options.cells} cells; seconds a cell, median (min..max) of {options.repeats}")
    goal = f"< {GOALS['overhead']:g}"
    print_table(
        ("", "seconds", "goal"),
        [
            ("run_study less a plain loop", spread(found["added"], ".3f"), goal),
            ("between two cells", spread(found["between"], ".4f"), goal),
            ("a finished cell", spread(found["finished"], ".4f"), goal),
        ],
    )
    return found


def _tiny_study(root: Path, count: int) -> Study:
    limits = {f"max_{split}_samples": 20 for split in ("train", "validation", "test")}
    return Study.model_validate(
        {
            "output_dir": str(root / "study"),
            "base": {
                "data": {"source": "package:digits", "test_fraction": 0.2, **limits},
                "model": {"backbone": "timm:test_resnet", "pretrained": False},
                "strategy": "linear_probe",
            },
            "axes": {"training.weight_decay": [number / 1000 for number in range(count)]},
        }
    )


def measure_report(options: argparse.Namespace) -> dict[str, Any]:
    """Write many runs, and time the report over them as a user starts it."""
    spec = importlib.util.spec_from_file_location("many_runs", ROOT / "tests" / "report" / "many_runs.py")
    if spec is None or spec.loader is None:
        sys.exit("expected tests/report/many_runs.py, which writes the runs")
    many_runs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(many_runs)
    seconds = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        root = Path(scratch, "runs")
        many_runs.write_runs(root, options.runs, options.report_images)
        page = Path(scratch, "report.html")
        command = [sys.executable, "-m", "hf_transfer.cli", "report", str(root), "--output", str(page), "--overwrite"]
        for repeat in range(options.repeats):
            began = time.perf_counter()
            finished = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            seconds.append(time.perf_counter() - began)
            if finished.returncode != 0:
                sys.exit(f"{' '.join(command)} returned {finished.returncode}:\n{finished.stderr[-4000:]}")
            _progress(f"report {repeat + 1}/{options.repeats}: {seconds[-1]:.1f} s")
        megabytes = page.stat().st_size / 1e6
    print(f"report: {options.runs} runs of {options.report_images} images; seconds, median (min..max) of {options.repeats}")
    rows = [("hf-transfer report", spread(seconds, ".1f"), f"< {GOALS['report']:g}", f"{megabytes:.1f} MB")]
    print_table(("", "whole process", "goal", "report.html"), rows)
    return {"seconds": seconds, "megabytes": megabytes}


@contextlib.contextmanager
def _fresh_store() -> Iterator[None]:
    """Let features be kept in a folder that is gone afterwards."""
    before = os.environ.get("HF_TRANSFER_CACHE")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as root:
        os.environ["HF_TRANSFER_CACHE"] = root
        try:
            yield
        finally:
            if before is None:
                del os.environ["HF_TRANSFER_CACHE"]
            else:
                os.environ["HF_TRANSFER_CACHE"] = before


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


PARTS = {"probe": measure_probe, "overhead": measure_overhead, "report": measure_report}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS), help="what to measure (all)")
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds (default 3)")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="probe: which networks (all)")
    parser.add_argument("--images", type=int, metavar="N", help="probe: at most N images of each split, for a quick look")
    parser.add_argument("--cells", type=int, default=8, help="overhead: cells of the study (default 8)")
    parser.add_argument("--runs", type=int, default=50, help="report: runs (default 50)")
    parser.add_argument("--report-images", type=int, default=10_000, help="report: test images of each run (default 10000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single figure")
    options = parser.parse_args()
    facts = machine_facts()
    print_facts(facts)
    pipeline.prepare_process(_probe_cells("lites", 1)[0].recipe)
    pipeline.process_state(feature_defaults({}))
    content: dict[str, Any] = {"machine": facts}
    for name in dict.fromkeys(options.part):
        content[name] = PARTS[name](options)
        if options.json is not None:
            options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
