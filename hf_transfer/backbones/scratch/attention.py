"""Self-attention with the variants of our vision transformers: relative positions, masked diagonal, learned temperature."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from .relative_position import RelativePosition

Temperature = Literal["exponential", "plain"]


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762): softmax(q k' / (t sqrt(d))) v, d = width / heads.

    - A learned temperature t, one for each layer, and the masked diagonal (-inf before the softmax, so that a token, the class
      token included, attends to all others but not to itself) are those of locality self-attention (Lee et al. 2021, arXiv
      2112.13492), which learns the whole divisor t sqrt(d). Both parametrisations begin at t = 1.
    - Relative positions add their terms to the scores, see `RelativePosition`; the temperature divides them, too.

    Args:
        width: of the tokens.
        heads: how many; they share the width.
        qkv_bias: whether queries, keys and values have biases.
        dropout: of the attention weights.
        masked_diagonal: whether a token is kept from attending to itself.
        temperature: "exponential" for t = exp(s) with s = 0 at first, "plain" for t itself, which nothing keeps above 0; None
            for t = 1.
        position: terms of relative positions.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        masked_diagonal: bool = False,
        temperature: Temperature | None = None,
        position: RelativePosition | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.masked_diagonal = masked_diagonal
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.projection = nn.Linear(width, width)
        self.position = position
        if temperature == "exponential":
            self.log_temperature = nn.Parameter(torch.zeros(1))
        elif temperature == "plain":
            self.plain_temperature = nn.Parameter(torch.ones(1))

    @property
    def temperature(self) -> torch.Tensor | None:
        """The learned temperature, float32 [1]; None where there is none."""
        if hasattr(self, "log_temperature"):
            return self.log_temperature.exp()
        return getattr(self, "plain_temperature", None)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens [n, L, width] for tokens [n, L, width]."""
        count, length, width = tokens.shape
        shape = (count, length, 3, self.heads, width // self.heads)
        query, key, value = self.qkv(tokens).reshape(shape).permute(2, 0, 3, 1, 4)
        scale = query.shape[-1] ** -0.5
        mask = None
        temperature = self.temperature
        if self.position is not None:
            mask = self.position(query) * scale
            query = query + self.position.content_bias
            if temperature is not None:
                mask = mask / temperature
        if temperature is not None:
            query = query / temperature
        if self.masked_diagonal:
            diagonal = torch.full((length,), -torch.inf, device=query.device, dtype=query.dtype).diag_embed()
            mask = diagonal if mask is None else mask + diagonal
        mixed = functional.scaled_dot_product_attention(
            query.to(value.dtype),
            key,
            value,
            attn_mask=None if mask is None else mask.to(value.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=scale,
        )
        return self.projection(mixed.transpose(1, 2).reshape(count, length, width))
