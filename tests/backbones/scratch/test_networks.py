import pytest
import torch

from hf_transfer.backbones.scratch.networks import build_scratch
from hf_transfer.backbones.scratch.variant import parse_variant


def network_of(name):
    variant = parse_variant(name)
    return build_scratch(variant.architecture, variant.arguments), variant.size


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", 11_689_512),
        ("resnet18-gn", 11_689_512),
        ("resnet18-wonorm", 11_689_512),
        ("resnet18-ms3", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("vit-12x256-8x8", 10_814_952),
        ("vitn-12x256-8x8", 10_805_736),
        ("vitn-12x256-8x8-ra", 11_598_312),
        ("vitn-12x256-8x8-dm", 10_805_736),
        ("vitn-12x256-8x8-lt", 10_805_736 + 12),
        ("vitn-12x256-8x8-ltv", 10_805_736 + 12),
        ("vit-aux-3x4x256-8x8", 13_391_288),
        ("toy-dilated", 61_896),
    ],
)
def test_build_scratch__parameters_with_1000_classes(name, expected):
    with torch.device("meta"):
        network, _ = network_of(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet18-gn-pcnorm-ms3@64",
        "resnet50-wonorm-ms1",
        "vit-2x64-8x8",
        "vitn-2x128-4x4-ra-dm-lt@20",
        "vit-1x64-16x16-ra-ltv@16",
        "vit-aux-2x1x64-8x8",
        "toy-dilated",
        "lenet",
        "lenet@16",
    ],
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_build_scratch__every_parameter_learns(name, precision):
    torch.manual_seed(0)
    network, size = network_of(name)
    pixels = torch.rand(2, 3, size, size)
    if name.startswith(("resnet", "toy")):
        network.to(memory_format=torch.channels_last)
        pixels = pixels.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
        output = network(pixels)
        several = () if isinstance(output, torch.Tensor) else output.auxiliary_logits
        logits = output if isinstance(output, torch.Tensor) else output.logits
    assert logits.shape == (2, 1000)
    labels = torch.tensor([3, 7])
    sum(torch.nn.functional.cross_entropy(each.float(), labels) for each in (logits, *several)).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
