"""What the rest of the package may ask of a backbone, whatever library it comes from.

Five questions: its classifier head, its feature width, its ordered layer groups, its CAM layers, its preprocessing. Nothing
else in the package asks about architectures.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .layer_groups import LayerGroup, layer_groups

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.transforms import Preprocessing

# The libraries' names for the class token, and for the norm in front of a block's attention.
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_NORMS_BEFORE_ATTENTION = ("layernorm_before", "norm1", "ln_1", "layer_norm_1", "layer_norm1")
# timm's names for layers of the pooled features.
_BEHIND_POOLING = {"pre_logits", "fc_norm"}
_NORMS = (nn.BatchNorm2d, nn.GroupNorm)


@dataclass(frozen=True)
class Provenance:
    """Where a backbone's weights come from.

    Args:
        name: as the recipe names it.
        hub_id: its Hub repository, None for other sources.
        revision: resolved commit of that repository, or name of the weights.
        license: licence identifier as published with the weights, None when unknown.
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None
    license: str | None = None


@dataclass
class Backbone:
    """A pretrained network with its head, as a `PreTrainedModel`.

    Args:
        model: the network; called with `pixel_values` it returns an output with `logits`.
        processor: the image processor of the checkpoint.
        heads: paths of the modules that form the classifier head.
        provenance: where the weights come from.
    """

    model: PreTrainedModel
    processor: Any
    heads: tuple[str, ...]
    provenance: Provenance

    @property
    def feature_width(self) -> int:
        """Width of the features that enter the head."""
        head = self.model.get_submodule(self.heads[0])
        return next(m for m in head.modules() if isinstance(m, nn.Linear)).in_features

    @functools.cached_property
    def groups(self) -> list[LayerGroup]:
        """Layer groups from stem to head; every parameter is in exactly one."""
        return layer_groups(self.model, self.heads)

    @functools.cached_property
    def cam_layers(self) -> list[str]:
        """Paths of the modules whose output a class-activation map reads, shallow to deep, the last one first choice.

        It is each stage, with the norm and activation right behind it and before it halves its own output. From the last stage
        on it is the last convolution, norm or activation in front of the pooling: for Swin the final norm, because in front of
        a LayerNorm gradient times activation is zero in every cell. Where the head reads a class token, the other tokens carry
        no gradient after the last block: there it is the norm before each block's attention.
        """
        parts = [group.name for group in self.groups if group.name not in ("stem", "head")]
        stages = [path for path in parts if not _within(path, self.heads)]
        if not stages:  # VGG, AlexNet: a row of bare layers
            stages = [path for path, part in self.model.named_modules() if isinstance(part, nn.Conv2d)]
        stages = [path for path in stages if not _within(path, self.heads) and not _BEHIND_POOLING & set(path.split("."))]
        if any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in self.model.named_parameters()):
            layers = [_norm_before_attention(self.model, stage) for stage in stages]
        elif not stages:
            layers = []
        else:
            layers = [_behind(self.model, _before_downsampling(self.model, stage), _NORMS) for stage in stages[:-1]]
            is_token_stage = not any(isinstance(part, nn.Conv2d) for part in self.model.get_submodule(stages[-1]).modules())
            kinds = (*_NORMS, nn.LayerNorm if is_token_stage else nn.Conv2d)
            layers.append(_behind(self.model, stages[-1], kinds, self.heads))
        return list(dict.fromkeys(layers))

    @functools.cached_property
    def preprocessing(self) -> Preprocessing:
        """How images become inputs, built from the checkpoint's processor."""
        from ..data.transforms import Preprocessing

        return Preprocessing(self.processor)

    @property
    def parameter_count(self) -> int:
        """How many parameters the network has; where its body is an ONNX graph, as many as the float network had."""
        config: Any = getattr(self.model, "config", None)
        if getattr(config, "library", None) == "onnx" and "parameters" in config.arguments:
            return int(config.arguments["parameters"])
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def is_convolutional(self) -> bool:
        """Whether 2-D convolutions beyond patch embedding do the work, so that channels_last pays."""
        return sum(isinstance(module, nn.Conv2d) for module in self.model.modules()) > 2

    def save(self, directory: Path) -> None:
        """Write config, weights (safetensors) and preprocessor, loadable with `from_pretrained`."""
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)


def _within(path: str, heads: Sequence[str]) -> bool:
    """Return whether a part of the network is in a head or has one inside."""
    return any(f"{head}.".startswith(f"{path}.") or f"{path}.".startswith(f"{head}.") for head in heads)


def _norm_before_attention(model: nn.Module, stage: str) -> str:
    names = [name for name, _ in model.get_submodule(stage).named_modules()]
    norms = [name for name in names if name.rpartition(".")[2] in _NORMS_BEFORE_ATTENTION]
    return f"{stage}.{norms[-1]}" if norms else stage


def _before_downsampling(model: nn.Module, stage: str) -> str:
    """Return the last block of a stage that ends with a downsampling (transformers' Swin), any other stage itself."""
    blocks = None
    for name, child in model.get_submodule(stage).named_children():
        if isinstance(child, nn.ModuleList) and len(child):
            blocks = f"{stage}.{name}.{len(child) - 1}"
        elif blocks and any(parameter.ndim > 1 for parameter in child.parameters()):
            return blocks
    return stage


def _behind(model: nn.Module, path: str, kinds: tuple[type[nn.Module], ...], heads: Sequence[str] = ()) -> str:
    """Return the last module in the row that follows `path`: activations, and modules that hold a layer of these kinds.

    Siblings are looked at in the order of their definition, those of the modules around them after them.
    """
    last, inner = path, path
    while inner:
        parent, _, own = inner.rpartition(".")
        siblings = list(model.get_submodule(parent).named_children())
        position = [name for name, _ in siblings].index(own)
        for name, module in siblings[position + 1 :]:
            sibling = f"{parent}.{name}" if parent else name
            if isinstance(module, (nn.Identity, nn.Dropout)):
                continue
            if _within(sibling, heads) or name in _BEHIND_POOLING or not _is_one_of(module, kinds):
                return last
            last = sibling
        inner = parent
    return last


def _is_one_of(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Return whether a module is an activation, or holds a layer of these kinds; one with a convolution only where they do."""
    if "activation" in type(module).__module__:
        return True
    if isinstance(module, nn.ModuleList):  # never called as a whole
        return False
    inside = list(module.modules())
    has_convolution = any(isinstance(part, nn.Conv2d) for part in inside)
    return any(isinstance(part, kinds) for part in inside) and (nn.Conv2d in kinds or not has_convolution)
