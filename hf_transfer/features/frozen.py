"""Everything that a run with a frozen backbone needs of it: the features of its splits, from the store or computed now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..data.augmentation import build_train_transform
from ..data.dataset import ImageDataset, spread_images
from .extraction import Extractor, compiling_pays, extract, probe_layers, view_ids
from .space import FeatureSpace, feature_space, weights_digest
from .store import FeatureStore

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..data.table import ImageTable


@dataclass(frozen=True)
class FrozenFeatures:
    """The features of a run's splits.

    Args:
        fast: split to features [n, d] in the run's precision; only on the main process.
        exact: likewise in float32, for the splits whose figures are to be those of the saved model.
        views: augmented views of the training split; empty where nothing is augmented.
        weights: digest of the frozen weights.
        computed: how many features were not in the store.
        total: how many were asked for.
        seconds: of all that.
        compiled: whether the forward pass was compiled.
        spaces: keys of the spaces in the store.
    """

    fast: dict[str, torch.Tensor]
    exact: dict[str, torch.Tensor]
    views: list[torch.Tensor]
    weights: str
    computed: int
    total: int
    seconds: float
    compiled: bool
    spaces: list[str]


def extract_splits(
    backbone: Backbone,
    tables: Mapping[str, ImageTable],
    *,
    exact: Sequence[str] = (),
    device: torch.device,
    autocast: torch.dtype | None,
    compile_mode: str = "auto",
    workers: int = 0,
    augment_preset: str = "none",
    views: int = 1,
    seed: int = 0,
    store: FeatureStore | None = None,
) -> FrozenFeatures:
    """Return the features of some splits; what the store lacks is computed by all processes together.

    Args:
        backbone: the frozen network; its head is not part of the features.
        tables: split to images; with an augmentation, "train" is also seen in `views` augmented views.
        exact: splits whose features are computed in float32 without compilation.
        device: where to compute.
        autocast: precision of the others, None for float32.
        compile_mode: "auto", "always" or "never".
        workers: loader processes.
        augment_preset: of the views; "none" for no views.
        views: how many augmented views of the training split.
        seed: of the augmentation, keyed by sample and view.
        store: where features are kept; the user's by default.

    Raises:
        BackboneError: when a head is more than linear; see `probe_layers`.
    """
    began = time.perf_counter()
    store = FeatureStore() if store is None else store
    weights = weights_digest(backbone.model, probe_layers(backbone))
    plain = Extractor(backbone, device, None, False, workers)
    eager = replace(plain, autocast=autocast)

    def space(extractor: Extractor, view: dict | None = None) -> FeatureSpace:
        return feature_space(
            backbone,
            weights=weights,
            device=device,
            dtype=extractor.autocast or torch.float32,
            compiled=extractor.compiled,
            view=view,
        )

    others = [table for split, table in tables.items() if split not in exact]
    fast = replace(eager, compiled=_compiles(compile_mode, eager, space, store, others, views))
    evaluated = backbone.preprocessing
    computed = total = 0
    spaces: set[str] = set()
    found: dict[bool, dict[str, torch.Tensor]] = {False: {}, True: {}}
    augmented: list[torch.Tensor] = []
    for exactly, extractor in ((False, fast), (True, plain)):
        # What to extract this way: the name of a split, or None for a view; its images; what the view depends on.
        jobs: list[tuple[str | None, ImageDataset, dict | None]] = [
            (split, ImageDataset(table, evaluated), None) for split, table in tables.items() if (split in exact) is exactly
        ]
        if not exactly and augment_preset != "none":
            transform = build_train_transform(augment_preset, evaluated)
            for number in range(views):
                data = ImageDataset(tables["train"], transform, seed=seed)
                data.epoch = number
                jobs.append((None, data, {"preset": augment_preset, "seed": seed}))
        with extractor.ready() as compute:
            for split, data, view in jobs:
                place = space(extractor, view)
                ids = view_ids(data.table, None if view is None else data.epoch)
                name = f"features of {split}" if split else f"view {data.epoch + 1} of {views}"
                features, count = extract(extractor, compute, store.folder(place), data, ids, description=name)
                computed, total = computed + count, total + len(data)
                spaces.add(place.key)
                if features is None:
                    continue  # only the main process has them
                if split:
                    found[exactly][split] = features
                else:
                    augmented.append(features)
    return FrozenFeatures(
        fast=found[False],
        exact=found[True],
        views=augmented,
        weights=weights,
        computed=computed,
        total=total,
        seconds=time.perf_counter() - began,
        compiled=fast.compiled,
        spaces=sorted(spaces),
    )


def _compiles(
    mode: str,
    eager: Extractor,
    space: Callable[[Extractor], FeatureSpace],
    store: FeatureStore,
    tables: Sequence[ImageTable],
    views: int,
) -> bool:
    """Return whether the forward pass is to be compiled; where either kind of features is there already, it is used.

    The main process decides for all: by the time that another one looked, the store might have changed.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    answer = [mode == "always"]
    if mode == "auto" and PartialState().is_main_process:
        missing = {}
        for extractor in (eager, replace(eager, compiled=True)):
            place = space(extractor)
            missing[extractor.compiled] = sum(
                len(store.folder(place).missing(view_ids(table, None))) if place in store else len(table) for table in tables
            )
        if missing[True] != missing[False]:
            answer = [missing[True] < missing[False]]
        else:
            count = missing[False] * (1 if views == 1 else views + 1)
            answer = [count > 0 and compiling_pays(eager, tables[0], count)]
    broadcast_object_list(answer)
    return answer[0]


def probe_heads(backbone: Backbone) -> list[nn.Linear]:
    """Return the linear layers that a probe replaces."""
    return [backbone.model.get_submodule(path) for path in probe_layers(backbone)]


def set_head(backbone: Backbone, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Put a linear head on features into a model.

    A model with several heads averages their logits, and its features are what enters each, side by side; so each gets its
    part of the weight, times their number, and the whole bias.

    Args:
        backbone: changed in place.
        weight: float32 [C, d].
        bias: float32 [C].
    """
    heads = probe_heads(backbone)
    with torch.no_grad():
        for head, part in zip(heads, weight.split([head.in_features for head in heads], dim=1), strict=True):
            head.weight.copy_(part * len(heads))
            head.bias.copy_(bias)


def head_logits(backbone: Backbone, features: torch.Tensor) -> torch.Tensor:
    """Return the logits, float32 [n, C], that a model's own head or heads give on features [n, d]."""
    heads = probe_heads(backbone)
    parts = features.float().cpu().split([head.in_features for head in heads], dim=1)
    with torch.no_grad():
        logits = [
            nn.functional.linear(part, head.weight.float().cpu(), head.bias.float().cpu())
            for head, part in zip(heads, parts, strict=True)
        ]
    return torch.stack(logits).mean(0)


def check_saved(saved: Backbone, weights: str, table: ImageTable, logits: torch.Tensor, *, exact: bool, count: int = 8) -> None:
    """Stop when a saved model is not the one that the logits of its features speak for.

    Its frozen weights must be those of the features, bit for bit, and the whole model, shown a few images, must give the
    logits that its head gives on their features.

    Args:
        saved: loaded from disk, as anyone loads it.
        weights: digest of the weights that the features were computed with.
        table: images of one split.
        logits: float32 [n, C] of the head on the features of that split.
        exact: whether those features are float32 (computed on a GPU they differ a little more from this check, which runs on
            the CPU); others agree to the rounding of half precision only.
        count: how many images.

    Raises:
        RuntimeError: saying what differs; it is a defect of this package or of a library, not of the recipe.
    """
    if weights_digest(saved.model, probe_layers(saved)) != weights:
        raise RuntimeError("the frozen weights of the saved model are not those that the features were computed with")
    rows, pixels = spread_images(ImageDataset(table, saved.preprocessing), count)
    with torch.no_grad():
        found = saved.model.eval()(pixel_values=pixels).logits.float()
    expected = logits[rows]
    difference = float((found - expected).abs().max() / (expected.abs().max() + 1e-6))
    if not difference < (1e-2 if exact else 0.5):
        raise RuntimeError(f"the saved model's logits differ from those of its features by {difference:.2g} of their size")
