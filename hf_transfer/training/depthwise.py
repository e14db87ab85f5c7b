"""Depthwise convolutions whose backward pass is computed in float32 during bf16 training on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class Float32DepthwiseBackward(TorchFunctionMode):
    """A context in which `conv2d` gives slow depthwise convolutions a float32 backward pass.

    On CPUs with avx512_bf16, torch's bf16 backward of a depthwise convolution with a kernel of 5 or more, or with a stride,
    takes twice as long as the float32 one (torch 2.15; benchmarks/finetune.py). Here the forward pass stays bf16 with equal
    outputs, and the gradients are computed in float32 from the same rounded activations and weights: at least as exact as
    before. Other convolutions, and calls outside bf16 autocast on a CPU, go their usual way.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the call where it is a slow depthwise convolution."""
        if func is torch.conv2d and not kwargs and _autocasts() and (output := _slow_depthwise(*args)) is not None:
            return output
        return func(*args, **(kwargs or {}))


def _autocasts() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16 and torch.is_grad_enabled()


def _slow_depthwise(
    pixels: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """Return a depthwise convolution that bf16 is slow at, None for any other."""
    depthwise = 1 < groups == weight.shape[0] and weight.shape[1] == 1
    slow = max(weight.shape[-2:]) >= 5 or max(_pair(stride)) > 1
    if not (depthwise and slow) or isinstance(padding, str):
        return None
    return _Depthwise.apply(pixels.to(torch.bfloat16), weight, bias, (_pair(stride), _pair(padding), _pair(dilation), groups))


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Any) -> torch.Tensor:
        stride, padding, dilation, groups = ctx.geometry = geometry
        half_bias = None if bias is None else bias.to(pixels.dtype)
        half_weight = weight.to(pixels.dtype)
        ctx.save_for_backward(pixels, half_weight)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        return torch.ops.aten.convolution(pixels, half_weight, half_bias, stride, padding, dilation, False, [0, 0], groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        pixels, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        of_pixels, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient.float(), pixels.float(), weight.float(), ctx.bias_sizes, stride, padding, dilation, False, [0, 0], groups,
            list(ctx.needs_input_grad[:3]),
        )  # fmt: skip
        return None if of_pixels is None else of_pixels.to(pixels.dtype), of_weight, of_bias, None
