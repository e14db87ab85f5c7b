"""torchvision's models: every one's head placement with weights on the meta device, forward passes of a quick subset."""

import contextlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.backbones.torchvision_models import _place, load_pretrained, torchvision_models
from hf_transfer.backbones.wrapper import TransferConfig, place_head
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Head, Model
from hf_transfer.training.freezing import freeze_except, trainable_count

CLASSES = ["cat", "dog", "owl"]
HIDDEN = [{"size": 512, "activation": "relu", "dropout": 0.5}]


def backbone_of(name, seed=0, **head):
    return build_backbone(Model(backbone=f"torchvision:{name}", pretrained=False, head=Head(**head)), CLASSES, seed)


def empty_network(name):
    """The network on the meta device: parameters without memory, buffers too."""
    arguments = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with init_empty_weights():
        network = torchvision.models.get_model(name, weights=None, **arguments)
    return network.to("meta").eval()


def widths(family, classifier, last):
    """Expected inputs of the head where the classifier has several layers."""
    return {name: (classifier, last) for name in torchvision_models() if name.startswith(family)}


# Inputs of the new head for replace "classifier" and "last"; elsewhere both are the old last layer's.
SEVERAL_LAYERS = {
    **widths("alexnet", 9216, 4096),
    **widths("vgg", 25088, 4096),
    **widths("mobilenet_v3_large", 960, 1280),
    **widths("mobilenet_v3_small", 576, 1024),
    **widths("maxvit", 512, 512),
}


def check_placed(network, spec, name):
    with torch.device("meta"):
        place_head(network, TransferConfig(head={**spec, "hidden": HIDDEN}, num_labels=5))
        edge = 299 if name == "inception_v3" else 224
        assert network.eval()(torch.empty(2, 3, edge, edge)).shape == (2, 5)
    # The network ends with the head: nothing of the old classifier is left behind it.
    assert list(network.modules())[-1] is list(network.get_submodule(spec["path"]).modules())[-1]
    assert not any(isinstance(module, nn.Linear) and module.out_features == 1000 for module in network.modules())


@pytest.mark.parametrize("name", torchvision_models())
def test_place__every_model_gets_a_head_that_fits(name):
    network = empty_network(name)
    classifier, last = _place(network, "classifier"), _place(network, "last")
    if name in SEVERAL_LAYERS:
        assert (classifier["in_features"], last["in_features"]) == SEVERAL_LAYERS[name]
        check_placed(empty_network(name), last, name)
    elif name.startswith("squeezenet"):
        assert classifier == last == {"path": "classifier", "in_features": 512, "pool": True}
    else:
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        assert classifier["in_features"] == last["in_features"] == linear.in_features
    check_placed(network, classifier, name)


def test_place__vgg_classifier_has_25088_inputs():
    backbone = empty_network("vgg16")
    assert _place(backbone, "classifier") == {"path": "classifier", "in_features": 25088}
    assert _place(backbone, "last") == {"path": "classifier.6", "in_features": 4096}


QUICK = {  # name: (edge of the input, group names without the `network.` before them)
    "resnet18": (32, ("stem", "layer1", "layer2", "layer3", "layer4", "head")),
    "mobilenet_v3_large": (32, ("stem", *(f"features.{i}" for i in range(1, 16)), "head")),
    "mobilenet_v3_small": (32, ("stem", *(f"features.{i}" for i in range(1, 12)), "head")),
    "efficientnet_b0": (32, ("stem", *(f"features.{i}" for i in range(1, 8)), "head")),
    "googlenet": (
        32,
        ("stem", *(f"inception{i}" for i in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")), "head"),
    ),
    "inception_v3": (
        75,
        ("stem", *(f"Mixed_{i}" for i in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")), "head"),
    ),
    "squeezenet1_1": (32, ("stem", *(f"features.{i}" for i in (3, 4, 6, 7, 9, 10, 11, 12)), "head")),
    "shufflenet_v2_x0_5": (32, ("stem", "stage2", "stage3", "stage4", "head")),
    "mnasnet0_75": (32, ("stem", *(f"layers.{i}" for i in range(8, 14)), "head")),
    "densenet121": (32, ("stem", *(f"features.denseblock{i}" for i in range(1, 5)), "head")),
    "convnext_tiny": (32, ("stem", *(f"features.{i}" for i in (1, 3, 5, 7)), "head")),
    "swin_t": (32, ("stem", *(f"features.{i}" for i in (1, 3, 5, 7)), "head")),
    "regnet_y_400mf": (32, ("stem", *(f"trunk_output.block{i}" for i in range(1, 5)), "head")),
}


@pytest.mark.parametrize("name", QUICK)
def test_load_torchvision__saved_directory_gives_equal_logits(name, tmp_path, logits_of):
    edge, groups = QUICK[name]
    backbone = backbone_of(name)
    moved = tuple(group if group in ("stem", "head") else f"network.{group}" for group in groups)
    assert tuple(group.name for group in backbone.groups) == moved
    assert len(backbone.cam_layers) == len(groups) - 2
    grouped = [parameter for group in backbone.groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(parameter for parameter, _ in backbone.model.named_parameters())

    pixels = torch.rand(2, 3, edge, edge)
    with torch.no_grad():
        trained = backbone.model.train()(pixels).logits  # GoogLeNet and Inception with auxiliary heads would give tuples
        assert trained.shape == (2, 3)
    backbone.save(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    state = backbone.model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
    assert torch.equal(logits_of(again, pixels), logits_of(backbone.model, pixels))
    assert again.config.id2label == dict(enumerate(CLASSES))
    assert AutoImageProcessor.from_pretrained(tmp_path).to_dict() == backbone.processor.to_dict()


@pytest.mark.parametrize("name", ["vit_b_16", "maxvit_t", "vgg11", "vgg16", "swin_v2_t"])
def test_groups__of_networks_too_large_to_run_here(name):
    """The layer groups of large networks, on the meta device."""
    from hf_transfer.backbones.layer_groups import layer_groups

    network = empty_network(name)
    spec = _place(network, "classifier")
    groups = layer_groups(network, (spec["path"],))
    expected = {
        "vit_b_16": tuple(f"encoder.layers.encoder_layer_{i}" for i in range(12)),
        "maxvit_t": tuple(f"blocks.{i}" for i in range(4)),
        "vgg11": tuple(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)),
        "vgg16": tuple(f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
        "swin_v2_t": tuple(f"features.{i}" for i in (1, 3, 5, 7)),
    }[name]
    stem = () if name.startswith("vgg") else ("stem",)
    assert tuple(group.name for group in groups) == (*stem, *expected, "head")
    assert sorted(n for g in groups for n in g.parameters) == sorted(n for n, _ in network.named_parameters())


def test_load_torchvision__mobilenet_last_with_hidden_layer_trains_661002_parameters():
    section = Model(backbone="torchvision:mobilenet_v3_large", pretrained=False, head={"replace": "last", "hidden": HIDDEN})
    backbone = build_backbone(section, [str(i) for i in range(10)], 0)
    freeze_except(backbone.model, backbone.groups[-1].parameters)
    assert trainable_count(backbone.model) == 1280 * 512 + 512 + 512 * 10 + 10 == 661_002


def test_load_torchvision__random_weights_are_torchvisions_own():
    backbone = backbone_of("resnet18", seed=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = torchvision.models.resnet18()
    for name, tensor in network.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(backbone.model.state_dict()[f"network.{name}"], tensor), name


def test_load_torchvision__preprocessing_is_the_weights_own():
    preset = torchvision.models.MobileNet_V3_Large_Weights.DEFAULT.transforms()
    backbone = backbone_of("mobilenet_v3_large")
    assert backbone.preprocessing.size == (224, 224)
    assert torch.allclose(backbone.preprocessing.mean, torch.tensor(preset.mean), atol=1e-6)
    assert torch.allclose(backbone.preprocessing.std, torch.tensor(preset.std), atol=1e-6)
    assert backbone.processor.size["shortest_edge"] == preset.resize_size[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "model.backbone: torchvision has no classification model 'resnet19' (did you mean 'resnet18'?)"),
        (
            "resnet18.IMAGENET1K_V2",
            "model.backbone: torchvision:resnet18 has no weights 'IMAGENET1K_V2' (did you mean 'IMAGENET1K_V1'?); "
            "known: IMAGENET1K_V1",
        ),
    ],
)
def test_load_torchvision__unknown_name(name, message):
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone=f"torchvision:{name}"), CLASSES, 0)
    assert str(caught.value) == message


# Pretrained weights: torch looks into TORCH_HOME/hub/checkpoints first, so files put there are what a download would be.


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """An empty download folder of torch, and no way to the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def weights_of(name):
    return torchvision.models.get_model_weights(name).DEFAULT


def publish(folder, name, state):
    torch.save(state, folder / Path(weights_of(name).url).name)


def old_densenet_names(state):
    """The names in torchvision's published DenseNet files."""
    import re

    return OrderedDict((re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key), t) for key, t in state.items())


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3", "densenet121", "mnasnet0_75", "squeezenet1_1"])
def test_load_torchvision__published_weights_are_loaded(name, hub_folder):
    with_auxiliary = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    state = torchvision.models.get_model(name, **with_auxiliary).state_dict()
    published = old_densenet_names(state) if name == "densenet121" else state
    if name == "densenet121":
        assert published.keys() != state.keys()
    publish(hub_folder, name, published)

    backbone = build_backbone(Model(backbone=f"torchvision:{name}"), CLASSES, 0)
    found = backbone.model.state_dict()
    kept = [key for key in state if f"network.{key}" in found and not f"network.{key}".startswith(backbone.heads)]
    assert len(kept) == len(found) - 2  # all but the head's weight and bias
    for key in kept:
        assert torch.equal(found[f"network.{key}"], state[key]), key
    assert backbone.provenance.revision == str(weights_of(name))


def test_load_as_it_is__published_weights_keep_the_imagenet_head(hub_folder, logits_of):
    network = torchvision.models.resnet18().eval()
    publish(hub_folder, "resnet18", network.state_dict())
    backbone = load_as_it_is(Model(backbone="torchvision:resnet18"))
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(logits_of(backbone.model, pixels), network(pixels))
    assert backbone.model.config.id2label[985] == "daisy"
    assert backbone.heads == ("network.fc",)


def test_load_torchvision__without_a_network_says_what_to_do(hub_folder):
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone="torchvision:resnet18"), CLASSES, 0)
    message = str(caught.value)
    assert message.startswith(
        "model.backbone: the weights of torchvision:resnet18 could not be downloaded from "
        "https://download.pytorch.org/models/resnet18-f37072fd.pth ("
    )
    assert message.endswith(
        f"). To work offline: put that file at {hub_folder / 'resnet18-f37072fd.pth'}, or set model.pretrained to false, "
        "or use package:efficientnet_lite0, whose weights a pip package carries."
    )
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", "half", "pickle"])
def test_load_torchvision__unreadable_file_is_named(content, hub_folder, tmp_path):
    target = hub_folder / "resnet18-f37072fd.pth"
    if content == "half":
        torch.save(torchvision.models.resnet18().state_dict(), target)
        target.write_bytes(target.read_bytes()[:100_000])
    elif content == "pickle":  # anything but tensors is refused unread
        torch.save({"hook": contextlib.suppress}, target)
    else:
        target.write_bytes(content)
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone="torchvision:resnet18"), CLASSES, 0)
    assert str(caught.value).startswith(f"model.backbone: {target} holds no readable weights of torchvision:resnet18 (")
    assert "Remove it to download it again, or replace it by https://" in str(caught.value)


def test_load_pretrained__incomplete_weights_are_refused():
    network = torchvision.models.resnet18()
    state = network.state_dict()
    del state["layer4.1.conv2.weight"]
    with pytest.raises(BackboneError) as caught:
        load_pretrained(network, state, "resnet18")
    assert str(caught.value) == (
        "model.backbone: the weights of torchvision:resnet18 do not fit: "
        "1 tensors are missing or left over (layer4.1.conv2.weight)"
    )


def test_load_pretrained__weights_of_another_width_are_refused():
    network = torchvision.models.resnet18()
    state = {**network.state_dict(), "fc.bias": torch.zeros(7)}
    with pytest.raises(BackboneError) as caught:
        load_pretrained(network, state, "resnet18")
    assert "do not fit: size mismatch for fc.bias" in str(caught.value)


def test_load_pretrained__weights_from_before_batch_norm_counted_are_accepted():
    network, other = torchvision.models.resnet18(), torchvision.models.resnet18()
    state = OrderedDict((key, t) for key, t in other.state_dict().items() if not key.endswith("num_batches_tracked"))
    load_pretrained(network, state, "resnet18")
    assert torch.equal(network.layer4[1].conv2.weight, other.layer4[1].conv2.weight)
