"""The grid of a run: images of each class, some recognised and some not, with what the model looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..backbones.backbone import Backbone
from ..data.lookup import each_image
from ..errors import UserError, listed
from ..evaluation.labels import model_class_names
from ..evaluation.predictions import Predictions
from ..recipe import load_recipe
from ..run_directory import RunDirectory
from .explanations import ExplainedImage, Question, evaluating, explain_batch, short_name, tile_of
from .overlay import Row, Tile, draw_sheet
from .records import TABLE, rows_of, writing_table
from .view import View

MOST_CLASSES = 12
PICTURE = "explanations.png"


def explain_run(
    run: RunDirectory, predictions: Predictions, backbone: Backbone, question: Question, output: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Explain some images of a run's test split, writing explanations.png, a row for each class, and explanations.csv.

    Args:
        run: the run.
        predictions: of its test split.
        backbone: its model, float32.
        question: about the predicted class, in one layer.
        output: directory to write into, made if need be.

    Returns:
        The rows of the table, and the sample ids of chosen images that are gone.

    Raises:
        UserError: when the model's classes are not those of the predictions, or every chosen image is gone.
    """
    from tqdm.auto import tqdm

    class_names = model_class_names(backbone.model.config)
    if set(class_names) != set(predictions.class_names):
        raise UserError(
            f"{run.root}: the classes of its data set ({listed(predictions.class_names)}) are not those of its model "
            f"({listed(class_names)}), it was scored through a label map; name images to explain."
        )
    chosen = {
        label: [predictions.sample_ids[position] for position in positions]
        for label, positions in choose_images(predictions).items()
    }
    wanted = [sample_id for ids in chosen.values() for sample_id in ids]
    paths = dict(zip(predictions.sample_ids, predictions.paths, strict=True))
    found = {  # inputs only: the images themselves may be large
        sample_id: (image.size, backbone.preprocessing(image))
        for sample_id, image in each_image(load_recipe(run.recipe).data, wanted, paths)
    }
    gone = [sample_id for sample_id in wanted if sample_id not in found]
    view = View(backbone.preprocessing)
    sheet: list[Row] = []
    rows: list[dict[str, Any]] = []
    with evaluating(backbone.model):
        for label, members in tqdm(chosen.items(), desc="explain", leave=False, disable=None):
            ids = [sample_id for sample_id in members if sample_id in found]
            if not ids:
                continue
            names = [paths[sample_id] or sample_id for sample_id in ids]
            sizes, inputs = zip(*(found[sample_id] for sample_id in ids), strict=True)
            own = class_names.index(predictions.class_names[label])
            # Of several classes an image may show, a row is about its own.
            asked = replace(question, target=own) if predictions.multi_label and question.kind.of_class else question
            images = explain_batch(backbone, view, asked, names, sizes, torch.stack(inputs))
            if predictions.multi_label:
                shown = dict(zip(predictions.sample_ids, predictions.labels[:, label].tolist(), strict=True))
                sheet.append(_label_row(own, images, [shown[sample_id] for sample_id in ids], class_names))
            else:
                sheet.append(_row(own, images, class_names))
            rows += [row for image in images for row in rows_of(image, asked, class_names, PICTURE)]
    if not sheet:
        raise UserError(f"{run.root}: its test images cannot be read any more ({listed(gone, 3)}); name images to explain.")
    output.mkdir(parents=True, exist_ok=True)
    (output / TABLE).unlink(missing_ok=True)  # an interruption leaves no table of other pictures
    draw_sheet(sheet, _heading(predictions, question), output / PICTURE)
    with writing_table(output / TABLE) as table:
        table.writerows(rows)
    return rows, gone


def choose_images(predictions: Predictions, *, correct: int = 2, wrong: int = 2) -> dict[int, list[int]]:
    """Choose images to show of each class, always the same ones.

    Recognised images are spread evenly over the class as the file lists it; mistakes are those of the highest probability,
    which are told most about by a map. Of more than 12 classes those with the most mistakes are shown.

    Args:
        predictions: of a split.
        correct: recognised images of a class, at most.
        wrong: mistaken images of a class, at most.

    Where images may show several classes, recognised are those that show the class and of which it was said; mistakes those
    where it was missed or said though not there, in turn the surest of each.

    Returns:
        Class to positions in the predictions: recognised ones, then mistakes. Classes come in label order, without those
        that have no image.
    """
    if predictions.multi_label:
        return _choose_of_labels(predictions, correct, wrong)
    right = predictions.labels == predictions.predicted
    mistakes = np.bincount(predictions.labels[~right], minlength=len(predictions.class_names))
    shown = sorted(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES].tolist())
    shifted = predictions.logits.astype(np.float64) - predictions.logits.max(axis=1, keepdims=True)
    certainty = 1 / np.exp(shifted).sum(axis=1)  # probability of the most probable class
    chosen = {}
    for label in shown:
        own = np.flatnonzero(right & (predictions.labels == label))
        lost = np.flatnonzero(~right & (predictions.labels == label))
        spread = np.linspace(0, max(0, len(own) - 1), min(correct, len(own))).round().astype(int)
        worst = lost[np.argsort(-certainty[lost], kind="stable")[:wrong]]
        if len(own) or len(lost):
            chosen[label] = [*own[spread].tolist(), *worst.tolist()]
    return chosen


def _choose_of_labels(predictions: Predictions, correct: int, wrong: int) -> dict[int, list[int]]:
    labels, predicted, logits = predictions.labels, predictions.predicted, predictions.logits
    mistakes = (labels != predicted).sum(axis=0)
    chosen = {}
    for label in sorted(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES].tolist()):
        own = np.flatnonzero(labels[:, label] & predicted[:, label])
        spread = np.linspace(0, max(0, len(own) - 1), min(correct, len(own))).round().astype(int)
        missed = np.flatnonzero(labels[:, label] & ~predicted[:, label])
        invented = np.flatnonzero(~labels[:, label] & predicted[:, label])
        ordered = [
            missed[np.argsort(logits[missed, label], kind="stable")].tolist(),
            invented[np.argsort(-logits[invented, label], kind="stable")].tolist(),
        ]
        surest = [place for pair in zip_longest(*ordered) for place in pair if place is not None][:wrong]
        if len(own) or surest:
            chosen[label] = [*own[spread].tolist(), *surest]
    return chosen


def _label_row(label: int, images: Sequence[ExplainedImage], shown: Sequence[bool], class_names: Sequence[str]) -> Row:
    """Return the row of one of several classes: each image beside the map of that class.

    Args:
        label: the class.
        images: with one explanation each.
        shown: whether each image shows the class.
        class_names: of the model.
    """
    tiles = []
    for image, there in zip(images, shown, strict=True):
        said = label in (image.said or ())
        what = ("recognised" if said else "missed") if there else "said, not there" if said else "not there"
        wrong = there != said
        tiles += [Tile(image.picture, short_name(image.name), wrong=wrong)]
        tiles += [tile_of(image, image.explanations[0], f"{what}\n{image.probabilities[label]:.3f}", wrong=wrong)]
    return Row(class_names[label], tiles)


def _row(label: int, images: Sequence[ExplainedImage], class_names: Sequence[str]) -> Row:
    """Return the row of one class: each image beside the map of the class that the model took it for."""
    tiles = []
    for image in images:
        predicted, wrong = image.predicted, image.predicted != label
        said = f"{'taken for' if wrong else 'recognised as'} {class_names[predicted]}\n{image.probabilities[predicted]:.3f}"
        tiles += [Tile(image.picture, short_name(image.name), wrong=wrong)]
        tiles += [tile_of(image, image.explanations[0], said, wrong=wrong)]
    return Row(class_names[label], tiles)


def _heading(predictions: Predictions, question: Question) -> str:
    count = len(predictions.class_names)
    which = f"the {MOST_CLASSES} of {count} classes with the most mistakes" if count > MOST_CLASSES else f"all {count} classes"
    about = "of the predicted class" if question.kind.of_class else "the same for every class"
    if predictions.multi_label:
        about = "of the class of the row" if question.kind.of_class else about
        return (
            f"What the model looked at: {question.method}, {about}\n"
            f"Test images by class ({which}): some that show it and of which it was said, then in red those where it was "
            "missed or said though not there; a ring marks the largest value."
        )
    return (
        f"What the model looked at: {question.method}, {about}\n"
        f"Test images by true class ({which}): recognised ones, then in red the mistakes it was surest of; "
        "a ring marks the largest value."
    )
