import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig

import hf_transfer
from hf_transfer.backbones.wrapper import TransferConfig, TransferForImageClassification, head_paths, place_head

HEAD = {"path": "fc", "in_features": 512, "hidden": []}


@pytest.fixture(scope="module")
def model():
    return TransferForImageClassification(TransferConfig(architecture="resnet18", head=HEAD, num_labels=3))


def test_register__again_changes_nothing():
    hf_transfer.register()
    hf_transfer.register()
    assert type(AutoConfig.for_model("hf_transfer")) is TransferConfig


def test_forward__loss_is_the_cross_entropy(model):
    pixels, labels = torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    output = model.eval()(pixel_values=pixels, labels=labels)
    assert output.logits.shape == (2, 3)
    assert torch.equal(output.loss, nn.functional.cross_entropy(output.logits, labels))
    assert model(pixels).loss is None


def test_transfer_config__survives_saving(tmp_path):
    head = {"path": "classifier.3", "in_features": 960, "hidden": [{"size": 8, "activation": "relu", "dropout": 0.5}]}
    config = TransferConfig("torchvision", "mobilenet_v3_large", {"dropout": 0.1}, head, id2label={0: "a", 1: "b"})
    config.save_pretrained(tmp_path)
    again = TransferConfig.from_pretrained(tmp_path)
    assert (again.library, again.architecture, again.arguments, again.head) == (
        "torchvision",
        "mobilenet_v3_large",
        {"dropout": 0.1},
        head,
    )
    assert again.id2label == {0: "a", 1: "b"}


def test_place_head__cuts_what_follows():
    network = nn.Module()
    network.classifier = nn.Sequential(nn.LayerNorm(8), nn.Flatten(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1000))
    place_head(
        network, TransferConfig(head={"path": "classifier.2", "in_features": 8, "hidden": [], "cut": True}, num_labels=3)
    )
    assert [type(module) for module in network.classifier] == [nn.LayerNorm, nn.Flatten, nn.Linear]
    assert network.classifier[2].out_features == 3


def test_place_head__pools_maps():
    network = nn.Module()
    network.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(8, 1000, 1))
    place_head(network, TransferConfig(head={"path": "classifier", "in_features": 8, "hidden": [], "pool": True}, num_labels=3))
    assert network.classifier(torch.rand(2, 8, 5, 4)).shape == (2, 3)


def test_place_head__auxiliary_heads_are_like_the_head():
    network = nn.Module()
    network.auxiliary = nn.ModuleList([nn.Linear(8, 1000)])
    network.head = nn.Linear(8, 1000)
    config = TransferConfig(head={"path": "head", "in_features": 8, "hidden": [], "auxiliary": ["auxiliary.0"]}, num_labels=3)
    place_head(network, config)
    assert head_paths(config) == ("head", "auxiliary.0")
    assert [network.get_submodule(path).out_features for path in head_paths(config)] == [3, 3]
    assert network.head is not network.auxiliary[0]


def test_place_head__nothing_to_cut_is_an_error():
    network = nn.Module()
    network.parts = nn.ModuleList([nn.Linear(8, 8)])
    with pytest.raises(TypeError, match="expected parts to be a Sequential, found ModuleList"):
        place_head(network, TransferConfig(head={"path": "parts.0", "in_features": 8, "hidden": [], "cut": True}))


def test_deepcopy__is_independent(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.network.fc.weight.zero_()
    assert model.network.fc.weight.any()


def test_build_network__a_graph_has_the_size_that_the_configuration_says():
    config = TransferConfig("onnx", "resnet", {"bytes": 77}, {"path": "head", "in_features": 8, "hidden": []}, num_labels=3)
    model = TransferForImageClassification(config)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == {
        "network.body.graph": (77,),
        "network.head.weight": (3, 8),
        "network.head.bias": (3,),
    }
    assert model.get_buffer("network.body.graph").dtype == torch.uint8
