"""Ordered layer groups of any model: stem, stages or blocks, head. One rule for every library.

The rule reads the module tree. A module that is the only substantial one among its siblings merely wraps the stages and is
opened; what is inside when there are several is the sequence of stages or blocks. What stands before them is the stem; a small
module between or after them (a downsampling, a final norm) belongs to the stage before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

# With at most this many parametric layers inside a module is no stage of its own: a convolution and its norm, say.
_SMALL = 2
_WRAPPED = "network"  # where our own wrapper holds the network


@dataclass(frozen=True)
class LayerGroup:
    """A part of the network that trains or is frozen as one.

    Args:
        name: such as `stem`, `encoder.layers.3` or `head`.
        parameters: names of its parameters in the model, in order.
    """

    name: str
    parameters: tuple[str, ...]


def layer_groups(model: nn.Module, heads: Sequence[str]) -> list[LayerGroup]:
    """Return the groups from stem to head; every parameter of the model is in exactly one.

    Args:
        model: the whole network.
        heads: paths of the modules that form the classifier head.
    """
    head_names = {f"{head}.{name}" for head in heads for name, _ in model.get_submodule(head).named_parameters()}
    units = _units(model, "", head_names)
    if not any(unit.is_stage for unit in units):  # a network of bare layers: each is a stage
        units = [_Unit(unit.path, unit.parameters, True) for unit in units]
    groups: list[tuple[str, list[str]]] = []
    for unit in units:
        if unit.is_stage:
            groups.append((unit.path, list(unit.parameters)))
        elif groups:
            groups[-1][1].extend(unit.parameters)
        else:
            groups.append(("stem", list(unit.parameters)))
    order = [name for name, _ in model.named_parameters()]
    head = LayerGroup("head", tuple(name for name in order if name in head_names))
    return [*(LayerGroup(name, tuple(names)) for name, names in groups), head]


@dataclass(frozen=True)
class _Unit:
    path: str
    parameters: tuple[str, ...]
    is_stage: bool


def _units(module: nn.Module, prefix: str, head_names: set[str]) -> list[_Unit]:
    """Return the parts of a module in order, wrappers opened."""
    children: list[tuple[nn.Module, _Unit]] = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        own = [f"{path}.{n}" for n, _ in child.named_parameters() if f"{path}.{n}" not in head_names]
        if own:
            layers = {n.rpartition(".")[0] for n in own}
            children.append((child, _Unit(path, tuple(own), len(layers) > _SMALL)))
    # In a list all parts are peers; elsewhere whatever comes first, before anything substantial, is the stem.
    if children and not isinstance(module, (nn.Sequential, nn.ModuleList)) and sum(u.is_stage for _, u in children) > 1:
        first, unit = children[0]
        children[0] = (first, _Unit(unit.path, unit.parameters, False))
    stages = sum(unit.is_stage for _, unit in children)
    bare = tuple(f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False))
    result = [_Unit(prefix.rstrip("."), bare, False)] if bare else []
    for child, unit in children:
        # The one substantial part of a whole model is the network; what is inside may be nothing but bare layers (VGG).
        is_wrapper = unit.is_stage and stages == 1 and (not prefix or _opens(child, unit.path, head_names))
        is_tiny = unit.path.partition(".")[0] == _WRAPPED and not unit.is_stage and len(children) == 1 and not bare  # LeNet
        if is_wrapper or is_tiny:
            result += _units(child, f"{unit.path}.", head_names)
        else:
            result.append(unit)
    return result


def _opens(module: nn.Module, path: str, head_names: set[str]) -> bool:
    """Return whether a module is a container of stages rather than one block: its parts are stages, or it lists its parts."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return True
    return any(unit.is_stage for unit in _units(module, f"{path}.", head_names))
