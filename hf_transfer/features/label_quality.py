"""Labels that are likely wrong, and images that nearly stand in two splits: found by cleanlab, reported, never removed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from ..data.table import ImageTable

_FOLDS = 5


def label_quality(
    features: Mapping[str, torch.Tensor], tables: Mapping[str, ImageTable], class_names: list[str], seed: int
) -> dict[str, Any]:
    """Return what looks wrong with the labels and the splits, JSON-ready.

    Each image gets class probabilities from a logistic regression on the features of the other folds (5, over all splits), and
    cleanlab's confident learning (Northcutt et al. 2021, arXiv 1911.00068) names the labels that they contradict, least
    confident first. Near-duplicates are cleanlab's, by cosine distance of the features; only groups that stand in more than
    one split are told, since those make a test figure too good.

    Args:
        features: split to float [n, d].
        tables: the images of each split.
        class_names: names of the classes in label order.
        seed: of the folds.

    Returns:
        {"images": n, "label_issues": [{split, sample_id, path, label, suggested, label_probability, suggested_probability}],
        "near_duplicates": [[{split, sample_id, path}]], "left_out": why the labels could not be examined, or None}.
    """
    names = [split for split in tables if split in features]
    places = [(split, index) for split in names for index in range(len(tables[split]))]
    inputs = functional.normalize(torch.cat([features[split].float() for split in names]), dim=1).numpy()
    labels = np.concatenate([tables[split].labels for split in names])
    rarest = int(np.bincount(labels)[np.unique(labels)].min())
    found: dict[str, Any] = {"images": len(places), "label_issues": [], "near_duplicates": [], "left_out": None}
    if rarest < _FOLDS:
        found["left_out"] = f"expected at least {_FOLDS} images of every class that occurs, found {rarest}"
    else:
        found["label_issues"] = _label_issues(inputs, labels, places, tables, class_names, seed)
    found["near_duplicates"] = _near_duplicates(inputs, places, tables)
    return found


def _label_issues(
    inputs: np.ndarray,
    labels: np.ndarray,
    places: list[tuple[str, int]],
    tables: Mapping[str, ImageTable],
    class_names: list[str],
    seed: int,
) -> list[dict[str, Any]]:
    from cleanlab.filter import find_label_issues
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from .logistic import quiet_fit

    occurring, targets = np.unique(labels, return_inverse=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=200, tol=1e-3))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    with quiet_fit(inputs):
        probabilities = cross_val_predict(model, inputs, targets, cv=folds, method="predict_proba")
    suspects = find_label_issues(targets, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    issues = []
    for position in suspects.tolist():
        suggested = int(probabilities[position].argmax())
        issues.append(
            {
                **_place(places[position], tables),
                "label": class_names[labels[position]],
                "suggested": class_names[occurring[suggested]],
                "label_probability": round(float(probabilities[position, targets[position]]), 4),
                "suggested_probability": round(float(probabilities[position, suggested]), 4),
            }
        )
    return issues


def _near_duplicates(
    inputs: np.ndarray, places: list[tuple[str, int]], tables: Mapping[str, ImageTable]
) -> list[list[dict[str, Any]]]:
    from cleanlab import Datalab

    lab = Datalab({"position": list(range(len(places)))}, verbosity=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab.find_issues(features=inputs, issue_types={"near_duplicate": {"metric": "cosine"}})
    sets = lab.get_issues("near_duplicate")["near_duplicate_sets"]
    groups = {tuple(sorted({position, *map(int, others)})) for position, others in enumerate(sets) if len(others)}
    return [
        [_place(places[position], tables) for position in group]
        for group in sorted(groups)
        if len({places[position][0] for position in group}) > 1
    ]


def _place(place: tuple[str, int], tables: Mapping[str, ImageTable]) -> dict[str, Any]:
    split, index = place
    return {"split": split, "sample_id": str(tables[split].sample_ids[index]), "path": tables[split].path(index)}
