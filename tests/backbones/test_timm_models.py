import functools
import json
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.backbones.hidden_head import saveable_processor
from hf_transfer.backbones.timm_models import load_weights_by_position
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Model

CLASSES = ["cat", "dog", "owl"]


@dataclass(frozen=True)
class Row:
    """What one timm architecture must answer; names without the `timm_model.` before them."""

    name: str
    heads: tuple[str, ...]
    feature_width: int
    groups: tuple[str, ...]
    size: int = 224
    cam: str = ""  # how each CAM layer's path ends
    last_cam: str = ""  # the last CAM layer, where it is not of the last group


def numbered(prefix, count):
    return tuple(f"{prefix}.{number}" for number in range(count))


ROWS = (
    Row("resnet18", ("fc",), 512, ("stem", "layer1", "layer2", "layer3", "layer4", "head")),
    Row("vit_tiny_patch16_224", ("head",), 192, ("stem", *numbered("blocks", 12), "head"), cam=".norm1"),
    Row("convnext_atto", ("head.fc",), 320, ("stem", *numbered("stages", 4), "head")),
    Row("test_vit", ("head",), 64, ("stem", *numbered("blocks", 6), "head"), 160, ".norm1"),
    Row("test_resnet", ("fc",), 96, ("stem", "layer1", "layer2", "layer3", "layer4", "head"), 160),
    # Its first block is a convolution and a norm: part of the stem.
    Row("test_efficientnet", ("classifier",), 256, ("stem", *numbered("blocks", 5)[1:], "head"), 160, last_cam="bn2"),
    Row("mixer_s32_224", ("head",), 512, ("stem", *numbered("blocks", 8), "head"), last_cam="norm"),
    Row(
        "deit_tiny_distilled_patch16_224",
        ("head", "head_dist"),
        192,
        ("stem", *numbered("blocks", 12), "head"),
        cam=".norm1",
    ),
)
row_of_each = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@functools.cache
def backbone_of(name):
    return build_backbone(Model(backbone=f"timm:{name}", pretrained=False), CLASSES, 0)


@row_of_each
def test_load_timm__answers_the_five_questions(row):
    backbone = backbone_of(row.name)
    moved = tuple(name if name in ("stem", "head") else f"timm_model.{name}" for name in row.groups)
    assert backbone.heads == tuple(f"timm_model.{head}" for head in row.heads)
    assert backbone.feature_width == row.feature_width
    assert tuple(group.name for group in backbone.groups) == moved
    layers = [f"{group}{row.cam}" for group in moved[1:-1]]
    assert backbone.cam_layers == ([*layers[:-1], f"timm_model.{row.last_cam}"] if row.last_cam else layers)
    assert backbone.preprocessing.size == (row.size, row.size)
    grouped = [name for group in backbone.groups for name in group.parameters]
    assert sorted(grouped) == sorted(name for name, _ in backbone.model.named_parameters())
    heads = tuple(f"{head}." for head in backbone.heads)
    assert all(name.startswith(heads) for name in backbone.groups[-1].parameters)


@row_of_each
def test_load_timm__saved_directory_loads_in_transformers_and_in_timm(row, tmp_path, logits_of):
    backbone = backbone_of(row.name)
    backbone.save(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    in_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(again).__name__ == "TimmWrapperForImageClassification"
    state = backbone.model.state_dict()
    assert again.state_dict().keys() == state.keys() == {f"timm_model.{name}" for name in in_timm.state_dict()}
    for name, tensor in in_timm.state_dict().items():
        assert torch.equal(tensor, state[f"timm_model.{name}"])
        assert torch.equal(tensor, again.state_dict()[f"timm_model.{name}"])
    pixels = torch.rand(1, 3, row.size, row.size)
    assert torch.equal(logits_of(again, pixels), logits_of(backbone.model, pixels))
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == backbone.processor.to_dict()


@row_of_each
def test_load_timm__random_weights_are_timms_own(row):
    backbone = backbone_of(row.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(row.name, num_classes=len(CLASSES))
    for name, tensor in network.state_dict().items():
        if not name.startswith(tuple(f"{head}." for head in row.heads)):
            assert torch.equal(backbone.model.state_dict()[f"timm_model.{name}"], tensor), name


def test_load_timm__labels_are_stored_for_both_libraries(tmp_path):
    backbone_of("test_resnet").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == CLASSES
    assert config["num_classes"] == 3
    assert config["model_args"] == {}
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.id2label == dict(enumerate(CLASSES))
    in_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert in_timm.num_classes == 3
    assert in_timm.pretrained_cfg["label_names"] == CLASSES


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "model.backbone: timm has no model 'resnet19' (did you mean 'resnet18'?)"),
        ("zzzzzz", "model.backbone: timm has no model 'zzzzzz'"),
    ],
)
def test_load_timm__unknown_model(name, message):
    with pytest.raises(BackboneError) as caught:
        backbone_of(name)
    assert str(caught.value).startswith(message)


def test_load_timm__unknown_weights():
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone="timm:test_vit.r160_in2k"), CLASSES, 0)
    assert str(caught.value) == (
        "model.backbone: timm has no weights 'test_vit.r160_in2k' (did you mean 'test_vit.r160_in1k'?); "
        "known: test_vit.r160_in1k"
    )


def test_load_timm__architecture_without_weights():
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone="timm:convmixer_768_32_nothing"), CLASSES, 0)
    assert "did you mean 'convmixer_768_32'?" in str(caught.value)
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone="timm:swinv2_cr_tiny_224"), CLASSES, 0)
    assert str(caught.value) == (
        "model.backbone: timm has no pretrained weights on the Hub for 'swinv2_cr_tiny_224'; set model.pretrained to false"
    )


def test_load_as_it_is__random_weights_are_refused():
    with pytest.raises(BackboneError) as caught:
        load_as_it_is(Model(backbone="timm:test_vit", pretrained=False))
    assert str(caught.value) == "model.pretrained: a model with random weights and its own head cannot be evaluated"


def test_build_backbone__saved_timm_model_gets_another_head(tmp_path):
    first = backbone_of("test_vit")
    first.save(tmp_path)
    second = build_backbone(Model(backbone=str(tmp_path)), ["a", "b", "c", "d"], 1)
    assert second.model.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    for name, tensor in second.model.state_dict().items():
        if name.startswith("timm_model.head."):
            assert len(tensor) == 4
        else:
            assert torch.equal(tensor, first.model.state_dict()[name])
    second.save(tmp_path / "second")
    assert timm.create_model(f"local-dir:{tmp_path / 'second'}", pretrained=True).num_classes == 4


@pytest.mark.parametrize("classes", [["x", "y"], ["x", "y", "z"]])
def test_build_backbone__classes_of_a_saved_timm_model_do_not_come_back(tmp_path, classes):
    first = build_backbone(Model(backbone="timm:test_resnet", pretrained=False), ["a", "b"], 0)
    first.save(tmp_path / "first")
    build_backbone(Model(backbone=str(tmp_path / "first")), classes, 0).save(tmp_path / "second")
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / "second")
    assert reloaded.config.id2label == dict(enumerate(classes))


def test_load_as_it_is__names_of_classes_are_in_the_order_of_their_numbers(tmp_path):
    """A config.json whose keys someone sorted as text has class 10 before class 2."""
    names = [f"class {number}" for number in range(12)]
    build_backbone(Model(backbone="timm:test_resnet", pretrained=False), names, 0).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = dict(sorted((str(number), name) for number, name in enumerate(names)))
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = load_as_it_is(Model(backbone=str(tmp_path))).model.config
    assert found.label_names == names
    assert [found.id2label[label] for label in range(12)] == names


def test_build_backbone__random_weights_of_a_timm_checkpoint_are_timms_own(tmp_path):
    """transformers would draw its linear layers from normal(0, 0.02), and save names that timm refuses."""
    backbone_of("test_vit").save(tmp_path)
    backbone = build_backbone(Model(backbone=str(tmp_path), pretrained=False), ["a", "b"], 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = timm.create_model("test_vit", num_classes=2)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(backbone.model.state_dict()[f"timm_model.{name}"], network.state_dict()[name])
    backbone.save(tmp_path / "random")
    timm.create_model(f"local-dir:{tmp_path / 'random'}", pretrained=True)


@pytest.mark.parametrize("model_args", [None, {"num_classes": 3, "depth": 2}])
def test_build_backbone__checkpoint_written_by_the_other_library(tmp_path, model_args):
    """transformers writes model_args null, timm writes num_classes into it; each chokes on the other's."""
    arguments = {key: value for key, value in (model_args or {}).items() if key != "num_classes"}
    network = timm.create_model("test_vit", num_classes=3, **arguments)
    timm.models.save_for_hf(network, tmp_path, model_args=model_args)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] = model_args
    (tmp_path / "config.json").write_text(json.dumps(config))

    backbone = build_backbone(Model(backbone=str(tmp_path)), ["a", "b"], 0)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(backbone.model.state_dict()[f"timm_model.{name}"], network.state_dict()[name])
    backbone.save(tmp_path / "again")
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True)
    assert torch.equal(again.state_dict()[name], network.state_dict()[name])
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "again").config.num_labels == 2


def test_build_backbone__timm_checkpoint_without_classifier_gets_a_new_head(tmp_path):
    network = timm.create_model("test_vit", num_classes=0)
    timm.models.save_for_hf(network, tmp_path)
    backbone = build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)
    found = backbone.model.state_dict()
    assert all(torch.equal(found[f"timm_model.{name}"], tensor) for name, tensor in network.state_dict().items())
    backbone.save(tmp_path / "again")
    assert timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).num_classes == 3
    with pytest.raises(BackboneError, match="cannot be loaded as an image classifier"):
        load_as_it_is(Model(backbone=str(tmp_path)))


def test_build_backbone__timm_checkpoint_that_lacks_weights_is_refused(tmp_path):
    network = timm.create_model("test_vit", num_classes=3)
    timm.models.save_for_hf(network, tmp_path)
    state = {name: t for name, t in network.state_dict().items() if name != "blocks.0.attn.qkv.weight"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"lacks the weights of 1 tensors, outside its head \(timm_model.blocks.0.attn.qkv"):
        build_backbone(Model(backbone=str(tmp_path)), CLASSES, 0)


def test_load_weights_by_position__maps_names_by_order():
    network, other = (timm.create_model("test_resnet", num_classes=n) for n in (3, 5))
    state = {f"other{number}": tensor for number, tensor in enumerate(other.state_dict().values())}
    before = network.fc.weight.clone()
    load_weights_by_position(network, state)
    assert torch.equal(network.fc.weight, before)
    assert all(
        torch.equal(tensor, other.state_dict()[name]) for name, tensor in network.state_dict().items() if name[:3] != "fc."
    )


def test_load_weights_by_position__wrong_file_is_refused():
    network = timm.create_model("test_resnet", num_classes=3)
    state = dict(network.state_dict())
    with pytest.raises(BackboneError, match=f"expected {len(state)} tensors, found {len(state) - 1}"):
        load_weights_by_position(network, dict(list(state.items())[1:]))
    first = next(iter(state))
    with pytest.raises(BackboneError, match=rf"expected \(.*\) for {first}, found \(7,\) in {first}"):
        load_weights_by_position(network, {**state, first: torch.zeros(7)})


def timm_processor(crop_mode):
    backbone = backbone_of("test_vit")
    return type(backbone.processor)(pretrained_cfg={**backbone.model.config.pretrained_cfg, "crop_mode": crop_mode})


@pytest.mark.parametrize(("crop_mode", "width"), [("center", 200), ("squash", 300)])
def test_saveable__prepares_images_like_timm(crop_mode, width):
    processor = timm_processor(crop_mode)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, width, 3), np.uint8))
    expected = processor(image, return_tensors="pt")["pixel_values"]
    found = saveable_processor(processor)(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(found, expected, atol=2.5 / 127.5)  # two levels of 256: the libraries round differently


def test_saveable__border_is_refused():
    with pytest.raises(BackboneError, match="pads images with a border"):
        saveable_processor(timm_processor("border"))
