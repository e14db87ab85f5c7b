"""The tables of a run as plain text, for card and page: foreign text is escaped where they are shown, not here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..recipe.schema import Augment, Loss, Section, Strategy
from .calibration import CALIBRATION
from .formats import NOTHING, count, duration, finite, interval, megabytes, number
from .history import phase_spans
from .names import plain
from .redaction import public_text
from .saved_run import SPLITS, SavedRun, read_object


class Table(NamedTuple):
    """A table of texts; the first `left` columns hold words, the others figures."""

    header: list[str]
    rows: list[list[str]]
    left: int = 1


_Column = tuple[str, str, Callable[[object], str]]  # title, key in metrics.json, how it is written

_CLASS_COLUMNS: list[_Column] = [
    ("Images", "n", count),
    ("Groups", "groups", count),
    ("Accuracy", "accuracy", number),
    ("95 % interval", "accuracy_ci95", interval),
    ("Baseline", "majority_baseline", number),
    ("Balanced", "balanced_accuracy", number),
    ("Macro F1", "macro_f1", number),
    ("Top-5", "top5_accuracy", number),
    ("NLL", "nll", number),
    ("ECE", "ece", number),
]
_LABEL_COLUMNS: list[_Column] = [
    ("Images", "n", count),
    ("Groups", "groups", count),
    ("mAP", "mean_average_precision", number),
    ("95 % interval", "mean_average_precision_ci95", interval),
    ("Baseline", "random_baseline", number),
    ("Macro F1", "macro_f1", number),
    ("Micro F1", "micro_f1", number),
    ("All labels right", "subset_accuracy", number),
    ("Labels right", "hamming_accuracy", number),
    ("NLL", "nll", number),
    ("Labels an image", "labels_per_image", lambda value: number(value, 2)),
]
LABELS_EXPLAINED = (
    "mAP is the mean average precision of the classes, which ranks the images of each and needs no threshold; its interval "
    "is the bootstrap's over images. Baseline is the mAP of images ranked at random. F1 and what is right are those at the "
    "thresholds: all labels of an image, and labels counted one by one. NLL is the mean binary cross-entropy of a label, in "
    "nats."
)


def splits_table(run: SavedRun) -> Table:
    """Return the figures of every split and further test set."""
    columns = _LABEL_COLUMNS if run.multi_label else _CLASS_COLUMNS
    for optional in ("groups", "top5_accuracy"):
        if not any(optional in found for found in run.splits.values()):
            columns = [column for column in columns if column[1] != optional]
    rows = [
        [plain(split), *(shown(run.splits[split].get(key)) for _, key, shown in columns)] for split in _in_order(run.splits)
    ]
    return Table(["Split", *(title for title, _, _ in columns)], rows)


def _in_order(splits: Iterable[str]) -> list[str]:
    """Return each split once: train, validation, test, and then the others as they come."""
    found = dict.fromkeys(splits)
    return [split for split in SPLITS if split in found] + [split for split in found if split not in SPLITS]


def shifts_table(run: SavedRun) -> Table | None:
    """Return how far each further test set's accuracy (or mAP) is from that of the split it is compared with."""
    rows, headline = [], run.headline
    for split in run.further_test_sets:
        shift = run.splits[split].get("shift")
        if isinstance(shift, Mapping) and finite(shift.get(headline.key)) is not None:
            rows.append(
                [
                    plain(split),
                    plain(shift.get("against") or "test"),
                    _signed(shift[headline.key]),
                    _signed_interval(shift.get("ci95")),
                ]
            )
    title = f"Shift in {headline.title if run.multi_label else headline.name}"
    return Table(["Test set", "Against", title, "95 % interval"], rows, left=2) if rows else None


def _signed(value: object) -> str:
    """Return a difference with its sign."""
    found = finite(value)
    return NOTHING if found is None else f"{found:+.4f}"


def _signed_interval(bounds: object) -> str:
    """Return [low, high] of a difference as `low to high`."""
    if not isinstance(bounds, list) or len(bounds) != 2 or None in map(finite, bounds):
        return NOTHING
    return f"{_signed(bounds[0])} to {_signed(bounds[1])}"


def robustness_tables(run: SavedRun) -> list[tuple[str, Table]]:
    """Return (split, table) for each split that was scored under corruption; the first column of figures is without any."""
    found, headline = [], run.headline
    for split, metrics in run.splits.items():
        robustness = metrics.get("robustness")
        if not isinstance(robustness, Mapping) or not robustness:
            continue
        severities = sorted({str(key) for by_severity in robustness.values() for key in by_severity})
        rows = []
        for corruption, by_severity in robustness.items():
            cells = [by_severity.get(severity, {}) for severity in severities]
            shown = [_with_interval(cell.get(headline.key), cell.get(headline.interval)) for cell in cells]
            clean = _with_interval(metrics.get(headline.key), metrics.get(headline.interval))
            rows.append([plain(corruption.replace("_", " ")), clean, *shown])
        header = ["Corruption", "None", *(f"Severity {severity}" for severity in severities)]
        found.append((plain(split), Table(header, rows)))
    return found


def _with_interval(value: object, bounds: object) -> str:
    shown, range_shown = number(value, 3), NOTHING
    if isinstance(bounds, list) and len(bounds) == 2 and None not in map(finite, bounds):
        range_shown = f"{number(bounds[0], 2)} to {number(bounds[1], 2)}"
    return shown if range_shown == NOTHING else f"{shown}\n{range_shown}"


def class_table(per_class: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the figures of every class; where images may have several labels, its average precision and threshold too."""
    columns = {"precision": "Precision", "recall": "Recall", "f1": "F1"}
    if any("average_precision" in scores for scores in per_class.values()):
        columns = {"average_precision": "Average precision", "threshold": "Threshold"} | columns
    rows = [
        [plain(name), *(number(scores.get(key)) for key in columns), count(scores.get("n"))]
        for name, scores in per_class.items()
    ]
    return Table(["Class", *columns.values(), "Images"], rows)


def scaling_helps(run: SavedRun, split: str) -> bool | None:
    """Return whether the temperature lowers the negative log likelihood of a split; None where that is not known."""
    path = run.path / CALIBRATION
    splits = read_object(path).get("splits") if path.is_file() else None
    figures = splits.get(split) if isinstance(splits, Mapping) else None
    if not isinstance(figures, Mapping):
        return None
    before, after = finite(figures.get("nll")), finite(figures.get("nll_scaled"))
    return None if before is None or after is None else after < before


def calibration_table(run: SavedRun) -> tuple[float, Table] | None:
    """Return the temperature and the table of calibration.json, None where there is none.

    Raises:
        RunDirectoryError: it is damaged.
    """
    path = run.path / CALIBRATION
    found = read_object(path) if path.is_file() else {}
    temperature, splits = finite(found.get("temperature")), found.get("splits")
    if temperature is None or not isinstance(splits, Mapping):
        return None
    keys = ("ece", "ece_scaled", "nll", "nll_scaled")
    rows = [[plain(split), *(number(figures.get(key)) for key in keys)] for split, figures in splits.items()]
    return temperature, Table(["Split", "ECE as saved", "ECE scaled", "NLL as saved", "NLL scaled"], rows)


def phases_table(run: SavedRun) -> Table | None:
    """Return the phases: the trainable parameters that the run counted, and the steps, where it logged any."""
    counted = run.cost.get("trainable_parameters")
    counted = dict(counted) if isinstance(counted, Mapping) else {}
    spans = {span.name: span for span in phase_spans(run.history) if span.name}
    total = finite(run.cost.get("parameters"))
    rows = []
    for phase in dict.fromkeys([*counted, *spans]):
        span = spans.get(phase)
        trainable = finite(counted.get(phase, span.trainable_parameters if span else None))
        rows.append(
            [
                plain(phase),
                count(trainable),
                NOTHING if trainable is None or not total else f"{100 * trainable / total:.3g} %",
                f"{span.start:,} to {span.end:,}" if span else "none: fitted on features",
                f"{span.last_epoch:.4g}" if span and span.last_epoch is not None else NOTHING,
            ]
        )
    header = ["Phase", "Trainable parameters", "Of all", "Steps", "Until epoch"]
    if not spans:
        header, rows = header[:3], [row[:3] for row in rows]
    return Table(header, rows) if rows else None


def cost_table(run: SavedRun) -> Table | None:
    """Return what the run cost."""
    cost = run.cost
    return _facts(
        [
            ("Training time", duration(cost.get("train_seconds"))),
            ("Total time", duration(cost.get("total_seconds"))),
            ("Images per second", number(cost.get("images_per_second"), 1)),
            ("Peak memory", megabytes(cost.get("peak_memory_mb"))),
            ("Parameters", count(cost.get("parameters"))),
            ("Precision", cost.get("precision")),
            ("Device", cost.get("device") or run.environment.get("device")),
        ]
    )


def speed_table(run: SavedRun) -> Table | None:
    """Return how fast the model answers."""
    speed, size = run.speed, run.speed.get("input_size")
    at = f" (batches of {count(speed['batch_size'])})" if finite(speed.get("batch_size")) is not None else ""
    return _facts(
        [
            ("Latency of one image, median", _milliseconds(speed.get("latency_ms"))),
            ("Latency of one image, 95th percentile", _milliseconds(speed.get("latency_p95_ms"))),
            (f"Images per second{at}", number(speed.get("images_per_second"), 1)),
            ("Parameters", count(speed.get("parameters"))),
            ("Floating-point operations for an image", _operations(speed.get("flops"))),
            ("Input, height and width", " x ".join(map(str, size)) if isinstance(size, list) else None),
            ("Peak memory", megabytes(speed.get("peak_memory_mb"))),
            ("Precision", speed.get("precision")),
            ("Device", speed.get("device")),
            ("Threads", speed.get("threads")),
        ]
    )


def _milliseconds(value: object) -> str:
    return NOTHING if finite(value) is None else f"{number(value, 1)} ms"


def _operations(value: object) -> str:
    found = finite(value)
    return NOTHING if found is None else f"{found / 1e9:,.3g} billion"


def data_table(run: SavedRun) -> Table | None:
    """Return of each split its images, those of its smallest and largest class, images evaluated, images skipped.

    Where an image may have several labels, labels are what is counted first.
    """
    counts = class_counts(run)
    rows = []
    for split in _in_order([*counts, *run.splits]):
        sizes = [size for value in counts.get(split, {}).values() if (size := finite(value)) is not None]
        figures = run.splits.get(split, {})
        summary = [count(of(sizes)) if sizes else NOTHING for of in (sum, min, max)]
        rows.append([plain(split), *summary, count(figures.get("n")), count(figures.get("skipped"))])
    counted = "Labels" if run.multi_label else "Images"
    return Table(["Split", counted, "Smallest class", "Largest class", "Evaluated", "Skipped"], rows) if rows else None


def class_counts_table(run: SavedRun) -> Table | None:
    """Return the images of each class in each split."""
    counts = class_counts(run)
    names = dict.fromkeys(name for found in counts.values() for name in found)
    rows = [[plain(name), *(count(found.get(name)) for found in counts.values())] for name in names]
    return Table(["Class", *map(plain, counts)], rows) if rows else None


def class_counts(run: SavedRun) -> dict[str, Mapping[str, Any]]:
    """Return split to class to number of images, as far as the run wrote them down."""
    found = run.environment.get("class_counts")
    return (
        {str(split): sizes for split, sizes in found.items() if isinstance(sizes, Mapping)}
        if isinstance(found, Mapping)
        else {}
    )


def environment_table(run: SavedRun) -> Table | None:
    """Return versions, platform and fingerprints, without what belongs to the machine alone."""
    environment = run.environment
    versions = environment.get("versions")
    return _facts(
        [
            ("Python", environment.get("python")),
            ("Platform", _platform(environment.get("platform"))),
            ("Device", environment.get("device")),
            ("Processes", environment.get("processes")),
            *(versions.items() if isinstance(versions, Mapping) else ()),
            ("Commit of hf-transfer-learning", environment.get("git_commit")),
            ("Backbone revision", environment.get("backbone_revision")),
            ("Backbone licence", environment.get("backbone_license")),
            ("Data revision", environment.get("data_revision")),
            ("Data fingerprint", environment.get("data_fingerprint")),
        ]
    )


def settings_table(run: SavedRun, public_recipe: Mapping[str, Any]) -> Table | None:
    """Return the sections of the recipe that shape training, one a row; what is off is left out."""
    model = public_recipe.get("model")
    sections = {
        "Backbone": model.get("backbone") if isinstance(model, Mapping) else None,
        "Head": model.get("head") if isinstance(model, Mapping) else None,
        "Strategy": _beside_defaults(public_recipe.get("strategy"), Strategy),
        "Augmentation": _beside_defaults(public_recipe.get("augment"), Augment),
        "Loss": _beside_defaults(public_recipe.get("loss"), Loss),
        "Highest learning rate logged": _highest_rate(run),
        "Images in a step": _batch(run),
        "Weight averaging (EMA)": public_recipe.get("ema"),
        "Early stopping": public_recipe.get("early_stopping"),
        "Training": public_recipe.get("training"),
        "Seed": public_recipe.get("seed"),
    }
    if run.evaluates_only:
        sections = {"Backbone": sections["Backbone"]}
    return _facts([(title, _settings(section)) for title, section in sections.items()])


def _beside_defaults(section: object, schema: type[Section]) -> object:
    """Return the name of a section's choice, and of its other keys those that are not at their default."""
    if not isinstance(section, Mapping):
        return section
    defaults = {key: field.default for key, field in schema.model_fields.items()}
    return {key: value for key, value in section.items() if key in ("name", "preset") or value != defaults.get(key)}


def _highest_rate(run: SavedRun) -> str:
    rates = [rate for row in run.history for rate in row.learning_rates.values()]
    return f"{max(rates):.3g}" if rates else ""


def _batch(run: SavedRun) -> str:
    training, processes = run.section("training"), finite(run.environment.get("processes")) or 1
    batch = finite(training.get("per_device_train_batch_size"))
    accumulated = finite(training.get("gradient_accumulation_steps")) or 1
    return "" if batch is None else count(batch * processes * accumulated)


def _platform(platform: object) -> str:
    """Return system and processor of a platform's name, without the name of the machine's own kernel."""
    found = re.search(r"x86_64|amd64|aarch64|arm64", str(platform), re.IGNORECASE)
    system = str(platform).partition("-")[0]
    return "" if platform is None else f"{system} {found[0]}" if found else system


def _settings(section: object) -> str:
    if not isinstance(section, Mapping):
        return "" if section is None else str(section)
    return ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in section.items()
        if value is not None and value != []
    )


def _facts(rows: Sequence[tuple[str, object]]) -> Table | None:
    known = [[plain(name), public_text(plain(value))] for name, value in rows if value not in (None, "", NOTHING)]
    return Table([], known, left=2) if known else None
