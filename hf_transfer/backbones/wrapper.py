"""Our registered wrapper, for what no stock class holds: hidden heads, other pooling, torchvision's networks, ours, ONNX.

`model_type: "hf_transfer"`. Such a directory loads with `AutoModelForImageClassification.from_pretrained` after
`hf_transfer.register()`; without it transformers refuses the unknown type, so the head is never silently initialised anew.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from .heads import build_head
from .pooling import pooled_features


class TransferConfig(PreTrainedConfig):
    """Everything needed to rebuild the network without its weights.

    Args:
        library: "torchvision", "transformers" (which wraps timm's networks too), "scratch" for our own networks, or "onnx" for
            a frozen graph and a head.
        architecture: torchvision's or our name of the network, or the model type of transformers; of a graph, what it was made
            from.
        arguments: keyword arguments of torchvision's or our constructor, or the configuration of transformers; of a graph,
            {"bytes", "parameters"}, its size and the number of parameters of the network it was made from, head included.
        head: {"path", "in_features", "hidden", "pool", "pooling", "cut", "auxiliary"}: where the new head stands, what it is
            made of, whether maps are pooled in front of it, how the last hidden state is (see `pooled_features`; absent where
            the network does it), whether the layers after it (the rest of the old classifier) are cut off, and the paths of
            heads like it that speak in training only.
    """

    model_type = "hf_transfer"

    def __init__(
        self,
        library: str = "torchvision",
        architecture: str = "",
        arguments: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.library = library
        self.architecture = architecture
        self.arguments = arguments or {}
        self.head = head or {}
        super().__init__(**kwargs)


@dataclass
class TransferOutput(ImageClassifierOutput):
    """What our wrapper puts out.

    Args:
        auxiliary_logits: in training, those of heads at lesser depths, each [n, num_labels], since the loss is the sum over
            all heads. None in eval mode, and where there is one head.
    """

    auxiliary_logits: tuple[torch.Tensor, ...] | None = None


class TransferForImageClassification(PreTrainedModel):
    """A network of another library with a head of ours, as a `PreTrainedModel`.

    Args:
        config: everything needed to rebuild the network.
        network: the network with its head in place, where it is in memory already.
    """

    config_class = TransferConfig
    main_input_name = "pixel_values"
    base_model_prefix = "network"
    accepts_loss_kwargs = False
    _no_split_modules: tuple[str, ...] = ()

    def __init__(self, config: TransferConfig, network: nn.Module | None = None) -> None:
        super().__init__(config)
        if network is None:
            network = build_network(config)
            place_head(network, config)
        self.network = network
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep what the network's own library initialised."""

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any) -> TransferOutput:
        """Return logits [n, num_labels], and the cross-entropy, summed over all heads, where labels are given.

        Labels are int64 [n], or float [n, num_labels] for a model of several labels an image.
        """
        spec = self.config.head
        if "pooling" in spec:
            output = self.network.get_submodule(spec["path"])(pooled_features(self.network, pixel_values, spec["pooling"]))
        else:
            output = self.network(pixel_values)
        logits = output if isinstance(output, torch.Tensor) else output.logits
        auxiliary = getattr(output, "auxiliary_logits", None)
        loss = None
        if labels is not None:
            several = self.config.problem_type == "multi_label_classification"
            measure = nn.functional.binary_cross_entropy_with_logits if several else nn.functional.cross_entropy
            loss = torch.stack([measure(each, labels) for each in (logits, *(auxiliary or ()))]).sum()
        return TransferOutput(loss=loss, logits=logits, auxiliary_logits=auxiliary)


def head_paths(config: TransferConfig) -> tuple[str, ...]:
    """Return the paths of the heads inside the network: the one that gives the logits, then auxiliary ones."""
    return (config.head["path"], *config.head.get("auxiliary", ()))


def place_head(network: nn.Module, config: TransferConfig) -> None:
    """Put the head that the configuration describes into the network, in place, and auxiliary ones like it."""
    spec = config.head
    for path in head_paths(config):
        head = build_head(spec["in_features"], config.num_labels, spec["hidden"])
        if spec.get("pool"):
            head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        network.set_submodule(path, head)
    if spec.get("cut"):
        parent, _, position = spec["path"].rpartition(".")
        sequence = network.get_submodule(parent)
        if not isinstance(sequence, nn.Sequential):
            raise TypeError(f"expected {parent} to be a Sequential, found {type(sequence).__name__}")
        del sequence[int(position) + 1 :]


def build_network(config: TransferConfig) -> nn.Module:
    """Return the library's network with its own head, weights as that library initialises them."""
    if config.library == "torchvision":
        import torchvision

        # from_pretrained builds on the meta device, where torchvision's RegNet cannot compute its widths.
        with torch.device("cpu"):
            return torchvision.models.get_model(config.architecture, weights=None, **config.arguments)
    if config.library == "scratch":
        from .scratch.networks import build_scratch

        return build_scratch(config.architecture, config.arguments)
    if config.library == "onnx":
        from .onnx_body import OnnxBody

        body = OnnxBody(torch.empty(config.arguments["bytes"], dtype=torch.uint8))
        return nn.Sequential(OrderedDict(body=body, head=nn.Identity()))
    inner = CONFIG_MAPPING[config.architecture].from_dict(dict(config.arguments))
    return AutoModelForImageClassification.from_config(inner)


def register() -> None:
    """Register the model type with transformers' Auto classes; calling it again changes nothing."""
    AutoConfig.register("hf_transfer", TransferConfig, exist_ok=True)
    AutoModelForImageClassification.register(TransferConfig, TransferForImageClassification, exist_ok=True)
