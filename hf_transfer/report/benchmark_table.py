"""The table of a benchmark: one row for each evaluation, as text, CSV, JSON and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics.headline import Headline, headline_of
from ..run_directory import replacing, write_json
from .formats import NOTHING, count, finite, interval, number
from .markdown import escape, table
from .saved_run import SavedRun, read_object

# The columns of a row that are shown to people; CSV and JSON have every key.
_SHOWN: tuple[tuple[str, str], ...] = (
    ("model", "Model"),
    ("data", "Data"),
    ("split", "Split"),
    ("n", "Images"),
    ("accuracy", "Accuracy"),
    ("accuracy_ci95", "95 % interval"),
    ("majority_baseline", "Majority"),
    ("mean_average_precision", "mAP"),
    ("mean_average_precision_ci95", "95 % interval"),
    ("random_baseline", "Random"),
    ("macro_f1", "Macro F1"),
    ("micro_f1", "Micro F1"),
    ("nll", "NLL"),
    ("ece", "ECE"),
    ("latency_ms", "Latency, ms"),
    ("latency_p95_ms", "p95"),
    ("images_per_second", "Images/s"),
    ("batch_size", "at batch"),
    ("parameters", "Parameters"),
    ("gflops", "GFLOPs"),
    ("peak_memory_mb", "Peak MB"),
)
_SCORES = ("n", "skipped", "accuracy", "accuracy_ci95", "top5_accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")

_LABEL_SCORES = (
    *("n", "skipped", "mean_average_precision", "mean_average_precision_ci95", "macro_f1", "micro_f1", "subset_accuracy"),
    *("hamming_accuracy", "nll"),
)


def benchmark_row(run: Path, root: Path) -> dict[str, Any]:
    """Return what the table of a benchmark in `root` says of one evaluation, from its run directory.

    Accuracy and the other scores are those of the test split, or of the first one that was evaluated; `latency_ms` and
    `latency_p95_ms` at batch 1 and `images_per_second` at the best `batch_size` are there where speed was measured.
    """
    saved = SavedRun.read(run)
    split = saved.headline_split or next(iter(saved.splits))
    scores, cost = saved.splits[split], saved.cost
    found = saved.metrics.get("speed")
    speed: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    model, data, headline = saved.section("model"), saved.section("data"), saved.headline
    row: dict[str, Any] = {
        "run": run.relative_to(root).as_posix(),
        "model": model.get("backbone"),
        "revision": model.get("revision"),
        "crop_pct": model.get("crop_pct"),
        "data": data.get("source"),
        "config_name": data.get("config_name"),
        "split": split,
        **{key: scores.get(key) for key in (_LABEL_SCORES if saved.multi_label else _SCORES)},
        headline.baseline: scores.get(headline.baseline),
        "unmapped_classes": len(scores.get("unmapped_classes") or ()),
        "seen_in_training": int((saved.environment.get("seen_in_training") or {}).get(split, 0)),
        "tta": saved.section("evaluation").get("tta", "none"),
        "input_size": speed.get("input_size"),
        "latency_ms": speed.get("latency_ms"),
        "latency_p95_ms": speed.get("latency_p95_ms"),
        "images_per_second": speed.get("images_per_second"),
        "batch_size": speed.get("batch_size"),
        "parameters": cost.get("parameters"),
        "gflops": None if speed.get("flops") is None else speed["flops"] / 1e9,
        "peak_memory_mb": cost.get("peak_memory_mb"),
        "precision": cost.get("precision"),
        "device": cost.get("device"),
    }
    for name, further in saved.splits.items():
        shift = further.get("shift")
        if isinstance(shift, Mapping):
            row |= {f"extra.{name}.{headline.key}": further.get(headline.key), f"extra.{name}.shift": shift.get(headline.key)}
    for corruption, severities in (scores.get("robustness") or {}).items():
        reached = [value for found in severities.values() if (value := finite(found[headline.key])) is not None]
        row[f"corrupted.{corruption}.{headline.key}"] = sum(reached) / len(reached) if reached else None
    return row


def write_benchmark(root: Path, description: str, rows: Sequence[dict[str, Any]], failed: Sequence[dict[str, str]]) -> None:
    """Write `benchmark.json`, `benchmark.csv` and `benchmark.md` into a directory."""
    root.mkdir(parents=True, exist_ok=True)
    ordered = ranked(rows)
    write_json(root / "benchmark.json", {"description": description, "rows": ordered, "failed": list(failed)})
    columns = list(dict.fromkeys(key for row in ordered for key in row))
    with replacing(root / "benchmark.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([name for key in columns for name in _split_columns(key)])
        for row in ordered:
            writer.writerow([cell for key in columns for cell in _split_cells(key, row.get(key))])
    with replacing(root / "benchmark.md") as temporary:
        temporary.write_text(_markdown(description, ordered, failed), encoding="utf-8")


def read_benchmark(root: Path) -> list[dict[str, Any]]:
    """Return the rows of a benchmark that is there, none where there is none.

    Raises:
        RunDirectoryError: when its benchmark.json is damaged.
    """
    path = root / "benchmark.json"
    return list(read_object(path)["rows"]) if path.is_file() else []


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows data set by data set, the most accurate first, or the one of the highest mean average precision."""
    order = list(dict.fromkeys(row["data"] for row in rows))
    return sorted(rows, key=lambda row: (order.index(row["data"]), -(row[headline_of(row).key] or 0.0)))


def _by_task(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of data of one label an image, and those of several: accuracy and mAP are in no table together."""
    found: dict[Headline, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(headline_of(row), []).append(row)
    return list(found.values())


def benchmark_text(rows: Sequence[dict[str, Any]], failed: Sequence[dict[str, str]]) -> str:
    """Return the table for a terminal; one for each task."""
    lines = [line for some in _by_task(rows) for line in (*_aligned(some), "")][:-1]
    lines += _notes(rows)
    lines += [f"not scored: {item['model']} on {item['data']}: {item['error'].splitlines()[0]}" for item in failed]
    return "\n".join(lines)


def _aligned(rows: Sequence[dict[str, Any]]) -> list[str]:
    shown = _columns(rows)
    cells = [[title for _, title in shown], *([_cell(key, row.get(key)) for key, _ in shown] for row in ranked(rows))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(shown))]
    return [
        "  ".join(
            text.ljust(width) if column < 3 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _markdown(description: str, rows: Sequence[dict[str, Any]], failed: Sequence[dict[str, str]]) -> str:
    parts = [escape(description)]
    for some in _by_task(rows):
        shown = _columns(some)
        body = [[escape(_cell(key, row.get(key))) for key, _ in shown] for row in some]
        parts.append(table([title for _, title in shown], body, left=3))
    parts += [escape(note) for note in _notes(rows)]
    parts += [f"Not scored: {escape(item['model'])} on {escape(item['data'])}: {escape(item['error'])}" for item in failed]
    return "\n\n".join(part for part in parts if part) + "\n"


def _columns(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the columns that some row fills, those of further test sets and corruptions at the end."""
    further = dict.fromkeys(key for row in rows for key in row if key.startswith(("extra.", "corrupted.")))
    columns = [*_SHOWN, *((key, key.partition(".")[2].replace(".", " ").replace("_", " ")) for key in further)]
    return [(key, title) for key, title in columns if any(row.get(key) is not None for row in rows)]


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    notes = [
        f"{row['model']}: {row['seen_in_training']} of the {row['n']} images were its training images"
        for row in rows
        if row["seen_in_training"]
    ]
    notes += [
        f"{row['model']} on {row['data']}: no class of the checkpoint stands for {row['unmapped_classes']} classes, "
        "which count as wrong"
        for row in rows
        if row["unmapped_classes"]
    ]
    devices = dict.fromkeys(f"{row['device']}, {row['precision']}" for row in rows)
    return [*notes, *(f"measured on {device}" for device in devices)]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return NOTHING
    if key in ("model", "data", "split"):
        return str(value)
    if key.endswith("_ci95"):
        return interval(value)
    if key in ("n", "parameters", "batch_size"):
        return count(value)
    if key.endswith(".shift"):
        return f"{value:+.4f}"
    return number(value, 1 if key in ("latency_ms", "latency_p95_ms", "images_per_second", "peak_memory_mb") else 4)


def _split_columns(key: str) -> list[str]:
    return [key.replace("_ci95", end) for end in ("_low", "_high")] if key.endswith("_ci95") else [key]


def _split_cells(key: str, value: Any) -> list[Any]:
    return list(value or (None, None)) if key.endswith("_ci95") else [value]
