"""Vision transformers for small images: blocks with the norm behind or in front, and classifiers at several depths."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ..heads import build_head
from .attention import SelfAttention, Temperature
from .dropout import Dropout
from .limits import HEAD_WIDTH
from .normalizer import Normalization, build_normalizer
from .relative_position import RelativePosition
from .sinusoid import grid_positions

_EXPANSION = 4  # width of the hidden layers of blocks and head, in widths of a token
_DROPOUT = 0.1


class Classified(NamedTuple):
    """What a network with classifiers at several depths puts out in training.

    Args:
        logits: [n, classes], of the last classifier.
        auxiliary_logits: of the others, shallow to deep.
    """

    logits: torch.Tensor
    auxiliary_logits: tuple[torch.Tensor, ...]


class VisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) whose classifier reads the class token.

    Norms "behind": blocks as in Vaswani et al. 2017 (arXiv 1706.03762) and torch's `TransformerEncoderLayer`, with ReLU, biases
    everywhere and dropout of the attention weights. Norms "in front" (Xiong et al. 2020, arXiv 2002.04745): with GELU, no bias
    of queries, keys and values and no dropout of the attention weights, as in timm. Either has dropout 0.1 of the embeddings,
    of each hidden layer and of each branch, heads of width 64, hidden layers of 4 widths, and a classifier of one hidden layer
    of 4 widths with GELU.

    Parameters with 12 blocks of width 256, patches of 8 and 1,000 classes, norms behind: 10,814,952 = 12 x 789,760 of the
    blocks + 49,408 of the patch embedding + 256 of the class token + 1,288,168 of the classifier. With norms in front the 768
    biases of each block are missing: 10,805,736. No room is left for a norm behind the last block, so there is none, and
    positions are a fixed table.

    With `classifiers` > 1 the blocks are divided evenly, and behind each part but the last stands a classifier of its own that
    speaks in training only; the loss is the sum of all cross-entropies (deeply-supervised nets, Lee et al. 2015, arXiv
    1409.5185). Each costs as much as the last one: 13,391,288 parameters for three.

    Initialisation: weights of linear layers and the class token from a normal distribution of deviation 0.02 truncated at +-2,
    those of the patch embedding with deviation 1 / sqrt(3 patch^2), as in torchvision's `VisionTransformer`; biases 0, norms 1
    and 0.

    Args:
        depth: how many blocks.
        width: of the tokens.
        patch: rows and columns of a patch.
        size: rows and columns of the images.
        norms: where the norms of a block stand.
        relative: relative positions in the attention instead of the table, see `RelativePosition`.
        masked_diagonal: no token attends to itself, see `SelfAttention`.
        temperature: a learned temperature in each block, see `SelfAttention`.
        classifiers: how many.
        normalizer: how the network normalises its input, see `InputNormalizer`.
        num_classes: outputs of each classifier.
    """

    positions: torch.Tensor

    def __init__(
        self,
        depth: int,
        width: int,
        patch: int,
        *,
        size: int = 32,
        norms: Literal["behind", "in front"] = "behind",
        relative: bool = False,
        masked_diagonal: bool = False,
        temperature: Temperature | None = None,
        classifiers: int = 1,
        normalizer: Normalization = "scalar",
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.hidden: tuple[dict[str, Any], ...] = ({"size": _EXPANSION * width, "activation": "gelu", "dropout": 0.0},)
        edge, heads = size // patch, width // HEAD_WIDTH
        self.normalizer = build_normalizer(normalizer)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        if not relative:
            table = torch.cat([torch.zeros(1, width), grid_positions(edge, edge, width)])
            self.register_buffer("positions", table)  # a buffer that is not saved would be lost in from_pretrained
        self.relative = relative
        self.dropout = Dropout(_DROPOUT)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            attention = SelfAttention(
                width,
                heads,
                qkv_bias=norms == "behind",
                dropout=_DROPOUT if norms == "behind" else 0.0,
                masked_diagonal=masked_diagonal,
                temperature=temperature,
                position=RelativePosition(edge, edge, heads, width) if relative else None,
            )
            self.blocks.append((PostNormBlock if norms == "behind" else PreNormBlock)(width, attention))
        self.blocks_of_part = depth // classifiers
        auxiliary = [build_head(width, num_classes, self.hidden) for _ in range(classifiers - 1)]
        self.auxiliary_heads = nn.ModuleList(auxiliary)
        self.head = build_head(width, num_classes, self.hidden)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.patch_embedding.weight, std=1 / math.sqrt(self.patch_embedding.weight[0].numel()))
        if self.patch_embedding.bias is not None:
            nn.init.zeros_(self.patch_embedding.bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor | Classified:
        """Return logits [n, classes] of pixels [n, 3, size, size]; in training with those of auxiliary classifiers, if any."""
        patches = self.patch_embedding(self.normalizer(pixels)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        if not self.relative:
            tokens = tokens + self.positions
        tokens = self.dropout(tokens)
        class_tokens = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number % self.blocks_of_part == 0:
                class_tokens.append(tokens[:, 0])
        logits = self.head(class_tokens[-1])
        if not (self.training and len(self.auxiliary_heads)):
            return logits
        pairs = zip(self.auxiliary_heads, class_tokens[:-1], strict=True)
        return Classified(logits, tuple(head(token) for head, token in pairs))


class PreNormBlock(nn.Module):
    """x <- x + attention(norm(x)), then x <- x + mlp(norm(x)).

    Args:
        width: of the tokens.
        attention: tokens to tokens.
    """

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention
        self.dropout = Dropout(_DROPOUT)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _mlp(width, nn.GELU())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens [n, L, width] for tokens [n, L, width]."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        return tokens + self.mlp(self.norm2(tokens))


class PostNormBlock(nn.Module):
    """x <- norm(x + attention(x)), then x <- norm(x + mlp(x)).

    Args:
        width: of the tokens.
        attention: tokens to tokens.
    """

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.Identity()  # what enters the attention is normed already; class-activation maps look here
        self.attention = attention
        self.dropout = Dropout(_DROPOUT)
        self.attention_norm = nn.LayerNorm(width)
        self.mlp = _mlp(width, nn.ReLU())
        self.mlp_norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens [n, L, width] for tokens [n, L, width]."""
        tokens = self.norm1(tokens)
        tokens = self.attention_norm(tokens + self.dropout(self.attention(tokens)))
        return self.mlp_norm(tokens + self.mlp(tokens))


def _mlp(width: int, activation: nn.Module) -> nn.Sequential:
    inner = _EXPANSION * width
    return nn.Sequential(nn.Linear(width, inner), activation, Dropout(_DROPOUT), nn.Linear(inner, width), Dropout(_DROPOUT))
