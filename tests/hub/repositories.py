"""Small repositories for the loopback Hub, in the layouts that transformers, timm and datasets write themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TOKEN = "hf_OfAnnWhoMayReadEverything"
CLASSES = ["cat", "dog", "emu"]


def write_tokens(root: Path) -> None:
    """Let `TOKEN` be ann's."""
    root.mkdir(parents=True, exist_ok=True)
    (root / ".tokens.json").write_text(json.dumps({TOKEN: "ann"}))


def write_access(repository: Path, **access: Any) -> None:
    """Make a repository private or gated, and ann one of those who may read it."""
    (repository / ".access.json").write_text(json.dumps({**access, "users": ["ann"]}))


def write_card(repository: Path, front_matter: str) -> None:
    repository.mkdir(parents=True, exist_ok=True)
    (repository / "README.md").write_text(f"---\n{front_matter}\n---\n# A card\n")


def write_vit(folder: Path, seed: int = 7) -> None:
    """Write a ViT of one narrow layer for 32 x 32 images and three classes, with its image processor."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_labels=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def write_timm(folder: Path, name: str) -> None:
    """Write a timm network with random weights as timm publishes them."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, pretrained=False)
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)


def pictures(count: int, seed: int) -> list[Image.Image]:
    """Return noise of 8 x 8 pixels; another seed gives other images."""
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)) for _ in range(count)]


def write_parquet(
    folder: Path, features: Mapping[str, Any], columns: Mapping[str, Mapping[str, Sequence[Any]]], seed: int = 0
) -> None:
    """Write a parquet file for each split of `columns` (split to column to values); image columns are filled with noise."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    for place, (split, values) in enumerate(columns.items()):
        count = len(next(iter(values.values())))
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        filled = {name: pictures(count, 100 * seed + place) for name in images} | dict(values)
        table = datasets.Dataset.from_dict(filled, features=datasets.Features(features))
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_image_folder(folder: Path, counts: Mapping[str, int]) -> None:
    """Write PNG files at SPLIT/CLASS/ for three classes, `counts` of each class by split."""
    for place, (split, count) in enumerate(counts.items()):
        for label, name in enumerate(CLASSES):
            target = folder / split / name
            target.mkdir(parents=True)
            for number, picture in enumerate(pictures(count, 10 * place + label)):
                picture.save(target / f"{number}.png")
