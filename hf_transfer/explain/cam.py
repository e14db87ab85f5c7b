"""Class-activation maps: which cells of a layer's output speak for a class.

Hooks of our own rather than the `grad-cam` library: its Grad-CAM, LayerCAM and HiResCAM maps agree with these to 4e-7 of their
maximum, while it leaves gradients on every parameter, fails on a frozen network and brings 160 MB of OpenCV
(benchmarks/cam_library.py). Two methods differ by choice: its Grad-CAM++ adds 1e-6 to a denominator that may be as small
itself, and its Eigen-CAM centres the activations, which the paper does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import UserError, listed, nearest
from .layout import first_tensor, to_maps

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

DEPTHS = ("first", "second", "third", "last")


def class_activation_maps(
    backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, *, method: str, layer: str | None = None
) -> torch.Tensor:
    """Return a map for each image, at the layer's own resolution.

    The score is the logit of the target class, in eval mode. The network is left as it was: modes, `requires_grad` flags,
    gradients, hooks, also after an error.

    Args:
        backbone: the network; frozen ones too.
        pixels: float32 [n, 3, H, W], preprocessed, on the network's device.
        targets: int64 [n], the class to explain; "eigencam" does not look at it.
        method: one of `METHODS`.
        layer: path of the module whose output is read; the last of the backbone's CAM layers by default.

    Returns:
        float32 [n, h, w] on the CPU, zero or more, neither normalised nor resized. Row 0 is the top of the image.

    Raises:
        UserError: for an unknown method or layer, or a layer that puts out no maps or does not lead to the logits.
    """
    if method not in METHODS:
        raise UserError(f"unknown method '{method}'{nearest(method, METHODS)}; known: {', '.join(METHODS)}")
    if layer is None and not any(backbone.cam_layers):
        raise UserError(f"{backbone.provenance.name} has no layer of maps that could be found; name one")
    layer = backbone.cam_layers[-1] if layer is None else layer
    module = submodule(backbone, layer)
    with in_eval_mode(backbone.model), torch.enable_grad(), outputs_of(module) as outputs:
        logits = backbone.model(pixels.detach().clone().requires_grad_()).logits
        output = first_tensor(outputs[-1]) if outputs else None
        if output is None or not output.requires_grad:
            raise UserError(f"layer '{layer}' does not lead from the image to the logits; choose another layer")
        score = logits.gather(1, targets.to(logits.device)[:, None]).sum()
        (gradients,) = torch.autograd.grad(score, output, allow_unused=True)
    if gradients is None:
        raise UserError(f"layer '{layer}' does not lead from the image to the logits; choose another layer")
    size = (pixels.shape[2], pixels.shape[3])
    maps, slopes = (to_maps(tensor, size, layer, module).float() for tensor in (output.detach(), gradients))
    if len(maps) != len(pixels):
        raise UserError(f"layer '{layer}' puts out {len(maps)} maps for {len(pixels)} images; choose one outside the windows")
    return METHODS[method](maps, slopes).clamp_min(0).cpu()


def depths(backbone: Backbone) -> dict[str, str]:
    """Return four of the backbone's CAM layers, evenly from shallow to deep: the last of each quarter.

    Returns:
        Path of the layer for each of "first", "second", "third" and "last"; with fewer than four layers some stand twice. Empty
        for a network without CAM layers.
    """
    layers = backbone.cam_layers
    if not layers:
        return {}
    return {name: layers[-(-number * len(layers) // 4) - 1] for number, name in enumerate(DEPTHS, start=1)}


def submodule(backbone: Backbone, path: str) -> nn.Module:
    """Return the module of that path.

    Raises:
        UserError: naming the backbone's CAM layers, when there is none.
    """
    known = dict(backbone.model.named_modules())
    if not path or path not in known:
        raise UserError(
            f"the network has no layer '{path}'{nearest(path, known)}; its CAM layers: {listed(backbone.cam_layers, 20)}"
        )
    return known[path]


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Hold every module in eval mode, and give each its own mode back."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Collect what a module puts out while the context lasts."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def _grad_cam(maps: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391): sum_c mean_ij(dy/dA_c) A_c."""
    return (slopes.mean((2, 3), keepdim=True) * maps).sum(1)


def _grad_cam_plus_plus(maps: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063, eq. 19 with the score exp(logit)).

    Their alpha, g^2 / (2 g^2 + sum(A) g^3), is written as 1 / (2 + sum(A) g), which no small gradient can upset. It supposes
    A >= 0, as behind a ReLU: elsewhere a negative sum(A) counts as zero, and maps are blank where A is negative throughout.
    """
    slopes = slopes.clamp_min(0)
    alpha = 1 / (2 + maps.sum((2, 3), keepdim=True).clamp_min(0) * slopes)
    return ((alpha * slopes).sum((2, 3), keepdim=True) * maps).sum(1)


def _layer_cam(maps: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """LayerCAM (Jiang et al. 2021, IEEE TIP 30, eq. 6): sum_c relu(dy/dA_c) A_c."""
    return (slopes.clamp_min(0) * maps).sum(1)


def _hires_cam(maps: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """HiResCAM (Draelos and Carin 2020, arXiv 2011.08891): sum_c dy/dA_c A_c, cell by cell."""
    return (slopes * maps).sum(1)


def _eigen_cam(maps: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Eigen-CAM (Muhammad and Yeasin 2020, arXiv 2008.00299): A projected on its first right singular vector.

    The vector's sign is arbitrary: it is chosen so that the map's sum is positive. Of activations that are not finite the map
    is NaN.
    """
    cells = maps.flatten(2).transpose(1, 2)
    finite = cells.isfinite().all(dim=2).all(dim=1)[:, None]
    cells = torch.where(finite[:, :, None], cells, 0.0)
    direction = torch.linalg.svd(cells, full_matrices=False).Vh[:, 0]
    projection = torch.einsum("nlc,nc->nl", cells, direction)
    sign = torch.where(projection.sum(1, keepdim=True) < 0, -1.0, 1.0)
    return torch.where(finite, projection * sign, torch.nan).unflatten(1, maps.shape[2:])


METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "gradcam": _grad_cam,
    "gradcam++": _grad_cam_plus_plus,
    "layercam": _layer_cam,
    "eigencam": _eigen_cam,
    "hirescam": _hires_cam,
}
