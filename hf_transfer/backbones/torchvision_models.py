"""torchvision's classification models, in our wrapper."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from torch import nn
from transformers import BitImageProcessor

from ..errors import BackboneError, listed, nearest
from .backbone import Backbone, Provenance
from .heads import last_linear
from .transformers_models import label_arguments
from .wrapper import TransferConfig, TransferForImageClassification, place_head, register

# The last child of every classification model is its classifier; what it may begin with and still needs are these.
_KEPT_IN_FRONT = (nn.LayerNorm, nn.Flatten, nn.AdaptiveAvgPool2d)
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


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
    state = _download(name, weights) if pretrained else None
    network = torchvision.models.get_model(architecture, weights=None, **arguments)
    if state is not None:
        load_pretrained(network, state, name)
    if class_names is None:
        path = last_linear(network)
        if path is None:
            raise BackboneError(f"model.backbone: torchvision:{architecture} has no linear classifier to evaluate with")
        head: dict[str, Any] = {"path": path, "in_features": network.get_submodule(path).in_features, "hidden": []}
    else:
        head = {**_place(network, replace), "hidden": [dict(layer) for layer in hidden]}
    config = TransferConfig(
        library="torchvision",
        architecture=architecture,
        # Reloading needs no initialisation, which takes GoogLeNet seconds.
        arguments={**arguments, **({"init_weights": False} if "init_weights" in arguments else {})},
        head=head,
        **label_arguments(list(weights.meta["categories"]) if class_names is None else class_names),
    )
    if class_names is not None:
        place_head(network, config)
    model = TransferForImageClassification(config, network)
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
        return {"aux_logits": False, "transform_input": pretrained, "init_weights": not pretrained}
    return {}


def load_pretrained(network: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Load published weights into torchvision's network, in place, as torchvision's own builders do.

    Args:
        network: the network with its ImageNet head, without auxiliary heads.
        state: content of the published file: auxiliary heads may be in it, DenseNet's names are those of an older version.
        name: what messages call the weights.

    Raises:
        BackboneError: when a tensor is missing, left over or of another shape.
    """
    current = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    try:
        # MNASNet reads the version of the file beside its tensors.
        result = network.load_state_dict(_with_metadata(current, state), strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise BackboneError(f"model.backbone: the weights of torchvision:{name} do not fit: {lines[-1].strip()}") from None
    wrong = [*result.missing_keys, *result.unexpected_keys]
    if wrong:
        raise BackboneError(
            f"model.backbone: the weights of torchvision:{name} do not fit: "
            f"{len(wrong)} tensors are missing or left over ({listed(wrong, 3)})"
        )


def _with_metadata(current: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    result = OrderedDict(current)
    if hasattr(state, "_metadata"):
        result._metadata = state._metadata  # type: ignore[attr-defined]
    return result


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
    target = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, LookupError, UnpicklingError) as error:
        if target.is_file():
            raise BackboneError(
                f"model.backbone: {target} holds no readable weights of torchvision:{name} ({_first_line(error)}). "
                f"Remove it to download it again, or replace it by {weights.url}."
            ) from None
        raise BackboneError(
            f"model.backbone: the weights of torchvision:{name} could not be downloaded from {weights.url} "
            f"({_first_line(error)}). To work offline: put that file at {target}, or set model.pretrained to false, or use "
            "package:efficientnet_lite0, whose weights a pip package carries."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
