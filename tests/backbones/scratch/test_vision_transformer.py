import timm
import torch
from torch import nn

from hf_transfer.backbones.scratch.sinusoid import grid_positions
from hf_transfer.backbones.scratch.vision_transformer import Classified, VisionTransformer

SMALL = {"depth": 3, "width": 64, "patch": 8, "num_classes": 5}


def network_of(**options):
    torch.manual_seed(0)
    network = VisionTransformer(**SMALL, **options)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return network


def tokens_of(network, pixels):
    """What enters the first block."""
    patches = network.patch_embedding(network.normalizer(pixels)).flatten(2).transpose(1, 2)
    tokens = torch.cat([network.class_token.expand(len(pixels), -1, -1), patches], 1)
    tokens[:, 1:] += grid_positions(4, 4, 64)
    return tokens


def test_vision_transformer__norms_behind_is_torchs_encoder():
    network = network_of().eval()
    layer = nn.TransformerEncoderLayer(64, 1, 256, dropout=0.1, activation="relu", batch_first=True, norm_first=False)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    names = {
        "self_attn.in_proj_weight": "attention.qkv.weight",
        "self_attn.in_proj_bias": "attention.qkv.bias",
        "self_attn.out_proj.weight": "attention.projection.weight",
        "self_attn.out_proj.bias": "attention.projection.bias",
        "linear1.weight": "mlp.0.weight",
        "linear1.bias": "mlp.0.bias",
        "linear2.weight": "mlp.3.weight",
        "linear2.bias": "mlp.3.bias",
        "norm1.weight": "attention_norm.weight",
        "norm1.bias": "attention_norm.bias",
        "norm2.weight": "mlp_norm.weight",
        "norm2.bias": "mlp_norm.bias",
    }
    for block, twin in zip(network.blocks, encoder.layers, strict=True):
        twin.load_state_dict({name: block.state_dict()[own] for name, own in names.items()}, strict=True)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.head(encoder(tokens_of(network, pixels))[:, 0])
        assert torch.allclose(network(pixels), expected, atol=1e-4)


def test_vision_transformer__norms_in_front_is_a_row_of_timms_blocks():
    network = network_of(norms="in front").eval()
    blocks = [timm.models.vision_transformer.Block(64, 1, norm_layer=nn.LayerNorm).eval() for _ in range(3)]
    names = {"attention.": "attn.", "projection": "proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2"}
    for block, twin in zip(network.blocks, blocks, strict=True):
        state = {}
        for name, tensor in block.state_dict().items():
            for own, theirs in names.items():
                name = name.replace(own, theirs)
            state[name] = tensor
        twin.load_state_dict(state, strict=True)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network.head(nn.Sequential(*blocks)(tokens_of(network, pixels))[:, 0])
        assert torch.allclose(network(pixels), expected, atol=1e-4)


def test_vision_transformer__head_has_a_hidden_layer():
    head = network_of().head
    assert [type(layer) for layer in head] == [nn.Linear, nn.GELU, nn.Linear]
    assert [layer.out_features for layer in head[::2]] == [256, 5]


def test_vision_transformer__initialisation():
    torch.manual_seed(0)
    network = VisionTransformer(2, 256, 8, relative=True)
    for name, parameter in network.named_parameters():
        values = parameter.detach()
        if name == "patch_embedding.weight":
            assert abs(float(values.std()) - 192**-0.5) < 0.002
            assert float(values.abs().max()) > 3 * 192**-0.5
        elif parameter.ndim > 1:
            assert abs(float(values.std()) - 0.02) < 0.003, name
        else:
            assert torch.equal(values, torch.full_like(values, float("norm" in name and name.endswith("weight")))), name


def test_vision_transformer__relative_positions_replace_the_table():
    network = network_of(relative=True).eval()
    assert "positions" not in dict(network.named_buffers())
    assert "positions" in dict(network_of().named_buffers())
    # Without positions of any kind patches could change places unnoticed.
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(network(pixels), network(pixels.roll(8, dims=3)), atol=1e-4)


def test_vision_transformer__auxiliary_heads_read_their_depth_in_training_only():
    network = network_of(classifiers=3)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for block in network.blocks:
        block.attention.dropout = 0.0
    network.normalizer.momentum = 0.0
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = network.train()(pixels)
        assert isinstance(found, Classified)
        tokens, expected = tokens_of(network, pixels), []
        for block, head in zip(network.blocks, (*network.auxiliary_heads, network.head), strict=True):
            tokens = block(tokens)
            expected.append(head(tokens[:, 0]))
        for logits, wanted in zip((*found.auxiliary_logits, found.logits), expected, strict=True):
            assert torch.allclose(logits, wanted, atol=1e-5)
        assert torch.allclose(network.eval()(pixels), expected[-1], atol=1e-5)
