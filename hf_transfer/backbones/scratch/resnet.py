"""ResNets for small images: torchvision's, with a choice of norms, an input normaliser and MixStyle."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .mixstyle import MixStyle
from .normalizer import Normalization, build_normalizer

BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}
_GROUPS = 16


class ResNet(nn.Module):
    """A residual network (He et al. 2015, arXiv 1512.03385) with the stem for ImageNet, whatever the size of the images.

    All but the head is torchvision's, and so are its initialisation (He et al. 2015, arXiv 1502.01852, by fan out; norms 1 and
    0) and its parameters: 11,689,512 of ResNet-18 with 1,000 classes, 21,797,672 of ResNet-34; the normaliser has buffers only.

    Args:
        depth: 18, 34 or 50.
        norm: "batch", or "group" for 16 groups of channels (Wu and He 2018, arXiv 1803.08494).
        normalizer: how the network normalises its input, see `InputNormalizer`.
        mixstyle: MixStyle stands after this many of the stages, from the first on; 0 for none.
        num_classes: outputs of the head.
    """

    hidden: tuple[dict[str, Any], ...] = ()
    """Hidden layers of the network's own head."""

    def __init__(
        self,
        depth: int,
        *,
        norm: Literal["batch", "group"] = "batch",
        normalizer: Normalization = "scalar",
        mixstyle: int = 0,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        block, layers = BLOCKS[depth]
        norm_layer = functools.partial(nn.GroupNorm, _GROUPS) if norm == "group" else nn.BatchNorm2d
        self.normalizer = build_normalizer(normalizer)
        self.resnet = torchvision.models.ResNet(block, layers, norm_layer=norm_layer)
        for level in range(1, mixstyle + 1):
            self.resnet.get_submodule(f"layer{level}").append(MixStyle())
        self.head = nn.Linear(self.resnet.fc.in_features, num_classes)
        self.resnet.fc = nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes] of pixels [n, 3, h, w]."""
        return self.head(self.resnet(self.normalizer(pixels)))
