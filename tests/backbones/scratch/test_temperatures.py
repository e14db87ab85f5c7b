import pytest
import torch

from hf_transfer.backbones.scratch.temperatures import temperature_metrics, temperatures
from hf_transfer.backbones.scratch.vision_transformer import VisionTransformer


@pytest.mark.parametrize(("kind", "values"), [("exponential", [0.0, 0.5]), ("plain", [1.0, 2.0])])
def test_temperatures__one_for_each_layer_shallow_to_deep(kind, values):
    network = VisionTransformer(2, 64, 8, temperature=kind, num_classes=2)
    assert temperatures(network) == [1.0, 1.0]
    for block, value in zip(network.blocks, values, strict=True):
        for parameter in (p for name, p in block.attention.named_parameters() if name.endswith("temperature")):
            torch.nn.init.constant_(parameter, value)
    expected = torch.tensor(values).exp().tolist() if kind == "exponential" else values
    assert temperatures(network) == pytest.approx(expected)


def test_temperatures__none_where_none_is_learned():
    assert temperatures(VisionTransformer(1, 64, 8, num_classes=2)) == []
    assert temperatures(torch.nn.Linear(2, 2)) == []


def test_temperature_metrics__mean_and_deviation_over_the_layers():
    network = VisionTransformer(2, 64, 8, temperature="plain", num_classes=2)
    torch.nn.init.constant_(network.blocks[0].attention.plain_temperature, 1.5)
    torch.nn.init.constant_(network.blocks[1].attention.plain_temperature, 0.5)
    expected = {"values": [1.5, 0.5], "mean": 1.0, "deviation": 0.5}
    assert temperature_metrics(network) == {"attention_temperatures": expected}
    assert temperature_metrics(torch.nn.Linear(2, 2)) == {}
