"""A head on features that are pooled as a recipe says: the stock class where it can say so, else our wrapper."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..errors import BackboneError
from .backbone import Backbone
from .hidden_head import in_wrapper
from .pooling import pooled_features
from .wrapper import TransferForImageClassification

# timm's arguments for a vision transformer that pools like this behind its final norm.
_TIMM_POOLING: dict[str, dict[str, Any]] = {
    "cls": {"global_pool": "token", "fc_norm": False},
    "mean": {"global_pool": "avg", "fc_norm": False},
}


def with_pooling(backbone: Backbone, class_names: list[str], pooling: str) -> Backbone:
    """Return a network whose linear head reads features pooled like this.

    It is the network itself where its own way gives these very features, which two images of noise tell; one of timm's own
    vision transformers with other arguments, which stays a stock class; else our wrapper (`hf_transfer.register()`).

    Args:
        backbone: with a linear head for these classes, which is replaced by a new one where the network is another.
        class_names: names of the classes in label order.
        pooling: "default" for the network itself, or "cls", "mean" or "cls_mean"; see `pooled_features`.

    Raises:
        BackboneError: when the network cannot be pooled in this way.
    """
    if pooling == "default":
        return backbone
    stock, path = backbone.model, backbone.heads[0]
    linear = stock.get_submodule(path)
    if isinstance(stock, TransferForImageClassification) or len(backbone.heads) != 1 or not isinstance(linear, nn.Linear):
        raise BackboneError(
            "features.pooling: expected 'default' for this backbone; other ways are for networks of transformers and timm with "
            f"one linear head and no hidden layers; found '{pooling}'"
        )
    own, wanted = _both(backbone, linear, pooling)
    if own.shape == wanted.shape and torch.allclose(own, wanted, rtol=1e-4, atol=1e-5 * float(own.abs().max())):
        return backbone
    if pooling in _TIMM_POOLING and (stock_again := _other_timm(backbone, class_names, _TIMM_POOLING[pooling])) is not None:
        return stock_again
    return in_wrapper(backbone, class_names, {"in_features": wanted.shape[1], "hidden": [], "pooling": pooling})


def _both(backbone: Backbone, head: nn.Linear, pooling: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what enters the head for two images of noise, and what would: float32 [2, d] each."""
    pixels = torch.randn(2, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(0))
    entered: list[torch.Tensor] = []
    model, was_training = backbone.model, backbone.model.training
    hook = head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    try:
        with torch.no_grad():
            model.eval()(pixel_values=pixels)
            wanted = pooled_features(model, pixels, pooling)
    finally:
        hook.remove()
        model.train(was_training)
    return entered[0], wanted


def _other_timm(backbone: Backbone, class_names: list[str], arguments: dict[str, Any]) -> Backbone | None:
    """Return one of timm's vision transformers, built again with these arguments; None where its weights do not fit then."""
    from timm.models.vision_transformer import VisionTransformer

    from .timm_models import random_like

    network = getattr(backbone.model, "timm_model", None)
    if not isinstance(network, VisionTransformer):
        return None
    config = copy.deepcopy(backbone.model.config)
    config.model_args = {**(config.model_args or {}), **arguments}
    again = random_like(config, class_names, backbone.provenance)
    state = {name: tensor for name, tensor in backbone.model.state_dict().items() if not name.startswith(backbone.heads[0])}
    result = again.model.load_state_dict(state, strict=False)
    if result.unexpected_keys or any(not key.startswith(again.heads[0]) for key in result.missing_keys):
        return None
    return again
