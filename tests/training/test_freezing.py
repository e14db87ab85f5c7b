import copy
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification, TrainerControl, TrainerState

from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.layer_groups import LayerGroup
from hf_transfer.recipe.schema import Head, Model, Strategy
from hf_transfer.strategies.phases import Phase, Schedule
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.training.freezing import (
    FreezingCallback,
    freeze_except,
    trainable_count,
    trained_parameters,
    unreached_parameters,
)

CLASSES = ["cat", "dog", "owl"]


def backbone_of(checkpoint, **head):
    return build_backbone(Model(backbone=str(checkpoint), head=Head(**head)), CLASSES, 0)


def head_names(backbone):
    return set(backbone.groups[-1].parameters)


def all_names(model):
    return {name for name, _ in model.named_parameters()}


def frozen_modules(model):
    return [m for m in model.modules() if list(m.parameters()) and not any(p.requires_grad for p in m.parameters())]


def train_steps(model, size, steps=3):
    """Really train: decay, momentum and all."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(steps):
        model.train()
        output = model(pixel_values=torch.rand(4, 3, *size))
        nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_freeze_except__linear_probe_trains_exactly_the_head(family, checkpoint):
    backbone = backbone_of(checkpoint)
    freeze_except(backbone.model, head_names(backbone))
    trained = {name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{head}.{name}" for head in family.heads for name in ("weight", "bias")}
    assert trainable_count(backbone.model) == len(family.heads) * (family.feature_width * 3 + 3)


def test_freeze_except__frozen_modules_stay_in_eval_mode_whatever_calls_train(family, checkpoint):
    backbone = backbone_of(checkpoint)
    model = backbone.model
    freeze_except(model, head_names(backbone))
    frozen = frozen_modules(model)
    assert len(frozen) > 5
    parent = nn.Sequential(model)
    for call in (model.train, parent.train, lambda: model.train(True), model.base_model.train, frozen[3].train):
        call()
        model.eval()
        call()
        call()
        assert not any(module.training for part in frozen for module in part.modules())
    model.train()
    assert all(model.get_submodule(head).training for head in family.heads)
    model.eval()
    assert not any(module.training for module in model.modules())


def test_freeze_except__training_leaves_frozen_tensors_bit_for_bit(family, checkpoint):
    backbone = backbone_of(checkpoint)
    model = backbone.model
    freeze_except(model, head_names(backbone))
    before = copy.deepcopy(model.state_dict())
    train_steps(model, family.size)
    for name, tensor in model.state_dict().items():  # buffers too: batch-norm statistics
        assert torch.equal(tensor, before[name]) != (name in head_names(backbone)), name
    assert all(p.grad is None for name, p in model.named_parameters() if name not in head_names(backbone))


def test_freeze_except__dropout_of_frozen_layers_is_off(family, checkpoint):
    backbone = backbone_of(checkpoint)
    model = backbone.model
    pixels = torch.rand(8, 3, *family.size)

    def several():  # of eight images a small rate may drop nothing in one pass
        with torch.no_grad():
            model.train()
            return [model(pixel_values=pixels).logits for _ in range(12)]

    freeze_except(model, all_names(model))
    one, *others = several()
    assert all(torch.equal(one, other) for other in others) != family.random
    freeze_except(model, head_names(backbone))
    one, *others = several()
    assert all(torch.equal(one, other) for other in others)
    with torch.no_grad():
        assert torch.equal(one, model.eval()(pixel_values=pixels).logits)


def test_freeze_except__batch_norm_moves_only_while_it_trains(family, checkpoint):
    backbone = backbone_of(checkpoint)
    buffers = {name: b.clone() for name, b in backbone.model.named_buffers() if name.endswith(("_mean", "_var", "_tracked"))}
    assert bool(buffers) == family.batch_norm
    train_steps(backbone.model, family.size, steps=1)
    assert all(not torch.equal(backbone.model.get_buffer(name), value) for name, value in buffers.items())


def test_freeze_except__thawing_restores_train_mode(family, checkpoint):
    backbone = backbone_of(checkpoint)
    model = backbone.model.train()
    freeze_except(model, head_names(backbone))
    freeze_except(model, all_names(model))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("train" in vars(module) for module in model.modules())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_freeze_except__last_stage_alone(family, checkpoint):
    backbone = backbone_of(checkpoint)
    last = backbone.groups[-2]
    freeze_except(backbone.model, {*last.parameters, *head_names(backbone)})
    backbone.model.train()
    assert backbone.model.get_submodule(last.name).training
    for group in backbone.groups[:-2]:
        if group.name != "stem":
            assert not any(module.training for module in backbone.model.get_submodule(group.name).modules())


def test_freeze_except__dropout_inside_the_head_stays_on(vit_checkpoint):
    backbone = backbone_of(vit_checkpoint, hidden=[{"size": 16, "dropout": 0.5}])
    model = backbone.model
    freeze_except(model, head_names(backbone))
    model.train()
    dropout = model.get_submodule(backbone.heads[0])[2]
    assert isinstance(dropout, nn.Dropout) and dropout.training
    pixels = torch.rand(8, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model(pixels).logits, model(pixels).logits)
    assert [m.training for m in model.modules() if isinstance(m, nn.Dropout) and m is not dropout].count(True) == 0


def test_freeze_except__features_are_those_of_eval_mode(any_backbone):
    model = any_backbone.model
    freeze_except(model, head_names(any_backbone))
    seen = []
    model.get_submodule(any_backbone.heads[0]).register_forward_pre_hook(lambda head, inputs: seen.append(inputs[0]))
    pixels = torch.rand(2, 3, *any_backbone.preprocessing.size)
    with torch.no_grad():
        for mode in (True, True, False):
            model.train(mode)(pixels)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def test_freeze_except__dropout_before_the_first_layer_follows_it():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    freeze_except(model, {"1.weight", "1.bias", "3.weight", "3.bias"})
    model.train()
    assert [module.training for module in model] == [True, True, True, True]
    freeze_except(model, {"3.weight", "3.bias"})
    model.train()
    assert [module.training for module in model] == [False, False, False, True]


def test_freeze_except__deepcopy_is_independent(family, checkpoint):
    backbone = backbone_of(checkpoint)
    freeze_except(backbone.model, head_names(backbone))
    other = copy.deepcopy(backbone.model)
    other.train()
    assert not any(module.training for part in frozen_modules(other) for module in part.modules())
    freeze_except(other, all_names(other))
    other.train()
    assert all(module.training for module in other.modules())
    backbone.model.train()
    assert not any(module.training for part in frozen_modules(backbone.model) for module in part.modules())


def test_freeze_except__frozen_model_is_saved_like_any_other(family, checkpoint, tmp_path):
    backbone = backbone_of(checkpoint)
    freeze_except(backbone.model, head_names(backbone))
    backbone.save(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in backbone.model.state_dict().items())


def test_freeze_except__gradients_of_what_is_frozen_are_dropped():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model(torch.rand(2, 4)).sum().backward()
    freeze_except(model, {"1.weight", "1.bias"})
    assert model[0].weight.grad is None and model[0].bias.grad is None
    assert model[1].weight.grad is not None


# The callback, without training.


def two_phases():
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    groups = [LayerGroup("body", ("body.weight", "body.bias")), LayerGroup("head", ("head.weight", "head.bias"))]
    return model, FreezingCallback(
        groups, Schedule((Phase("warm up", ("head",), epochs=2), Phase("all", ("body", "head"), epochs=4)))
    )


class Training:
    """What the Trainer hands its callbacks."""

    def __init__(self, model, epoch, log_history=()):
        self.state = TrainerState(epoch=epoch, log_history=list(log_history))
        self.control = TrainerControl()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.rest = {"model": model, "optimizer": self.optimizer, "lr_scheduler": None}

    def tell(self, event):
        event(SimpleNamespace(greater_is_better=True), self.state, self.control, **self.rest)


@pytest.mark.parametrize(("epoch", "trained"), [(0.0, False), (1.0, False), (1.99, False), (2.0, True), (5.5, True)])
def test_freezing_callback__a_resumed_state_is_in_its_phase_at_once(epoch, trained):
    model, callback = two_phases()
    callback.apply(model, callback.schedule.phases[0])  # what building the trainer does
    Training(model, epoch).tell(callback.on_train_begin)
    assert model["body"].weight.requires_grad == trained
    assert model["head"].weight.requires_grad


def test_freezing_callback__changes_phase_when_its_epoch_begins():
    model, callback = two_phases()
    seen = []
    Training(model, None).tell(callback.on_train_begin)
    for epoch in (0.0, 1.0, 2.0, 3.0):
        Training(model, epoch).tell(callback.on_epoch_begin)
        seen.append((callback.phase.name, model["body"].weight.requires_grad))
    assert seen == [("warm up", False), ("warm up", False), ("all", True), ("all", True)]
    assert callback.trainable == {"warm up": 10, "all": 30}


@pytest.mark.parametrize(("epoch", "stops"), [(5.5, False), (6.0, True)])
def test_freezing_callback__stops_after_the_last_phase(epoch, stops):
    model, callback = two_phases()
    training = Training(model, epoch)
    training.tell(callback.on_train_begin)
    assert training.control.should_training_stop is stops


@pytest.mark.parametrize(("epoch", "kept"), [(2.0, False), (2.5, True)])
def test_freezing_callback__moments_are_reset_where_the_phase_begins_and_only_there(epoch, kept):
    model, callback = two_phases()
    first, second = callback.schedule.phases
    callback.schedule = Schedule((first, replace(second, reset_optimizer=True)))
    training = Training(model, epoch)
    model["head"](torch.ones(1, 4)).sum().backward()
    training.optimizer.step()
    training.tell(callback.on_train_begin)
    assert bool(training.optimizer.state) is kept


# What a phase trains.


def test_trained_parameters__norms_and_the_whole_head():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2))
    groups = [LayerGroup("stem", ("0.weight", "0.bias", "1.weight", "1.bias"))]
    groups += [LayerGroup("body", ("2.weight", "2.bias")), LayerGroup("head", ("3.weight", "3.bias"))]
    everything = Phase("norm_only", ("stem", "body", "head"), parts="norms")
    assert trained_parameters(model, groups, everything) == {
        *("1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"),
    }
    without = trained_parameters(model, groups, everything, frozen_batch_norm=True)
    assert without == {"2.weight", "2.bias", "3.weight", "3.bias"}


def test_trained_parameters__norm_only_on_any_family(family, checkpoint):
    backbone = backbone_of(checkpoint)
    names = tuple(group.name for group in backbone.groups)
    trained = trained_parameters(backbone.model, backbone.groups, Phase("norm_only", names, parts="norms"))
    body = {name.rpartition(".")[0] for name in trained - head_names(backbone)}
    assert body and all("Norm" in type(backbone.model.get_submodule(path)).__name__ for path in body)
    norms = {path for path, module in backbone.model.named_modules() if "Norm" in type(module).__name__}
    assert {path for path in norms if list(backbone.model.get_submodule(path).parameters(recurse=False))} >= body


def test_unreached_parameters__of_any_family_get_no_gradient(any_backbone):
    model, size = any_backbone.model, any_backbone.preprocessing.size
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    unreached = unreached_parameters(model, size)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [module.training for module in model.modules()] == modes
    model(pixel_values=torch.rand(2, 3, *size))["logits"].sum().backward()
    assert unreached == {name for name, parameter in model.named_parameters() if parameter.grad is None}


@pytest.mark.parametrize("name", ["partial", "gradual", "discriminative", "complete"])
def test_freezing_callback__exactly_the_groups_of_each_phase_train_on_any_model(any_backbone, name):
    names = [group.name for group in any_backbone.groups]
    own = {"frozen_groups": 2, "frozen_batch_norm": False} if name == "partial" else {}
    own |= {"phase_epochs": 1} if name in ("gradual", "complete") else {}
    schedule = build_schedule(Strategy(name=name, **own), names)
    unreached = unreached_parameters(any_backbone.model, any_backbone.preprocessing.size)
    callback = FreezingCallback(any_backbone.groups, schedule, untrained=unreached)
    seen = []
    for phase in schedule.phases:
        callback.apply(any_backbone.model, phase)
        training = {name for name, parameter in any_backbone.model.named_parameters() if parameter.requires_grad}
        expected = [set(group.parameters) - unreached for group in any_backbone.groups if group.name in phase.groups]
        assert training == set().union(*expected)
        seen.append(set(phase.groups))
    assert all(one < other for one, other in itertools.pairwise(seen)), "each phase adds to the one before"
    assert seen[-1] == set(names[2:] if name == "partial" else names)


def test_freezing_callback__a_resumed_run_knows_what_the_phases_before_it_trained():
    model, callback = two_phases()
    Training(model, 3.0).tell(callback.on_train_begin)
    assert callback.trainable == {"warm up": 10, "all": 30}
    assert [span.reason for span in callback.spans] == ["epochs", ""]
