"""Everything that a run with a frozen backbone needs of it: the features of its splits, from the store or computed now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..backbones.pooling import pooling_of
from ..data.augmentation import AUGMENTATION_VERSION, build_train_transform
from ..data.dataset import ImageDataset, spread_images
from .extraction import Extractor, Job, compiling_pays, extract, probe_layers, view_ids
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
        seconds: what this run spent on all that: hashing the weights, waiting, computing what was missing, reading.
        alone_seconds: what computing all that was asked for takes with an empty store and nothing shared, as measured when each
            feature was computed: decoding, transform and forward pass. None where the store does not know it of some, and on
            other processes than the main one.
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
    alone_seconds: float | None
    compiled: bool
    spaces: list[str]


@dataclass(frozen=True)
class AugmentedViews:
    """Views of the training split under an augmentation.

    Args:
        preset: name of the augmentation.
        count: how many views of each image.
        seed: of the augmentation, keyed by sample and view.
    """

    preset: str
    count: int
    seed: int


@dataclass(frozen=True)
class Request:
    """What is asked of one frozen network.

    Args:
        backbone: the network; its head is not part of the features.
        tables: split to images.
        fast: splits whose features are computed in the run's precision.
        exact: splits whose features are computed in float32 without compilation.
        device: where to compute.
        autocast: precision of what is not exact, None for float32.
        compile_mode: "auto", "always" or "never".
        workers: loader processes.
        views: augmented views of "train", each kind once.
    """

    backbone: Backbone
    tables: Mapping[str, ImageTable]
    fast: Sequence[str]
    exact: Sequence[str]
    device: torch.device
    autocast: torch.dtype | None = None
    compile_mode: str = "auto"
    workers: int = 0
    views: Sequence[AugmentedViews] = ()


@dataclass(frozen=True)
class _Part:
    """One data set of a request, through one extractor: a split, or a view of the training split."""

    split: str
    view: int | None
    exact: bool
    data: ImageDataset
    ids: np.ndarray
    space: FeatureSpace
    label: str


@dataclass(frozen=True)
class _Plan:
    """How a request is met: what the weights are, how the network computes, and the parts in their order."""

    weights: str
    fast: Extractor
    exact: Extractor
    parts: list[_Part]


def extract_splits(request: Request, store: FeatureStore | None = None) -> FrozenFeatures:
    """Return the features of some splits; what the store lacks is computed by all processes together.

    Args:
        request: the network, the images, and how it is to see them.
        store: where features are kept; the user's by default.

    Raises:
        BackboneError: when a head is more than linear; see `probe_layers`.
    """
    began = time.perf_counter()
    store = FeatureStore() if store is None else store
    plan = _plan(request, store)
    found: dict[bool, dict[str, torch.Tensor]] = {False: {}, True: {}}
    augmented: list[torch.Tensor] = []
    computed = 0
    alone: list[float | None] = []
    for exact, extractor in _used(plan).items():
        with extractor.ready() as compute:
            for part in plan.parts:
                if part.exact is not exact:
                    continue
                job = Job(extractor, compute, store.folder(part.space), part.data, part.ids)
                (result,) = extract([job], description=part.label)
                computed += result.computed
                alone.append(result.alone_seconds)
                if result.features is None:
                    continue  # only the main process has them
                if part.view is None:
                    found[part.exact][part.split] = result.features
                else:
                    augmented.append(result.features)
    known = [seconds for seconds in alone if seconds is not None]
    return FrozenFeatures(
        fast=found[False],
        exact=found[True],
        views=augmented,
        weights=plan.weights,
        computed=computed,
        total=sum(len(part.data) for part in plan.parts),
        seconds=time.perf_counter() - began,
        alone_seconds=sum(known) if len(known) == len(alone) else None,
        compiled=plan.fast.compiled,
        spaces=sorted({part.space.key for part in plan.parts}),
    )


def fill_store(requests: Sequence[Request], store: FeatureStore | None = None) -> int:
    """Compute what the store lacks for several networks at once, each image of a split decoded once for all of them.

    A run that asks for the same afterwards, with `extract_splits`, finds everything there. All networks are held on the device
    at the same time.

    Args:
        requests: of the same tables, on the same device; one for each network, or several where settings differ.
        store: where features are kept; the user's by default.

    Returns:
        How many features were computed.

    Raises:
        BackboneError: when a head is more than linear.
    """
    store = FeatureStore() if store is None else store
    jobs: dict[str, list[Job]] = {}  # split to everything that its images are shown to
    seen: set[tuple[str, str, int | None]] = set()
    with contextlib.ExitStack() as stack:
        for request in requests:
            plan = _plan(request, store)
            computes = {exact: stack.enter_context(extractor.ready()) for exact, extractor in _used(plan).items()}
            for part in plan.parts:
                if (part.space.key, part.split, part.view) in seen:
                    continue
                seen.add((part.space.key, part.split, part.view))
                extractor = plan.exact if part.exact else plan.fast
                job = Job(extractor, computes[part.exact], store.folder(part.space), part.data, part.ids)
                jobs.setdefault(part.split, []).append(job)
        return sum(
            result.computed
            for split, asked in jobs.items()
            for result in extract(asked, read=False, description=f"features of {split}")
        )


def _used(plan: _Plan) -> dict[bool, Extractor]:
    """Return the extractors that have something to do, by whether they are exact."""
    return {part.exact: plan.exact if part.exact else plan.fast for part in plan.parts}


def _plan(request: Request, store: FeatureStore) -> _Plan:
    """Return what is to be computed in which way, and where it is kept."""
    backbone = request.backbone
    weights = weights_digest(backbone.model, probe_layers(backbone))
    plain = Extractor(backbone, request.device, None, False, request.workers)
    eager = replace(plain, autocast=request.autocast)

    def space(extractor: Extractor, view: dict | None = None) -> FeatureSpace:
        return feature_space(
            backbone,
            weights=weights,
            device=request.device,
            dtype=extractor.autocast or torch.float32,
            compiled=extractor.compiled,
            pooling=pooling_of(backbone.model),
            view=view,
        )

    fast = replace(eager, compiled=_compiles(request, eager, space, store))
    evaluated = backbone.preprocessing
    parts = []
    for exact, extractor, splits in ((False, fast, request.fast), (True, plain, request.exact)):
        for split in splits:
            table = request.tables[split]
            data = ImageDataset(table, evaluated)
            parts.append(_Part(split, None, exact, data, view_ids(table, None), space(extractor), f"features of {split}"))
        for views in () if exact else request.views:
            transform = build_train_transform(views.preset, evaluated)
            place = space(extractor, {"preset": views.preset, "seed": views.seed, "pixels": AUGMENTATION_VERSION})
            table = request.tables["train"]
            for number in range(views.count):
                data = ImageDataset(table, transform, seed=views.seed)
                data.epoch = number
                label = f"view {number + 1} of {views.count}"
                parts.append(_Part("train", number, False, data, view_ids(table, number), place, label))
    return _Plan(weights, fast, plain, parts)


def _compiles(request: Request, eager: Extractor, space: Callable[[Extractor], FeatureSpace], store: FeatureStore) -> bool:
    """Return whether the forward pass is to be compiled; where either kind of features is there already, it is used.

    The main process decides for all: by the time that another one looked, the store might have changed.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    answer = [request.compile_mode == "always"]
    if request.compile_mode == "auto" and PartialState().is_main_process:
        tables = [request.tables[split] for split in request.fast]
        missing = {}
        for extractor in (eager, replace(eager, compiled=True)):
            place = space(extractor)
            missing[extractor.compiled] = sum(
                len(store.folder(place).missing(view_ids(table, None))) if place in store else len(table) for table in tables
            )
        if missing[True] != missing[False]:
            answer = [missing[True] < missing[False]]
        else:
            count = missing[False] * (1 + sum(views.count for views in request.views))
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
