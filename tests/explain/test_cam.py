import pytest
import torch
from torch import nn

from hf_transfer.backbones.build import build_backbone
from hf_transfer.errors import UserError
from hf_transfer.explain.cam import METHODS, class_activation_maps, depths
from hf_transfer.explain.maps import blank_reason
from hf_transfer.recipe.schema import Head, HiddenLayer, Model

BY_CLASS = [method for method in METHODS if method != "eigencam"]

# Networks of other libraries, their last CAM layer, and the grid it has at their own input size.
OTHERS = {
    "timm:resnet18": ("timm_model.layer4", 7),
    "timm:vit_tiny_patch16_224": ("timm_model.blocks.11.norm1", 14),
    "timm:swin_tiny_patch4_window7_224": ("timm_model.norm", 7),
    "timm:convnext_atto": ("timm_model.stages.3", 7),
    "timm:mixer_s32_224": ("timm_model.norm", 7),
    "timm:pvt_v2_b0": ("timm_model.stages.3", 7),
    "timm:densenet121": ("timm_model.features.norm5", 7),
    "torchvision:densenet121": ("network.features.norm5", 7),
    "torchvision:googlenet": ("network.inception5b", 7),
    "torchvision:shufflenet_v2_x0_5": ("network.conv5", 7),
    "torchvision:efficientnet_b0": ("network.features.8", 7),
}


def state_of(model):
    """Everything an explanation might leave behind."""
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
    }


def assert_unchanged(model, before):
    after = state_of(model)
    tensors, earlier = after.pop("tensors"), before.pop("tensors")
    assert after == before
    assert all(torch.equal(tensor, earlier[name]) for name, tensor in tensors.items())


def check_maps(maps, grid, may_be_blank=False):
    assert maps.shape == (2, *grid)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert (maps >= 0).all()
    assert torch.isfinite(maps).all()
    if not may_be_blank:
        assert maps.flatten(1).amax() > maps.flatten(1).amin()


@pytest.mark.parametrize("method", METHODS)
def test_class_activation_maps__every_family(family, family_backbone, method):
    model = family_backbone.model.train()
    model.requires_grad_(method != "gradcam")
    before = state_of(model)
    torch.manual_seed(3)
    pixels, targets = torch.randn(2, 3, *family.size), torch.tensor([0, 2])
    layer = family_backbone.cam_layers[0]
    maps = class_activation_maps(family_backbone, pixels, targets, method=method, layer=layer)
    grid = maps.shape[1:]
    assert grid[0] == grid[1] >= 4
    # Grad-CAM++ supposes activations of zero or more; these linear bottlenecks are negative nearly everywhere.
    check_maps(maps, grid, may_be_blank=(family.name, method) == ("mobilenet_v2", "gradcam++"))
    assert torch.equal(maps, class_activation_maps(family_backbone, pixels, targets, method=method, layer=layer))
    assert_unchanged(model, before)
    assert not pixels.requires_grad


def test_class_activation_maps__every_cam_layer_of_every_family(family, family_backbone):
    torch.manual_seed(2)
    pixels, targets = torch.randn(2, 3, *family.size), torch.tensor([0, 2])
    edges = []
    for layer in family_backbone.cam_layers:
        maps = class_activation_maps(family_backbone, pixels, targets, method="layercam", layer=layer)
        check_maps(maps, maps.shape[1:], may_be_blank=maps.shape[1] == 1)
        edges.append(maps.shape[1])
    assert edges == sorted(edges, reverse=True)
    last = class_activation_maps(family_backbone, pixels, targets, method="layercam")
    assert torch.equal(last, maps)


@pytest.mark.parametrize("name", OTHERS)
def test_class_activation_maps__timm_and_torchvision(built, name):
    backbone = built(name)
    layer, edge = OTHERS[name]
    assert backbone.cam_layers[-1] == layer
    torch.manual_seed(2)
    pixels = torch.randn(2, 3, *backbone.preprocessing.size)
    maps = {target: class_activation_maps(backbone, pixels, torch.tensor([target] * 2), method="gradcam") for target in (0, 1)}
    check_maps(torch.maximum(maps[0], maps[1]), (edge, edge))
    assert not torch.allclose(maps[0], maps[1], rtol=1e-2)
    early = class_activation_maps(backbone, pixels, torch.tensor([0, 1]), method="hirescam", layer=backbone.cam_layers[0])
    check_maps(early, early.shape[1:])


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_class_activation_maps__small_torchvision_transformers(kind, request):
    backbone = request.getfixturevalue(f"torchvision_{kind}")
    layer = {"vit": "network.encoder.layers.encoder_layer_2.ln_1", "swin": "network.norm"}[kind]
    assert backbone.cam_layers[-1] == layer
    maps = class_activation_maps(backbone, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), method="layercam")
    check_maps(maps, (4, 4))


def test_class_activation_maps__hidden_head(checkpoint_of, family_named):
    section = Model(backbone=str(checkpoint_of(family_named("swin"))), head=Head(hidden=[HiddenLayer(size=8)]))
    backbone = build_backbone(section, ["cat", "dog", "owl"], 0)
    assert backbone.cam_layers == ["network.swin.encoder.layers.0.blocks.0", "network.swin.layernorm"]
    torch.manual_seed(2)
    maps = class_activation_maps(backbone, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), method="gradcam")
    check_maps(maps, (8, 8))


@pytest.mark.parametrize("method", BY_CLASS)
def test_class_activation_maps__look_at_the_target_class(pooled, method):
    torch.manual_seed(2)
    pixels = torch.randn(2, 3, 12, 8)
    maps = [class_activation_maps(pooled, pixels, torch.tensor([target] * 2), method=method) for target in (0, 1)]
    assert not torch.allclose(maps[0], maps[1], rtol=1e-2)


def test_class_activation_maps__each_image_has_its_own_target(pooled):
    torch.manual_seed(2)
    pixels = torch.randn(3, 3, 12, 8)
    for method in METHODS:
        together = class_activation_maps(pooled, pixels, torch.tensor([2, 0, 1]), method=method)
        for image, target in enumerate([2, 0, 1]):
            alone = class_activation_maps(pooled, pixels[image : image + 1], torch.tensor([target]), method=method)
            torch.testing.assert_close(together[image : image + 1], alone)


def test_class_activation_maps__grad_cam_is_cam_over_the_number_of_cells(pooled):
    """Zhou et al. 2016: behind global average pooling and a linear layer the map is sum_c w_c A_c."""
    torch.manual_seed(2)
    pixels, targets = torch.randn(2, 3, 12, 8), torch.tensor([1, 3])
    features = pooled.model.stage(pixels).detach()
    cam = torch.einsum("nc,nchw->nhw", pooled.model.classifier.weight.detach()[targets], features).clamp_min(0)
    maps = class_activation_maps(pooled, pixels, targets, method="gradcam")
    torch.testing.assert_close(maps, cam / (6 * 4))


def test_class_activation_maps__hires_cam_sums_to_the_logit(pooled):
    nn.init.uniform_(pooled.model.classifier.weight)  # positive, so that nothing is cut at zero
    torch.manual_seed(2)
    pixels, targets = torch.randn(2, 3, 12, 8), torch.tensor([1, 3])
    logits = pooled.model(pixels).logits.detach() - pooled.model.classifier.bias.detach()
    maps = class_activation_maps(pooled, pixels, targets, method="hirescam")
    torch.testing.assert_close(maps.sum((1, 2)), logits[[0, 1], targets])


def test_class_activation_maps__grad_cam_plus_plus_and_layer_cam_by_their_formulas(pooled):
    torch.manual_seed(2)
    pixels, targets = torch.randn(1, 3, 12, 8), torch.tensor([1])
    features = pooled.model.stage(pixels).detach()
    slope = (pooled.model.classifier.weight.detach()[1] / 24)[None, :, None, None].expand_as(features)
    alpha = slope**2 / (2 * slope**2 + features.sum((2, 3), keepdim=True) * slope**3)  # their eq. 19
    weights = (alpha * slope.relu()).sum((2, 3), keepdim=True)
    maps = class_activation_maps(pooled, pixels, targets, method="gradcam++")
    torch.testing.assert_close(maps, (weights * features).sum(1).relu())
    maps = class_activation_maps(pooled, pixels, targets, method="layercam")
    torch.testing.assert_close(maps, (slope.relu() * features).sum(1).relu())


def test_class_activation_maps__eigen_cam_is_the_first_principal_component(pooled):
    torch.manual_seed(2)
    pixels = torch.randn(1, 3, 12, 8)
    cells = pooled.model.stage(pixels).detach()[0].flatten(1)
    _, vectors = torch.linalg.eigh(cells @ cells.T)
    projected = (vectors[:, -1] @ cells).unflatten(0, (6, 4))
    projected = projected if projected.sum() > 0 else -projected
    maps = class_activation_maps(pooled, pixels, torch.tensor([0]), method="eigencam")
    torch.testing.assert_close(maps[0], projected.relu(), rtol=1e-4, atol=1e-5)


def test_class_activation_maps__of_activations_that_are_not_finite_the_map_is_nan(pooled):
    torch.manual_seed(2)
    pixels = torch.randn(2, 3, 12, 8)
    (expected,) = class_activation_maps(pooled, pixels[1:], torch.tensor([0]), method="eigencam")
    pixels[0, 0, 3, 3] = torch.nan
    broken, whole = class_activation_maps(pooled, pixels, torch.tensor([0, 0]), method="eigencam")
    assert broken.isnan().all()
    assert blank_reason(broken) == "the map is not finite: 24 of 24 values are NaN or infinite"
    torch.testing.assert_close(whole, expected)


def test_class_activation_maps__under_no_grad_and_after_in_place_layers(pooled):
    torch.manual_seed(2)
    pixels, targets = torch.randn(2, 3, 12, 8), torch.tensor([1, 3])
    expected = class_activation_maps(pooled, pixels, targets, method="gradcam", layer="stage")
    pooled.model.stage[1].inplace = True
    with torch.no_grad():
        assert torch.equal(class_activation_maps(pooled, pixels, targets, method="gradcam", layer="stage"), expected)
        # What the convolution put out has meanwhile been overwritten by the activation: values and gradients are of one kind.
        assert torch.equal(class_activation_maps(pooled, pixels, targets, method="gradcam", layer="stage.0"), expected)


def test_class_activation_maps__restores_the_network_after_an_error(pooled):
    pooled.model.train()
    pooled.model.stage.eval()
    before = state_of(pooled.model)
    with pytest.raises(RuntimeError, match="index 9 is out of bounds"):
        class_activation_maps(pooled, torch.randn(1, 3, 12, 8), torch.tensor([9]), method="gradcam")
    assert_unchanged(pooled.model, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"method": "grad-cam"},
            "unknown method 'grad-cam' (did you mean 'gradcam'?); known: gradcam, gradcam++, layercam, eigencam, hirescam",
        ),
        (
            {"method": "gradcam", "layer": "stages"},
            "the network has no layer 'stages' (did you mean 'stage'?); its CAM layers: stage",
        ),
        (
            {"method": "gradcam", "layer": "classifier"},
            "layer 'classifier' puts out no maps: expected maps [n, C, h, w] or [n, h, w, C] or tokens [n, L, C], "
            "found shape [1, 4]; choose another layer",
        ),
        (
            {"method": "gradcam", "layer": "unused"},
            "layer 'unused' does not lead from the image to the logits; choose another layer",
        ),
    ],
)
def test_class_activation_maps__tells_what_is_wrong(pooled, arguments, message):
    assert pooled.cam_layers == ["stage"]
    pooled.model.unused = nn.Identity()
    before = state_of(pooled.model)
    with pytest.raises(UserError) as caught:
        class_activation_maps(pooled, torch.randn(1, 3, 12, 8), torch.tensor([0]), **arguments)
    assert str(caught.value) == message
    assert_unchanged(pooled.model, before)


def test_depths__are_the_ends_of_the_four_quarters(built):
    stages = depths(built("timm:resnet18"))
    assert stages == dict(zip(("first", "second", "third", "last"), (f"timm_model.layer{n}" for n in range(1, 5)), strict=True))
    blocks = depths(built("timm:vit_tiny_patch16_224"))
    assert list(blocks.values()) == [f"timm_model.blocks.{n}.norm1" for n in (2, 5, 8, 11)]


def test_depths__with_fewer_than_four_layers_some_stand_twice(pooled, torchvision_vit):
    assert set(depths(pooled).values()) == {"stage"}
    layers = torchvision_vit.cam_layers
    assert list(depths(torchvision_vit).values()) == [layers[0], layers[1], layers[2], layers[2]]
