"""Explanations of images, batch by batch: what is asked, the maps that answer, and what is said about each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..backbones.backbone import Backbone
from ..backbones.onnx_body import OnnxBody
from ..backbones.precision import full_precision
from ..data.dataset import sample_seed
from ..errors import UserError, listed, nearest
from ..evaluation.inference import probabilities
from ..evaluation.labels import model_class_names
from ..evaluation.thresholds import model_thresholds
from .cam import DEPTHS, depths, in_eval_mode, submodule
from .faithfulness import insertion_deletion
from .integrated_gradients import completeness_delta
from .maps import Method, blank_reason, method_named, normalized, peak, upsampled
from .overlay import Row, Tile
from .view import View

MOST_CLASSES = 20
"""How many classes one picture explains, a row for each."""


@dataclass(frozen=True)
class Question:
    """What is to be explained, and how.

    Args:
        method: a name in `METHODS`.
        layers: (shown name, path) of each layer; one (``, None) for a method without layers.
        target: the class to explain; None for the most probable ones.
        top_k: how many of the most probable classes are explained; of a model that may say several classes of an image, 1
            stands for those that it says, or the most probable one where it says none.
        faithfulness: whether insertion and deletion curves are computed.
    """

    method: str
    layers: tuple[tuple[str, str | None], ...] = (("", None),)
    target: int | None = None
    top_k: int = 1
    faithfulness: bool = False

    @property
    def kind(self) -> Method:
        """The method."""
        return method_named(self.method)


@dataclass(frozen=True)
class Explanation:
    """One map, and what is said about it.

    Args:
        target: the class explained; None where the method explains none.
        layer: path of the layer read; None for a method without layers.
        layer_name: what a picture calls it.
        raw: float32 [h, w], as the method returned it.
        blank: why the map explains nothing; None for one that does.
        peak: (x, y) of the centre of the largest cell in pixels of the input, see `maps.peak`; None for a blank map.
        original_peak: the same place in pixels of the original image.
        scores: areas under the curves, completeness delta; whatever was computed.
    """

    target: int | None
    layer: str | None
    layer_name: str
    raw: torch.Tensor
    blank: str | None
    peak: tuple[float, float] | None
    original_peak: tuple[float, float] | None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExplainedImage:
    """An image and its explanations.

    Args:
        name: its file, address or sample id.
        picture: float32 [H, W, 3], values 0 to 1: what the network saw.
        probabilities: float64 [C].
        explanations: target by target, each layer by layer.
        said: the classes that reach their thresholds, the most probable first, where there may be several; None where one is
            predicted.
    """

    name: str
    picture: np.ndarray
    probabilities: np.ndarray
    explanations: list[Explanation]
    said: tuple[int, ...] | None = None

    @property
    def predicted(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())


def ask(
    backbone: Backbone,
    method: str,
    *,
    layers: str = "last",
    target: str = "predicted",
    top_k: int = 1,
    faithfulness: bool = False,
) -> Question:
    """Return a question that this model can answer.

    Args:
        backbone: the model.
        method: a name in `METHODS`.
        layers: `last`, several of `first,second,third,last`, or paths of modules.
        target: `predicted`, or a class name of the model.
        top_k: how many of the most probable classes are explained.
        faithfulness: whether insertion and deletion curves are computed.

    Raises:
        UserError: listing everything that does not fit.
    """
    kind = method_named(method)
    if kind.inside and any(isinstance(module, OnnxBody) for module in backbone.model.modules()):
        raise UserError(
            "--method: this model's backbone is an ONNX graph: it has no gradient and no layers to read; use --method occlusion"
        )
    classes = model_class_names(backbone.model.config)
    problems = []
    if not kind.layered and layers != "last":
        problems.append(f"--layers: {method} reads no layer; leave it out")
    if not kind.of_class and (target != "predicted" or top_k != 1):
        problems.append(f"--target, --top-k: {method} does not explain a class; leave them out")
    if target != "predicted" and target not in classes:
        problems.append(f"--target: '{target}' is not a class of the model{nearest(target, classes)}: {listed(classes)}")
    if not 1 <= top_k <= min(MOST_CLASSES, len(classes)):
        most = (
            f"{MOST_CLASSES} (a picture has a row for each)"
            if len(classes) > MOST_CLASSES
            else f"{len(classes)}, the number of classes"
        )
        problems.append(f"--top-k: expected 1 to {most}, found {top_k}")
    if target != "predicted" and top_k != 1:
        problems.append("--target, --top-k: name one class, or explain the most probable ones, not both")
    found: list[tuple[str, str | None]] = []
    for name in layers.split(",") if kind.layered else ():
        try:
            found.append(_layer(backbone, name.strip()))
        except UserError as error:
            problems.append(f"--layers: {error}")
    if problems:
        raise UserError("\n".join(problems))
    index = None if target == "predicted" else classes.index(target)
    return Question(method, tuple(found) or (("", None),), index, top_k, faithfulness)


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model in eval mode without gradients of its parameters, and leave it as it was found."""
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with in_eval_mode(model):
        model.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, requires_grad in wanted.items():
                parameter.requires_grad_(requires_grad)


def explain_batch(
    backbone: Backbone,
    view: View,
    question: Question,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    pixels: torch.Tensor,
) -> list[ExplainedImage]:
    """Explain some images, in full precision; probabilities are those of `predict`.

    Args:
        backbone: the model, float32, in eval mode.
        view: of its preprocessing.
        question: see `ask`.
        names: of the images [n].
        sizes: (width, height) of the original images [n].
        pixels: float32 [n, 3, H, W], preprocessed.
    """
    pixels = pixels.to(backbone.model.device)
    found: list[list[Explanation]] = [[] for _ in names]
    with full_precision(pixels.device):
        with torch.no_grad():
            logits = backbone.model(pixel_values=pixels).logits.float().cpu()
        shares = probabilities(logits.numpy(), backbone.model.config)
        said = _said(shares, model_thresholds(backbone.model.config))
        wanted, counts = _wanted(question, logits, said)
        for place, targets in enumerate(wanted.T):
            for layer_name, layer in question.layers:
                maps = question.kind.maps(backbone, pixels, targets.to(pixels.device), layer)
                scores = _scores(backbone, question, names, pixels, targets, maps)
                for index, raw in enumerate(maps):
                    if place >= counts[index]:
                        continue
                    target = int(targets[index]) if question.kind.of_class else None
                    found[index].append(
                        _explanation(view, target, (layer_name, layer), raw, sizes[index], pixels, scores[index])
                    )
    return [
        ExplainedImage(name, view.picture(image), chances, explanations, classes)
        for name, image, chances, explanations, classes in zip(names, pixels, shares, found, said, strict=True)
    ]


def _said(shares: np.ndarray, thresholds: np.ndarray | None) -> list[tuple[int, ...] | None]:
    """Return the classes of each image that reach their thresholds, the most probable first; None where one is predicted."""
    if thresholds is None:
        return [None] * len(shares)
    ranked = np.argsort(-shares, axis=1, kind="stable")
    return [
        tuple(int(label) for label in order if row[label] >= thresholds[label])
        for order, row in zip(ranked, shares, strict=True)
    ]


def _wanted(question: Question, logits: torch.Tensor, said: Sequence[tuple[int, ...] | None]) -> tuple[torch.Tensor, list[int]]:
    """Return the classes to explain, int64 [n, k], and how many of them are wanted of each image; the others fill up."""
    if question.target is not None:
        return torch.full((len(logits), 1), question.target), [1] * len(logits)
    best = logits.topk(question.top_k, dim=1).indices
    if said[0] is None or question.top_k > 1 or not question.kind.of_class:
        return best, [question.top_k] * len(logits)
    told = [(classes or (int(first),))[:MOST_CLASSES] for classes, first in zip(said, best[:, 0], strict=True)]
    most = max(map(len, told))
    return torch.tensor([[*classes, *classes[:1] * (most - len(classes))] for classes in told]), [len(one) for one in told]


def _explanation(
    view: View,
    target: int | None,
    layer: tuple[str, str | None],
    raw: torch.Tensor,
    size: tuple[int, int],
    pixels: torch.Tensor,
    scores: dict[str, float],
) -> Explanation:
    blank = blank_reason(raw)
    place = None if blank else peak(raw, (pixels.shape[2], pixels.shape[3]))
    return Explanation(
        target=target,
        layer=layer[1],
        layer_name=layer[0],
        raw=raw,
        blank=blank,
        peak=place,
        original_peak=None if place is None else view.in_original(place, size),
        scores=scores,
    )


def _scores(
    backbone: Backbone,
    question: Question,
    names: Sequence[str],
    pixels: torch.Tensor,
    targets: torch.Tensor,
    maps: torch.Tensor,
) -> list[dict[str, float]]:
    """Return what was computed about each map; curves only of maps that are not blank."""
    scores: list[dict[str, float]] = [{} for _ in names]
    if question.method == "integrated_gradients":
        for score, delta in zip(scores, completeness_delta(backbone, pixels, targets, maps).tolist(), strict=True):
            score["completeness_delta"] = delta
    drawn = [index for index, raw in enumerate(maps) if blank_reason(raw) is None]
    if question.faithfulness and drawn:
        seeds = [sample_seed(0, 0, names[index]) for index in drawn]
        curves = insertion_deletion(backbone, pixels[drawn], targets[drawn].to(pixels.device), maps[drawn], seeds=seeds)
        for index, curve in zip(drawn, curves, strict=True):
            scores[index] |= curve.auc()
    return scores


def tile_of(image: ExplainedImage, explanation: Explanation, title: str, *, wrong: bool = False) -> Tile:
    """Return the tile that shows one map over its image."""
    size = image.picture.shape[:2]
    heat = upsampled(normalized(explanation.raw)[None], (size[0], size[1]))[0].numpy()
    return Tile(image.picture, title, None if explanation.blank else heat, explanation.peak, explanation.blank, wrong)


def strip_of(image: ExplainedImage, question: Question, class_names: Sequence[str]) -> tuple[list[Row], str]:
    """Return the sheet of one image: a row for each target, in it the image and the map of each layer; and its heading."""
    count = len(question.layers)
    groups = [image.explanations[first : first + count] for first in range(0, len(image.explanations), count)]
    rows = []
    for explanations in groups:
        tiles = [tile_of(image, explanation, explanation.layer_name or question.method) for explanation in explanations]
        label = _with_probability(image, explanations[0].target, class_names) if len(groups) > 1 else ""
        rows.append(Row(label, [Tile(image.picture, "what the model saw"), *tiles]))
    if not question.kind.of_class:
        about = f"{question.method}, the same for every class"
    elif len(groups) > 1:
        about = f"{question.method} for the classes on the left"
    else:
        about = f"{question.method} for {_with_probability(image, groups[0][0].target, class_names)}"
    return rows, f"{short_name(image.name)}\n{_answer(image, class_names)}\n{about}"


def _answer(image: ExplainedImage, class_names: Sequence[str]) -> str:
    if image.said is None:
        return f"predicted {_with_probability(image, image.predicted, class_names)}"
    if not image.said:
        return f"none of the classes; the most probable is {_with_probability(image, image.predicted, class_names)}"
    named = ", ".join(_with_probability(image, label, class_names) for label in image.said[:MOST_CLASSES])
    return f"predicted {named}"


def short_name(name: str) -> str:
    """Return the last part of a path or address."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name


def _with_probability(image: ExplainedImage, target: int | None, class_names: Sequence[str]) -> str:
    return "" if target is None else f"{class_names[target]} ({image.probabilities[target]:.3f})"


def _layer(backbone: Backbone, name: str) -> tuple[str, str]:
    """Return what a picture calls a layer, and its path; the layer is named by its depth or by its path."""
    if name in DEPTHS and not any(backbone.cam_layers):
        raise UserError(f"{backbone.provenance.name} has no layer of maps that could be found; name one by its path")
    path = depths(backbone).get(name, name)
    submodule(backbone, path)
    return (name, path) if name == path else (f"{name}: {path}", path)
