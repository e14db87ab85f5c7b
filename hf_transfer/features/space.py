"""What a feature depends on besides the image: the key under which features are kept."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

# Of a model's configuration: what says nothing about the features.
_ABOUT_THE_HEAD = {"id2label", "label2id", "label_names", "num_labels", "num_classes", "problem_type", "thresholds", "head"}
_ABOUT_THE_FILE = {"_name_or_path", "name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}
_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "pillow")


@dataclass(frozen=True)
class FeatureSpace:
    """Features that may be used together: of one network, one preprocessing, one way of computing.

    Args:
        name: what people call it; not part of the key.
        facts: JSON-ready facts that the features depend on.
    """

    name: str
    facts: dict[str, Any]

    @property
    def key(self) -> str:
        """32 hex digits: BLAKE2b of the facts."""
        return hashlib.blake2b(json.dumps(self.facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def feature_space(
    backbone: Backbone,
    *,
    weights: str,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
    pooling: str = "default",
    view: dict[str, Any] | None = None,
) -> FeatureSpace:
    """Return the space that a backbone's features lie in.

    Args:
        backbone: the network.
        weights: its `weights_digest`.
        device: where the features are computed.
        dtype: of the computation: float32, or bfloat16 or float16 under autocast.
        compiled: whether the forward pass is compiled.
        pooling: how features are pooled.
        view: what an augmented view depends on; None for the evaluation transform.
    """
    facts = {
        "format": 1,
        "weights": weights,
        "architecture": {"class": type(backbone.model).__name__, "config": _without(backbone.model.config.to_dict())},
        "preprocessing": {"class": type(backbone.processor).__name__, "config": _without(backbone.processor.to_dict())},
        "pooling": pooling,
        "dtype": str(dtype).removeprefix("torch."),
        "device": _device_facts(device),
        "compiled": compiled,
        "versions": {name: _version(name) for name in (*_LIBRARIES, *_further(backbone))},
        "view": view,
    }
    return FeatureSpace(backbone.provenance.name, json.loads(json.dumps(facts, sort_keys=True, default=str)))


@functools.cache
def _version(name: str) -> str:
    return importlib.metadata.version(name)


def _further(backbone: Backbone) -> tuple[str, ...]:
    """Return what besides torch computes the features."""
    return ("onnxruntime",) if getattr(backbone.model.config, "library", None) == "onnx" else ()


def weights_digest(model: torch.nn.Module, heads: Iterable[str]) -> str:
    """Return 32 hex digits of every tensor of a model outside some modules: names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    prefixes = tuple(f"{head}." for head in heads)
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(prefixes):
            digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _device_facts(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def _without(node: Any) -> Any:
    """Return a configuration without what says nothing about the features, at any depth."""
    if isinstance(node, dict):
        return {str(k): _without(v) for k, v in node.items() if k not in _ABOUT_THE_HEAD | _ABOUT_THE_FILE}
    return [_without(item) for item in node] if isinstance(node, (list, tuple)) else node
