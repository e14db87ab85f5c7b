"""What a layer puts out, laid over the image: a bright spot in the image must be the brightest cell in its place."""

import pytest
import torch
from torch import nn

from hf_transfer.backbones.build import build_backbone
from hf_transfer.errors import UserError
from hf_transfer.explain.cam import outputs_of
from hf_transfer.explain.layout import to_maps, token_grid
from hf_transfer.recipe.schema import Model

# A grid of 6 rows and 10 columns over 96 x 160 pixels, with 4 channels, as each kind of layer lays it out.
SIZE = (96, 160)


def tokens(maps, prefix=0):
    return torch.cat([torch.full((2, prefix, 4), 9.0), maps.flatten(2).transpose(1, 2)], dim=1)


LAYOUTS = {
    "channels first": lambda maps: maps,
    "channels last": lambda maps: maps.permute(0, 2, 3, 1),
    **{f"tokens behind {prefix}": lambda maps, prefix=prefix: tokens(maps, prefix) for prefix in (0, 1, 2, 5)},
    "tuple of tuple": lambda maps: ((tokens(maps),), 6, 10),
    "mapping": lambda maps: {"last_hidden_state": tokens(maps, 1), "hidden_states": None},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_to_maps__every_layout(layout):
    maps = torch.rand(2, 4, 6, 10)
    assert torch.equal(to_maps(LAYOUTS[layout](maps), SIZE, "layer", nn.Identity()), maps)


@pytest.mark.parametrize(
    ("module", "is_channels_first"),
    [
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.LayerNorm(8)), True),
        (nn.BatchNorm2d(8), True),
        (nn.ReLU(), True),
        (nn.LayerNorm(8), False),
        (nn.Sequential(nn.Linear(8, 8), nn.GELU()), False),
    ],
)
def test_to_maps__as_many_channels_as_rows_and_columns(module, is_channels_first):
    output = torch.rand(2, 8, 8, 8)
    expected = output if is_channels_first else output.permute(0, 3, 1, 2)
    assert torch.equal(to_maps(output, (64, 64), "layer", module), expected)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (197, (224, 224), (1, 14, 14)),  # ViT-B/16
        (198, (224, 224), (2, 14, 14)),  # DeiT, distilled
        (196, (224, 224), (0, 14, 14)),  # Mixer
        (50, (224, 224), (1, 7, 7)),  # ViT-B/32
        (1374, (518, 518), (5, 37, 37)),  # DINOv2 with four registers
        (201, (224, 224), (5, 14, 14)),  # DINOv3
        (64, (230, 230), (0, 8, 8)),  # Swin pads 230 / 4 / 2 / 2 / 2 up
        (98 + 1, (224, 112), (1, 14, 7)),
        (98 + 1, (112, 224), (1, 7, 14)),
        (19 * 25 + 1, (300, 400), (1, 19, 25)),  # 300 / 16 rounded up, 400 / 16
        (18 * 25 + 1, (300, 400), (1, 18, 25)),  # and down
        (1, (32, 32), (0, 1, 1)),  # one cell is a grid, too
    ],
)
def test_token_grid__usual_networks(count, size, expected):
    assert token_grid(count, size, "layer") == expected


@pytest.mark.parametrize(
    ("count", "size", "why"),
    [
        (211, (224, 224), "its 211 tokens form no grid over an input of 224 x 224 pixels"),
        (10, (64, 32), "its 10 tokens could be 5 x 2 and 0 in front or 4 x 2 and 2 in front"),
    ],
)
def test_token_grid__says_what_does_not_fit(count, size, why):
    with pytest.raises(UserError) as caught:
        token_grid(count, size, "blocks.3")
    assert str(caught.value) == f"layer 'blocks.3' puts out no maps: {why}; choose another layer"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (
            torch.rand(2, 7),
            "expected maps [n, C, h, w] or [n, h, w, C] or tokens [n, L, C], found shape [2, 7]",
        ),
        ((None, 3), "expected maps [n, C, h, w] or [n, h, w, C] or tokens [n, L, C], found no tensor"),
        (torch.rand(2, 4, 99, 3), "no grid of [2, 4, 99, 3] fits an input of 96 x 160 pixels"),
    ],
)
def test_to_maps__says_what_it_found(output, why):
    with pytest.raises(UserError) as caught:
        to_maps(output, SIZE, "stage.1", nn.Identity())
    assert str(caught.value) == f"layer 'stage.1' puts out no maps: {why}; choose another layer"


def brightest_cells(backbone, layer, size, spots, edge):
    """Return the grid and the cells where a layer's output changes most when a spot of `edge` pixels appears at each place."""
    torch.manual_seed(3)
    module = backbone.model.eval().get_submodule(layer)
    pixels = 0.1 * torch.randn(1, 3, *size).repeat(len(spots) + 1, 1, 1, 1)
    for image, (top, left) in enumerate(spots, start=1):
        pixels[image, :, top : top + edge, left : left + edge] += 3.0
    with torch.no_grad(), outputs_of(module) as outputs:
        backbone.model(pixels)
    maps = to_maps(outputs[-1], size, layer, module)
    change = (maps[1:] - maps[:1]).abs().sum(1)
    width = change.shape[2]
    return tuple(change.shape[1:]), [(int(cell) // width, int(cell) % width) for cell in change.flatten(1).argmax(1)]


def check_spots(backbone, layer, size, cells):
    """Put a spot of one cell into each of several cells, and look for it there; overlapping kernels may move it by one."""
    tolerance = int(backbone.is_convolutional)
    (rows, columns), _ = brightest_cells(backbone, layer, size, [(0, 0)], 1)
    edge = size[0] // rows
    assert edge == size[1] // columns
    expected = [(round(y * (rows - 1)), round(x * (columns - 1))) for y, x in cells]
    _, found = brightest_cells(backbone, layer, size, [(row * edge, column * edge) for row, column in expected], edge)
    off = [max(abs(row - y), abs(column - x)) for (row, column), (y, x) in zip(found, expected, strict=True)]
    assert max(off) <= tolerance, f"{layer}: {found}, expected {expected}"


CELLS = [(0, 0), (0, 1), (1, 0), (0.3, 0.7), (0.7, 0.3)]


def test_to_maps__a_spot_is_found_in_every_family(family, family_backbone):
    check_spots(family_backbone, family_backbone.cam_layers[0], family.size, CELLS)


@pytest.mark.parametrize("name", ["swin", "swinv2"])
def test_to_maps__behind_shifted_windows(name, family_named, checkpoint_of):
    """Windows are cut and shifted within the blocks only: what a block puts out stands in image order."""
    backbone = build_backbone(Model(backbone=str(checkpoint_of(family_named(name)))), ["cat", "dog"], 0)
    for layer in (f"{name}.encoder.layers.1.blocks.1", f"{name}.encoder.layers.1"):
        check_spots(backbone, layer, (32, 32), CELLS)


@pytest.mark.parametrize(
    "name",
    [
        "timm:resnet18",
        "timm:vit_tiny_patch16_224",
        "timm:swin_tiny_patch4_window7_224",
        "timm:convnext_atto",
        "timm:mixer_s32_224",
        "timm:pvt_v2_b0",
        "timm:densenet121",
        "torchvision:shufflenet_v2_x0_5",
    ],
)
def test_to_maps__a_spot_is_found_in_timm_and_torchvision(built, name):
    backbone = built(name)
    check_spots(backbone, backbone.cam_layers[0], backbone.preprocessing.size, CELLS)


def test_to_maps__a_spot_is_found_in_torchvisions_transformers(torchvision_vit, torchvision_swin):
    check_spots(torchvision_vit, torchvision_vit.cam_layers[0], (32, 32), CELLS)
    for layer in torchvision_swin.cam_layers:
        check_spots(torchvision_swin, layer, (32, 32), CELLS)


@pytest.mark.parametrize("name", ["swin", "swinv2", "resnet", "convnext", "pvt_v2"])
def test_to_maps__inputs_that_are_not_square(name, family_named, checkpoint_of):
    backbone = build_backbone(Model(backbone=str(checkpoint_of(family_named(name)))), ["cat", "dog"], 0)
    check_spots(backbone, backbone.cam_layers[0], (32, 64), CELLS)
    check_spots(backbone, backbone.cam_layers[0], (64, 32), CELLS)
