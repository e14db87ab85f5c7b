import copy
import dataclasses
import re

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.transformers_models import load_checkpoint
from hf_transfer.features.space import FeatureSpace, feature_space, weights_digest
from hf_transfer.recipe.schema import Model

CPU = torch.device("cpu")


def build(names=("cat", "dog", "owl"), seed=0, **section):
    return build_backbone(Model(backbone="timm:test_resnet", pretrained=False, **section), list(names), seed)


@pytest.fixture(scope="module")
def backbone():
    return build()


def digest(backbone):
    return weights_digest(backbone.model, backbone.heads)


def space(backbone, **changed):
    options = {"weights": "w", "device": CPU, "dtype": torch.float32, "compiled": False}
    return feature_space(backbone, **options | changed)


def test_key__is_32_hex_digits_of_the_facts():
    one = FeatureSpace("one", {"a": 1, "b": [2, 3]})
    assert re.fullmatch("[0-9a-f]{32}", one.key)
    assert one.key == FeatureSpace("other", {"b": [2, 3], "a": 1}).key
    assert one.key != FeatureSpace("one", {"a": 1, "b": [3, 2]}).key


@pytest.mark.parametrize(
    "changed",
    [
        {"weights": "v"},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
        {"device": torch.device("meta")},
        {"compiled": True},
        {"pooling": "mean"},
        {"view": {"preset": "basic", "seed": 0}},
    ],
    ids=str,
)
def test_key__follows_what_the_features_depend_on(backbone, changed):
    assert space(backbone, **changed).key != space(backbone).key
    assert space(backbone, **changed).key == space(backbone, **changed).key


def test_key__views_of_another_preset_or_seed_differ(backbone):
    views = [None, *({"preset": preset, "seed": seed} for preset in ("basic", "strong") for seed in (0, 1))]
    assert len({space(backbone, view=view).key for view in views}) == 5


def test_key__follows_the_preprocessing(backbone):
    cropped = build(crop_pct=0.5)
    assert space(cropped).key != space(backbone).key


def test_key__does_not_follow_names_classes_or_heads(backbone):
    others = {
        "another seed of the head": build(seed=1),
        "other class names": build(["ant", "bee", "cow"]),
        "another number of classes": build(["ant", "bee", "cow", "doe", "elk"]),
        "another name": dataclasses.replace(backbone, provenance=Provenance("mine")),
    }
    keys = {what: space(other).key for what, other in others.items()}
    assert keys == dict.fromkeys(others, space(backbone).key)
    assert space(others["another name"]).name == "mine"


def test_key__of_a_transformers_model_does_not_follow_its_classes(backbone):
    def vit(names, **config):
        config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8} | config
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
        model = ViTForImageClassification(ViTConfig(image_size=32, **config, **labels))
        return Backbone(model, backbone.processor, ("classifier",), Provenance("vit"))

    assert space(vit(["cat", "dog"])).key == space(vit(["ant", "bee", "cow"])).key
    assert space(vit(["cat", "dog"], layer_norm_eps=1e-6)).key != space(vit(["cat", "dog"])).key


def test_key__follows_the_architecture(backbone):
    other = build_backbone(Model(backbone="timm:test_efficientnet", pretrained=False), ["cat", "dog", "owl"], 0)
    assert space(other).key != space(backbone).key


def test_key__a_saved_model_lies_in_the_same_space(backbone, tmp_path):
    backbone.save(tmp_path / "model")
    saved = load_checkpoint(str(tmp_path / "model"), None, class_names=["ant", "bee"])
    assert digest(saved) == digest(backbone)
    assert space(saved).key == space(backbone).key


def test_space__facts_are_json_ready_and_name_the_computation(backbone):
    found = space(backbone, dtype=torch.bfloat16)
    assert found.name == "timm:test_resnet"
    assert found.facts["dtype"] == "bfloat16"
    assert found.facts["device"].startswith("cpu ")
    assert found.facts["view"] is None
    assert set(found.facts["versions"]) >= {"torch", "timm", "pillow"}
    assert "owl" not in str(found.facts)


def test_weights_digest__follows_one_frozen_value(backbone):
    frozen = digest(backbone)
    other = copy.deepcopy(backbone)
    assert digest(other) == frozen
    parameter = next(value for name, value in other.model.named_parameters() if "conv" in name)
    with torch.no_grad():
        parameter.view(-1)[-1] = torch.nextafter(parameter.view(-1)[-1], torch.tensor(torch.inf))
    assert digest(other) != frozen


def test_weights_digest__follows_the_statistics_of_a_norm(backbone):
    other = copy.deepcopy(backbone)
    next(value for name, value in other.model.named_buffers() if name.endswith("running_mean"))[0] += 1e-3
    assert digest(other) != digest(backbone)


def test_weights_digest__does_not_follow_the_head(backbone):
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for head in other.heads:
            for parameter in other.model.get_submodule(head).parameters():
                parameter += 1
    assert digest(other) == digest(backbone)
    assert weights_digest(other.model, ()) != weights_digest(backbone.model, ())


def test_weights_digest__does_not_follow_the_layout_in_memory(backbone):
    other = copy.deepcopy(backbone)
    other.model.to(memory_format=torch.channels_last)
    assert digest(other) == digest(backbone)


def test_weights_digest__follows_names_types_and_shapes():
    def of(**tensors):
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights_digest(module, ["head"])

    zeros = torch.zeros(4)
    found = [of(a=zeros), of(b=zeros), of(a=zeros.int()), of(a=zeros.reshape(2, 2)), of(a=zeros, b=torch.zeros(0)), of()]
    assert len(set(found)) == len(found)
    assert of(a=torch.tensor(0, dtype=torch.bfloat16)) != of(a=torch.tensor(1, dtype=torch.bfloat16))
    assert of(a=zeros, header=zeros) != of(a=zeros)  # not the head, only named like it
