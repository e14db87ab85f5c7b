"""Write hf_transfer/backbones/shortlist.json: the curated choice below, with figures that are computed or looked up.

Chosen by hand: which checkpoints, in which order of preference, and what they were pretrained on. Computed: the number of
parameters without the classifier, and multiply-accumulates of one image (on the meta device: nothing is downloaded). Looked up:
input size and licence in timm's own records; ImageNet-1k top-1 in the results that timm publishes, at exactly that input size.
What has no source is null.

Run from the repository root, with a clone of https://github.com/huggingface/pytorch-image-models beside it:
python benchmarks/make_shortlist.py ../pytorch-image-models
Then print the table again: see docs/backbones.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from timm.models import get_pretrained_cfg
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hf_transfer.backbones.shortlist import Listed

FILE = Path(__file__).parents[1] / "hf_transfer" / "backbones" / "shortlist.json"
RESULTS = "results/results-imagenet.csv"

IN1K, IN12K, IN21K = "ImageNet-1k", "ImageNet-12k, then ImageNet-1k", "ImageNet-21k, then ImageNet-1k"
LVD2, LVD3 = "LVD-142M", "LVD-1689M, distilled from DINOv3 ViT-7B"


@dataclass(frozen=True)
class Choice:
    """What is chosen by hand.

    Args:
        name: as a recipe names it.
        family: what must not be chosen twice before all others were.
        pretraining: its data.
        supervision: "supervised", "self-supervised" or "image-text".
    """

    name: str
    family: str
    pretraining: str
    supervision: str = "supervised"


# In order of preference: of families by their first member, and of members within a family.
CHOICES = (
    Choice("package:efficientnet_lite0", "EfficientNet", IN1K),
    Choice("timm:convnext_tiny.in12k_ft_in1k", "ConvNeXt", IN12K),
    Choice("facebook/dinov2-small", "DINOv2", LVD2, "self-supervised"),
    Choice("timm:vit_small_patch16_224.augreg_in21k_ft_in1k", "ViT", IN21K),
    Choice("timm:resnet50.a1_in1k", "ResNet", IN1K),
    Choice("timm:swinv2_tiny_window8_256.ms_in1k", "Swin", IN1K),
    Choice("timm:mobilenetv4_conv_small.e2400_r224_in1k", "MobileNet", IN1K),
    Choice("timm:vit_base_patch16_siglip_gap_224.v2_webli", "SigLIP 2", "WebLI", "image-text"),
    Choice("timm:tiny_vit_5m_224.dist_in22k_ft_in1k", "TinyViT", f"{IN21K}, distilled"),
    Choice("timm:deit3_small_patch16_224.fb_in22k_ft_in1k", "DeiT III", IN21K),
    Choice("timm:vit_small_patch16_dinov3.lvd1689m", "DINOv3", LVD3, "self-supervised"),
    Choice("timm:eva02_tiny_patch14_224.mim_in22k", "EVA-02", "ImageNet-21k, masked image modelling", "self-supervised"),
    Choice("timm:regnety_032.ra_in1k", "RegNet", IN1K),
    Choice("timm:maxvit_tiny_rw_224.sw_in1k", "MaxViT", IN1K),
    Choice("timm:edgenext_small.usi_in1k", "EdgeNeXt", f"{IN1K}, distilled (USI)"),
    Choice("timm:vit_base_patch16_clip_224.laion2b", "CLIP", "LAION-2B", "image-text"),
    Choice("timm:vit_base_patch16_224.mae", "MAE", f"{IN1K}, masked image modelling", "self-supervised"),
    Choice("package:efficientnet_lite1", "EfficientNet", IN1K),
    Choice("package:efficientnet_lite2", "EfficientNet", IN1K),
    Choice("timm:efficientnet_b0.ra4_e3600_r224_in1k", "EfficientNet", IN1K),
    Choice("timm:tf_efficientnetv2_s.in21k_ft_in1k", "EfficientNet", IN21K),
    Choice("timm:convnext_base.fb_in22k_ft_in1k", "ConvNeXt", IN21K),
    Choice("timm:convnext_large.fb_in22k_ft_in1k", "ConvNeXt", IN21K),
    Choice("timm:convnextv2_tiny.fcmae_ft_in22k_in1k", "ConvNeXt", f"{IN1K} masked, then {IN21K}"),
    Choice("facebook/dinov2-with-registers-small", "DINOv2", LVD2, "self-supervised"),
    Choice("facebook/dinov2-base", "DINOv2", LVD2, "self-supervised"),
    Choice("facebook/dinov2-large", "DINOv2", LVD2, "self-supervised"),
    Choice("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", "ViT", IN21K),
    Choice("timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", "ViT", IN21K),
    Choice("timm:resnet18.a1_in1k", "ResNet", IN1K),
    Choice("timm:swin_base_patch4_window7_224.ms_in22k_ft_in1k", "Swin", IN21K),
    Choice("timm:mobilenetv4_hybrid_medium.e200_r256_in12k_ft_in1k", "MobileNet", IN12K),
)

# Read from src/transformers/models/dinov2_with_registers/convert_dinov2_with_registers_to_hf.py of transformers: the Hub's
# DINOv2 has positions for 518 pixels, and its image processor crops to 224.
DINOV2 = {
    "small": {"hidden_size": 384, "num_attention_heads": 6},
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}
DINOV2_CROP = 224
DINOV2_LICENCE = "apache-2.0"  # "DINOv2 code and model weights are released under the Apache License 2.0": its README

# The licences of timm's records that are in use: identifier on the Hub, name where that is "other", commercial use (None: terms
# of its own).
LICENCES: dict[str, tuple[str, str | None, bool | None]] = {
    "apache-2.0": ("apache-2.0", None, True),
    "mit": ("mit", None, True),
    "cc-by-nc-4.0": ("cc-by-nc-4.0", None, False),
    "dinov3-license": ("other", "dinov3-license", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="a clone of huggingface/pytorch-image-models")
    repository = parser.parse_args().repository
    commit = git(repository, "log", "-1", "--format=%H", "--", RESULTS).strip()
    accuracy = read_accuracy(git(repository, "show", f"{commit}:{RESULTS}"))
    entries = [listed(choice, accuracy) for choice in CHOICES]
    sources = {
        "parameters, gmacs": f"computed with timm {timm.__version__} and transformers {transformers.__version__}",
        "image_size, licence": f"pretrained_cfg of timm {timm.__version__}; DINOv2: its conversion script in transformers and "
        "https://github.com/facebookresearch/dinov2#license; packages: the LICENSE file of their wheels",
        "imagenet_top1": f"https://github.com/huggingface/pytorch-image-models/blob/{commit}/{RESULTS}",
        "gated": "timm's copies: https://github.com/facebookresearch/dinov3/issues/145; DINOv2: its pages on the Hub",
    }
    content = {"sources": sources, "backbones": [asdict(entry) for entry in entries]}
    FILE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{FILE.name}: {len(entries)} backbones")


def git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True, text=True).stdout


def read_accuracy(text: str) -> dict[tuple[str, int], tuple[float, float]]:
    """Return top-1 (percent) and millions of parameters, classifier included, by name and input size."""
    return {
        (row["model"], int(row["img_size"])): (float(row["top1"]), float(row["param_count"].replace(",", "")))
        for row in csv.DictReader(io.StringIO(text))
    }


def listed(choice: Choice, accuracy: dict[tuple[str, int], tuple[float, float]]) -> Listed:
    kind, _, name = choice.name.rpartition(":")
    top1 = None
    if kind == "timm":
        cfg = get_pretrained_cfg(name)
        hub_id, licence, size = cfg.hf_hub_id, cfg.license, cfg.input_size[-1]
        network = timm_network(name)
        if (name, size) in accuracy:
            top1, millions = accuracy[name, size]
            with_classifier = count(timm_network(name, num_classes=1000)) / 1e6
            if abs(with_classifier - millions) > 0.006:
                raise SystemExit(f"{name}: timm counts {millions} M parameters, found {with_classifier:.2f}")
    elif kind == "package":
        cfg = get_pretrained_cfg(f"tf_{name}")
        hub_id, licence, size = None, "apache-2.0", cfg.input_size[-1]
        network = timm_network(f"tf_{name}")
    else:
        hub_id, licence, size = name, DINOV2_LICENCE, DINOV2_CROP
        network = dinov2(name)
    identifier, licence_name, commercial = LICENCES[licence]
    return Listed(
        name=choice.name,
        hub_id=hub_id,
        family=choice.family,
        supervision=choice.supervision,
        pretraining=choice.pretraining,
        image_size=size,
        parameters=count(network),
        gmacs=gmacs(network, size),
        licence=identifier,
        licence_name=licence_name,
        commercial=commercial,
        gated=False,
        imagenet_top1=top1,
    )


def timm_network(name: str, num_classes: int = 0) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name.partition(".")[0], pretrained=False, num_classes=num_classes).eval()


def dinov2(hub_id: str) -> nn.Module:
    arguments: dict[str, Any] = DINOV2[hub_id.rpartition("-")[2]]
    kind = "Dinov2WithRegisters" if "registers" in hub_id else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(image_size=518, patch_size=14, **arguments)
    with torch.device("meta"):
        return getattr(transformers, f"{kind}Model")(config).eval()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gmacs(network: nn.Module, size: int) -> float:
    """Return billions of multiply-accumulates (half of PyTorch's count of operations) for one image, to two decimals."""
    with FlopCounterMode(display=False) as counter:  # needs gradients: under no_grad it fails on SigLIP's pooling
        network(torch.empty(1, 3, size, size, device="meta"))
    return round(counter.get_total_flops() / 2e9, 2)


if __name__ == "__main__":
    main()
