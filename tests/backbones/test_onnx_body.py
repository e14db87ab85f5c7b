import copy
import pickle
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hf_transfer.backbones.onnx_body import OnnxBody
from hf_transfer.errors import BackboneError, UserError


def graph_of(factor):
    """Images to the mean of each channel, times a factor; uint8 [bytes]."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["means"], keepdims=0),
            helper.make_node("Mul", ["means", "factor"], ["features"]),
        ],
        "means",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 4, 5])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.array(factor, np.float32), "factor"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return torch.frombuffer(bytearray(model.SerializeToString()), dtype=torch.uint8)


@pytest.fixture
def images():
    return torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_forward__computes_the_graph_without_gradient(images):
    found = OnnxBody(graph_of(2.0))(images)
    torch.testing.assert_close(found, 2 * images.detach().mean(dim=(2, 3)))
    assert not found.requires_grad
    assert OnnxBody(graph_of(2.0))(images[:1]).shape == (1, 3)


def test_forward__any_layout_and_dtype(images):
    body = OnnxBody(graph_of(1.0))
    expected = body(images)
    assert torch.equal(body(images.to(memory_format=torch.channels_last)), expected)
    half = body(images.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=1e-2, rtol=0)


def test_state_dict__holds_the_graph_and_nothing_else(images):
    body = OnnxBody(graph_of(3.0))
    body(images)
    assert list(body.state_dict()) == ["graph"]
    assert not list(body.parameters())


def test_load_state_dict__runs_the_new_graph(images):
    body, other = OnnxBody(graph_of(3.0)), OnnxBody(graph_of(5.0))
    before = body(images)
    body.load_state_dict(other.state_dict())
    torch.testing.assert_close(body(images), before * 5 / 3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda body: pickle.loads(pickle.dumps(body))], ids=["deepcopy", "pickle"])
def test_copy__makes_its_own_session(images, copied):
    body = OnnxBody(graph_of(3.0))
    expected = body(images)
    other = copied(body)
    assert torch.equal(other(images), expected)
    other.load_state_dict(OnnxBody(graph_of(4.0)).state_dict())
    other(images)
    assert torch.equal(body(images), expected)


def test_forward__damaged_graph(images):
    graph = graph_of(1.0)
    graph[: len(graph) // 2] = 0
    with pytest.raises(BackboneError) as caught:
        OnnxBody(graph)(images)
    text = str(caught.value)
    assert text.startswith(f"the model's ONNX graph ({len(graph)} bytes) cannot be read by onnxruntime ")
    assert text.endswith("The file is damaged, or this version is too old for it.")
    assert "\n" not in text


def test_onnx_body__without_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError) as caught:
        OnnxBody(graph_of(1.0))
    assert str(caught.value) == "a model with an ONNX backbone needs onnxruntime: pip install 'hf-transfer-learning[export]'"


def test_forward__cannot_be_exported(images):
    with pytest.raises(BackboneError, match="its backbone is an ONNX graph already, which torch cannot export"):
        torch.export.export(OnnxBody(graph_of(1.0)), (images.detach(),))
