"""What a model says about images that nobody has labelled, as a stream of rows in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..backbones.backbone import Backbone
from ..connection import go_offline_if_unreachable
from ..data.loose_images import LooseImage, read_batches
from ..errors import BackboneError, UserError
from ..evaluation.inference import forward_logits, prepare_model, probabilities
from ..evaluation.labels import model_class_names
from ..evaluation.thresholds import model_thresholds
from ..training.hardware import bf16_pays, keep_freed_memory

Precision = Literal["fp32", "bf16", "auto"]


@dataclass(frozen=True)
class Prediction:
    """What the model says about one image.

    Args:
        file: the image's file or address.
        classes: names of the most probable classes, the most probable first; where an image may show several classes, those at
            or above their thresholds, and there may be none.
        probabilities: theirs, between 0 and 1.
        logits: float32 [C], in the order of the model's classes.
        every: class to probability, of all classes, where an image may show several; None where it shows one.
    """

    file: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    logits: np.ndarray
    every: dict[str, float] | None = None


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, and why."""

    file: str
    reason: str


class Classifier:
    """A model ready to predict: on its device, in eval mode, in the memory layout and precision that it computes in.

    Args:
        backbone: the model with its own head and preprocessing.
        device: where to compute.
        precision: "fp32" gives the logits that evaluation gives; "bf16" computes under autocast; "auto" takes bf16 where that
            is faster.

    Attributes:
        thresholds: float64 [C], from which probability each class is said where an image may show several; None where it shows
            one.
    """

    def __init__(self, backbone: Backbone, *, device: torch.device, precision: Precision = "fp32") -> None:
        if device.type == "cpu":
            keep_freed_memory()
        self.device = device
        self.preprocessing = backbone.preprocessing
        self.class_names = model_class_names(backbone.model.config)
        self.thresholds = model_thresholds(backbone.model.config)
        self.bf16 = precision == "bf16" or (precision == "auto" and bf16_pays(device.type == "cpu"))
        self._layout = torch.channels_last if backbone.is_convolutional else torch.contiguous_format
        self._model = backbone.model
        prepare_model(self._model, device, channels_last=backbone.is_convolutional)

    def logits(self, pixels: torch.Tensor) -> np.ndarray:
        """Return float32 logits [n, C] for float32 inputs [n, 3, height, width].

        Raises:
            BackboneError: when they are not finite.
        """
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits = forward_logits(self._model, pixels.to(memory_format=self._layout), self.device)
        if not np.isfinite(logits).all():
            raise BackboneError("the model's logits are not finite: its weights are damaged, or its precision too low")
        return logits

    def predictions(self, files: Sequence[str], pixels: torch.Tensor, top_k: int) -> Iterator[Prediction]:
        """Yield a row for each image of a batch.

        Args:
            files: their names.
            pixels: float32 [n, 3, height, width].
            top_k: how many classes a row names; all of them where there are fewer. Where an image may show several classes, a
                row names those at or above their thresholds instead.
        """
        logits = self.logits(pixels)
        scores = probabilities(logits, self._model.config)
        if self.thresholds is not None:
            yield from self._said(files, logits, scores, self.thresholds)
            return
        order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
        for file, best, row, chances in zip(files, order, logits, scores, strict=True):
            yield Prediction(
                file, tuple(self.class_names[label] for label in best), tuple(float(chances[label]) for label in best), row
            )

    def _said(
        self, files: Sequence[str], logits: np.ndarray, scores: np.ndarray, thresholds: np.ndarray
    ) -> Iterator[Prediction]:
        for file, row, chances in zip(files, logits, scores, strict=True):
            said = np.flatnonzero(chances >= thresholds)
            said = said[np.argsort(-chances[said], kind="stable")]
            named = tuple(self.class_names[label] for label in said)
            every = dict(zip(self.class_names, chances.tolist(), strict=True))
            yield Prediction(file, named, tuple(float(chances[label]) for label in said), row, every)


def predict_images(
    backbone: Backbone,
    images: Sequence[LooseImage],
    *,
    device: torch.device,
    batch_size: int,
    top_k: int,
    precision: Precision = "fp32",
) -> Iterator[Prediction | Unreadable]:
    """Yield a row for each image, in order but for unreadable ones, which come before the others of their batch.

    In fp32 the logits are those of `evaluation.inference.predict_logits`: the same preprocessing, layout and precision.

    Args:
        backbone: the model; it is put in eval mode on `device`.
        images: any number of images; two batches of inputs are held at a time.
        device: where to compute.
        batch_size: images at a time.
        top_k: see `Classifier.predictions`.
        precision: see `Classifier`.

    Raises:
        BackboneError: when the model's logits are not finite.
    """
    classifier = Classifier(backbone, device=device, precision=precision)
    for batch in read_batches(images, classifier.preprocessing, batch_size, keep_images=False):
        yield from (Unreadable(name, reason) for name, reason in batch.unreadable)
        if batch.names:
            yield from classifier.predictions(batch.names, batch.pixels, top_k)


def load_model(name: str, revision: str | None = None) -> Backbone:
    """Load a model with its own head, quietly, and without waiting for a Hub that does not answer.

    Args:
        name: run directory, model directory, Hub id, timm:NAME, torchvision:NAME or package:NAME.
        revision: branch, tag or commit of a Hub id.

    Raises:
        BackboneError: when there is no such model, or a run that saved none.
    """
    from ..recipe.schema import Model

    if not name:
        raise BackboneError("expected a model: run directory, model directory, Hub id, timm:, torchvision: or package:")
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        raise BackboneError(f"model.backbone: '{name}' begins with the home folder of a user who does not exist") from None
    if path.is_dir():
        _refuse_run_without_model(path)
    elif name.partition(":")[0] not in ("package", "torchvision", "scratch"):
        go_offline_if_unreachable()
    import transformers

    from ..backbones.build import load_as_it_is

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return load_as_it_is(Model(backbone=name, revision=revision))


def _refuse_run_without_model(path: Path) -> None:
    if any((folder / "config.json").is_file() for folder in (path, path / "model")):
        return
    try:
        recipe = json.loads((path / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(recipe, dict) or not recipe.keys() & {"mode", "strategy"}:  # no recipe of ours
        return
    strategy, model = recipe.get("strategy"), recipe.get("model")
    if recipe.get("mode") == "evaluate":
        scored = model.get("backbone") if isinstance(model, dict) else model
        reason = f"a run of mode 'evaluate' keeps none; give the model it scored, {scored}"
    elif (strategy.get("name") if isinstance(strategy, dict) else strategy) == "knn":
        reason = "strategy 'knn' answers from its training images and has none; give a run of another strategy"
    else:
        reason = "it is not finished; continue it with 'hf-transfer run RECIPE --resume'"
    raise BackboneError(f"{path}: this run saved no model: {reason}")


def choose_device(name: str | None) -> torch.device:
    """Return the device of this name; the accelerator if there is one, or else the CPU, where no name is given.

    Raises:
        UserError: when there is no such device here.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device: '{name}' cannot be used here: {str(error).splitlines()[0]}") from None
    return device
