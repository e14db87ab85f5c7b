import json
import time
from dataclasses import asdict
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.backbones.wrapper import TransferConfig, TransferForImageClassification
from hf_transfer.errors import UserError
from hf_transfer.evaluation.speed import count_flops, measure_speed, search_batch_sizes
from hf_transfer.recipe.schema import Model

CPU = torch.device("cpu")
PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
IMPOSSIBLE = 2**60  # bytes


class Network(nn.Module):
    """A convolution and a linear layer, and whatever else is to happen to a batch."""

    def __init__(self, also=lambda size: None):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 10)
        self.also = also

    def forward(self, pixel_values):
        self.also(len(pixel_values))
        return SimpleNamespace(logits=self.head(self.stem(pixel_values).mean(dim=(2, 3))))


def backbone_of(network):
    return Backbone(network, PROCESSOR, ("head",), Provenance("test"))


def needing_memory(above):
    return backbone_of(Network(lambda size: torch.empty(IMPOSSIBLE if size > above else 1, dtype=torch.uint8)))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vit():
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        num_labels=7,
    )
    return Backbone(ViTForImageClassification(config).eval(), PROCESSOR, ("classifier",), Provenance("test"))


@pytest.fixture(scope="module")
def efficientnet():
    return load_as_it_is(Model(backbone="package:efficientnet_lite0"))


def multiply_adds_by_layer(model, size):
    """Return those of the convolutions and linear layers of a network without attention, from the sizes they put out."""
    found = []

    def see(layer, inputs, output):
        inner = layer.in_features if isinstance(layer, nn.Linear) else layer.weight[0].numel()
        found.append(output.numel() * inner)

    hooks = [m.register_forward_hook(see) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(pixel_values=torch.zeros(1, 3, *size))
    for hook in hooks:
        hook.remove()
    return sum(found)


def test_count_flops__of_a_convolution_and_a_linear_layer():
    # 16 x 16 outputs of 8 channels, each from 3 x 3 x 3 inputs, then 8 x 10.
    assert count_flops(backbone_of(Network().eval()), CPU) == 2 * (16 * 16 * 8 * 27 + 8 * 10)


def test_count_flops__of_a_vision_transformer_with_its_attention(vit):
    tokens, width, hidden = 4 * 4 + 1, 32, 64
    projections = 4 * tokens * width * width  # query, key, value, output
    attention = 2 * tokens * tokens * width  # scores, and the values weighted by them
    embedding = 4 * 4 * (8 * 8 * 3) * width
    multiply_adds = embedding + 3 * (projections + attention + 2 * tokens * width * hidden) + width * 7
    assert count_flops(vit, CPU) == 2 * multiply_adds


def test_measure_speed__of_real_weights(efficientnet):
    speed = measure_speed(efficientnet, device=CPU, seconds=1.0)
    assert speed.macs == multiply_adds_by_layer(efficientnet.model, (224, 224))
    assert speed.flops == 2 * speed.macs
    assert speed.parameters == 4_652_008
    assert (speed.precision, speed.input_size, speed.threads) == ("fp32", (224, 224), torch.get_num_threads())
    assert speed.device.startswith("CPU: ")
    assert 0 < speed.latency_ms <= speed.latency_p95_ms
    assert speed.latency_runs >= 3
    assert speed.peak_memory_mb > 4 * speed.parameters / 2**20
    assert not efficientnet.model.training
    assert json.loads(json.dumps(asdict(speed)))["images_per_second"] == speed.images_per_second


def test_measure_speed__of_an_onnx_graph():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"]), onnx.helper.make_node("Flatten", ["p"], ["f"])],
        "means",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, ["n", 3])],
    )
    content = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    config = TransferConfig(
        library="onnx",
        architecture="means",
        arguments={"bytes": len(content), "parameters": 12_345},
        head={"path": "head", "in_features": 3, "hidden": []},
        num_labels=5,
    )
    model = TransferForImageClassification(config)
    model.get_buffer("network.body.graph").copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    speed = measure_speed(Backbone(model, PROCESSOR, ("network.head",), Provenance("test")), device=CPU, seconds=0.1)
    assert (speed.parameters, speed.macs, speed.flops) == (12_345, None, None)
    assert speed.images_per_second > 0


def test_measure_speed__in_bf16(vit):
    speed = measure_speed(vit, device=CPU, precision="bf16", seconds=0.2)
    assert speed.precision == "bf16"
    assert vit.model.classifier.weight.dtype == torch.float32


def test_measure_speed__unknown_precision(vit):
    with pytest.raises(ValueError, match="unknown precision 'int8'; expected fp32, bf16, fp16"):
        measure_speed(vit, device=CPU, precision="int8")


def test_measure_speed__leaves_the_random_state_alone(vit):
    before = torch.get_rng_state()
    measure_speed(vit, device=CPU, seconds=0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_measure_speed__knows_what_a_pass_takes():
    speed = measure_speed(backbone_of(Network(lambda size: time.sleep(0.02))), device=CPU, batch_sizes=[4], seconds=1.0)
    assert speed.latency_ms >= 20
    assert speed.batch_size == 4
    assert speed.images_per_second <= 4 / 0.02


def searched(rates, seconds=600.0):
    """Return the sizes that are tried of a model of these rates."""
    found = search_batch_sizes(rates.get, rates[1], seconds)
    assert found == {size: rates[size] for size in found}
    return list(found)


def test_search_batch_sizes__stops_when_two_sizes_bring_nothing():
    assert searched({1: 100, 2: 180, 4: 182, 8: 200, 16: 190, 32: 203, 64: 500}) == [1, 2, 4, 8, 16, 32]


def test_search_batch_sizes__stops_where_memory_ends():
    assert searched({1: 100, 2: 180, 4: 300}) == [1, 2, 4]


def test_search_batch_sizes__stops_at_1024():
    assert searched({2**power: 100 * 2**power for power in range(12)}) == [2**power for power in range(11)]


def test_search_batch_sizes__begins_nothing_that_takes_too_long():
    # Five passes of 4 images at 20 a second are a second.
    assert searched({1: 10, 2: 20, 4: 40}, seconds=0.9) == [1]
    assert searched({1: 100, 2: 200, 4: 200, 8: 300}, seconds=0.15) == [1, 2, 4]


def test_measure_speed__a_slow_model_is_timed_three_times():
    calls = []
    speed = measure_speed(backbone_of(Network(lambda size: calls.append(time.sleep(0.05)))), device=CPU, seconds=0.01)
    assert speed.latency_runs == 3
    assert speed.throughput == ((1, pytest.approx(1000 / speed.latency_ms)),)
    assert speed.images_per_second == speed.throughput[0][1]
    assert len(calls) == 6  # with the warm-up, and once for the operations


def test_measure_speed__tries_the_batch_sizes_that_are_given():
    speed = measure_speed(needing_memory(above=4), device=CPU, batch_sizes=[8, 3, 1, 3], seconds=0.5)
    assert [size for size, _ in speed.throughput] == [1, 3]


def test_measure_speed__not_enough_memory_at_all():
    with pytest.raises(UserError, match="has not enough memory for one image"):
        measure_speed(needing_memory(above=0), device=CPU, seconds=0.1)
    with pytest.raises(UserError, match="has not enough memory for any of the batch sizes given"):
        measure_speed(needing_memory(above=4), device=CPU, batch_sizes=[8, 16], seconds=0.1)


def test_measure_speed__other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(size):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        measure_speed(backbone_of(Network(broken)), device=CPU, seconds=0.1)
