"""What carries the reference studies out offline: generated images of the right shape, random weights, two steps.

Architectures, heads, image processors, strategies and class counts are the real ones; only weights and pictures are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100 = [f"fine{index:03d}" for index in range(100)]
CALTECH256 = [f"{index:03d}.object" for index in range(1, 257)]
VEHICLES = ["car", "motorbike", "truck"]


def image_folder(
    root: Path,
    classes: Sequence[str],
    *,
    per_class: int = 6,
    size: tuple[int, int] | Sequence[tuple[int, int]] = (32, 32),
    splits: Sequence[str] = ("train", "test"),
) -> Path:
    """Write images in class folders below split folders, each class with a colour of its own under noise.

    Args:
        root: the folder to make.
        classes: names of the classes.
        per_class: images of each class in each split.
        size: (width, height) of all images in pixels, or several that follow one another; 32 x 32 are PNG, others JPEG.
        splits: the split folders; none for class folders alone.
    """
    rng = np.random.default_rng(0)
    sizes = [size] if isinstance(size[0], int) else list(size)
    number = 0
    for split in splits or [""]:
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            colour = np.random.default_rng(label).integers(40, 216, 3)
            for _ in range(per_class):
                width, height = sizes[number % len(sizes)]
                pixels = (colour + rng.normal(0, 25, (height, width, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:05d}.{'png' if (width, height) == (32, 32) else 'jpg'}")
                number += 1
    return root


def checkpoint(hub_id: str, root: Path) -> Path:
    """Write a checkpoint of the Hub with random weights: its architecture, classes and image processor. Return its directory.

    Args:
        hub_id: one of those that the recipes of reference study R1 name.
        root: where to write it; one that is there is used again.
    """
    from timm.data import ImageNetInfo
    from transformers import (
        AutoModelForImageClassification,
        ConvNextImageProcessor,
        EfficientNetConfig,
        EfficientNetImageProcessor,
        ResNetConfig,
        ViTConfig,
        ViTImageProcessor,
        set_seed,
    )

    folder = root / hub_id.replace("/", "--")
    if folder.exists():
        return folder
    imagenet = dict(enumerate(ImageNetInfo().label_descriptions()))
    half, mean, std = [0.5] * 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    # As in the repositories' own config.json and preprocessor_config.json.
    config, processor = {
        "microsoft/resnet-50": lambda: (
            ResNetConfig(id2label=imagenet),
            ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875, resample=3, image_mean=mean, image_std=std),
        ),
        "google/vit-base-patch16-224-in21k": lambda: (
            ViTConfig(),
            ViTImageProcessor(size={"height": 224, "width": 224}, resample=2, image_mean=half, image_std=half),
        ),
        "google/efficientnet-b0": lambda: (
            EfficientNetConfig(
                width_coefficient=1.0,
                depth_coefficient=1.0,
                image_size=224,
                hidden_dim=1280,
                dropout_rate=0.2,
                id2label=imagenet,
            ),
            EfficientNetImageProcessor(
                size={"height": 224, "width": 224},
                resample=0,
                image_mean=mean,
                image_std=[0.47853944, 0.4732864, 0.47434163],
                include_top=True,
            ),
        ),
    }[hub_id]()
    set_seed(0)
    model = AutoModelForImageClassification.from_config(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def offline(raw: Mapping[str, Any], images: Path, checkpoints: Path) -> list[str]:
    """Return the overrides that make a recipe or a study run offline, in two steps.

    Args:
        raw: the recipe or study as its file says; what a study's `overrides` set is not reached.
        images: the folder that stands for its data.
        checkpoints: where `checkpoint` writes what stands for models of the Hub.
    """
    prefix, recipe = "", dict(raw)
    if "axes" in raw:
        prefix = "base."
        base = raw["base"]
        recipe = json.loads((RECIPES / "studies" / base).read_text()) if isinstance(base, str) else dict(base)
    data, model, training = (recipe.get(name, {}) for name in ("data", "model", "training"))
    settings: dict[str, Any] = {"data.source": str(images)}
    settings |= {f"data.{key}": None for key in ("config_name", "revision", "image_column", "label_column") if key in data}
    settings |= {f"data.{key}": None for key in data if key.startswith("max_") or key == "samples_per_class"}
    backbone = model["backbone"]
    if backbone.startswith(("timm:", "torchvision:")):
        settings["model.pretrained"] = False
    elif ":" not in backbone:
        settings["model.backbone"] = str(checkpoint(backbone, checkpoints))
    if recipe.get("mode") != "evaluate":
        settings["training.disable_tqdm"] = True
        settings["training.per_device_eval_batch_size"] = 8
        settings["training.dataloader_num_workers"] = 0
    strategy = recipe.get("strategy", "full")
    name = strategy if isinstance(strategy, str) else strategy["name"]
    if recipe.get("mode") != "evaluate" and name not in ("linear_probe", "knn", "quantized_probe"):
        settings |= {"training.max_steps": 2, "training.per_device_train_batch_size": 2}
        if "gradient_accumulation_steps" in training:
            settings["training.gradient_accumulation_steps"] = 2
        if training.get("eval_strategy") == "steps":
            settings |= {"training.eval_steps": 1, "training.save_steps": 1, "training.logging_steps": 1}
    return [f"{prefix}{key}={json.dumps(value)}" for key, value in settings.items()]
