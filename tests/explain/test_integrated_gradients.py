"""Integrated gradients of a network whose gradients are known."""

import importlib.util
from pathlib import Path

import pytest
import torch

from hf_transfer import errors
from hf_transfer.errors import UserError
from hf_transfer.explain.integrated_gradients import completeness_delta, integrated_gradients

_spec = importlib.util.spec_from_file_location("corner_model", Path(__file__).with_name("corner_model.py"))
corner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(corner)


def test_integrated_gradients__is_exact_where_the_network_is_linear():
    backbone, pixels = corner.corner_backbone(), corner.noisy_pixels(2)
    maps = integrated_gradients(backbone, pixels, torch.tensor([0, 1]), steps=4)
    assert maps.shape == (2, 32, 32)
    expected = 4.0 / (3 * 8 * 8) * pixels[0, :, :8, :8].sum(dim=0)  # d logit / d pixel, times pixel
    torch.testing.assert_close(maps[0, :8, :8], expected)
    torch.testing.assert_close(maps[1, :8, :8], -expected)  # it speaks against dark
    assert (maps[:, 8:] == 0).all()
    assert (maps[:, :, 8:] == 0).all()


def test_integrated_gradients__leaves_no_gradients():
    backbone, pixels = corner.corner_backbone(), corner.noisy_pixels(1)
    maps = integrated_gradients(backbone, pixels, torch.tensor([0]), steps=4)
    assert not maps.requires_grad
    assert not pixels.requires_grad
    assert backbone.model.weight.grad is None


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_integrated_gradients__batches_change_nothing(batch_size):
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(1), torch.tensor([0])
    expected = integrated_gradients(backbone, pixels, targets, steps=8)
    torch.testing.assert_close(integrated_gradients(backbone, pixels, targets, steps=8, batch_size=batch_size), expected)


@pytest.mark.parametrize("fill", ["mean", "black"])
def test_completeness_delta__zero_for_an_exact_integral(fill):
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(2), torch.tensor([0, 1])
    maps = integrated_gradients(backbone, pixels, targets, steps=4, fill=fill)
    torch.testing.assert_close(
        completeness_delta(backbone, pixels, targets, maps, fill=fill), torch.zeros(2), atol=1e-5, rtol=0
    )


def test_completeness_delta__what_is_missing():
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(1), torch.tensor([0])
    maps = torch.zeros(1, 32, 32)
    gained = 4.0 * 0.8  # the logit of bright, from a corner of 0 to one of 0.8
    torch.testing.assert_close(completeness_delta(backbone, pixels, targets, maps), torch.tensor([-gained]))


def test_integrated_gradients__captum_is_not_installed(monkeypatch):
    monkeypatch.setattr(errors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        integrated_gradients(corner.corner_backbone(), corner.noisy_pixels(1), torch.tensor([0]))
    assert str(caught.value) == "integrated gradients needs captum: pip install 'hf-transfer-learning[explain]'"
