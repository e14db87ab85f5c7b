"""From a network's last hidden state to one feature vector an image: its class token, the mean of its places, or both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import BackboneError

# What stands in front of the places of an image, as the libraries call it: some are one token, some several.
_PREFIX_TOKENS = ("cls_token", "class_token", "class_embedding", "distillation_token", "dist_token", "register_tokens")
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


def pooled_features(network: nn.Module, pixels: torch.Tensor, pooling: str) -> torch.Tensor:
    """Return the pooled last hidden state of a stock classifier of transformers or timm: float [n, d].

    The last hidden state is what transformers' base model returns as such, and timm's `forward_features`: tokens, behind the
    final norm where the architecture has one there, or maps. Places are the tokens of patches, or the cells of maps; class,
    distillation and register tokens are none.

    Args:
        network: the classifier, its head included, which is not used.
        pixels: float [n, 3, height, width].
        pooling: "cls" for the class token; "mean" for the mean of all places; "cls_mean" for both, in this order, as DINOv2's
            linear probes have them (Oquab et al. 2023, arXiv 2304.07193).

    Raises:
        BackboneError: when the network has no class token, or its last hidden state is neither tokens nor maps.
    """
    timm_network = getattr(network, "timm_model", None)
    if timm_network is not None:
        state = timm_network.forward_features(pixels)
        has_class_token = getattr(timm_network, "cls_token", None) is not None
        prefix = int(getattr(timm_network, "num_prefix_tokens", has_class_token))
        channels_last = getattr(timm_network, "output_fmt", "NCHW") == "NHWC"
    else:
        base: Any = network.get_submodule(getattr(network, "base_model_prefix", ""))
        state = getattr(base(pixel_values=pixels), "last_hidden_state", None)
        prefix, has_class_token = _prefix(base)
        channels_last = False
    if not isinstance(state, torch.Tensor) or state.ndim not in (3, 4):
        raise BackboneError(f"features.pooling: expected tokens or maps of {type(network).__name__}, found neither")
    is_tokens = state.ndim == 3
    if pooling != "mean" and not (is_tokens and has_class_token):
        raise BackboneError(
            f"features.pooling: expected 'default' or 'mean' for {_called(network)}, which has no class token in its last "
            f"hidden state; found '{pooling}'"
        )
    if is_tokens and state.shape[1] <= prefix:
        raise BackboneError(f"features.pooling: expected 'default' for {_called(network)}, whose patches are pooled before")
    if is_tokens:
        mean = state[:, prefix:].mean(dim=1)
    else:
        mean = state.mean(dim=(1, 2) if channels_last else (2, 3))
    if pooling == "mean":
        return mean
    return state[:, 0] if pooling == "cls" else torch.cat([state[:, 0], mean], dim=-1)


def pooling_of(model: nn.Module) -> str:
    """Return how a model pools its features: "default" for every stock class, which does it in its own way."""
    head = getattr(getattr(model, "config", None), "head", None)
    return str(head.get("pooling", "default")) if isinstance(head, dict) else "default"


def _prefix(base: nn.Module) -> tuple[int, bool]:
    """Return how many tokens stand in front of the places, and whether a class token is the first of them."""
    count, has_class_token = 0, False
    for name, parameter in base.named_parameters():
        last = name.rpartition(".")[2]
        if last in _PREFIX_TOKENS:
            count += parameter.shape[1] if parameter.ndim == 3 else 1
            has_class_token |= last in _CLASS_TOKENS
    return count, has_class_token


def _called(network: nn.Module) -> str:
    timm_network = getattr(network, "timm_model", None)
    return f"timm's {type(timm_network).__name__}" if timm_network is not None else type(network).__name__
