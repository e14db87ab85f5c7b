"""Low-rank adapters beside frozen weights (LoRA, Hu et al. 2021, arXiv 2106.09685), through peft.

An adapted layer computes W x + alpha / rank * B A x; W is frozen, A (rank x inputs) is random and B (outputs x rank) zero at
first, so that training starts from the network as it was. The network stays the same object with the same forward pass. When
training is over the update is added to W: the model is then the plain one, and nothing in it tells of peft.

This module knows neither phases nor the Trainer.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

from ..backbones.backbone import Backbone
from ..backbones.layer_groups import LayerGroup
from ..errors import BackboneError, Problem, RecipeError, nearest, require

# What peft calls an adapter that has no name of its own.
_NAME = "default"

# Queries and values, which the paper adapts, by the names the libraries give them; where one layer computes them with the keys,
# that layer.
_ATTENTION = frozenset(
    (
        *("q_proj", "v_proj", "query", "value", "projection_query", "projection_value", "q", "v"),
        *("qkv", "to_qkv", "kv"),
    )
)

# What some networks read from their convolutions (transformers' MobileNets pad by it), and peft's do not tell.
_GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


@dataclass(frozen=True)
class Adapters:
    """The adapters inside a backbone.

    Args:
        backbone: the adapted backbone; its `groups` keep their names and hold the adapters.
        layers: paths of the adapted layers, in the network's order.
        trained: names of the parameters that train, in the network's order: those of the adapters and of the head.
        before: the backbone's layer groups before it was adapted.
        gradients: each parameter of the plain network, and whether it required a gradient before.
    """

    backbone: Backbone
    layers: tuple[str, ...]
    trained: tuple[str, ...]
    before: tuple[LayerGroup, ...]
    gradients: tuple[tuple[nn.Parameter, bool], ...]

    def save(self, directory: Path) -> None:
        """Write adapters and head in peft's format: adapter_config.json and adapter_model.safetensors.

        `PeftModel.from_pretrained(base, directory)` gives the trained model again, where `base` is the pretrained network with
        a head of this shape. For two kinds of networks peft cannot: transformers' MobileNets read the stride of convolutions,
        which peft's do not tell, and torchvision's MNASNet loads no state without the version of its format.
        """
        from peft import get_peft_model_state_dict

        model, provenance = self.backbone.model, self.backbone.provenance
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        for head in self.backbone.heads:
            tensors |= {f"{head}.{name}": tensor for name, tensor in model.get_submodule(head).state_dict().items()}
        config = copy.copy(model.peft_config[_NAME])
        config.target_modules = sorted(self.layers)  # in memory it is a set of endings, in another order each time
        config.modules_to_save = list(self.backbone.heads)
        config.inference_mode = True
        if provenance.hub_id is not None:
            config.base_model_name_or_path, config.revision = provenance.hub_id, provenance.revision
        library = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
        directory.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(directory), auto_mapping_dict=library)
        save_file(
            {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()},
            directory / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )

    def merge(self) -> None:
        """Add each adapter's update to the weight beside it, in place; the model is then a plain one again.

        W + alpha / rank * B A is summed in float64: peft's own merging computes the update of a convolution by a convolution,
        which a GPU rounds to 10 bits.
        """
        model = self.backbone.model
        for path in self.layers:
            layer = model.get_submodule(path)
            plain = layer.get_base_layer()
            down, up = (part[_NAME].weight.detach().cpu().double().flatten(1) for part in (layer.lora_A, layer.lora_B))
            update = layer.scaling[_NAME] * (up @ down).reshape(plain.weight.shape)
            with torch.no_grad():
                plain.weight.copy_(plain.weight.cpu().double() + update)
            model.set_submodule(path, plain)
        del model.peft_config
        for parameter, required in self.gradients:
            parameter.requires_grad_(required)
        self.backbone.groups = list(self.before)


def add_adapters(
    backbone: Backbone, *, rank: int, alpha: float, dropout: float, targets: Sequence[str] | None, seed: int
) -> Adapters:
    """Put adapters beside layers of a backbone, in place, and leave only them and the head with a gradient.

    Only what stands outside the head is adapted, and only a layer whose update can be merged: a linear layer or an ungrouped
    convolution that the forward pass calls. One whose weight another module reads (the projections of torch's
    MultiheadAttention and of torchvision's Swin) would train nothing.

    Args:
        backbone: the backbone with its new head; its logits are the same afterwards, to the last bit.
        rank: rank of each update.
        alpha: each update is scaled by alpha / rank.
        dropout: probability of dropout on what enters an adapter.
        targets: last names of the layers to adapt; None for the queries and values of attention, else every linear layer, else
            every convolution: the first of these kinds that is found in the front half of what can be adapted.
        seed: the adapters are drawn from it alone.

    Raises:
        UserError: when peft is not installed, or nothing can be adapted.
        RecipeError: naming every target that no layer answers to.
    """
    require("peft", "lora", "strategy 'lora'")
    from peft import LoraConfig, inject_adapter_in_model

    model, groups = backbone.model, list(backbone.groups)
    gradients = tuple((parameter, parameter.requires_grad) for parameter in model.parameters())
    adaptable = _adaptable(backbone)
    if not adaptable:
        raise BackboneError(
            f"strategy 'lora': {backbone.provenance.name} has no layer that can be adapted; expected linear layers or "
            "ungrouped convolutions outside its head. Use another strategy."
        )
    layers = _default_layers(adaptable) if targets is None else _named_layers(adaptable, targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(layers))  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators' generators, too
        inject_adapter_in_model(config, model)
    for path in layers:
        layer = model.get_submodule(path)
        # What has no parameters is frozen with what precedes it: dropout belongs to the adapter, not to the frozen layer.
        layer._modules["lora_dropout"] = layer._modules.pop("lora_dropout")
        for name in _GEOMETRY:
            if hasattr(adaptable[path], name):
                setattr(layer, name, getattr(adaptable[path], name))
    backbone.groups = _regrouped(model, groups, layers)
    heads = {name for group in groups if group.name == "head" for name in group.parameters}
    plain = {id(parameter) for parameter, _ in gradients}
    trained = tuple(name for name, p in model.named_parameters() if id(p) not in plain or name in heads)
    for name in trained:
        model.get_parameter(name).requires_grad_(True)
    return Adapters(backbone, tuple(layers), trained, tuple(groups), gradients)


def save_state(model: nn.Module, path: Path) -> None:
    """Write every tensor of an adapted model, as safetensors, for `load_state`.

    `save_pretrained` translates names to those of older versions, and nothing translates those of adapted layers back.
    """
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path, metadata={"format": "pt"})


def load_state(model: nn.Module, path: Path) -> None:
    """Load what `save_state` wrote into a model adapted in the same way, in place.

    Raises:
        RuntimeError: when a tensor is missing, left over or of another shape.
    """
    state = OrderedDict(load_file(path))
    # Versions of formats, which the file does not hold; torchvision's MNASNet asks for its own.
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=True)


def _adaptable(backbone: Backbone) -> dict[str, nn.Module]:
    """Return the layers that can be adapted, by path, in the network's order."""
    model = backbone.model
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    layers = {
        path: module
        for path, module in model.named_modules()
        if _is_plain(module)
        and uses[id(module.weight)] == 1
        and not any(f"{path}.".startswith(f"{head}.") for head in backbone.heads)
    }
    called: set[str] = set()
    hooks = [module.register_forward_hook(lambda *_, path=path: called.add(path)) for path, module in layers.items()]
    modes = [(module, module.training) for module in model.modules()]
    first = next(model.parameters())
    try:
        model.eval()
        with torch.no_grad():
            model(pixel_values=torch.zeros(1, 3, *backbone.preprocessing.size, dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return {path: module for path, module in layers.items() if path in called}


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer computes what torch's own of its kind does, so that an update can stand beside it and be merged.

    peft leaves dilation and padding modes out of a convolution's adapter, and cannot merge that of a grouped one.
    """
    if parametrize.is_parametrized(module):
        return False
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward
    if not isinstance(module, nn.Conv2d) or module.groups != 1:
        return False
    if set(module.dilation) != {1} or module.padding_mode != "zeros":
        return False
    if type(module).forward is nn.Conv2d.forward:
        return True
    from timm.layers import Conv2dSame  # pads as TensorFlow does; others change the weight

    return type(module) is Conv2dSame


def _default_layers(adaptable: Mapping[str, nn.Module]) -> list[str]:
    linear = [path for path, module in adaptable.items() if isinstance(module, nn.Linear)]
    attention = [path for path in linear if _last(path) in _ATTENTION]
    convolutions = [path for path, module in adaptable.items() if isinstance(module, nn.Conv2d)]
    front = set(list(adaptable)[: (len(adaptable) + 1) // 2])
    # Attention that pools, or what is left of an old classifier, begins near the head: it is not what the network is made of.
    return next((paths for paths in (attention, linear, convolutions) if front & set(paths)), [])


def _named_layers(adaptable: Mapping[str, nn.Module], targets: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(_last(path) for path in adaptable))
    known = f"there are {', '.join(names)}"
    problems = [
        Problem("strategy.lora.targets", f"no layer that can be adapted is called '{target}'{nearest(target, names)}; {known}")
        for target in dict.fromkeys(targets)
        if target not in names
    ]
    if not targets:
        problems.append(Problem("strategy.lora.targets", f"expected at least one name, or leave it out; {known}"))
    if problems:
        raise RecipeError(problems)
    return [path for path in adaptable if _last(path) in targets]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _regrouped(model: nn.Module, groups: Sequence[LayerGroup], layers: Sequence[str]) -> list[LayerGroup]:
    """Return the groups with the names that the parameters have now, each adapter in the group of its layer."""
    group_of = {name: group.name for group in groups for name in group.parameters}
    for path in layers:
        for name, _ in model.get_submodule(path).named_parameters():
            group_of[f"{path}.{name}"] = group_of[f"{path}.weight"]
    members: dict[str, list[str]] = {group.name: [] for group in groups}
    for name, _ in model.named_parameters():
        members[group_of[name]].append(name)
    return [LayerGroup(name, tuple(names)) for name, names in members.items()]
