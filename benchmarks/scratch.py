"""A training step of our own networks beside one of timm's networks of the same size.

A step is forward pass, cross-entropy (summed over all classifiers), backward pass and a fused AdamW update, on random images of
32 x 32 pixels, 1,000 classes. In each round every network takes one step, in turn; a ratio is ours / timm's of the same round.

- Vision transformers: timm's `VisionTransformer` with the same depth, width, heads and patch, the same two-layer classifier and
  the same dropouts (0.1; of the attention weights only where ours has it), which on a CPU draw other random numbers than ours.
  `ratio` compares with that one; `bare` with the same network without any dropout, which is how timm's comes.
- ResNets: timm's of the same depth with the same norm, both in channels_last; ours normalises its input besides.

What is compared has the same number of parameters to 0.2 %, but for relative attention (W, u and v: 7 % more) and auxiliary
classifiers, whose cost is what is measured.

Goals: at most 1.1 for transformers, 1.6 with relative attention, 1.1 for ResNets. Nothing is asserted about time.

Run from the repository root, on a machine that does nothing else: python benchmarks/scratch.py
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import timm
import torch
from printing import machine_facts, print_facts, print_table, spread
from torch import nn
from torch.nn.functional import cross_entropy

from hf_transfer.backbones.heads import build_head
from hf_transfer.backbones.scratch.networks import build_scratch
from hf_transfer.backbones.scratch.variant import parse_variant

# Name, goal, and whether the comparison is of networks with the same number of parameters.
TRANSFORMERS = {
    "vit-12x256-8x8": (1.1, True),
    "vitn-12x256-8x8": (1.1, True),
    "vitn-12x256-8x8-dm": (1.1, True),
    "vitn-12x256-8x8-lt": (1.1, True),
    "vitn-12x256-8x8-ltv": (1.1, True),
    "vitn-12x256-8x8-dm-lt": (1.1, True),
    "vit-aux-3x4x256-8x8": (1.1, False),
    "vitn-12x256-8x8-ra": (1.6, False),
}
RESNETS = {"resnet18-gn": (1.1, True), "resnet18": (1.1, True)}
NETWORKS = TRANSFORMERS | RESNETS
CLASSES, SIZE = 1000, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    computed = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "precision": "bf16" if options.bf16 else "fp32",
        "batch": str(options.batch_size),
        "rounds": str(options.rounds),
    }
    print_facts(machine_facts() | computed)
    rows = []
    for name in options.only:  # one at a time: a dozen networks with their optimizers would turn each other out of the caches
        torch.manual_seed(0)
        rows.append(row_of(name, options, device))
    print_table(("network", "parameters", "ours ms", "timm ms", "ratio", "goal", "bare"), rows)


def row_of(name: str, options: argparse.Namespace, device: torch.device) -> tuple[str, ...]:
    """Return what a comparison found."""
    goal, is_equal = NETWORKS[name]
    variant = parse_variant(name)
    networks = {"ours": build_scratch(variant.architecture, variant.arguments)}
    if name in TRANSFORMERS:
        attention_dropout = 0.1 if variant.arguments["norms"] == "behind" else 0.0
        networks["timm"] = timm_transformer(0.1, attention_dropout)
        networks["bare"] = timm_transformer(0.0, 0.0)
    else:
        group_norm = functools.partial(timm.layers.GroupNorm, num_groups=16)
        norm = group_norm if variant.arguments.get("norm") == "group" else nn.BatchNorm2d
        networks["timm"] = timm.create_model("resnet18", num_classes=CLASSES, norm_layer=norm)
    sizes = {key: sum(parameter.numel() for parameter in network.parameters()) for key, network in networks.items()}
    if is_equal and abs(sizes["ours"] / sizes["timm"] - 1) > 0.002:
        raise SystemExit(f"{name}: {sizes['ours']:,} parameters beside timm's {sizes['timm']:,}: no networks of the same size")
    layout = torch.contiguous_format if name in TRANSFORMERS else torch.channels_last
    steps = {key: step_of(network, options, device, layout) for key, network in networks.items()}
    took: dict[str, list[float]] = {key: [] for key in steps}
    for number in range(2 + options.rounds):
        for key, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= 2:
                took[key].append(1000 * (time.perf_counter() - began))
    ratios = {
        key: [ours / theirs for ours, theirs in zip(took["ours"], values, strict=True)]
        for key, values in took.items()
        if key != "ours"
    }
    return (
        name,
        f"{sizes['ours']:,}",
        f"{statistics.median(took['ours']):.1f}",
        f"{statistics.median(took['timm']):.1f}",
        spread(ratios["timm"]),
        f"{goal}",
        spread(ratios["bare"]) if "bare" in ratios else "",
    )


def timm_transformer(dropout: float, attention_dropout: float) -> nn.Module:
    """Return timm's vision transformer of 12 blocks of width 256 with the classifier of ours."""
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=SIZE,
        patch_size=8,
        embed_dim=256,
        depth=12,
        num_heads=4,
        num_classes=0,
        pos_drop_rate=dropout,
        proj_drop_rate=dropout,
        attn_drop_rate=attention_dropout,
    )
    network.head = build_head(256, CLASSES, [{"size": 1024, "activation": "gelu", "dropout": 0.0}])
    return network


def step_of(
    network: nn.Module, options: argparse.Namespace, device: torch.device, layout: torch.memory_format
) -> Callable[[], None]:
    """Return a training step of a network."""
    network.to(device, memory_format=layout).train()
    pixels = torch.rand(options.batch_size, 3, SIZE, SIZE, device=device).to(memory_format=layout)
    labels = torch.randint(CLASSES, (options.batch_size,), device=device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            output = network(pixels)
            several = (output,) if isinstance(output, torch.Tensor) else (output.logits, *output.auxiliary_logits)
            loss = torch.stack([cross_entropy(logits.float(), labels) for logits in several]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


if __name__ == "__main__":
    main()
