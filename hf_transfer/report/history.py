"""history.csv: what was logged while the model trained."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunDirectoryError

_RATE_PREFIX = "learning_rate/"


@dataclass(frozen=True)
class HistoryRow:
    """One logged line; what was left empty, or was not a finite number, is None.

    Args:
        step: optimizer steps done.
        epoch: epochs done, may be fractional.
        phase: name of the strategy's phase.
        split: `train`, `validation` or a monitored split.
        loss: mean loss since the last line (train) or over the split.
        accuracy: likewise, 0 to 1.
        macro_f1: over the split.
        mean_average_precision: over the split, where images may have several labels; there is no accuracy then.
        learning_rates: layer group to learning rate, without the groups that were frozen.
        trainable_parameters: how many parameters were trained at this step.
    """

    step: int
    epoch: float | None
    phase: str
    split: str
    loss: float | None
    accuracy: float | None
    macro_f1: float | None
    learning_rates: dict[str, float]
    trainable_parameters: int | None
    mean_average_precision: float | None = None

    @property
    def headline(self) -> float | None:
        """The figure that selects: accuracy, or mean average precision."""
        return self.accuracy if self.mean_average_precision is None else self.mean_average_precision


@dataclass(frozen=True)
class PhaseSpan:
    """A stretch of training in one phase, from the end of the one before to its own last logged step."""

    name: str
    start: int
    end: int
    last_epoch: float | None
    trainable_parameters: int | None


def read_history(path: Path) -> list[HistoryRow]:
    """Read history.csv in the order of steps.

    A resumed run logs the steps since its checkpoint a second time: the later line of a step and split is kept. A line
    that a kill cut off is left out.

    Args:
        path: a history.csv.

    Returns:
        The rows, by step; empty when only the header was written.

    Raises:
        RunDirectoryError: the file is missing, or is not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            records = list(reader)
            columns = reader.fieldnames or []
    except FileNotFoundError:
        raise RunDirectoryError(f"{path}: no such file; a finished training run has one.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from None
    missing = [name for name in ("step", "split") if name not in columns]
    if missing:
        raise RunDirectoryError(f"{path}: expected the columns step and split, found no {' and no '.join(missing)}.")
    rates = [name for name in columns if name.startswith(_RATE_PREFIX)]
    rows: dict[tuple[int, str], HistoryRow] = {}
    for record in records:
        step, split = _number(record["step"]), record["split"]
        if step is None or not split or None in record.values():
            continue
        rows[int(step), split] = HistoryRow(
            step=int(step),
            epoch=_number(record.get("epoch")),
            phase=record.get("phase") or "",
            split=split,
            loss=_number(record.get("loss")),
            accuracy=_number(record.get("accuracy")),
            macro_f1=_number(record.get("macro_f1")),
            mean_average_precision=_number(record.get("mean_average_precision")),
            learning_rates={name[len(_RATE_PREFIX) :]: rate for name in rates if (rate := _number(record[name])) is not None},
            trainable_parameters=_whole(_number(record.get("trainable_parameters"))),
        )
    return sorted(rows.values(), key=lambda row: row.step)


def phase_spans(rows: Sequence[HistoryRow]) -> list[PhaseSpan]:
    """Return the phases that the rows went through, in order.

    Args:
        rows: as `read_history` returns them.

    Returns:
        One span per phase; the first starts at step 0, each other where the one before logged last.
    """
    spans: list[PhaseSpan] = []
    for row in rows:
        if spans and spans[-1].name == row.phase:
            before = spans.pop()
            start, epoch, trainable = before.start, before.last_epoch, before.trainable_parameters
        else:
            start, epoch, trainable = (spans[-1].end if spans else 0), None, None
        spans.append(
            PhaseSpan(
                name=row.phase,
                start=start,
                end=row.step,
                last_epoch=epoch if row.epoch is None else row.epoch,
                trainable_parameters=trainable if row.trainable_parameters is None else row.trainable_parameters,
            )
        )
    return spans


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
