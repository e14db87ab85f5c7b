import copy
import itertools

import pytest
import torch
from torch import nn

from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.layer_groups import LayerGroup
from hf_transfer.recipe.schema import Model
from hf_transfer.training.optimizer import parameter_groups


def vit_backbone(checkpoint):
    return build_backbone(Model(backbone=str(checkpoint)), ["cat", "dog", "owl"], 0)


def names_in(model, params):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for parameter in params]


def test_parameter_groups__every_parameter_once_in_the_group_of_its_layers(family, checkpoint):
    backbone = vit_backbone(checkpoint)
    model = backbone.model
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # frozen ones are in as well
    groups = parameter_groups(model, backbone.groups, 0.1, decay_all=False)
    listed = [name for group in groups for name in names_in(model, group["params"])]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())
    for layers in backbone.groups:
        pair = [group for group in groups if group["name"] == layers.name]
        assert 1 <= len(pair) <= 2
        assert sorted(n for group in pair for n in names_in(model, group["params"])) == sorted(layers.parameters)
    order = [name for name, _ in itertools.groupby(group["name"] for group in groups)]
    assert order == [layers.name for layers in backbone.groups]


def test_parameter_groups__no_decay_of_biases_and_norms(family, checkpoint):
    backbone = vit_backbone(checkpoint)
    modules = dict(backbone.model.named_modules())
    spared = set()
    for group in parameter_groups(backbone.model, backbone.groups, 0.1, decay_all=False):
        assert group["weight_decay"] in (0.1, 0.0)
        if group["weight_decay"] == 0.0:
            spared |= set(names_in(backbone.model, group["params"]))
    for name, _ in backbone.model.named_parameters():
        module = modules[name.rpartition(".")[0]]
        # Norms by name: transformers has classes of its own, such as ConvNextLayerNorm.
        if name.endswith("bias") or "norm" in type(module).__name__.lower():
            assert name in spared, name
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            assert name not in spared, name


def test_parameter_groups__plain_adam_decays_everything(vit_checkpoint):
    backbone = vit_backbone(vit_checkpoint)
    groups = parameter_groups(backbone.model, backbone.groups, 0.1, decay_all=True)
    assert [group["name"] for group in groups] == [layers.name for layers in backbone.groups]
    assert {group["weight_decay"] for group in groups} == {0.1}


def test_parameter_groups__empty_half_is_left_out():
    model = nn.ModuleDict({"body": nn.Linear(4, 4, bias=False), "norm": nn.LayerNorm(4)})
    groups = [LayerGroup("body", ("body.weight",)), LayerGroup("norm", ("norm.weight", "norm.bias"))]
    result = parameter_groups(model, groups, 0.1, decay_all=False)
    assert [(group["name"], group["weight_decay"], len(group["params"])) for group in result] == [
        ("body", 0.1, 1),
        ("norm", 0.0, 2),
    ]


def step_with(optimizers, models, steps):
    """Give all models the same random gradients, and let each optimizer step."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameters in zip(*(model.parameters() for model in models), strict=True):
            gradient = torch.randn(parameters[0].shape, generator=generator)
            for parameter in parameters:
                parameter.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()


def test_create_optimizer__plain_adam_is_torchs(vit_checkpoint, trainer_for):
    """Coupled decay: the decay is added to the gradient and passes through the moments."""
    backbone = vit_backbone(vit_checkpoint)
    other, decoupled = copy.deepcopy(backbone.model), copy.deepcopy(backbone.model)
    trainer = trainer_for(backbone, optim="adam", weight_decay=0.3, learning_rate=1e-2, adam_beta1=0.8, adam_epsilon=1e-6)
    ours = trainer.create_optimizer()
    assert type(ours) is torch.optim.Adam
    torchs = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.8, 0.999), eps=1e-6, weight_decay=0.3)
    adamw = torch.optim.AdamW(decoupled.parameters(), lr=1e-2, betas=(0.8, 0.999), eps=1e-6, weight_decay=0.3)
    step_with([ours, torchs, adamw], [backbone.model, other, decoupled], steps=6)
    for (name, a), b in zip(backbone.model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name
    assert not torch.allclose(backbone.model.classifier.weight, decoupled.classifier.weight, atol=1e-3)


def test_create_optimizer__adamw_decays_matrices_only(vit_checkpoint, trainer_for):
    backbone = vit_backbone(vit_checkpoint)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.fill_(1.0)
    trainer = trainer_for(backbone, weight_decay=0.5, learning_rate=0.1)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW)
    for parameter in backbone.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in backbone.model.named_parameters():
        expected = 1.0 - 0.1 * 0.5 if parameter.ndim > 1 else 1.0
        assert torch.allclose(parameter, torch.full_like(parameter, expected)), name


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch", "adam", "sgd"])
def test_create_optimizer__built_once_with_frozen_parameters_too(vit_checkpoint, trainer_for, optim):
    backbone = vit_backbone(vit_checkpoint)
    trainer = trainer_for(backbone, "linear_probe", optim=optim, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    assert trainer.create_optimizer() is optimizer
    inside = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    assert inside == set(backbone.model.parameters())
    assert all(group["lr"] == 1e-3 for group in optimizer.param_groups)


def test_create_optimizer__optimizers_that_group_for_themselves(vit_checkpoint, trainer_for):
    backbone = vit_backbone(vit_checkpoint)
    trainer = trainer_for(backbone, optim="adafactor")
    trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in backbone.model.parameters())
