"""What the rest of the package may ask of a backbone, whatever library it comes from.

Five questions: its classifier head, its feature width, its ordered layer groups, its CAM layers, its preprocessing. Nothing
else in the package asks about architectures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .layer_groups import LayerGroup, layer_groups

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.transforms import Preprocessing

# The norms before attention, by the names the libraries give them: Grad-CAM reads a transformer there, because after the last
# block only the class token carries gradient.
_PRE_ATTENTION_NORMS = ("layernorm_before", "norm1", "ln_1")


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

        For a transformer stage it is the norm before the attention of the stage's last block, for any other the stage itself.
        """
        layers = []
        for group in self.groups:
            if group.name in ("stem", "head"):
                continue
            stage = self.model.get_submodule(group.name)
            norms = [n for n, _ in stage.named_modules() if n.rpartition(".")[2] in _PRE_ATTENTION_NORMS]
            layers.append(f"{group.name}.{norms[-1]}" if norms else group.name)
        return layers

    @functools.cached_property
    def preprocessing(self) -> Preprocessing:
        """How images become inputs, built from the checkpoint's processor."""
        from ..data.transforms import Preprocessing

        return Preprocessing(self.processor)

    @property
    def is_convolutional(self) -> bool:
        """Whether 2-D convolutions beyond patch embedding do the work, so that channels_last pays."""
        return sum(isinstance(module, nn.Conv2d) for module in self.model.modules()) > 2

    def save(self, directory: Path) -> None:
        """Write config, weights (safetensors) and preprocessor, loadable with `from_pretrained`."""
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)
