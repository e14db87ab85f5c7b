"""The drop of the target's probability stands where the network looks, and is the drop."""

import importlib.util
from pathlib import Path

import pytest
import torch

from hf_transfer.explain.occlusion import covering_colour, occlusion_maps, target_probabilities

_spec = importlib.util.spec_from_file_location("corner_model", Path(__file__).with_name("corner_model.py"))
corner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(corner)


def test_occlusion_maps__peaks_where_the_network_looks():
    backbone, pixels = corner.corner_backbone(), corner.noisy_pixels(3)
    maps = occlusion_maps(backbone, pixels, torch.zeros(3, dtype=torch.long), window=8, stride=8)
    assert maps.shape == (3, 4, 4)
    assert maps.dtype == torch.float32
    assert (maps[:, 0, 0] > 0.4).all()
    assert (maps.flatten(1)[:, 1:] == 0).all()  # nothing else changes anything


@pytest.mark.parametrize(("target", "sign"), [(0, 1.0), (1, -1.0)])
def test_occlusion_maps__is_the_drop_of_the_targets_probability(target, sign):
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(1), torch.tensor([target])
    found = occlusion_maps(backbone, pixels, targets, window=8, stride=4)
    covered = pixels.clone()
    covered[:, :, 2:10, 2:10] = 0.0  # the square of 8 on the centre of cell (1, 1), at (6, 6)
    with torch.no_grad():
        before, after = (target_probabilities(backbone, images, targets) for images in (pixels, covered))
    assert found.shape == (1, 8, 8)
    torch.testing.assert_close(found[0, 1, 1], (before - after)[0].float())
    assert torch.sign(found[0, 1, 1]) == sign  # covering the bright corner raises the probability of dark


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_occlusion_maps__batches_change_nothing(batch_size):
    backbone, pixels = corner.corner_backbone(), corner.noisy_pixels(2)
    targets = torch.tensor([0, 1])
    expected = occlusion_maps(backbone, pixels, targets, window=5, stride=3)
    torch.testing.assert_close(occlusion_maps(backbone, pixels, targets, window=5, stride=3, batch_size=batch_size), expected)
    assert expected.shape == (2, 11, 11)


def test_occlusion_maps__leaves_no_gradients_and_the_image_alone():
    backbone, pixels = corner.corner_backbone(), corner.noisy_pixels(1)
    before = pixels.clone()
    maps = occlusion_maps(backbone, pixels, torch.tensor([0]))
    assert not maps.requires_grad
    assert backbone.model.weight.grad is None
    torch.testing.assert_close(pixels, before, rtol=0, atol=0)


def test_occlusion_maps__rounding_is_no_drop():
    backbone = corner.corner_backbone()
    backbone.model.weight.data.fill_(1e-8)
    maps = occlusion_maps(backbone, corner.noisy_pixels(1), torch.tensor([0]))
    assert (maps == 0).all()


def test_covering_colour__mean_and_black():
    backbone = corner.corner_backbone()
    torch.testing.assert_close(covering_colour(backbone, "mean"), torch.zeros(3))
    torch.testing.assert_close(covering_colour(backbone, "black"), torch.full((3,), -1.0))
