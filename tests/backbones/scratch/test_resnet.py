import pytest
import torch
import torchvision
from torch import nn

from hf_transfer.backbones.scratch.limits import stage_sizes
from hf_transfer.backbones.scratch.mixstyle import MixStyle
from hf_transfer.backbones.scratch.resnet import ResNet


def test_resnet__is_torchvisions_on_normalised_pixels():
    torch.manual_seed(0)
    network = ResNet(18, num_classes=7)
    twin = torchvision.models.resnet18(num_classes=7)
    state = {name.removeprefix("resnet."): tensor for name, tensor in network.state_dict().items()}
    state = {name.replace("head.", "fc."): tensor for name, tensor in state.items() if not name.startswith("normalizer")}
    twin.load_state_dict(state, strict=True)
    network(torch.rand(4, 3, 32, 32))  # moves the statistics of the normaliser
    moved = {name.removeprefix("resnet."): tensor for name, tensor in network.state_dict().items() if "running" in name}
    twin.load_state_dict(moved, strict=False)
    mean, variance = network.normalizer.running_mean, network.normalizer.running_var
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = twin.eval()((pixels - mean) / (variance + 1e-5).sqrt())
        assert torch.allclose(network.eval()(pixels), expected, atol=1e-5)


def test_resnet__weights_are_torchvisions_own():
    torch.manual_seed(3)
    network = ResNet(18, norm="group")
    torch.manual_seed(3)
    twin = torchvision.models.resnet18(norm_layer=lambda channels: nn.GroupNorm(16, channels))
    for name, tensor in twin.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(network.resnet.state_dict()[name], tensor), name
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 20
    assert {norm.num_groups for norm in norms} == {16}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_resnet__mixstyle_stands_behind_the_first_stages(levels):
    network = ResNet(18, mixstyle=levels, num_classes=2)
    found = [name for name, module in network.named_modules() if isinstance(module, MixStyle)]
    assert found == [f"resnet.layer{level}.2" for level in range(1, levels + 1)]


def test_resnet__mixstyle_mixes_in_training_only():
    torch.manual_seed(0)
    network = ResNet(18, norm="group", mixstyle=3, normalizer="none", num_classes=2)
    pixels = torch.rand(4, 3, 32, 32) * torch.tensor([0.2, 0.5, 1.0, 2.0]).view(4, 1, 1, 1)
    with torch.no_grad():
        expected = network.eval()(pixels)
        assert torch.equal(network(pixels), expected)
        trained = [network.train()(pixels) for _ in range(8)]
    assert any(not torch.allclose(logits, expected, atol=1e-3) for logits in trained)


@pytest.mark.parametrize("size", [2, 16, 17, 32, 33, 48, 224])
def test_stage_sizes__are_those_of_the_network(size):
    network, found = ResNet(18, norm="group", num_classes=2).eval(), []
    for level in range(1, 5):
        network.resnet.get_submodule(f"layer{level}").register_forward_hook(lambda _, __, maps: found.append(maps.shape[-1]))
    with torch.no_grad():
        network(torch.rand(1, 3, size, size))
    assert stage_sizes(size) == found
