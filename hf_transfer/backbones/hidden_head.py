"""A new head on a stock transformers or timm network that no stock class holds: our wrapper does."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import BitImageProcessor

from ..errors import BackboneError
from .backbone import Backbone
from .transformers_models import label_arguments
from .wrapper import TransferConfig, TransferForImageClassification


def with_hidden_head(backbone: Backbone, class_names: list[str], hidden: list[dict[str, Any]]) -> Backbone:
    """Return the same network in our wrapper, its linear head replaced by one with hidden layers.

    Raises:
        BackboneError: when the network is already wrapped, or has more than one classifier.
    """
    if isinstance(backbone.model, TransferForImageClassification) or len(backbone.heads) != 1:
        raise BackboneError("model.head.hidden: this checkpoint's head cannot be replaced by one with hidden layers")
    path = backbone.heads[0]
    linear = backbone.model.get_submodule(path)
    if not isinstance(linear, nn.Linear):
        raise BackboneError(f"model.head.hidden: expected a linear classifier at {path}, found {type(linear).__name__}")
    return in_wrapper(backbone, class_names, {"in_features": linear.in_features, "hidden": hidden})


def in_wrapper(backbone: Backbone, class_names: list[str], head: dict[str, Any]) -> Backbone:
    """Return a stock network in our wrapper, its head replaced.

    Args:
        backbone: a stock network with one head.
        class_names: names of the classes in label order.
        head: what the new one is made of, but for its place; see `TransferConfig`.

    Raises:
        BackboneError: when the network could not be rebuilt.
    """
    stock, path = backbone.model, backbone.heads[0]
    arguments = {key: value for key, value in stock.config.to_dict().items() if key != "_name_or_path"}
    config = TransferConfig(
        library="transformers",
        architecture=stock.config.model_type,
        arguments=arguments,
        head={"path": path, **head},
        **label_arguments(class_names),
    )
    model = TransferForImageClassification(config)
    state = {key: value for key, value in stock.state_dict().items() if not key.startswith(f"{path}.")}
    result = model.network.load_state_dict(state, strict=False)
    wrong = [key for key in result.missing_keys if not key.startswith(f"{path}.")] + list(result.unexpected_keys)
    if wrong:
        raise BackboneError(f"model.head: the network could not be rebuilt; {len(wrong)} tensors differ: {wrong[:3]}")
    return Backbone(model, saveable_processor(backbone.processor), (f"network.{path}",), backbone.provenance)


def saveable_processor(processor: Any) -> Any:
    """Return a processor with a file of its own: timm's lives in the stock config.json, which our wrapper does not have.

    Raises:
        BackboneError: when it pads images with a border.
    """
    data = getattr(processor, "data_config", None)
    if not data:
        return processor
    if data.get("crop_mode") == "border":
        raise BackboneError("model.backbone: this checkpoint pads images with a border, which our wrapper cannot store")
    height, width = data["input_size"][1:]
    scaled = {"height": int(height / data["crop_pct"]), "width": int(width / data["crop_pct"])}
    size = scaled if data.get("crop_mode") == "squash" else {"shortest_edge": min(scaled.values())}
    resample = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}[data["interpolation"]]
    return BitImageProcessor(
        size=size,
        crop_size={"height": height, "width": width},
        resample=resample,
        image_mean=list(data["mean"]),
        image_std=list(data["std"]),
    )
