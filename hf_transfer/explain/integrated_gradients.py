"""Integrated gradients: how much each input pixel adds to the target's logit on the way from a uniform image to this one."""

from __future__ import annotations

import torch

from ..backbones.backbone import Backbone
from ..errors import require
from .occlusion import Fill, covering_colour


def integrated_gradients(
    backbone: Backbone,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    *,
    steps: int = 32,
    fill: Fill = "mean",
    batch_size: int = 8,
) -> torch.Tensor:
    """Return integrated gradients, summed over the colour channels with their sign.

        attribution = (x - x0) * integral over a in [0, 1] of dF(x0 + a (x - x0)) / dx,  F the target's logit

    F is the logit, not the probability, whose gradient vanishes along most of the path. Positive values speak for the target,
    negative ones against it. The integral is a Gauss-Legendre quadrature (captum); `completeness_delta` tells how good it is.

    Source: Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017.

    Args:
        backbone: the model, in eval mode.
        pixels: float32 [n, 3, H, W], preprocessed, on the model's device.
        targets: int64 [n].
        steps: points of the quadrature.
        fill: colour of the baseline x0: the checkpoint's mean colour (0 after normalisation) or black. A pixel of exactly that
            colour gets no attribution.
        batch_size: images that go through the model at once; bounds the memory.

    Returns:
        float32 [n, H, W] on the CPU, in units of the logit.

    Raises:
        UserError: when captum is not installed.
    """
    require("captum", "explain", "integrated gradients")
    from captum.attr import IntegratedGradients

    attribution = IntegratedGradients(lambda inputs: backbone.model(pixel_values=inputs).logits)
    maps = []
    for image, target in zip(pixels, targets, strict=True):  # one at a time: captum makes `steps` copies of what it is given
        found = attribution.attribute(
            image[None].detach().clone().requires_grad_(),
            baselines=_baseline(backbone, pixels, fill),
            target=int(target),
            n_steps=steps,
            internal_batch_size=batch_size,
        )
        maps.append(found.detach().sum(dim=1)[0])
    return torch.stack(maps).float().cpu()


def completeness_delta(
    backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, maps: torch.Tensor, *, fill: Fill = "mean"
) -> torch.Tensor:
    """Return how far attributions are from complete: their sum - (F(x) - F(x0)), which an exact integral makes 0.

    Args:
        backbone: the model, in eval mode.
        pixels: float32 [n, 3, H, W], as the attributions were computed for.
        targets: int64 [n].
        maps: float32 [n, H, W], from `integrated_gradients`.
        fill: colour of the baseline.

    Returns:
        float32 [n] on the CPU, in units of the logit.
    """
    with torch.no_grad():
        logits = backbone.model(pixel_values=torch.cat([pixels, _baseline(backbone, pixels, fill)])).logits.float().cpu()
    targets = targets.cpu()
    gained = logits[:-1].gather(1, targets[:, None])[:, 0] - logits[-1, targets]
    return maps.sum(dim=(1, 2)) - gained


def _baseline(backbone: Backbone, pixels: torch.Tensor, fill: Fill) -> torch.Tensor:
    return covering_colour(backbone, fill).to(pixels)[None, :, None, None].expand(1, *pixels.shape[1:])
