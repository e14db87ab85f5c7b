"""Heads with hidden layers: our wrapper, which loads only after `hf_transfer.register()`; stock models load without us."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.backbones.wrapper import TransferForImageClassification
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Head, Model

CLASSES = ["cat", "dog", "owl"]
HIDDEN = [{"size": 16, "activation": "gelu", "dropout": 0.5}, {"size": 8}]


def wrapped(name, class_names=CLASSES, **arguments):
    return build_backbone(Model(backbone=name, head=Head(hidden=HIDDEN), **arguments), class_names, 0)


def test_with_hidden_head__saved_directory_gives_equal_logits(single_head_family, checkpoint_of, tmp_path, logits_of):
    backbone = wrapped(str(checkpoint_of(single_head_family)))
    assert isinstance(backbone.model, TransferForImageClassification)
    backbone.save(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    state = backbone.model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    pixels = torch.rand(2, 3, *single_head_family.size)
    assert torch.equal(logits_of(again, pixels), logits_of(backbone.model, pixels))
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == backbone.processor.to_dict()
    assert again.config.id2label == dict(enumerate(CLASSES))


def test_with_hidden_head__answers_the_five_questions(single_head_family, checkpoint_of):
    expected = single_head_family.in_wrapper()
    backbone = wrapped(str(checkpoint_of(single_head_family)))
    assert backbone.heads == expected.heads
    assert backbone.feature_width == expected.feature_width
    assert tuple(group.name for group in backbone.groups) == expected.groups
    assert tuple(backbone.cam_layers) == expected.cam_layers
    assert backbone.preprocessing.size == expected.size
    assert len(backbone.groups[-1].parameters) == 6  # three linear layers


def test_with_hidden_head__backbone_weights_are_the_checkpoints(single_head_family, checkpoint_of):
    checkpoint = checkpoint_of(single_head_family)
    found = wrapped(str(checkpoint)).model.state_dict()
    source = AutoModelForImageClassification.from_pretrained(checkpoint).state_dict()
    for name, tensor in source.items():
        if not name.startswith(f"{single_head_family.heads[0]}."):
            assert torch.equal(found[f"network.{name}"], tensor), name


def test_with_hidden_head__two_classifiers_are_refused(distilled_checkpoint):
    with pytest.raises(BackboneError) as caught:
        wrapped(str(distilled_checkpoint))
    assert str(caught.value) == ("model.head.hidden: this checkpoint's head cannot be replaced by one with hidden layers")


def test_with_hidden_head__head_is_what_the_recipe_says(vit_checkpoint):
    backbone = wrapped(str(vit_checkpoint))
    head = backbone.model.get_submodule(backbone.heads[0])
    assert [type(module).__name__ for module in head] == ["Linear", "GELU", "Dropout", "Linear", "ReLU", "Linear"]
    assert [module.out_features for module in head if hasattr(module, "out_features")] == [16, 8, 3]
    assert head[2].p == 0.5


def test_build_backbone__wrapped_checkpoint_gets_a_head_for_other_classes(vit_checkpoint, tmp_path):
    first = wrapped(str(vit_checkpoint))
    first.save(tmp_path)
    second = build_backbone(Model(backbone=str(tmp_path)), ["a", "b", "c", "d"], 1)
    head = second.model.get_submodule(second.heads[0])
    assert [module.out_features for module in head if hasattr(module, "out_features")] == [16, 8, 4]
    for name, tensor in second.model.state_dict().items():
        new = name.startswith("network.classifier.") and name.endswith("weight")
        if new or not name.startswith("network.classifier."):
            assert torch.equal(tensor, first.model.state_dict()[name]) != new, name
    with pytest.raises(BackboneError, match="cannot be replaced by one with hidden layers"):
        wrapped(str(tmp_path))


def test_load_as_it_is__wrapped_checkpoint(vit_checkpoint, tmp_path):
    first = wrapped(str(vit_checkpoint))
    first.save(tmp_path / "model")
    again = load_as_it_is(Model(backbone=str(tmp_path)))
    assert again.heads == first.heads
    assert all(torch.equal(again.model.state_dict()[name], tensor) for name, tensor in first.model.state_dict().items())


SCRIPT = """
import json, sys, torch, transformers
from transformers import AutoImageProcessor, AutoModelForImageClassification
torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()

def load(directory):
    model = AutoModelForImageClassification.from_pretrained(directory)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    pixels, logits = torch.load(directory + "/expected.pt")
    AutoImageProcessor.from_pretrained(directory)
    with torch.no_grad():
        return {"equal": torch.equal(model.eval()(pixels).logits, logits), "class": type(model).__name__}

found = {}
for directory in sys.argv[1:]:
    try:
        found[directory] = {"before": load(directory)}
    except ValueError as error:
        found[directory] = {"before": str(error)}
assert "hf_transfer" not in sys.modules
import hf_transfer
hf_transfer.register()
for directory in sys.argv[1:]:
    found[directory]["after"] = load(directory)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def in_a_fresh_process(vit_checkpoint, tmp_path_factory):
    """What a process that has never heard of us finds in saved directories, and what it finds after register()."""
    root = tmp_path_factory.mktemp("fresh")
    backbones = {
        "stock": build_backbone(Model(backbone=str(vit_checkpoint)), CLASSES, 0),
        "timm": build_backbone(Model(backbone="timm:test_vit", pretrained=False), CLASSES, 0),
        "hidden": wrapped(str(vit_checkpoint)),
        "hidden timm": wrapped("timm:test_vit", pretrained=False),
        "torchvision": build_backbone(Model(backbone="torchvision:regnet_y_400mf", pretrained=False), CLASSES, 0),
    }
    for name, backbone in backbones.items():
        backbone.save(root / name)
        pixels = torch.rand(1, 3, *backbone.preprocessing.size)
        with torch.no_grad():
            for tensor in (*backbone.model.parameters(), *backbone.model.buffers()):
                tensor.data = tensor.data.clone()
            torch.save((pixels, backbone.model.eval()(pixels).logits), root / name / "expected.pt")
    command = [sys.executable, "-c", SCRIPT, *(str(root / name) for name in backbones)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    return {name: found[str(root / name)] | {"directory": root / name} for name in backbones}


@pytest.mark.parametrize(("name", "expected"), [("stock", "ViT"), ("timm", "TimmWrapper")])
def test_save__stock_models_load_without_us(in_a_fresh_process, name, expected):
    assert in_a_fresh_process[name]["before"] == {"equal": True, "class": f"{expected}ForImageClassification"}


@pytest.mark.parametrize("name", ["hidden", "hidden timm", "torchvision"])
def test_save__wrapped_models_load_after_register_only(in_a_fresh_process, name):
    found = in_a_fresh_process[name]
    assert "model type `hf_transfer`" in found["before"]
    assert found["after"] == {"equal": True, "class": "TransferForImageClassification"}


@pytest.mark.parametrize("name", ["stock", "timm", "hidden", "hidden timm", "torchvision"])
def test_save__no_path_of_this_machine_in_any_file(in_a_fresh_process, vit_checkpoint, name):
    for file in in_a_fresh_process[name]["directory"].glob("*.json"):
        text = file.read_text()
        assert str(vit_checkpoint) not in text
        assert "/tmp" not in text and "/root" not in text and "/home" not in text, file
        assert "_name_or_path" not in text
