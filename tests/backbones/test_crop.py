import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.crop import with_crop_pct
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Model


@pytest.fixture
def framed():
    """A black square with a white frame of 10 pixels."""
    image = Image.new("RGB", (250, 250), (255, 255, 255))
    image.paste((0, 0, 0), (10, 10, 240, 240))
    return image


def border_is_white(pixels):
    return bool((pixels[:, 0] > 0.5).all() and (pixels[:, :, -1] > 0.5).all())


def backbone(processor):
    model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=2))
    return Backbone(model, processor, ("classifier.1",), Provenance("x"))


@pytest.mark.parametrize(
    "processor",
    [
        BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}),
        ConvNextImageProcessor(size={"shortest_edge": 56}, crop_pct=0.8),
    ],
    ids=["bit", "convnext"],
)
def test_with_crop_pct__one_keeps_the_border(processor, framed):
    original = backbone(processor)
    whole = with_crop_pct(original, 1.0)
    assert original.preprocessing.size == whole.preprocessing.size == (56, 56)
    assert not border_is_white(original.preprocessing(framed))
    assert border_is_white(whole.preprocessing(framed))


def test_with_crop_pct__is_saved_with_a_timm_model(framed, tmp_path):
    section = Model(backbone="package:efficientnet_lite0")
    cropped = build_backbone(section, ["a", "b"], 0)
    whole = build_backbone(section.model_copy(update={"crop_pct": 1.0}), ["a", "b"], 0)
    assert not border_is_white(cropped.preprocessing(framed))
    assert border_is_white(whole.preprocessing(framed))
    whole.save(tmp_path)
    reloaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert torch.equal(reloaded(framed, return_tensors="pt")["pixel_values"][0], whole.preprocessing(framed))


def test_with_crop_pct__a_processor_that_does_not_crop():
    with pytest.raises(BackboneError, match=r"model\.crop_pct: the checkpoint's ViTImageProcessor does not crop"):
        with_crop_pct(backbone(ViTImageProcessor(size={"height": 32, "width": 32})), 0.9)
