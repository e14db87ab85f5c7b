"""The float32 backward of depthwise convolutions: same outputs as bf16, gradients at least as exact."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hf_transfer.backbones.build import build_backbone
from hf_transfer.recipe.schema import Model
from hf_transfer.training.depthwise import Float32DepthwiseBackward

SHAPES = [  # kernel, stride, padding, dilation
    (5, 1, 2, 1),
    (3, 2, 1, 1),
    (5, 2, (2, 2), 1),
    (7, 1, 3, 1),
    (5, 1, 4, 2),
]


def tensors(kernel, channels=8, groups=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, channels, 14, 14, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels // groups, kernel, kernel, generator=generator)
    bias = torch.randn(channels, generator=generator)
    return [value.to(dtype).requires_grad_() for value in (pixels, weight, bias)]


def bf16_gradients(leaves, geometry, groups=8, mode=None):
    """Return the output and gradients of a convolution under bf16 autocast, and whether our function computed it."""
    _, stride, padding, dilation = geometry
    with torch.autocast("cpu", torch.bfloat16):
        if mode is None:
            output = functional.conv2d(*leaves, stride, padding, dilation, groups)
        else:
            with mode:
                output = functional.conv2d(*leaves, stride, padding, dilation, groups)
    output.backward(torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype))
    return output.detach(), [leaf.grad for leaf in leaves], "_Depthwise" in type(output.grad_fn).__name__


@pytest.mark.parametrize("geometry", SHAPES)
def test_depthwise__outputs_equal_gradients_closer_to_float32(geometry):
    kernel, stride, padding, dilation = geometry
    plain_output, plain, _ = bf16_gradients(tensors(kernel), geometry)
    output, found, ours = bf16_gradients(tensors(kernel), geometry, mode=Float32DepthwiseBackward())
    assert ours
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, plain_output)

    exact = [leaf.detach().to(torch.bfloat16).double().requires_grad_() for leaf in tensors(kernel)]
    reference = functional.conv2d(*exact, stride, padding, dilation, 8)
    reference.backward(torch.linspace(-1, 1, reference.numel()).reshape(reference.shape).to(torch.bfloat16).double())
    for one, other, leaf in zip(found, plain, exact, strict=True):
        assert one.dtype == torch.float32
        error, plain_error = ((value.double() - leaf.grad).norm() / leaf.grad.norm() for value in (one, other))
        assert error <= max(plain_error.item(), 2e-3) * 1.01


@pytest.mark.parametrize(
    ("geometry", "groups"), [((3, 1, 1, 1), 8), ((5, 1, 2, 1), 1), ((5, 1, 2, 1), 4), ((5, 1, "same", 1), 8)]
)
def test_depthwise__other_convolutions_go_their_usual_way(geometry, groups):
    plain_output, plain, _ = bf16_gradients(tensors(geometry[0], groups=groups), geometry, groups)
    output, found, ours = bf16_gradients(tensors(geometry[0], groups=groups), geometry, groups, mode=Float32DepthwiseBackward())
    assert not ours
    assert torch.equal(output, plain_output)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))


def test_depthwise__outside_autocast_nothing_changes():
    pixels, weight, bias = tensors(5)
    with Float32DepthwiseBackward():
        output = functional.conv2d(pixels, weight, bias, 1, 2, 1, 8)
    assert output.dtype == torch.float32
    assert torch.equal(output, functional.conv2d(pixels, weight, bias, 1, 2, 1, 8))


def test_depthwise__a_frozen_weight_gets_no_gradient():
    pixels, weight, bias = tensors(5)
    weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), Float32DepthwiseBackward():
        functional.conv2d(pixels, weight, bias, 1, 2, 1, 8).sum().backward()
    assert weight.grad is None
    assert pixels.grad is not None
    assert bias.grad is not None


def test_depthwise__activations_may_be_recomputed():
    pixels, weight, bias = tensors(5)
    with torch.autocast("cpu", torch.bfloat16), Float32DepthwiseBackward():
        checkpoint(functional.conv2d, pixels, weight, bias, 1, 2, 1, 8, use_reentrant=False).sum().backward()
    found, (pixels, weight, bias) = weight.grad, tensors(5)
    with torch.autocast("cpu", torch.bfloat16), Float32DepthwiseBackward():
        functional.conv2d(pixels, weight, bias, 1, 2, 1, 8).sum().backward()
    assert torch.equal(found, weight.grad)


@pytest.mark.parametrize("bf16", [True, False])
def test_train__bf16_on_a_cpu_uses_it(trainer_for, bf16):
    backbone = build_backbone(Model(backbone="timm:efficientnet_lite0", pretrained=False), ["cat", "dog", "owl"], 0)
    backbone.__dict__["preprocessing"] = SimpleNamespace(size=(64, 64))
    trainer = trainer_for(backbone, count=4, bf16=bf16, max_steps=1, eval_strategy="no", save_strategy="no")
    convolutions = [module for module in trainer.model.modules() if isinstance(module, torch.nn.Conv2d)]
    seen = {}
    for module in convolutions:
        module.register_forward_hook(lambda module, inputs, output: seen.update({module: type(output.grad_fn).__name__}))
    trainer.train()
    slow = [
        module
        for module in convolutions
        if module.groups == module.in_channels > 1 and (module.kernel_size[0] >= 5 or module.stride[0] > 1)
    ]
    assert len(slow) == 11
    assert [module for module in convolutions if seen[module].startswith("_Depthwise")] == (slow if bf16 else [])
