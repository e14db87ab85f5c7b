"""A network whose answer is known: it looks at the top left corner of its input and nowhere else.

Loaded by file (tests are no packages).
"""

from types import SimpleNamespace

import torch
from torch import nn
from transformers import ViTImageProcessor

from hf_transfer.backbones.backbone import Backbone, Provenance

SIZE = 32
CORNER = 8  # pixels


class CornerModel(nn.Module):
    """Two classes; the logit of `bright` is 4 x the mean of the corner, that of `dark` its negative."""

    device = torch.device("cpu")
    config = SimpleNamespace(num_labels=2, id2label={0: "bright", 1: "dark"})

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(4.0))
        self.dropout = nn.Dropout(0.5)

    def forward(self, pixel_values):
        bright = self.weight * self.dropout(pixel_values)[:, :, :CORNER, :CORNER].mean(dim=(1, 2, 3))
        return SimpleNamespace(logits=torch.stack([bright, -bright], dim=1))


def corner_backbone():
    """Return the network in eval mode, with a processor of mean = std = 0.5."""
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    return Backbone(CornerModel().eval(), processor, (), Provenance("corner"))


def noisy_pixels(count, seed=0):
    """Return inputs of random pixels whose corner is bright: float32 [count, 3, 32, 32]."""
    pixels = torch.rand((count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed)) - 0.5
    pixels[:, :, :CORNER, :CORNER] = 0.8
    return pixels
