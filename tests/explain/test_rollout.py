import pytest
import timm
import torch
from torch import nn

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.wrapper import TransferConfig, TransferForImageClassification
from hf_transfer.errors import UserError
from hf_transfer.explain.rollout import attention_rollout
from hf_transfer.recipe.schema import Head, HiddenLayer, Model

CLASSES = ["cat", "dog", "owl"]


def rolled_out(attentions, prefix):
    """Abnar and Zuidema 2020, eq. 1, written out: the class token's row, without the tokens in front."""
    product = torch.eye(attentions[0].shape[-1])
    for attention in attentions:
        mixed = 0.5 * attention.mean(1) + 0.5 * torch.eye(attention.shape[-1])
        product = mixed @ product
    return product[:, 0, prefix:]


@pytest.mark.parametrize(("name", "prefix"), [("vit", 1), ("deit", 2), ("beit", 1), ("dinov2", 1)])
def test_attention_rollout__equals_the_attentions_that_transformers_returns(name, prefix, family_named, checkpoint_of):
    backbone = build_backbone(Model(backbone=str(checkpoint_of(family_named(name)))), CLASSES, 0)
    sharpen(backbone.model)
    backbone.model.train()
    torch.manual_seed(2)
    pixels = torch.randn(3, 3, 32, 32)
    maps = attention_rollout(backbone, pixels)
    assert maps.shape == (3, 4, 4)
    assert backbone.model.training
    assert backbone.model.config._attn_implementation == "sdpa"

    backbone.model.eval().set_attn_implementation("eager")
    with torch.no_grad():
        attentions = backbone.model(pixels, output_attentions=True).attentions
    torch.testing.assert_close(maps.flatten(1), rolled_out(attentions, prefix))
    torch.testing.assert_close(attention_rollout(backbone, pixels), maps)  # read from a softmax now
    assert maps.amax() > 2 * maps.mean()


def sharpen(model):
    """Draw larger weights, so that attention is not nearly uniform as in any untrained transformer."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)


def test_attention_rollout__timm_fused_or_not(built):
    backbone = built("timm:test_vit")
    torch.manual_seed(2)
    pixels = torch.randn(2, 3, 160, 160)
    fused = attention_rollout(backbone, pixels)
    assert fused.shape == (2, 10, 10)

    network = backbone.model.timm_model
    attentions = []
    handles = []
    for block in network.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda _, __, output: attentions.append(output)))
    torch.testing.assert_close(attention_rollout(backbone, pixels), fused)
    for handle, block in zip(handles, network.blocks, strict=True):
        handle.remove()
        block.attn.fused_attn = True
    torch.testing.assert_close(fused.flatten(1), rolled_out(attentions, 1))


def test_attention_rollout__timm_without_class_token_takes_the_mean_of_all_rows():
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3, class_token=False, global_pool="avg"
    )
    maps = attention_rollout(wrapped(network), torch.randn(2, 3, 32, 32))
    assert maps.shape == (2, 4, 4)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))


def wrapped(network):
    model = TransferForImageClassification(TransferConfig(num_labels=3), network)
    return Backbone(model, None, ("network.head",), Provenance("made"))


def test_attention_rollout__torchvision(torchvision_vit):
    torch.manual_seed(2)
    pixels = torch.randn(2, 3, 32, 32)
    attentions = []
    blocks = torchvision_vit.model.network.encoder.layers
    maps = attention_rollout(torchvision_vit, pixels)
    for block in blocks:
        sharpen(block)
    sharp = attention_rollout(torchvision_vit, pixels)
    assert not torch.allclose(maps, sharp, rtol=1e-2)

    inputs = []
    handles = [block.ln_1.register_forward_hook(lambda _, __, output: inputs.append(output)) for block in blocks]
    with torch.no_grad():
        torchvision_vit.model.eval()(pixels)
        for block, tokens in zip(blocks, inputs, strict=True):
            _, attention = block.self_attention(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
            attentions.append(attention)
    for handle in handles:
        handle.remove()
    assert sharp.shape == (2, 4, 4)
    torch.testing.assert_close(sharp.flatten(1), rolled_out(attentions, 1))


def test_attention_rollout__hidden_head(family_named, checkpoint_of):
    section = Model(backbone=str(checkpoint_of(family_named("vit"))), head=Head(hidden=[HiddenLayer(size=8)]))
    plain = build_backbone(Model(backbone=section.backbone), CLASSES, 0)
    pixels = torch.randn(2, 3, 32, 32)
    maps = attention_rollout(build_backbone(section, CLASSES, 0), pixels)
    torch.testing.assert_close(maps, attention_rollout(plain, pixels))


def test_attention_rollout__a_spot_that_all_look_at_is_the_peak():
    """Keys that grow with brightness draw every patch's attention to the spot, in whichever cell it is."""
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=8, depth=1, num_heads=1, num_classes=3, pos_embed="none"
    )
    with torch.no_grad():
        network.cls_token.fill_(0)
        network.patch_embed.proj.weight.zero_()
        network.patch_embed.proj.weight[0] = 1 / 64
        network.patch_embed.proj.bias.copy_(torch.tensor([0, 1, -1, 1, -1, 1, -1, 0.0]))
        qkv = network.blocks[0].attn.qkv
        qkv.weight.zero_()
        qkv.bias.zero_()
        qkv.bias[0] = 5  # the query of every token
        qkv.weight[8, 0] = 5  # the key: channel 0
    for row, column in [(0, 3), (3, 0), (1, 2)]:
        pixels = torch.zeros(1, 3, 32, 32)
        pixels[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 1
        peak = int(attention_rollout(wrapped(network), pixels).flatten().argmax())
        assert (peak // 4, peak % 4) == (row, column)


@pytest.mark.parametrize("name", ["swin", "swinv2", "pvt_v2", "resnet"])
def test_attention_rollout__no_global_attention(name, family_named, checkpoint_of):
    checkpoint = checkpoint_of(family_named(name))
    backbone = build_backbone(Model(backbone=str(checkpoint)), CLASSES, 0)
    before = [module.training for module in backbone.model.modules()]
    with pytest.raises(UserError) as caught:
        attention_rollout(backbone, torch.randn(2, 3, 32, 32))
    assert str(caught.value) == f"{checkpoint} has no global attention to roll out; use gradcam"
    assert [module.training for module in backbone.model.modules()] == before


@pytest.mark.parametrize("name", ["timm:swin_tiny_patch4_window7_224", "timm:mixer_s32_224", "timm:pvt_v2_b0"])
def test_attention_rollout__no_global_attention_in_timm(built, name):
    with pytest.raises(UserError, match=f"^{name} has no global attention to roll out; use gradcam$"):
        attention_rollout(built(name), torch.randn(1, 3, 224, 224))
