"""What several cells of a study need is done once: the features of their images, each image decoded once for all backbones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import pipeline
from ..access_tokens import without_tokens
from ..adaptation import features_request
from ..recipe import Recipe
from .study import Cell

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState

    from ..backbones.backbone import Backbone
    from ..data.build import Splits
    from ..features.frozen import Request

MEMORY_SHARE = 1 / 3
"""How much of the free memory the weights may take of the networks that are held at once."""


def share_features(cells: Sequence[Cell]) -> None:
    """Compute the features that some cells are going to read, so that each of them finds everything in the store.

    Cells with the same images and test sets go together: each image is decoded once for all their backbones, strategies and
    seeds, as far as the networks fit into memory (see `MEMORY_SHARE`); those that do not are shown the images in another pass.
    Few-shot cells find the features of cells with more images. What cannot be done here is left to the cell that needs it,
    which says what is wrong: a backbone that cannot be loaded, images that cannot be read.

    Several processes may do this for one study at the same time: one computes, the others wait and find it done.

    Args:
        cells: those that are about to run; of one alone there is nothing to share.
    """
    recipes = [recipe for cell in cells if (recipe := _reader(cell.recipe)) is not None]
    if len(recipes) < 2:
        return
    for alike in _grouped(recipes, _images):
        try:
            state = pipeline.process_state(alike[0].training)
            splits = _splits(alike[0])
        except Exception:  # whatever it is: the cells meet it, too
            continue
        for requests in _passes(_grouped(alike, _network), splits, state):
            _fill(requests)


def _reader(recipe: Recipe) -> Recipe | None:
    """Return the recipe with the settings filled in that its features depend on; None where it reads none from the store."""
    from ..training.arguments import feature_defaults

    if recipe.mode != "train" or recipe.strategy.name not in ("linear_probe", "knn", "two_phase"):
        return None
    try:
        if recipe.strategy.name != "two_phase" and not pipeline.needs_features_only(recipe):
            return None
        return recipe.model_copy(update={"training": feature_defaults(recipe.training, recipe.data.task)})
    except Exception:  # whatever it is: the cell meets it, too
        return None


def _images(recipe: Recipe) -> str:
    """Return what decides which images a run sees."""
    evaluation = recipe.evaluation
    return json.dumps([recipe.data.model_dump(mode="json"), evaluation.splits, evaluation.extra], sort_keys=True)


def _network(recipe: Recipe) -> str:
    """Return what decides how a backbone computes; of random weights the seed does, too."""
    model = recipe.model
    facts = [model.model_dump(mode="json"), None if model.pretrained else recipe.seed, recipe.features.pooling]
    return json.dumps(facts, sort_keys=True)


def _grouped(recipes: Sequence[Recipe], key: Callable[[Recipe], str]) -> list[list[Recipe]]:
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(key(recipe), []).append(recipe)
    return list(groups.values())


def _splits(recipe: Recipe) -> Splits:
    from ..data.build import build_splits

    return build_splits(recipe.data, recipe.evaluation.splits, training=True, extra=recipe.evaluation.extra)


def _passes(networks: Sequence[Sequence[Recipe]], splits: Splits, state: PartialState) -> Iterator[list[Request]]:
    """Yield what is asked of networks that fit into memory together; the recipes of each network stand together."""
    limit = MEMORY_SHARE * _free_memory(state.device)
    requests: list[Request] = []
    taken = 0
    for recipes in networks:
        backbone = _load(recipes[0], splits)
        if backbone is None:
            continue
        size = sum(tensor.nbytes for tensor in backbone.model.state_dict().values())
        if requests and taken + size > limit:
            yield requests
            requests.clear()  # whoever got the list lets go of the networks, too
            taken = 0
        requests += _merged([features_request(recipe, splits, backbone, state) for recipe in recipes])
        taken += size
    if requests:
        yield requests


def _load(recipe: Recipe, splits: Splits) -> Backbone | None:
    from ..backbones.build import build_backbone
    from ..data.dataset import check_first_batch
    from ..features.extraction import probe_layers

    try:
        backbone = build_backbone(
            recipe.model,
            splits.class_names,
            recipe.seed,
            pooling=recipe.features.pooling,
            multi_label=splits.multi_label,
        )
        probe_layers(backbone)
        check_first_batch(backbone.preprocessing, splits.tables["train"])
    except Exception:  # whatever it is: the cell meets it, too
        return None
    return backbone


def _merged(requests: Sequence[Request]) -> list[Request]:
    """Return requests of one network as few: one for each way of computing, with everything that is asked in that way."""
    merged: dict[tuple[object, ...], Request] = {}
    for request in requests:
        way = (request.autocast, request.compile_mode, request.workers)
        other = merged.get(way, request)
        merged[way] = replace(
            other,
            tables={**other.tables, **request.tables},
            fast=list(dict.fromkeys([*other.fast, *request.fast])),
            exact=list(dict.fromkeys([*other.exact, *request.exact])),
            views=list(dict.fromkeys([*other.views, *request.views])),
        )
    return list(merged.values())


def _fill(requests: Sequence[Request]) -> None:
    """Fill the store for several networks at once; where that fails, for each alone, as far as it goes."""
    from ..features.frozen import fill_store

    try:
        fill_store(requests)
    except Exception as error:  # whatever it is: the cells meet it, too
        if len(requests) > 1:
            said = without_tokens(f"{type(error).__name__}: {error}")
            print(f"warning: features could not be computed together, now each backbone alone: {said}", file=sys.stderr)
            for request in requests:
                _fill([request])


def _free_memory(device: torch.device) -> int:
    """Return bytes: of the device, or of this machine where that has less."""
    import torch

    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(free, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free
