import pytest
import torch

from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.heads import build_head, initialize_head
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Model

CLASSES = ["cat", "dog", "owl"]


def head_of(backbone):
    state = backbone.model.state_dict()
    return {name: tensor for name, tensor in state.items() if name.startswith(tuple(f"{h}." for h in backbone.heads))}


def test_build_backbone__head_depends_on_the_seed_alone(family, checkpoint):
    section = Model(backbone=str(checkpoint))
    torch.manual_seed(1)
    one = head_of(build_backbone(section, CLASSES, 3))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    other = head_of(build_backbone(section, CLASSES, 3))
    assert torch.equal(torch.random.get_rng_state(), state)
    third = head_of(build_backbone(section, CLASSES, 4))
    assert len(one) == 2 * len(family.heads)
    for name, tensor in one.items():
        assert torch.equal(other[name], tensor)
        assert torch.equal(third[name], tensor) == name.endswith("bias")


@pytest.mark.parametrize("hidden", [[], [{"size": 8}]])
@pytest.mark.parametrize("name", ["vit", "timm:test_resnet", "torchvision:squeezenet1_1", "package:efficientnet_lite0"])
def test_build_backbone__head_is_the_same_whatever_is_below(name, hidden, vit_checkpoint):
    section = Model(backbone=str(vit_checkpoint) if name == "vit" else name, pretrained=name == "vit", head={"hidden": hidden})
    backbone = build_backbone(section, CLASSES, 3)
    expected = build_head(backbone.feature_width, 3, [layer.model_dump() for layer in section.head.hidden])
    initialize_head(expected, 3)
    for found, parameter in zip(head_of(backbone).values(), expected.parameters(), strict=True):
        assert torch.equal(found, parameter)


@pytest.mark.parametrize("name", ["keras:resnet50", "hf:google/vit", "torchvison:resnet18"])
def test_build_backbone__unknown_prefix(name):
    with pytest.raises(BackboneError) as caught:
        build_backbone(Model(backbone=name), CLASSES, 0)
    assert str(caught.value) == (
        f"model.backbone: '{name.partition(':')[0]}:' is not a known prefix; expected a Hub id, a local directory, timm:NAME, "
        "torchvision:NAME, package:NAME or scratch:NAME"
    )


def test_build_backbone__directory_with_a_colon_in_its_name(vit_checkpoint, tmp_path):
    directory = tmp_path / "run:3"
    directory.symlink_to(vit_checkpoint)
    assert build_backbone(Model(backbone=str(directory)), CLASSES, 0).feature_width == 32
