"""Files of predictions, written row by row: CSV, JSON, JSON lines, parquet."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from ..data.sources.columns import LABEL_SEPARATORS
from ..errors import UserError
from ..run_directory import replacing
from .destination import check_destination
from .predict import Prediction, Unreadable

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
_PARQUET_ROWS = 1000  # held until they are written as one row group


class RowWriter(Protocol):
    """What takes rows one by one."""

    def __call__(self, row: Prediction | Unreadable) -> None:
        """Write one row."""


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that has no known format, would replace something or cannot be written.

    Raises:
        UserError: saying which.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output: expected a file that ends in {', '.join(SUFFIXES)}; found {path}")
    check_destination(path, "--output")
    if path.is_dir():
        raise UserError(f"--output: {path} is a folder; expected the name of a file")
    if path.exists() and not overwrite:
        raise UserError(f"--output: {path} exists; choose another name, or replace it with --overwrite")


@contextlib.contextmanager
def prediction_file(
    path: Path,
    class_names: Sequence[str],
    top_k: int,
    *,
    logits: bool = False,
    thresholds: Sequence[float] | None = None,
) -> Iterator[RowWriter]:
    """Give the function that writes rows into a file, which appears under its name when the block ends without an error.

    - CSV: file, class, probability, class_2, probability_2 and so on; with logits a column `logit NAME` for each class.
    - JSON: what `json_rows` writes. JSON lines: one of its predictions a line.
    - parquet: file, class, probability, classes (list), probabilities (list), and logits (list); the names of all classes, in
      the order of the logits, are in its metadata as `class_names`.

    Where an image may show several classes, `classes` are those at or above their thresholds, and there may be none: in CSV a
    text with `|` between them (`|` alone says none), behind it a column `probability NAME` for each class, so that the file can
    be read as a data set; in JSON see `json_rows`; in parquet lists, with `every_probability` (list, a value a class) and the
    thresholds in the metadata.

    Only JSON lists unreadable images too.

    Args:
        path: the file; its suffix says which format.
        class_names: the model's classes, in the order of its logits.
        top_k: how many classes a row names at most.
        logits: write the logits as well.
        thresholds: from which probability each class is said, where an image may show several.

    Raises:
        UserError: when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            if path.suffix.lower() == ".parquet":
                with _parquet_rows(temporary, class_names, logits, thresholds) as write:
                    yield write
            else:
                with temporary.open("w", encoding="utf-8", newline="") as stream:
                    if path.suffix.lower() == ".json":
                        with json_rows(stream, logits=logits) as write:
                            yield write
                    elif path.suffix.lower() == ".jsonl":
                        yield _json_lines(stream, logits)
                    elif thresholds is not None:
                        yield _csv_labels(stream, class_names, logits)
                    else:
                        yield _csv_rows(stream, class_names, min(top_k, len(class_names)), logits)
    except OSError as error:
        raise UserError(f"--output: cannot write {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def json_rows(stream: TextIO, *, logits: bool = False) -> Iterator[RowWriter]:
    """Give the function that writes rows as one JSON object, `{"predictions": [...], "unreadable": [...]}`.

    A prediction is `{"file", "class", "probability", "top": [{"class", "probability"}], "logits"}`, an unreadable image
    `{"file", "reason"}`. Where an image may show several classes, a prediction is `{"file", "classes": [{"class",
    "probability"}], "probabilities": {class: probability}, "logits"}`, its classes those at or above their thresholds.
    """
    unreadable: list[Unreadable] = []
    first = True
    stream.write('{"predictions": [')

    def write(row: Prediction | Unreadable) -> None:
        nonlocal first
        if isinstance(row, Unreadable):
            unreadable.append(row)
            return
        stream.write(("\n" if first else ",\n") + _json(row, logits))
        first = False

    yield write
    told = [{"file": row.file, "reason": row.reason} for row in unreadable]
    stream.write(f'\n], "unreadable": {json.dumps(told, ensure_ascii=False)}}}\n')


def _json(row: Prediction, logits: bool) -> str:
    ranked = [
        {"class": name, "probability": probability} for name, probability in zip(row.classes, row.probabilities, strict=True)
    ]
    content: dict[str, Any] = {"file": row.file}
    if row.every is not None:
        content |= {"classes": ranked, "probabilities": row.every}
    else:
        content |= {"class": row.classes[0], "probability": row.probabilities[0], "top": ranked}
    if logits:
        content["logits"] = row.logits.tolist()
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _json_lines(stream: TextIO, logits: bool) -> RowWriter:
    def write(row: Prediction | Unreadable) -> None:
        if isinstance(row, Prediction):
            stream.write(_json(row, logits) + "\n")

    return write


def _csv_rows(stream: TextIO, class_names: Sequence[str], top_k: int, logits: bool) -> RowWriter:
    lines = csv.writer(stream, lineterminator="\n")
    header = ["file", "class", "probability"]
    header += [column for place in range(2, top_k + 1) for column in (f"class_{place}", f"probability_{place}")]
    lines.writerow(header + ([f"logit {name}" for name in class_names] if logits else []))

    def write(row: Prediction | Unreadable) -> None:
        if isinstance(row, Prediction):
            ranked = [cell for pair in zip(row.classes, row.probabilities, strict=True) for cell in pair]
            lines.writerow([row.file, *ranked, *(row.logits.tolist() if logits else [])])

    return write


def _csv_labels(stream: TextIO, class_names: Sequence[str], logits: bool) -> RowWriter:
    """Return what writes a row of a model that may say several classes; the text of its classes is one that a data set has."""
    between = next((mark for mark in LABEL_SEPARATORS if not any(mark in name for name in class_names)), LABEL_SEPARATORS[0])
    lines = csv.writer(stream, lineterminator="\n")
    header = ["file", "classes", *(f"probability {name}" for name in class_names)]
    lines.writerow(header + ([f"logit {name}" for name in class_names] if logits else []))

    def write(row: Prediction | Unreadable) -> None:
        if isinstance(row, Prediction) and row.every is not None:
            said = between.join(row.classes) or between
            lines.writerow([row.file, said, *row.every.values(), *(row.logits.tolist() if logits else [])])

    return write


@contextlib.contextmanager
def _parquet_rows(
    path: Path, class_names: Sequence[str], logits: bool, thresholds: Sequence[float] | None
) -> Iterator[RowWriter]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    several = thresholds is not None
    fields = [
        ("file", pa.string()),
        *([] if several else [("class", pa.string()), ("probability", pa.float64())]),
        ("classes", pa.list_(pa.string())),
        ("probabilities", pa.list_(pa.float64())),
        *([("every_probability", pa.list_(pa.float64()))] if several else []),
        *([("logits", pa.list_(pa.float32()))] if logits else []),
    ]
    metadata = {"class_names": json.dumps(list(class_names))}
    if thresholds is not None:
        metadata["thresholds"] = json.dumps(list(thresholds))
    schema = pa.schema(fields, metadata=metadata)
    held: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            if held:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held.clear()

        def write(row: Prediction | Unreadable) -> None:
            if not isinstance(row, Prediction):
                return
            content: dict[str, Any] = {"file": row.file, "classes": row.classes, "probabilities": row.probabilities}
            if row.every is not None:
                content["every_probability"] = list(row.every.values())
            else:
                content |= {"class": row.classes[0], "probability": row.probabilities[0]}
            held.append(content | {"logits": row.logits})
            if len(held) == _PARQUET_ROWS:
                flush()

        yield write
        flush()
