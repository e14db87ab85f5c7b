"""The tiny model families, networks of timm and torchvision with random weights, and a network that can be computed by hand."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.wrapper import TransferConfig, TransferForImageClassification
from hf_transfer.recipe.schema import Model

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "backbones" / "tiny_models.py")
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

family, checkpoint_of, checkpoint = _tiny.family, _tiny.checkpoint_of, _tiny.checkpoint
family_named, _small_and_quiet = _tiny.family_named, _tiny._small_and_quiet

CLASSES = ["cat", "dog", "owl"]


def lively(backbone: Backbone) -> Backbone:
    """Draw the convolutions of a batch-norm network so that signals neither fade nor grow from layer to layer.

    Untrained statistics leave many networks with gradients that round to zero.
    """
    if any(isinstance(module, nn.BatchNorm2d) for module in backbone.model.modules()):
        torch.manual_seed(0)
        for module in backbone.model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return backbone


@pytest.fixture
def family_backbone(family, checkpoint) -> Backbone:
    """The tiny backbone of each transformers family, with a head of 3 classes."""
    return lively(build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0))


@pytest.fixture(scope="session")
def built() -> Callable[[str], Backbone]:
    """Give a backbone of random weights and 3 classes by name; each is built once a session."""
    return functools.cache(lambda name: lively(build_backbone(Model(backbone=name, pretrained=False), CLASSES, 0)))


def _wrapped(network: nn.Module, head: str) -> Backbone:
    config = TransferConfig(architecture="made", num_labels=3)
    model = TransferForImageClassification(config, network)
    return Backbone(model, None, (f"network.{head}",), Provenance("torchvision:made"))


@pytest.fixture
def torchvision_vit() -> Backbone:
    """torchvision's ViT, 32 pixels, 4 x 4 patches."""
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=3)
    nn.init.normal_(network.heads.head.weight)
    return _wrapped(network, "heads.head")


@pytest.fixture
def torchvision_swin() -> Backbone:
    """torchvision's Swin with shifted windows of 2 x 2, grids of a quarter and an eighth of the input."""
    torch.manual_seed(0)
    return _wrapped(torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [2, 2], num_classes=3), "head")


class Pooled(nn.Module):
    """A convolutional stage, the mean over its cells, a linear classifier: what class-activation maps were made for."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.classifier = nn.Linear(6, 4)

    def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.classifier(self.stage(pixel_values).mean((2, 3))))


@pytest.fixture
def pooled() -> Backbone:
    """`Pooled` with 4 classes; its layer `stage` gives maps of half the input's size."""
    torch.manual_seed(0)
    return Backbone(Pooled(), None, ("classifier",), Provenance("made by hand"))
