"""Attention rollout: how much each patch reaches the class token, through the attention of every block.

Attention is read where every library computes it, in `scaled_dot_product_attention`, `softmax` or torch's multi-head attention,
so nothing is switched in the network and nothing has to be restored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from .cam import in_eval_mode
from .layout import token_grid

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

_SOFTMAX = (nn.functional.softmax, torch.softmax, torch.Tensor.softmax)


def attention_rollout(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    """Return attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928) for each image.

    The product over the blocks of (A + I) / 2, A being the mean over the heads: its row of the first token, without the columns
    of class, distillation and register tokens. In a network without such tokens it is the mean of all rows. The map knows no
    target class. BEiT has a class token but classifies by the mean of the patches; it is read at the class token all the same.

    Args:
        backbone: a plain vision transformer.
        pixels: float32 [n, 3, H, W], preprocessed, on the network's device.

    Returns:
        float32 [n, h, w] on the CPU, zero or more, one value a patch, row 0 at the top of the image. What the tokens in front
        keep is missing from its sum of 1.

    Raises:
        UserError: for a network whose blocks don't all attend over the same tokens of the whole image.
    """
    with in_eval_mode(backbone.model), torch.no_grad(), _Rollout(len(pixels)) as rollout:
        backbone.model(pixels)
    if rollout.product is None:
        raise UserError(f"{backbone.provenance.name} has no global attention to roll out; use gradcam")
    size = (pixels.shape[2], pixels.shape[3])
    prefix, height, width = token_grid(rollout.product.shape[1], size, f"attention of {backbone.provenance.name}")
    rows = rollout.product[:, 0] if prefix else rollout.product.mean(1)
    return rows[:, prefix:].unflatten(1, (height, width)).cpu()


class _Rollout(TorchFunctionMode):
    """Multiplies the attention matrices of a forward pass as they come.

    Args:
        count: images in the pass.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.product: torch.Tensor | None = None
        self._count = count
        self._is_global = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            self._multiply(_weights(*args, **kwargs))
        elif func is multi_head_attention_forward:
            call = inspect.signature(func).bind(*args, **kwargs)
            call.arguments.update(need_weights=True, average_attn_weights=False)
            result = func(*call.args, **call.kwargs)
            self._multiply(result[1])
            return result
        result = func(*args, **kwargs)
        if func in _SOFTMAX and result.ndim == 4:
            self._multiply(result)
        return result

    def _multiply(self, attention: torch.Tensor) -> None:
        """Take in the attention [n, heads, L, L] of one block; anything else is not global."""
        tokens = attention.shape[-1] if self.product is None else self.product.shape[-1]
        if attention.ndim != 4 or (attention.shape[0], *attention.shape[2:]) != (self._count, tokens, tokens):
            self._is_global = False
        if not self._is_global:
            self.product = None
            return
        mixing = (attention.float().mean(1) + torch.eye(tokens, device=attention.device)) / 2
        self.product = mixing if self.product is None else mixing @ self.product


def _weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Return the attention [n, heads, L, L] that `scaled_dot_product_attention` applies to the values."""
    identity = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device).expand(*key.shape[:-1], key.shape[-2])
    return scaled_dot_product_attention(
        query, key, identity, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
