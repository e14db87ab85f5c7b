"""Class-activation maps: this package's own hooks beside the `grad-cam` library.

On `package:efficientnet_lite0` with its ImageNet weights and on `timm:vit_tiny_patch16_224` with random ones, seeded noise as
images, class 0 ... n as targets:

- how far the raw maps of both are apart, before anything is scaled or resized, relative to the largest value;
- the time of one batch, up to maps of the input's size scaled to 0 ... 1, which is what the library returns;
- what each leaves behind: parameters that have a gradient afterwards; and whether it works on a frozen network;
- the size of the packages that only the library needs.

Why it is fair: one process, the same network, images, layer and reshaping of tokens; both warmed up, in turn, the order
changing with each repeat; ratios are formed within each repeat. Nothing is asserted about time.

Needs: pip install grad-cam. Run from the repository root: python benchmarks/cam_library.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_grad_cam
import torch
from printing import machine_facts, print_facts, print_table, spread
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from hf_transfer.backbones.backbone import Backbone
from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.explain.cam import class_activation_maps
from hf_transfer.explain.layout import to_maps
from hf_transfer.recipe.schema import Model

LIBRARY = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "layercam": pytorch_grad_cam.LayerCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "eigencam": pytorch_grad_cam.EigenCAM,
}
ONLY_THE_LIBRARY_NEEDS = ("grad-cam", "opencv-python-headless", "ttach")


class Logits(torch.nn.Module):
    """The network as the library wants it: a tensor in, a tensor out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return logits [n, classes]."""
        return self.model(pixels).logits


def library_call(backbone: Backbone, method: str, size: tuple[int, int]) -> Any:
    """Return the library's explainer for the backbone's last CAM layer."""
    layer = backbone.cam_layers[-1]
    module = backbone.model.get_submodule(layer)
    return LIBRARY[method](Logits(backbone.model), [module], reshape_transform=lambda out: to_maps(out, size, layer, module))


def raw_maps(cam: Any, pixels: torch.Tensor, targets: list[Any]) -> torch.Tensor:
    """Return the library's maps before it scales and resizes them."""
    cam(pixels, targets)
    found = cam.activations_and_grads
    gradients = found.gradients[0].numpy() if found.gradients else None
    maps = cam.get_cam_image(pixels, None, targets, found.activations[0].numpy(), gradients, False)
    return torch.from_numpy(maps).clamp_min(0)


def ours_scaled(backbone: Backbone, pixels: torch.Tensor, targets: torch.Tensor, method: str) -> torch.Tensor:
    """Return our maps as the library returns its own: of the input's size, 0 ... 1."""
    maps = class_activation_maps(backbone, pixels, targets, method=method)
    maps = torch.nn.functional.interpolate(maps[:, None], pixels.shape[2:], mode="bilinear")[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-7)


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(name: str, backbone: Backbone, batch: int, repeats: int) -> None:
    """Print one network's table and what is left behind."""
    size = backbone.preprocessing.size
    pixels = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(batch) % backbone.model.config.num_labels
    theirs = [ClassifierOutputTarget(int(target)) for target in targets]
    rows = []
    for method in LIBRARY:
        ours = class_activation_maps(backbone, pixels, targets, method=method)
        left_by_us = sum(parameter.grad is not None for parameter in backbone.model.parameters())
        with library_call(backbone, method, size) as cam:
            other = raw_maps(cam, pixels, theirs)
            apart = float((ours - other).abs().amax() / other.abs().amax().clamp_min(1e-30))
            calls = [lambda m=method: ours_scaled(backbone, pixels, targets, m), lambda c=cam: c(pixels, theirs)]
            times: list[tuple[float, float]] = []
            for repeat in range(repeats):
                order = (0, 1) if repeat % 2 else (1, 0)
                taken = {side: seconds(calls[side]) for side in order}
                times.append((taken[0], taken[1]))
        left_by_library = sum(parameter.grad is not None for parameter in backbone.model.parameters())
        backbone.model.zero_grad()
        took = [spread([1000 * pair[side] for pair in times], ".0f") for side in (0, 1)]
        ratio = spread([library / own for own, library in times])
        rows.append([method, f"{apart:.1e}", *took, ratio, str(left_by_us), str(left_by_library)])
    print(f"{name}, layer {backbone.cam_layers[-1]}, {batch} images of {size[0]} x {size[1]}")
    print_table(
        ["method", "maps apart", "ours ms", "library ms", "library/ours", "gradients left: ours", "library"],
        rows,
    )


def frozen(backbone: Backbone) -> str:
    """Return what the library makes of a network whose parameters are frozen."""
    backbone.model.requires_grad_(False)
    pixels = torch.zeros(1, 3, *backbone.preprocessing.size)
    class_activation_maps(backbone, pixels, torch.tensor([0]), method="gradcam")
    try:
        with library_call(backbone, "gradcam", backbone.preprocessing.size) as cam:
            cam(pixels, [ClassifierOutputTarget(0)])
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return "works"


def installed_size(name: str) -> str:
    """Return what a distribution's files take, in MB."""
    distribution = importlib.metadata.distribution(name)
    paths = [distribution.locate_file(file) for file in distribution.files or ()]
    total = sum(path.stat().st_size for path in paths if path.exists())
    return f"{total / 1e6:.1f} MB ({distribution.version})"


def main() -> None:
    """Compare on both networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print_facts(machine_facts())
    convolutional = load_as_it_is(Model(backbone="package:efficientnet_lite0"))
    transformer = build_backbone(Model(backbone="timm:vit_tiny_patch16_224", pretrained=False), ["a", "b", "c"], 0)
    compare("package:efficientnet_lite0", convolutional, arguments.batch, arguments.repeats)
    compare("timm:vit_tiny_patch16_224, random weights", transformer, arguments.batch, arguments.repeats)
    print(f"frozen network, library: {frozen(convolutional)}; ours: works\n")
    print_facts({name: installed_size(name) for name in ONLY_THE_LIBRARY_NEEDS})


if __name__ == "__main__":
    main()
