"""From the `model` section to a backbone with the right head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BackboneError
from .backbone import Backbone
from .crop import with_crop_pct
from .heads import initialize_head
from .task import set_task

if TYPE_CHECKING:
    from ..recipe.schema import Model


def build_backbone(
    section: Model, class_names: list[str], seed: int, *, pooling: str = "default", multi_label: bool = False
) -> Backbone:
    """Return the recipe's backbone with a new head for these classes.

    Args:
        section: the recipe's `model` section.
        class_names: names of the classes in label order.
        seed: seed of the new head's initialisation, and of random weights where `pretrained` is false; those of `scratch:`
            networks always are random.
        pooling: how the features are pooled that enter the head: the recipe's `features.pooling`.
        multi_label: whether an image may show several classes, or none; see `set_task`.

    Raises:
        BackboneError: when the backbone cannot be found, loaded or given this head.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _load(section, class_names)
    if section.crop_pct is not None:
        backbone = with_crop_pct(backbone, section.crop_pct)
    if pooling != "default":
        from .pooled_head import with_pooling

        with torch.random.fork_rng(devices=[]):
            backbone = with_pooling(backbone, class_names, pooling)
    for head in backbone.heads:
        initialize_head(backbone.model.get_submodule(head), seed)
    set_task(backbone.model.config, multi_label=multi_label)
    return backbone


def load_as_it_is(section: Model) -> Backbone:
    """Return a checkpoint with its own head, for evaluation."""
    if section.head.hidden or section.head.replace != "classifier":
        raise BackboneError("model.head: an evaluation keeps the checkpoint's own head; leave model.head out")
    if not section.pretrained and not section.backbone.startswith("scratch:"):  # which says itself what to evaluate instead
        raise BackboneError("model.pretrained: a model with random weights and its own head cannot be evaluated")
    backbone = _load(section, None)
    return backbone if section.crop_pct is None else with_crop_pct(backbone, section.crop_pct)


def _load(section: Model, class_names: list[str] | None) -> Backbone:
    kind, colon, name = section.backbone.partition(":")
    hidden = [layer.model_dump() for layer in section.head.hidden]
    if section.revision is not None and colon and kind in ("torchvision", "package", "scratch"):
        raise BackboneError(f"model.revision: {kind}: backbones have no revisions; leave it out")
    if colon and kind == "torchvision":
        from .torchvision_models import load_torchvision

        return load_torchvision(
            name, class_names=class_names, pretrained=section.pretrained, replace=section.head.replace, hidden=hidden
        )
    if colon and kind == "scratch":
        from .scratch.models import load_scratch

        return load_scratch(name, class_names=class_names, replace=section.head.replace, hidden=hidden)
    if colon and kind == "timm":
        from .timm_models import load_timm

        backbone = load_timm(name, class_names=class_names, pretrained=section.pretrained, revision=section.revision)
    elif colon and kind == "package":
        from .packaged_models import load_packaged

        backbone = load_packaged(name, class_names=class_names, pretrained=section.pretrained)
    elif colon and not Path(section.backbone).expanduser().exists():
        raise BackboneError(
            f"model.backbone: '{kind}:' is not a known prefix; expected a Hub id, a local directory, timm:NAME, "
            "torchvision:NAME, package:NAME or scratch:NAME"
        )
    else:
        from .transformers_models import load_checkpoint

        backbone = load_checkpoint(section.backbone, section.revision, class_names=class_names, pretrained=section.pretrained)
    if hidden and class_names is not None:
        from .hidden_head import with_hidden_head

        return with_hidden_head(backbone, class_names, hidden)
    return backbone
