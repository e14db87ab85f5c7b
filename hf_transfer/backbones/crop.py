"""How much of an image the centre crop keeps.

Checkpoints for ImageNet cut away a border (a crop share of 0.875 drops 23 % of the area), because their subject stands in the
middle. Where what matters may be anywhere - a defect, a lesion - the border must stay.
"""

from __future__ import annotations

from typing import Any

from ..errors import BackboneError
from .backbone import Backbone


def with_crop_pct(backbone: Backbone, crop_pct: float) -> Backbone:
    """Return the same backbone whose preprocessing keeps this share of the resized image's shorter side.

    The input size stays; the image is resized to input size / crop_pct before the crop. What is changed is the checkpoint's own
    processor, so the choice is saved with the model.

    Args:
        backbone: the network with its processor.
        crop_pct: above 0 and at most 1, by timm's name; 1 keeps all of a square image.

    Raises:
        BackboneError: when the checkpoint's processor does not crop.
    """
    processor = backbone.processor
    if getattr(processor, "data_config", None):  # timm's, whose settings live in the model's configuration
        config = {**backbone.model.config.pretrained_cfg, "crop_pct": crop_pct}
        backbone.model.config.pretrained_cfg = config
        changed = type(processor)(pretrained_cfg=config, architecture=backbone.model.config.architecture)
        return Backbone(backbone.model, changed, backbone.heads, backbone.provenance)
    settings: dict[str, Any] = processor.to_dict()
    size = dict(settings.get("size") or {})
    if settings.get("crop_pct") is not None:  # ConvNeXt's processor
        settings["crop_pct"] = crop_pct
    elif settings.get("do_center_crop") and settings.get("crop_size"):
        crop = dict(settings["crop_size"])
        if "shortest_edge" in size:
            size["shortest_edge"] = round(min(crop.values()) / crop_pct)
        else:
            size = {edge: round(pixels / crop_pct) for edge, pixels in crop.items()}
        settings["size"] = size
    else:
        raise BackboneError(f"model.crop_pct: the checkpoint's {type(processor).__name__} does not crop; leave it out")
    return Backbone(backbone.model, type(processor)(**settings), backbone.heads, backbone.provenance)
