"""timm's networks as the stock `TimmWrapperForImageClassification`, which transformers and timm both load."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ..errors import BackboneError, nearest
from .backbone import Backbone, Provenance
from .transformers_models import load_checkpoint


def load_timm(name: str, *, class_names: list[str] | None, pretrained: bool, revision: str | None = None) -> Backbone:
    """Load `timm:NAME`, such as resnet50 (its default weights) or resnet50.a1_in1k.

    Raises:
        BackboneError: for a name timm does not know, or weights it does not have.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise BackboneError(f"model.backbone: timm has no model '{architecture}'{nearest(architecture, timm.list_models())}")
    known = timm.list_pretrained(f"{architecture}.*") if tag else []
    if tag and name not in known:
        raise BackboneError(f"model.backbone: timm has no weights '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    pretrained_cfg = timm.get_pretrained_cfg(name)
    if not pretrained:
        if class_names is None:
            raise BackboneError("model.pretrained: a model with random weights and its own head cannot be evaluated")
        network = timm.create_model(architecture, pretrained=False, num_classes=len(class_names))
        return from_network(network, architecture, class_names, Provenance(f"timm:{name}"))
    if pretrained_cfg is None or not pretrained_cfg.hf_hub_id:
        raise BackboneError(
            f"model.backbone: timm has no pretrained weights on the Hub for '{name}'; set model.pretrained to false"
        )
    hub_id = pretrained_cfg.hf_hub_id
    if hub_id.endswith("/"):  # timm's shorthand for "the repository of this very name"
        hub_id += f"{architecture}.{pretrained_cfg.tag}" if pretrained_cfg.tag else architecture
    return load_checkpoint(hub_id, revision, class_names=class_names)


def from_network(
    network: Any,
    architecture: str,
    class_names: list[str],
    provenance: Provenance,
    model_args: dict[str, Any] | None = None,
) -> Backbone:
    """Return a timm network that is in memory as the stock wrapper.

    The weights go through a directory in timm's own layout and are read back with `from_pretrained`: only then does
    `save_pretrained` write keys that timm accepts, too.
    """
    pretrained_cfg = {
        key: value for key, value in network.pretrained_cfg.items() if key not in ("num_classes", "url", "file", "label_names")
    }
    config = {
        "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperForImageClassification"],
        "architecture": architecture,
        "num_classes": len(class_names),
        "label_names": class_names,
        "num_features": network.num_features,
        "model_args": model_args or {},
        "pretrained_cfg": pretrained_cfg,
    }
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(config), encoding="utf-8")
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, Path(directory, "model.safetensors"), metadata={"format": "pt"})
        loaded = load_checkpoint(directory, None, class_names=class_names)
    return Backbone(loaded.model, loaded.processor, loaded.heads, provenance)


def random_like(config: Any, class_names: list[str], provenance: Provenance) -> Backbone:
    """Return the network of a timm checkpoint's configuration with the random weights that timm gives it."""
    network = timm.create_model(config.architecture, pretrained=False, num_classes=len(class_names), **config.model_args)
    network.pretrained_cfg = {**network.pretrained_cfg, **config.pretrained_cfg}
    return from_network(network, config.architecture, class_names, provenance, config.model_args)


def clean_config(config: Any) -> None:
    """Mend what timm and transformers write that the other cannot read: `model_args` null or with num_classes, and old labels.

    A saved directory names its classes, and would keep their names beside a head for other ones.
    """
    arguments = dict(config.model_args or {})
    arguments.pop("num_classes", None)
    config.model_args = arguments
    if getattr(config, "label_names", None) is not None:
        config.label_names = list(config.id2label.values())


def classifier_paths(network: Any) -> tuple[str, ...]:
    """Return the paths of a timm network's classifier, wherever the architecture keeps it; two in a distilled network."""
    classifier = network.get_classifier()
    parts = tuple(classifier) if isinstance(classifier, (tuple, list)) else (classifier,)
    paths = {module: name for name, module in network.named_modules()}
    if not all(isinstance(part, nn.Linear) for part in parts):
        raise BackboneError(
            f"model.backbone: the classifier of timm's {type(network).__name__} is no linear layer; it cannot be replaced"
        )
    return tuple(paths[part] for part in parts)


def load_weights_by_position(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a state dict of other names whose tensors stand in the same order with the same shapes.

    The classifier (the last tensors, of another width) keeps its initialisation.

    Raises:
        BackboneError: when the counts or a shape of the backbone differ.
    """
    own = network.state_dict()
    heads = tuple(f"{path}." for path in classifier_paths(network))
    if len(own) != len(state):
        raise BackboneError(f"expected {len(own)} tensors, found {len(state)}")
    mapped = {}
    for (name, tensor), (other, value) in zip(own.items(), state.items(), strict=True):
        if name.startswith(heads):
            if tensor.shape == value.shape:
                mapped[name] = value
            continue
        if tensor.shape != value.shape:
            raise BackboneError(f"expected {tuple(tensor.shape)} for {name}, found {tuple(value.shape)} in {other}")
        mapped[name] = value
    network.load_state_dict(mapped, strict=False)
