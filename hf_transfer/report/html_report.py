"""report.html: everything a run directory tells, in one file that needs no other and no network."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunDirectoryError
from ..run_directory import replacing
from . import run_tables as tables
from .card_metadata import data_name
from .findings import Findings
from .formats import NOTHING, count, finite, interval, number
from .label_findings import LabelFindings
from .label_mistakes import LabelExample, Said
from .mistakes import Example
from .names import plain, shown_names
from .plots import (
    BINARY_CURVES,
    CONFUSION_MATRIX,
    CURVES,
    EXPLANATIONS,
    PER_CLASS,
    PRECISION_RECALL,
    RELIABILITY,
    TEMPERATURES,
    plotted_split,
    read_findings,
)
from .redaction import public, public_text
from .saved_run import SavedRun
from .temperatures import ABOUT, learned_temperatures
from .watched import watched_test

if TYPE_CHECKING:
    from PIL import Image

REPORT = Path("report.html")
MAX_CLASSES_OPEN = 50  # longer tables of classes are folded
_TEMPLATE = "report.html.jinja"
_CAPTION = 48  # columns of text that a class name below an image may take
_SMALL = 64  # pixels: images below are enlarged with their pixels sharp


def write_report(run_dir: Path, output: Path | None = None, findings: Findings | LabelFindings | None = None) -> Path:
    """Write one self-contained HTML file from the files of a run directory.

    Pictures are those of plots/, so `write_plots` comes first; what is not there is left out. Class names, descriptions and
    paths are shown as text, never as markup; paths of the machine are cut to their last part and tokens are removed. The page
    runs no script and loads nothing.

    Args:
        run_dir: a run directory with at least recipe.json and metrics.json.
        output: the file to write; by default report.html in the run directory.
        findings: what `write_plots` has just read of the predictions; read here where it is None.

    Returns:
        The file that was written.

    Raises:
        RunDirectoryError: a file is missing or damaged.
    """
    run = SavedRun.read(run_dir)
    page = page_environment().get_template(_TEMPLATE).render(**_content(run, findings))
    target = run.path / REPORT if output is None else Path(output)
    if target.is_dir():
        raise RunDirectoryError(f"{target}: expected a file to write the report into, found a directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        # A lone surrogate, which JSON can hold, is no character that a file can.
        temporary.write_bytes(page.encode("utf-8", "replace"))
    return target


def page_environment() -> Any:
    """Return the templates of this package; whatever they show is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("hf_transfer.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _content(run: SavedRun, findings: Findings | LabelFindings | None) -> dict[str, Any]:
    """Return what the template shows; a part that is None or empty, and its heading, is left out."""
    split = plotted_split(run.path)
    if findings is None:
        findings = read_findings(run)
    recipe = public(run.recipe)
    per_class = run.splits[run.headline_split].get("per_class") if run.headline_split else None
    return {
        "name": plain(run.path.resolve().name),
        "description": public_text(plain(run.recipe["description"])) if run.recipe.get("description") else "",
        "subtitle": _subtitle(run),
        "multi_label": run.multi_label,
        "headline": _headline(run),
        "figures_explained": tables.LABELS_EXPLAINED if run.multi_label else "",
        "split": plain(split) if split is not None else None,
        "headline_split": plain(run.headline_split) if run.headline_split else None,
        "validation_only": run.headline_split == "validation" and not run.evaluates_only,
        "watched_test": plain(said) if (said := watched_test(run.metrics)) else "",
        "reference": _reference(run),
        "splits": tables.splits_table(run),
        "shifts": tables.shifts_table(run),
        "robustness": tables.robustness_tables(run),
        "unmapped": _unmapped(run),
        "classes": tables.class_table(per_class) if isinstance(per_class, Mapping) and per_class else None,
        "many_classes": MAX_CLASSES_OPEN,
        "calibration": tables.calibration_table(run),
        "folded_temperature": number(run.metrics.get("temperature"), 3) if finite(run.metrics.get("temperature")) else None,
        "pairs": _pairs(findings) if isinstance(findings, Findings) else [],
        "errors": _errors(findings) if isinstance(findings, LabelFindings) else [],
        "losses": _losses(findings),
        "phases": tables.phases_table(run),
        "temperatures": temperatures.words if (temperatures := learned_temperatures(run.metrics)) else None,
        "about_temperatures": ABOUT,
        "cost": tables.cost_table(run),
        "speed": tables.speed_table(run),
        "data": tables.data_table(run),
        "class_counts": tables.class_counts_table(run),
        "data_name": plain(data_name(run)),
        "duplicates": _length(run.environment.get("duplicates_across_splits")),
        "skipped": _skipped(run),
        "environment": tables.environment_table(run),
        "settings": tables.settings_table(run, recipe),
        "recipe": json.dumps(recipe, indent=2, ensure_ascii=False),
        "pictures": {
            picture.stem: _inlined(run.path / picture) if (run.path / picture).is_file() else None
            for picture in (
                *(CURVES, TEMPERATURES, CONFUSION_MATRIX, PER_CLASS, RELIABILITY, BINARY_CURVES, PRECISION_RECALL),
                EXPLANATIONS,
            )
        },
    }


def _subtitle(run: SavedRun) -> str:
    backbone = run.section("model").get("backbone") or run.environment.get("backbone") or "a backbone"
    strategy = run.section("strategy").get("name")
    how = "evaluated as it is" if run.evaluates_only else f"strategy {strategy}" if strategy else "trained"
    return public_text(plain(f"{backbone}, {how}, on {data_name(run)}"))


def _headline(run: SavedRun) -> dict[str, str] | None:
    found, headline = run.splits.get(run.headline_split or "", {}), run.headline
    if finite(found.get(headline.key)) is None:
        return None
    return {
        "title": "Mean average precision" if run.multi_label else headline.title,
        "value": number(found[headline.key]),
        "interval": interval(found.get(headline.interval)),
        "n": count(found.get("n")),
        "baseline": number(found.get(headline.baseline)),
        "baseline_words": headline.baseline_short,
        "macro_f1": number(found.get("macro_f1")),
    }


def _reference(run: SavedRun) -> str:
    """Return what others published beside what this run measured."""
    reference = run.section("reference")
    published, measured = finite(reference.get("test_accuracy")), finite(run.splits.get("test", {}).get("accuracy"))
    if published is None or measured is None:
        return ""
    source = f" ({public_text(plain(reference['source']))})" if reference.get("source") else ""
    return f"Published test accuracy: {number(published)}{source}; this run: {number(measured)}, {measured - published:+.4f}."


def _unmapped(run: SavedRun) -> list[str]:
    lists = [found.get("unmapped_classes") for found in run.splits.values()]
    return [plain(name) for name in dict.fromkeys(name for names in lists if isinstance(names, list) for name in names)]


def _skipped(run: SavedRun) -> list[tuple[str, str, str]]:
    """Return (split, image, reason) of the images that were left out."""
    found = run.environment.get("skipped")
    if not isinstance(found, Mapping):
        return []
    items = [(split, item) for split, listed in found.items() if isinstance(listed, list) for item in listed]
    return [
        (plain(split), public_text(plain(item[0])), public_text(plain(item[1])))
        for split, item in items
        if isinstance(item, list) and len(item) == 2
    ]


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, list) else None


def _pairs(findings: Findings) -> list[dict[str, Any]]:
    return [
        {
            "label": plain(pair.label),
            "predicted": plain(pair.predicted),
            "count": count(pair.count),
            "of": count(pair.of),
            "tiles": _tiles(pair.examples, findings),
        }
        for pair in findings.pairs
    ]


def _errors(findings: LabelFindings) -> list[dict[str, Any]]:
    return [
        {
            "label": plain(error.label),
            "kind": error.kind,
            "count": count(error.count),
            "of": count(error.of),
            "tiles": _label_tiles(error.examples, findings, error.label),
        }
        for error in findings.errors
    ]


def _losses(findings: Findings | LabelFindings | None) -> list[dict[str, Any]]:
    if findings is None:
        return []
    if isinstance(findings, LabelFindings):
        return _label_tiles(findings.losses, findings)
    return _tiles(findings.losses, findings)


def _label_tiles(examples: Iterable[LabelExample], findings: LabelFindings, asked: str | None = None) -> list[dict[str, Any]]:
    """Return what is shown of images with several labels; of one class, `asked`, its probability too."""
    images, names = findings.images, findings.scores.predictions.class_names
    short = dict(zip(names, shown_names(names, _CAPTION), strict=True))

    def told(labels: Iterable[Said]) -> list[tuple[str, str]]:
        return [(short[label.name], number(label.probability, 3)) for label in labels]

    return [
        {
            "image": _thumbnail(images[example.sample_id]) if example.sample_id in images else None,
            "small": example.sample_id in images and max(images[example.sample_id].size) < _SMALL,
            "sample_id": public_text(plain(example.sample_id)),
            "groups": [
                ("right", "right-text", told(example.right)),
                ("missed", "wrong-text", told(example.missed)),
                ("not there", "wrong-text", told(example.wrong)),
            ],
            "right": example.is_right,
            "asked": next(
                (number(label.probability, 3) for label in (*example.missed, *example.wrong) if label.name == asked), NOTHING
            ),
            "loss": number(example.loss, 2),
        }
        for example in examples
    ]


def _tiles(examples: Iterable[Example], findings: Findings) -> list[dict[str, Any]]:
    images, names = findings.images, findings.scores.predictions.class_names
    short = dict(zip(names, shown_names(names, _CAPTION), strict=True))
    return [
        {
            "image": _thumbnail(images[example.sample_id]) if example.sample_id in images else None,
            "small": example.sample_id in images and max(images[example.sample_id].size) < _SMALL,
            "sample_id": public_text(plain(example.sample_id)),
            "label": short[example.label],
            "predicted": None if example.predicted is None else short[example.predicted],
            "right": example.is_right,
            "confidence": number(example.confidence, 3),
            "own": number(example.own, 3) if example.own >= 0.001 or example.own == 0 else "below 0.001",
            "loss": number(example.loss, 2),
        }
        for example in examples
    ]


def _inlined(path: Path) -> dict[str, Any]:
    """Return a picture as a data address, with its size in pixels."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
    return {"address": data_address("png", path.read_bytes()), "width": width, "height": height}


def _thumbnail(image: Image.Image) -> str:
    buffer = io.BytesIO()
    if max(image.size) < _SMALL:  # so few pixels are kept as they are
        image.save(buffer, format="PNG")
        return data_address("png", buffer.getvalue())
    image.save(buffer, format="JPEG", quality=80)
    return data_address("jpeg", buffer.getvalue())


def data_address(kind: str, data: bytes) -> str:
    """Return the address that a picture has which stands inside a page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
