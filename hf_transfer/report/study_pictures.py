"""Pictures side by side on a folder's page: a confusion matrix of each candidate, and the explanations of each run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .html_report import data_address
from .leaderboard import Table
from .names import plain, shown_names
from .plots import EXPLANATIONS
from .run_overlay import FolderRun
from .saved_run import SavedRun

_CELLS_WITH_NUMBERS = 12  # classes up to which a confusion matrix is a table
_WORST = 5  # confusions that are named below a matrix without numbers
_DARK = (8, 72, 140)  # red, green and blue of a share of 1; white is 0
_GALLERIES = 9_000_000  # bytes that all galleries together may take; base64 adds a third
_GALLERY_WIDTHS = (1100, 850, 650, 480, 320)  # pixels


def confusion_matrices(table: Table, saved: Mapping[str, SavedRun]) -> list[dict[str, Any]]:
    """Return a confusion matrix for each candidate, over its seeds, in shares of the true class.

    Args:
        table: of a leaderboard.
        saved: run to its files.
    """
    matrices = []
    for standing in table.verdict.standings:
        found = [_confusions(saved[run].path / "predictions" / "test.parquet") for run in table.rows[standing.name].runs]
        names = found[0][1]
        alike = [counts for counts, of_these in found if of_these == names]
        counts = np.sum(alike, axis=0)
        per_class = counts.sum(axis=1)
        shares = np.divide(counts[:, :-1], per_class[:, None], out=np.zeros(counts[:, :-1].shape), where=per_class[:, None] > 0)
        short = shown_names(names, 18)
        few = len(names) <= _CELLS_WITH_NUMBERS
        matrices.append(
            {
                "name": plain(standing.name),
                "seeds": len(alike),
                "classes": short,
                "rows": [[_shade(share) for share in row] for row in shares.tolist()] if few else [],
                "image": "" if few else _pixels(shares),
                "worst": [] if few else _worst(shares, short),
            }
        )
    return matrices


def _confusions(file: Path) -> tuple[np.ndarray, list[str]]:
    """Return the counts [C, C + 1], the last column for images that were given no class, and the class names."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["label", "predicted"])
    names = [str(name) for name in json.loads((table.schema.metadata or {})[b"class_names"])]
    labels, predicted = table["label"].to_numpy(), table["predicted"].to_numpy()
    width = len(names) + 1
    column = np.where((predicted >= 0) & (predicted < len(names)), predicted, len(names))
    return np.bincount(labels * width + column, minlength=len(names) * width).reshape(len(names), width), names


def _shade(share: float) -> tuple[str, str, bool]:
    """Return the percentage, its colour, and whether text on it must be light."""
    percent = 100 * share
    text = "<1" if 0 < percent < 0.5 else ">99" if 99.5 <= percent < 100 else f"{percent:.0f}"
    return text, "#" + "".join(f"{round(255 + share * (end - 255)):02x}" for end in _DARK), share > 0.55


def _pixels(shares: np.ndarray) -> str:
    """Return the matrix as a picture with a pixel for each cell; the square root keeps rare confusions visible."""
    from PIL import Image

    pixels = np.round(255 + np.sqrt(shares)[:, :, None] * (np.array(_DARK) - 255)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return data_address("png", buffer.getvalue())


def _worst(shares: np.ndarray, names: Sequence[str]) -> list[str]:
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    places = [divmod(int(place), len(names)) for place in np.argsort(-wrong, axis=None, kind="stable")[:_WORST]]
    return [f"{names[i]} taken for {names[j]}: {100 * wrong[i, j]:.0f} %" for i, j in places if wrong[i, j] > 0]


def galleries(runs: Sequence[FolderRun]) -> list[dict[str, Any]]:
    """Return the pictures of `hf-transfer explain`, as small as they have to be for all of them to fit a page."""
    there = [run for run in runs if (run.saved.path / EXPLANATIONS).is_file()]
    most = _GALLERIES // max(1, len(there))
    shown = [(run, _smaller(run.saved.path / EXPLANATIONS, most)) for run in there]
    return [
        {"name": plain(run.candidate), "seed": run.seed, "run": plain(run.name), "image": picture}
        for run, picture in shown
        if picture is not None
    ]


def _smaller(path: Path, most: int) -> dict[str, Any] | None:
    """Return a picture as a JPEG of at most so many bytes, None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return None
    for width in _GALLERY_WIDTHS:
        scaled = image
        if image.width > width:
            scaled = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        scaled.save(buffer, format="JPEG", quality=80)
        if buffer.tell() <= most:
            break
    return {"address": data_address("jpeg", buffer.getvalue()), "width": scaled.width, "height": scaled.height}
