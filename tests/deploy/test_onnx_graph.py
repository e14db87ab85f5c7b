import sys

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn

from hf_transfer.backbones.backbone import Provenance
from hf_transfer.backbones.timm_models import from_network
from hf_transfer.backbones.torchvision_models import load_torchvision
from hf_transfer.deploy.onnx_graph import LogitsOnly, onnx_forward, run_onnx, write_onnx
from hf_transfer.errors import UserError


def _check_parity(model, size, path):
    """Export a model and compare its logits with onnxruntime's for several batch sizes, none of them that of the example."""
    write_onnx(LogitsOnly(model), torch.zeros(3, 3, size, size), path)
    session = run_onnx(path)
    generator = torch.Generator().manual_seed(1)
    for batch in (1, 2, 5):
        pixels = torch.randn(batch, 3, size, size, generator=generator)
        with torch.no_grad():
            wanted = model(pixel_values=pixels).logits.numpy()
        (found,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * scale)
        if batch > 1:
            assert np.abs(wanted[0] - wanted[1]).max() > 1e-3 * scale  # the comparison is of something


def test_write_onnx__any_batch_of_every_family(family, lively, tmp_path):
    size = (
        64 if family.is_convolutional else family.size[0]
    )  # of 32 x 32 pixels EfficientNet's last stages see the padding only
    _check_parity(lively(family.build()), size, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("resnet18", 64),
        ("tf_efficientnet_lite0", 64),
        ("vit_tiny_patch16_224", 224),
        ("swin_tiny_patch4_window7_224", 224),
        ("beit_base_patch16_224", 224),
        ("convnext_atto", 64),
        ("mixer_s32_224", 224),
        ("pvt_v2_b0", 64),
        ("densenet121", 64),
    ],
)
def test_write_onnx__timm(architecture, size, lively, tmp_path):
    network = timm.create_model(architecture, num_classes=5)
    model = from_network(network, architecture, list("abcde"), Provenance(architecture)).model
    _check_parity(lively(model), size, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("resnet18", 64),
        ("mobilenet_v3_small", 64),
        ("squeezenet1_1", 64),
        ("swin_t", 224),
        ("swin_v2_t", 256),
        ("vit_b_32", 224),
        ("maxvit_t", 224),
        ("googlenet", 64),
        ("regnet_y_400mf", 64),
        ("shufflenet_v2_x0_5", 64),
        ("convnext_tiny", 64),
        ("densenet121", 64),
    ],
)
def test_write_onnx__torchvision(architecture, size, lively, tmp_path):
    model = load_torchvision(architecture, class_names=list("abcde"), pretrained=False, replace="last", hidden=[]).model
    _check_parity(lively(model), size, tmp_path / "model.onnx")


class Double(nn.Module):
    def forward(self, pixels):
        return 2 * pixels


def test_write_onnx__one_file_with_names_and_metadata(tmp_path, capfd):
    path = tmp_path / "double.onnx"
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Double()).to(memory_format=torch.channels_last)
    write_onnx(network, torch.zeros(1, 3, 4, 4), path, output_name="y", opset=18, metadata={"about": "Ä"})
    assert [file.name for file in tmp_path.iterdir()] == ["double.onnx"]
    assert capfd.readouterr() == ("", "")
    session = run_onnx(path)
    assert session.get_modelmeta().custom_metadata_map == {"about": "Ä"}
    assert session.get_inputs()[0].name == "pixel_values" and session.get_inputs()[0].shape == ["batch", 3, 4, 4]
    assert session.get_outputs()[0].name == "y" and session.get_outputs()[0].shape == ["batch", 4, 4, 4]
    assert [(entry.domain, entry.version) for entry in onnx.load(path).opset_import] == [("", 18)]
    assert b".py" not in path.read_bytes()  # the exporter leaves source files and lines in every node
    pixels = torch.randn(3, 3, 4, 4)
    np.testing.assert_allclose(
        session.run(None, {"pixel_values": pixels.numpy()})[0], network(pixels).detach().numpy(), atol=1e-6
    )


class DependsOnPixels(nn.Module):
    def forward(self, pixels):
        return 2 * pixels if pixels.sum() > 0 else pixels


class OnlyTwoImages(nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)[:, :3] + torch.ones(2, 3)


class UnknownToOnnx(nn.Module):
    def forward(self, pixels):
        return torch.special.bessel_j0(pixels)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (DependsOnPixels, "DependsOnPixels cannot be exported to ONNX: GuardOnDataDependentSymNode: "),
        (OnlyTwoImages, "OnlyTwoImages cannot be exported to ONNX: its computation fixes the size of batch (2)"),
        (UnknownToOnnx, "UnknownToOnnx cannot be exported to ONNX: DispatchError: No ONNX function found for "),
    ],
)
def test_write_onnx__says_what_cannot_be_exported(network, message, tmp_path, capfd):
    with pytest.raises(UserError) as caught:
        write_onnx(network(), torch.zeros(2, 3, 4, 4), tmp_path / "model.onnx")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_write_onnx__unknown_opset(tmp_path):
    with pytest.raises(UserError, match="opset: expected a number from 18 to 23, found 12"):
        write_onnx(Double(), torch.zeros(2, 3, 4, 4), tmp_path / "model.onnx", opset=12)


@pytest.mark.parametrize("module", ["onnx", "onnxscript"])
def test_write_onnx__needs_the_extra(module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        write_onnx(Double(), torch.zeros(2, 3, 4, 4), tmp_path / "model.onnx")
    assert str(caught.value) == f"writing ONNX needs {module}: pip install 'hf-transfer-learning[export]'"


def test_run_onnx__as_many_threads_as_torch(tmp_path):
    path = tmp_path / "double.onnx"
    write_onnx(Double(), torch.zeros(2, 3, 4, 4), path)
    assert run_onnx(path).get_session_options().intra_op_num_threads == torch.get_num_threads()
    assert run_onnx(path).get_providers() == ["CPUExecutionProvider"]
    pixels = torch.randn(3, 3, 4, 4).to(memory_format=torch.channels_last)
    np.testing.assert_array_equal(onnx_forward(path)(pixels), 2 * pixels.numpy())
