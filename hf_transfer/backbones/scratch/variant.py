"""Names of our own networks: `resnet18-gn-ms2`, `vitn-12x256-8x8-dm-lt`, `resnet18@64`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...errors import BackboneError, nearest
from .limits import HEAD_WIDTH, SMALLEST_LENET, stage_sizes

KNOWN = (
    "resnet18",
    "resnet18-gn",
    "resnet18-wonorm",
    "resnet18-pcnorm",
    "resnet18-ms1",
    "resnet18-ms2",
    "resnet18-ms3",
    "resnet34",
    "resnet50",
    "vit-12x256-8x8",
    "vit-aux-3x4x256-8x8",
    "vitn-12x256-8x8",
    "vitn-12x256-8x8-ra",
    "vitn-12x256-8x8-dm",
    "vitn-12x256-8x8-lt",
    "vitn-12x256-8x8-ltv",
    "vitn-12x256-8x8-dm-lt",
    "vitn-24x256-8x8",
    "vitn-12x768-8x8",
    "vitn-12x768-16x16@224",
    "toy-dilated",
    "lenet",
)
"""Names that messages list; endings may be combined, and depth, width, patch and image size be others."""

_NAME = re.compile(
    r"(?P<network>(?P<resnet>resnet(?P<layers>18|34|50))|(?P<dilated>toy-dilated)|(?P<lenet>lenet)"
    r"|(?P<vit>vit(?P<kind>n|-aux)?-(?:(?P<parts>\d+)x)?(?P<depth>\d+)x(?P<width>\d+)-(?P<patch>\d+)x(?P=patch)))"
    r"(?P<endings>(?:-[a-z0-9]+)*)(?:@(?P<size>\d+))?"
)
_ENDINGS: dict[str, dict[str, Any]] = {
    "gn": {"norm": "group"},
    "wonorm": {"normalizer": "none"},
    "pcnorm": {"normalizer": "channel"},
    "ms1": {"mixstyle": 1},
    "ms2": {"mixstyle": 2},
    "ms3": {"mixstyle": 3},
    "ra": {"relative": True},
    "dm": {"masked_diagonal": True},
    "lt": {"temperature": "exponential"},
    "ltv": {"temperature": "plain"},
}
_TAKES = {
    "resnet": ("gn", "wonorm", "pcnorm", "ms1", "ms2", "ms3"),
    "vision_transformer": ("wonorm", "pcnorm", "ra", "dm", "lt", "ltv"),
    "dilated": ("wonorm", "pcnorm"),
    "lenet": (),
}
_SIZE = 32


@dataclass(frozen=True)
class Variant:
    """What a name stands for.

    Args:
        architecture: "resnet", "vision_transformer", "dilated" or "lenet".
        arguments: keyword arguments of the network's constructor, JSON-ready.
        size: rows and columns of the images.
    """

    architecture: str
    arguments: dict[str, Any]
    size: int


def parse_variant(name: str) -> Variant:
    """Return what `scratch:NAME` stands for.

    A name is a network, endings in any order, and optionally the image size: `@64`; images have 32 x 32 pixels by default.

    - resnet18, resnet34, resnet50: -gn (group norm), -wonorm (no input normaliser), -pcnorm (one for each channel), -ms1, -ms2,
      -ms3 (MixStyle after that many stages).
    - vit-DEPTHxWIDTH-PATCHxPATCH (norms behind), vitn-... (norms in front), vit-aux-PARTSxDEPTHxWIDTH-PATCHxPATCH (a classifier
      for each part of that depth): -wonorm, -pcnorm, -ra (relative attention), -dm (masked diagonal), -lt, -ltv (learned
      temperature, exponential or plain).
    - toy-dilated: -wonorm, -pcnorm. lenet.

    Raises:
        BackboneError: for an unknown name, endings that do not go together, or images too small for the network.
    """
    match = _NAME.fullmatch(name)
    if match is None or (match["kind"] == "-aux") is not bool(match["parts"]):
        raise _unknown(name, "")
    architecture = next(kind for kind in ("resnet", "dilated", "lenet", "vit") if match[kind])
    architecture = {"vit": "vision_transformer"}.get(architecture, architecture)
    options = _options(name, match["network"], match["endings"].split("-")[1:], _TAKES[architecture])
    size = int(match["size"] or _SIZE)
    if architecture == "resnet":
        options = {"depth": int(match["layers"]), **options}
        _check_mixstyle(name, options.get("mixstyle", 0), size)
    elif architecture == "vision_transformer":
        options = {**_transformer(name, match, size), **options}
    elif architecture == "lenet":
        if size < SMALLEST_LENET:
            raise _problem(name, f"expected images of at least {SMALLEST_LENET} x {SMALLEST_LENET} pixels, found {size}")
        options["size"] = size
    if size == 0:
        raise _problem(name, "expected an image size of at least 1 pixel, found 0")
    return Variant(architecture, options, size)


def _options(name: str, network: str, endings: list[str], takes: tuple[str, ...]) -> dict[str, Any]:
    if "ms4" in endings and "ms3" in takes:
        raise _problem(
            name,
            "MixStyle after stage 4 is refused: at 32 x 32 pixels its maps are 1 x 1, which have a mean but no deviation, so "
            "whole features would be mixed, not styles, and labels are not mixed with them; expected -ms1, -ms2 or -ms3",
        )
    if unknown := [ending for ending in endings if ending not in takes]:
        known = ", ".join(f"-{ending}" for ending in takes) or "no endings"
        raise _unknown(name, f"{network} has no variant '-{unknown[0]}', it takes {known}; ")
    options: dict[str, Any] = {}
    for ending in endings:
        (key,) = _ENDINGS[ending]
        if key in options:
            group = ", ".join(f"-{other}" for other in takes if key in _ENDINGS[other])
            raise _problem(name, f"expected at most one of {group}")
        options |= _ENDINGS[ending]
    return options


def _check_mixstyle(name: str, levels: int, size: int) -> None:
    edges = stage_sizes(size)[:levels]
    if 1 in edges:
        level = edges.index(1) + 1
        allowed = f"at most {level - 1} stages" if level > 1 else "no MixStyle at this size"
        raise _problem(
            name,
            f"MixStyle after stage {level} needs maps larger than 1 x 1, which have a mean but no deviation; images of "
            f"{size} x {size} pixels give 1 x 1 there. Expected {allowed}, or larger images",
        )


def _transformer(name: str, match: re.Match[str], size: int) -> dict[str, Any]:
    parts, depth, width, patch = (int(match[key] or 1) for key in ("parts", "depth", "width", "patch"))
    if 0 in (parts, depth, patch):
        raise _problem(name, "expected at least one block, and a patch of at least one pixel")
    if width == 0 or width % HEAD_WIDTH:
        raise _problem(name, f"expected a width that is a multiple of {HEAD_WIDTH}, the width of a head, found {width}")
    if size < patch:
        raise _problem(name, f"images of {size} x {size} pixels are smaller than a patch of {patch} x {patch}")
    if size % patch:
        raise _problem(name, f"expected an image size that is a multiple of the patch's {patch} pixels, found {size}")
    return {
        "depth": parts * depth,
        "width": width,
        "patch": patch,
        "size": size,
        "norms": "in front" if match["kind"] == "n" else "behind",
        "classifiers": parts,
    }


def _problem(name: str, problem: str) -> BackboneError:
    return BackboneError(f"model.backbone: scratch:{name}: {problem}")


def _unknown(name: str, why: str) -> BackboneError:
    known = ", ".join(KNOWN)
    return BackboneError(f"model.backbone: unknown network scratch:{name}{nearest(name, KNOWN)}; {why}known: {known}")
