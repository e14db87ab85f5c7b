"""Our own networks with a new head, in our wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import BitImageProcessor

from ...errors import BackboneError
from ..backbone import Backbone, Provenance
from ..heads import last_linear
from ..transformers_models import label_arguments
from ..wrapper import TransferConfig, TransferForImageClassification, head_paths, place_head, register
from .networks import Network, build_scratch
from .variant import parse_variant

# Networks that normalise their input themselves, or are not to, get pixels from 0 to 1.
_MEAN_AND_DEVIATION = {"lenet": 0.5}
_BILINEAR = 2


def load_scratch(
    name: str, *, class_names: list[str] | None, replace: str = "classifier", hidden: Sequence[dict[str, Any]] = ()
) -> Backbone:
    """Build `scratch:NAME` with random weights; there are no others.

    Args:
        name: see `parse_variant`.
        class_names: classes of the head.
        replace: "classifier" puts hidden layers of the recipe's, if it has any, in place of the network's own; "last" keeps the
            network's own outside the head, whose features are then those of its last hidden layer.
        hidden: hidden layers of the head.

    Raises:
        BackboneError: for an unknown name, or one that cannot be built; without class names, since random weights cannot be
            evaluated; for `replace` "last" where there are several classifiers.
    """
    register()
    variant = parse_variant(name)
    if class_names is None:
        raise BackboneError(
            f"model.backbone: scratch:{name} has random weights, which cannot be evaluated; expected a trained model, such as "
            "the directory of a run"
        )
    network = build_scratch(variant.architecture, variant.arguments)
    config = TransferConfig(
        library="scratch",
        architecture=variant.architecture,
        arguments=variant.arguments,
        head=_head(network, name, replace, hidden),
        image_size=variant.size,
        **label_arguments(class_names),
    )
    place_head(network, config)
    model = TransferForImageClassification(config, network)
    heads = tuple(f"network.{path}" for path in head_paths(config))
    return Backbone(model, _processor(variant.architecture, variant.size), heads, Provenance(f"scratch:{name}"))


def _head(network: Network, name: str, replace: str, hidden: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return where the new heads go and what they are made of."""
    auxiliary = [f"auxiliary_heads.{number}" for number, _ in enumerate(getattr(network, "auxiliary_heads", ()))]
    path = last_linear(network.get_submodule("head"), "head") if replace == "last" else "head"
    if path is None or (auxiliary and replace == "last"):
        raise BackboneError(
            f"model.head.replace: scratch:{name} has {1 + len(auxiliary)} classifiers, none of which is the last alone; "
            "use 'classifier'"
        )
    first = next(module for module in network.get_submodule(path).modules() if isinstance(module, nn.Linear))
    layers = [dict(layer) for layer in hidden] or ([] if replace == "last" else [dict(layer) for layer in network.hidden])
    return {"path": path, "in_features": first.in_features, "hidden": layers, **({"auxiliary": auxiliary} if auxiliary else {})}


def _processor(architecture: str, size: int) -> BitImageProcessor:
    """Return a processor that leaves images of the native size as they are, but for the scale of the pixels."""
    level = _MEAN_AND_DEVIATION.get(architecture)
    return BitImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=_BILINEAR,
        image_mean=[0.0 if level is None else level] * 3,
        image_std=[1.0 if level is None else level] * 3,
    )
