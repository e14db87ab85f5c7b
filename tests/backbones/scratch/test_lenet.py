import pytest
import torch
from torch.nn import functional

from hf_transfer.backbones.scratch.lenet import LeNet
from hf_transfer.backbones.scratch.limits import SMALLEST_LENET


def test_lenet__is_the_tutorials():
    network = LeNet(num_classes=10)
    first, second, *linear = [module for module in network.modules() if hasattr(module, "weight")]
    pixels = torch.rand(2, 3, 32, 32)
    maps = functional.max_pool2d(functional.relu(functional.conv2d(pixels, first.weight, first.bias)), 2, 2)
    maps = functional.max_pool2d(functional.relu(functional.conv2d(maps, second.weight, second.bias)), 2, 2)
    features = torch.flatten(maps, 1)
    for layer in linear[:-1]:
        features = functional.relu(layer(features))
    assert torch.allclose(network(pixels), linear[-1](features), atol=1e-6)
    assert [layer.out_features for layer in linear] == [120, 84, 10]
    assert sum(parameter.numel() for parameter in network.parameters()) == 62_006


@pytest.mark.parametrize("size", [SMALLEST_LENET, 28, 33, 64])
def test_lenet__takes_images_of_its_size(size):
    assert LeNet(size, num_classes=4)(torch.rand(1, 3, size, size)).shape == (1, 4)
