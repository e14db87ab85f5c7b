"""Features pooled as a recipe says are what a line of arithmetic gives, and a saved model gives them again."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

import hf_transfer
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.pooled_head import with_pooling
from hf_transfer.backbones.pooling import pooled_features, pooling_of
from hf_transfer.backbones.transformers_models import load_checkpoint
from hf_transfer.errors import BackboneError
from hf_transfer.features.extraction import FeatureModel
from hf_transfer.recipe.schema import Head, HiddenLayer, Model

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("tiny_models.py"))
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
FAMILIES = {family.name: family for family in _tiny.FAMILIES}

hf_transfer.register()
CLASSES = ["cat", "dog", "owl"]


def built(name, checkpoint_of, pooling="default"):
    return build_backbone(Model(backbone=str(checkpoint_of(FAMILIES[name]))), CLASSES, 0, pooling=pooling)


def of_timm(name, pooling="default", **head):
    return build_backbone(Model(backbone=f"timm:{name}", pretrained=False, head=Head(**head)), CLASSES, 0, pooling=pooling)


def noise(backbone):
    return torch.randn(3, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(1))


def features_of(backbone, pixels):
    """What enters the head of a whole model."""
    model = FeatureModel(backbone)
    with torch.no_grad():
        found = model(pixels)
    model.close()
    return found


def by_hand(state, pooling, *, prefix=0, cells=None):
    """Pool tokens behind `prefix` others, or cells in these dimensions."""
    mean = state.mean(dim=cells) if cells else state[:, prefix:].mean(dim=1)
    return {"mean": lambda: mean, "cls": lambda: state[:, 0], "cls_mean": lambda: torch.cat([state[:, 0], mean], dim=1)}[
        pooling
    ]()


# A family, tokens in front of its patches, or dimensions of cells; and which poolings its stock class can hold.
TRANSFORMERS = {
    "vit": ({"prefix": 1}, {"cls"}),
    "deit": ({"prefix": 2}, {"cls"}),
    "beit": ({"prefix": 1}, set()),
    "dinov2": ({"prefix": 1}, {"cls_mean"}),
    "swin": ({"prefix": 0}, {"mean"}),
    "convnext": ({"cells": (2, 3)}, set()),
    "resnet": ({"cells": (2, 3)}, {"mean"}),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_with_pooling__transformers(name, checkpoint_of, tmp_path):
    how, stock = TRANSFORMERS[name]
    plain = built(name, checkpoint_of)
    pixels = noise(plain)
    with torch.no_grad():
        state = plain.model.eval().base_model(pixel_values=pixels).last_hidden_state
    for pooling in ["cls", "mean", "cls_mean"] if how.get("prefix") else ["mean"]:
        backbone = built(name, checkpoint_of, pooling)
        torch.testing.assert_close(features_of(backbone, pixels), by_hand(state, pooling, **how), rtol=1e-5, atol=1e-6)
        assert (type(backbone.model) is type(plain.model)) == (pooling in stock), pooling
        assert backbone.feature_width == by_hand(state, pooling, **how).shape[1]
        check_saved_again(backbone, pixels, tmp_path / pooling)


@pytest.mark.parametrize(
    ("name", "how", "stock"),
    [
        ("test_vit", {"prefix": 1}, {"cls", "mean"}),
        ("test_resnet", {"cells": (2, 3)}, {"mean"}),
        ("test_convnext", {"cells": (2, 3)}, set()),
        ("swin_tiny_patch4_window7_224", {"cells": (1, 2)}, {"mean"}),
    ],
)
def test_with_pooling__timm(name, how, stock, tmp_path):
    plain = of_timm(name)
    pixels = noise(plain)[:1] if "swin" in name else noise(plain)
    with torch.no_grad():
        state = plain.model.eval().timm_model.forward_features(pixels)
    for pooling in ["cls", "mean", "cls_mean"] if "prefix" in how else ["mean"]:
        backbone = with_pooling(plain, CLASSES, pooling)
        torch.testing.assert_close(features_of(backbone, pixels), by_hand(state, pooling, **how), rtol=1e-4, atol=1e-5)
        assert (type(backbone.model) is type(plain.model)) == (pooling in stock), pooling
        check_saved_again(backbone, pixels, tmp_path / pooling)


def check_saved_again(backbone, pixels, directory):
    """What was saved gives the same logits, in anybody's hands."""
    backbone.save(directory)
    with torch.no_grad():
        expected = backbone.model.eval()(pixel_values=pixels).logits
        anyone = AutoModelForImageClassification.from_pretrained(directory).eval()
        assert torch.equal(anyone(pixel_values=pixels).logits, expected)
        ours = load_checkpoint(str(directory), None, class_names=None)
        assert torch.equal(ours.model.eval()(pixel_values=pixels).logits, expected)
    assert ours.heads == backbone.heads
    assert pooling_of(ours.model) == pooling_of(backbone.model)


def test_with_pooling__timms_own_vision_transformer_is_read_by_timm(tmp_path):
    import timm

    backbone = of_timm("test_vit", "mean")
    backbone.save(tmp_path)
    pixels = noise(backbone)
    with torch.no_grad():
        found = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(pixels)
        assert torch.equal(found, backbone.model.eval()(pixel_values=pixels).logits)


def test_with_pooling__registers_are_no_places():
    backbone = of_timm("vit_small_patch16_dinov3")
    network = backbone.model.eval().timm_model
    pixels = noise(backbone)[:1, :, :64, :64]
    with torch.no_grad():
        state = network.forward_features(pixels)
        assert network.num_prefix_tokens == 5 and state.shape[1] == 5 + 16
        torch.testing.assert_close(pooled_features(backbone.model, pixels, "mean"), state[:, 5:].mean(dim=1))


def test_with_pooling__no_class_token():
    with pytest.raises(BackboneError) as caught:
        of_timm("test_resnet", "cls")
    assert str(caught.value) == (
        "features.pooling: expected 'default' or 'mean' for timm's ResNet, which has no class token in its last hidden state; "
        "found 'cls'"
    )


@pytest.mark.parametrize("model", ["torchvision:mnasnet0_5", "scratch:lenet", "hidden"])
def test_with_pooling__networks_that_are_wrapped_already(model):
    with pytest.raises(BackboneError, match=r"features\.pooling: expected 'default' for this backbone"):
        if model == "hidden":
            of_timm("test_vit", "mean", hidden=[HiddenLayer(size=4)])
        else:
            build_backbone(Model(backbone=model, pretrained=False), CLASSES, 0, pooling="mean")


def test_build_backbone__other_pooling_draws_nothing_and_keeps_the_crop():
    section = Model(backbone="timm:test_vit", pretrained=False, crop_pct=1.0)
    torch.manual_seed(3)
    backbones = [build_backbone(section, CLASSES, 0, pooling=pooling) for pooling in ("cls_mean", "mean")]
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), drawn)
    image = Image.effect_noise((200, 300), 60).convert("RGB")
    expected = build_backbone(section, CLASSES, 0).preprocessing(image)
    for backbone in backbones:
        torch.testing.assert_close(backbone.preprocessing(image), expected, atol=0.02, rtol=0)


def test_build_backbone__the_head_is_of_the_seed(checkpoint_of):
    first, again = (built("vit", checkpoint_of, "cls_mean") for _ in range(2))
    assert torch.equal(first.model.get_submodule(first.heads[0]).weight, again.model.get_submodule(again.heads[0]).weight)
    assert first.groups[-1].name == "head" and [group.name for group in first.groups][1:-1] == [
        "network.vit.layers.0",
        "network.vit.layers.1",
        "network.vit.layers.2",
    ]
