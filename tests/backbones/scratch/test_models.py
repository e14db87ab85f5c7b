"""Our own networks through every door: built, saved, loaded in a new process, frozen, explained, probed, exported."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.backbones.scratch.temperatures import temperatures
from hf_transfer.backbones.transformers_models import load_checkpoint
from hf_transfer.deploy.export import export_model
from hf_transfer.errors import BackboneError
from hf_transfer.explain.cam import class_activation_maps
from hf_transfer.explain.rollout import attention_rollout
from hf_transfer.features.extraction import FeatureModel, probe_layers
from hf_transfer.recipe.schema import Model
from hf_transfer.training.freezing import freeze_except, trainable_count

CLASSES = ["cat", "dog", "owl"]

# name: (layer groups between stem and head, the last CAM layer, the grid of its maps)
NETWORKS = {
    "resnet18-ms1@64": ([f"resnet.layer{level}" for level in range(1, 5)], "resnet.layer4", (2, 2)),
    "resnet18-gn-pcnorm@64": ([f"resnet.layer{level}" for level in range(1, 5)], "resnet.layer4", (2, 2)),
    "vit-3x64-8x8": (["blocks.0", "blocks.1", "blocks.2"], "blocks.2.norm1", (4, 4)),
    "vitn-2x64-8x8": (["blocks.0", "blocks.1"], "blocks.1.norm1", (4, 4)),
    "vitn-2x64-4x4-ra-dm-lt@24": (["blocks.0", "blocks.1"], "blocks.1.norm1", (6, 6)),
    "vit-aux-2x1x64-8x8": (["blocks.0", "blocks.1"], "blocks.1.norm1", (4, 4)),
    "toy-dilated": ([f"features.{number}" for number in range(4)], "features.3", (32, 32)),
    "lenet": (["features.0", "features.3"], "features.4", (10, 10)),
}


def backbone_of(name, seed=0, classes=CLASSES, **head):
    return build_backbone(Model(backbone=f"scratch:{name}", head=head), classes, seed)


def pixels_of(backbone, count=2):
    return torch.rand(count, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_load_scratch__answers_the_five_questions(name):
    stages, cam_layer, grid = NETWORKS[name]
    backbone = backbone_of(name)
    stem = [] if name in ("toy-dilated", "lenet") else ["stem"]
    assert [group.name for group in backbone.groups] == [*stem, *(f"network.{stage}" for stage in stages), "head"]
    grouped = [parameter for group in backbone.groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(parameter for parameter, _ in backbone.model.named_parameters())
    assert backbone.cam_layers[-1] == f"network.{cam_layer}"
    assert len(backbone.cam_layers) == len(stages)
    assert backbone.is_convolutional == name.startswith(("resnet", "toy"))

    freeze_except(backbone.model, backbone.groups[0].parameters)  # frozen networks have maps, too
    pixels = pixels_of(backbone)
    maps = class_activation_maps(backbone, pixels, torch.tensor([0, 2]), method="layercam")
    assert maps.shape == (2, *grid)
    assert maps.flatten(1).max(1).values.min() > 0
    assert maps.flatten(1).std(1).min() > 0


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("vit")])
def test_load_scratch__attention_can_be_rolled_out(name):
    backbone = backbone_of(name)
    rollout = attention_rollout(backbone, pixels_of(backbone))
    assert rollout.shape == (2, *NETWORKS[name][2])
    assert 0 < rollout.sum((1, 2)).min() <= rollout.sum((1, 2)).max() < 1


RELOAD = """
import json, sys
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
import hf_transfer

hf_transfer.register()
torch.set_num_threads(1)
sums = {}
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder)
    size = AutoImageProcessor.from_pretrained(folder).crop_size["height"]
    pixels = torch.linspace(0, 1, 3 * size * size).view(1, 3, size, size)
    with torch.no_grad():
        sums[folder] = [model(pixel_values=pixels).logits[0].tolist(), model.config.id2label[0]]
print(json.dumps(sums))
"""


def test_load_scratch__saved_networks_load_in_a_new_process(tmp_path):
    expected = {}
    for number, name in enumerate(NETWORKS):
        backbone = backbone_of(name)
        with torch.no_grad():
            backbone.model.train()(pixels_of(backbone))  # moves running statistics
        folder = tmp_path / str(number)
        backbone.save(folder)
        size = backbone.preprocessing.size[0]
        pixels = torch.linspace(0, 1, 3 * size * size).view(1, 3, size, size)
        with torch.no_grad():
            expected[str(folder)] = backbone.model.eval()(pixels).logits[0].tolist()
    done = subprocess.run([sys.executable, "-c", RELOAD, *expected], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for folder, logits in expected.items():
        assert found[folder][0] == pytest.approx(logits, abs=1e-5), folder
        assert found[folder][1] == "cat"


@pytest.mark.parametrize("name", ["resnet18", "vit-aux-2x1x64-8x8", "vitn-2x64-8x8-ra-lt"])
def test_load_scratch__saved_network_is_a_checkpoint_for_other_classes(name, tmp_path):
    backbone = backbone_of(name)
    backbone.save(tmp_path)
    again = build_backbone(Model(backbone=str(tmp_path)), ["a", "b", "c", "d"], 1)
    assert again.heads == backbone.heads
    state = backbone.model.state_dict()
    prefixes = tuple(f"{head}." for head in backbone.heads)
    for key, tensor in again.model.state_dict().items():
        if not key.startswith(prefixes):
            assert torch.equal(tensor, state[key]), key
    assert again.model.train()(pixels_of(again)).logits.shape == (2, 4)
    assert again.model.config.image_size == 32
    same = load_as_it_is(Model(backbone=str(tmp_path)))
    assert all(torch.equal(tensor, state[key]) for key, tensor in same.model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18-gn", "vitn-1x64-8x8-ra", "lenet"])
def test_load_scratch__weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    one = backbone_of(name, seed=3).model.state_dict()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    two, other = backbone_of(name, seed=3).model.state_dict(), backbone_of(name, seed=4).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(tensor, two[key]) for key, tensor in one.items())
    matrices = [key for key, tensor in one.items() if key.endswith("weight") and tensor.ndim > 1]
    assert not any(torch.equal(one[key], other[key]) for key in matrices)


def test_load_scratch__weights_are_random_whatever_the_default():
    sections = (Model(backbone="scratch:lenet"), Model(backbone="scratch:lenet", pretrained=False))
    states = [build_backbone(section, CLASSES, 0).model.state_dict() for section in sections]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    provenance = backbone_of("lenet").provenance
    assert (provenance.name, provenance.hub_id, provenance.revision, provenance.license) == ("scratch:lenet", None, None, None)


def test_load_scratch__heads():
    paths = {name: backbone_of(name).heads for name in ("resnet18", "vit-1x64-8x8", "vit-aux-3x1x64-8x8")}
    assert paths == {
        "resnet18": ("network.head",),
        "vit-1x64-8x8": ("network.head",),
        "vit-aux-3x1x64-8x8": ("network.head", "network.auxiliary_heads.0", "network.auxiliary_heads.1"),
    }
    own = backbone_of("vit-1x64-8x8").model.get_submodule("network.head")
    assert [layer.out_features for layer in own[::2]] == [256, 3]
    hidden = backbone_of("vit-1x64-8x8", hidden=[{"size": 8, "dropout": 0.5}]).model.get_submodule("network.head")
    assert [type(layer).__name__ for layer in hidden] == ["Linear", "ReLU", "Dropout", "Linear"]
    last = backbone_of("vit-1x64-8x8", replace="last")
    assert (last.heads, last.feature_width) == (("network.head.2",), 256)
    assert backbone_of("resnet18", replace="last").heads == ("network.head",)


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("toy-dilated", 32), ("lenet", 84), ("vitn-1x64-8x8-dm", 256)])
def test_load_scratch__features_enter_the_last_layer(name, width, tmp_path):
    built = backbone_of(name, replace="last")
    built.save(tmp_path)
    backbone = load_checkpoint(str(tmp_path), None, class_names=None)
    (layer,) = probe_layers(backbone)
    pixels = pixels_of(backbone)
    with torch.no_grad():
        features = FeatureModel(backbone)(pixels)
        assert features.shape == (2, width)
        logits = backbone.model.get_submodule(layer)(features)
        assert torch.allclose(logits, backbone.model(pixels).logits, atol=1e-5)


def test_load_scratch__hidden_head_has_no_one_feature_vector():
    with pytest.raises(BackboneError, match="expected a head with one linear layer at its end, found Sequential with 2"):
        probe_layers(backbone_of("vit-1x64-8x8"))


def test_forward__loss_of_auxiliary_heads_is_added_in_training():
    backbone = backbone_of("vit-aux-3x1x64-8x8")
    pixels, labels = pixels_of(backbone), torch.tensor([0, 2])
    trained = backbone.model.train()(pixel_values=pixels, labels=labels)
    assert len(trained.auxiliary_logits) == 2
    expected = sum(functional.cross_entropy(logits, labels) for logits in (trained.logits, *trained.auxiliary_logits))
    assert torch.allclose(trained.loss, expected)
    trained.loss.backward()
    assert all(parameter.grad is not None for parameter in backbone.model.parameters())

    evaluated = backbone.model.eval()(pixel_values=pixels, labels=labels)
    assert evaluated.auxiliary_logits is None
    assert list(evaluated) == ["loss", "logits"]
    assert torch.equal(evaluated.loss, functional.cross_entropy(evaluated.logits, labels))


@pytest.mark.parametrize("name", ["resnet18-ms2", "vitn-2x64-8x8"])
def test_freezing__statistics_stand_still_with_the_stem(name):
    backbone = backbone_of(name)
    pixels = pixels_of(backbone)
    mean = backbone.model.network.normalizer.running_mean
    trained = [name for group in backbone.groups[1:] for name in group.parameters]
    freeze_except(backbone.model, trained)
    backbone.model.train()(pixels)
    assert not mean.any()
    assert trainable_count(backbone.model) == sum(backbone.model.get_parameter(name).numel() for name in trained)
    freeze_except(backbone.model, [name for group in backbone.groups for name in group.parameters])
    backbone.model.train()(pixels)
    assert float(mean) == pytest.approx(0.01 * float(pixels.mean()), rel=1e-4)


def test_freezing__mixstyle_is_off_behind_a_frozen_stage():
    backbone = backbone_of("resnet18-gn-wonorm-ms2")
    freeze_except(backbone.model, [name for group in backbone.groups[3:] for name in group.parameters])
    backbone.model.train()
    pixels = pixels_of(backbone) * torch.tensor([0.1, 1.0]).view(2, 1, 1, 1)
    with torch.no_grad():
        expected = backbone.model(pixels).logits
        assert all(torch.equal(backbone.model(pixels).logits, expected) for _ in range(6))


@pytest.mark.parametrize(("name", "low"), [("resnet18-wonorm", 0.0), ("vit-1x64-8x8", 0.0), ("lenet", -1.0)])
def test_preprocessing__native_images_are_only_scaled(name, low):
    backbone = backbone_of(name)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = low + (1.0 - low) * torch.from_numpy(image).permute(2, 0, 1) / 255.0
    assert torch.allclose(backbone.preprocessing(Image.fromarray(image)), expected, atol=1e-6)
    assert torch.allclose(backbone.preprocessing.normalize(torch.from_numpy(image).permute(2, 0, 1)), expected, atol=1e-5)
    assert backbone.preprocessing(Image.new("RGB", (50, 40))).shape == (3, 32, 32)
    backbone.preprocessing.check_statistics(expected[None])


@pytest.mark.parametrize("name", ["resnet18-ms3", "vitn-2x64-8x8-ra-dm-lt", "vit-aux-2x1x64-8x8"])
def test_export__logits_agree(name, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    formats = ("onnx", "torch_export") if name.startswith("vitn") else ("onnx",)
    report = export_model(backbone_of(name), tmp_path, name=name, images=[image], formats=formats, seconds=0.01)
    assert report["passed"]


def test_temperatures__of_a_saved_model(tmp_path):
    backbone = backbone_of("vitn-2x64-8x8-lt")
    with torch.no_grad():
        backbone.model.network.blocks[1].attention.log_temperature.fill_(0.5)
    backbone.save(tmp_path)
    saved = load_checkpoint(str(tmp_path), None, class_names=None)
    assert temperatures(saved.model) == pytest.approx([1.0, 1.6487213])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"backbone": "scratch:lenet", "revision": "main"},
            "model.revision: scratch: backbones have no revisions; leave it out",
        ),
        (
            {"backbone": "scratch:vit-aux-3x4x256-8x8", "head": {"replace": "last"}},
            "model.head.replace: scratch:vit-aux-3x4x256-8x8 has 3 classifiers, none of which is the last alone; "
            "use 'classifier'",
        ),
    ],
)
def test_build_backbone__refused(section, message):
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(**section), CLASSES, 0)
    assert str(caught.value) == message


def test_load_as_it_is__random_weights_cannot_be_evaluated():
    with pytest.raises(BackboneError) as caught:
        load_as_it_is(Model(backbone="scratch:lenet"))
    assert str(caught.value) == (
        "model.backbone: scratch:lenet has random weights, which cannot be evaluated; expected a trained model, such as the "
        "directory of a run"
    )
