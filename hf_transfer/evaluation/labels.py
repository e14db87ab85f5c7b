"""Classes are matched by name, never by position."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from ..data.class_names import composed
from ..data.sources.folders import natural_order
from ..errors import LabelError, listed, nearest
from ..metrics.arrays import predicted_classes


@dataclass(frozen=True)
class LabelAlignment:
    """How a checkpoint's classes become those of a data set.

    Args:
        class_names: classes of the data set.
        columns: for each of them, the checkpoint's columns whose probabilities are summed.
        unmapped: classes of the data set that no class of the checkpoint stands for; their images count as wrong.
        exact: whether every class is exactly one column, and every column one class: then logits stay logits.
    """

    class_names: list[str]
    columns: list[list[int]]
    unmapped: list[str]
    exact: bool

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return scores for the data set's classes: reordered logits, or summed probabilities, float32 [n, C]."""
        if self.exact:
            return logits[:, [columns[0] for columns in self.columns]]
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        return np.stack([probabilities[:, columns].sum(axis=1) for columns in self.columns], axis=1)

    def predict(self, logits: np.ndarray) -> np.ndarray:
        """Return the predicted class of the data set, int64 [n]; -1 where none has any probability."""
        scores = self.apply(logits)
        return predicted_classes(scores if self.exact else np.where(scores > 0, scores, -np.inf))


def model_class_names(config: Any) -> list[str]:
    """Return a checkpoint's class names in the order of its logits: those of `id2label`, as everyone reads it.

    What `label2id` says is not looked at: where the two contradict each other, nobody can tell which was meant.

    Raises:
        LabelError: when `id2label` does not number the classes from 0.
    """
    if sorted(config.id2label) != list(range(config.num_labels)):
        raise LabelError(
            f"model.backbone: expected names of the classes 0 to {config.num_labels - 1} in id2label of the checkpoint's "
            f"config.json, found {listed(map(str, sorted(config.id2label)))}; number them as its logits are"
        )
    return [str(config.id2label[label]) for label in range(config.num_labels)]


def align_labels(
    class_names: Sequence[str], model_classes: Sequence[str], label_map: str | Mapping[str, Sequence[str]] | None
) -> LabelAlignment:
    """Match the classes of a data set with those of a checkpoint, letter by letter; accents may be composed or not.

    Args:
        class_names: classes of the data set.
        model_classes: classes of the checkpoint, in the order of its logits.
        label_map: class of the data set to the checkpoint's classes, or the name of a map that is shipped. A checkpoint
            whose classes are those of the data set needs none: a map that speaks of other classes is not for it.

    Raises:
        LabelError: when the two sets differ and no map is given, or the map names what does not exist.
    """
    class_names, model_classes = [composed(name) for name in class_names], [composed(name) for name in model_classes]
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(model_classes):
        columns.setdefault(name, []).append(column)
    same = set(class_names) == set(model_classes) and len(columns) == len(model_classes)
    mapping = read_shipped_map(label_map) if isinstance(label_map, str) else label_map
    if mapping is not None:
        mapping = {composed(name): [composed(target) for target in targets] for name, targets in mapping.items()}
    if same and mapping is not None and not any(target in columns for targets in mapping.values() for target in targets):
        mapping = None
    if mapping is None:
        if not same:
            raise LabelError(
                f"evaluation: the classes of the data set and of the checkpoint differ.\n"
                f"  data set ({len(class_names)}): {listed(class_names)}\n"
                f"  checkpoint ({len(model_classes)}): {listed(model_classes)}\n"
                f"{_differences(class_names, model_classes)}"
                "They are matched by name. Rename the classes, or say with evaluation.label_map which of the checkpoint's "
                f"stand for each class of the data set; maps that are shipped: {', '.join(shipped_maps())}."
            )
        return LabelAlignment(list(class_names), [columns[name] for name in class_names], [], exact=True)
    problems = [
        f"'{name}' is not a class of the data set{nearest(name, class_names)}" for name in mapping if name not in class_names
    ]
    seen: dict[str, str] = {}
    for name, targets in mapping.items():
        for target in targets:
            if target not in columns:
                problems.append(f"'{target}' (for '{name}') is not a class of the checkpoint{nearest(target, columns)}")
            elif target in seen:
                problems.append(f"'{target}' stands for both '{seen[target]}' and '{name}'")
            seen[target] = name
    if problems:
        raise LabelError("evaluation.label_map:\n" + "\n".join(f"  - {problem}" for problem in problems))
    mapped = [[column for target in mapping.get(name, ()) for column in columns[target]] for name in class_names]
    unmapped = [name for name, found in zip(class_names, mapped, strict=True) if not found]
    if len(unmapped) == len(class_names):
        raise LabelError("evaluation.label_map: maps no class of the data set")
    return LabelAlignment(list(class_names), mapped, unmapped, exact=False)


def _differences(class_names: Sequence[str], model_classes: Sequence[str]) -> str:
    """Return lines on the names that only one side has, where some are those of both: long lists hide one that differs."""
    ours = [name for name in class_names if name not in model_classes]
    theirs = [name for name in model_classes if name not in class_names]
    if len(ours) == len(class_names):
        return ""
    twice = sorted({name for name in model_classes if model_classes.count(name) > 1}, key=natural_order)
    lines = {"only in the data set": ours, "only in the checkpoint": theirs, "several times in the checkpoint": twice}
    return "".join(f"  {words}: {listed(names)}\n" for words, names in lines.items() if names)


def shipped_maps() -> list[str]:
    """Return the names of the label maps that come with the package."""
    folder = resources.files("hf_transfer.evaluation") / "label_maps"
    return sorted(item.name.removesuffix(".json") for item in folder.iterdir() if item.name.endswith(".json"))


def read_shipped_map(name: str) -> dict[str, list[str]]:
    """Return a label map that comes with the package.

    Raises:
        LabelError: for an unknown name.
    """
    if name not in shipped_maps():
        raise LabelError(
            f"evaluation.label_map: no map called '{name}'{nearest(name, shipped_maps())}; shipped: {', '.join(shipped_maps())}"
        )
    path = resources.files("hf_transfer.evaluation") / "label_maps" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))
