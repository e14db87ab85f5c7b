"""A map that is right makes the probability fall and rise faster than a random one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_transfer.explain.faithfulness import Curves, insertion_deletion

_spec = importlib.util.spec_from_file_location("corner_model", Path(__file__).with_name("corner_model.py"))
corner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(corner)


def right_map():
    found = torch.zeros(1, 4, 4)
    found[0, 0, 0] = 1.0
    return found


def test_insertion_deletion__a_right_map_beats_a_random_one():
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(6), torch.zeros(6, dtype=torch.long)
    curves = insertion_deletion(backbone, pixels, targets, right_map().expand(6, 4, 4), seeds=range(6), steps=16)
    means = {name: np.mean([curve.auc()[name] for curve in curves]) for name in curves[0].auc()}
    assert means["deletion_auc"] < means["random_deletion_auc"] - 0.1
    assert means["deletion_auc"] < 0.58  # the corner is a sixteenth of the image, half is what is left without it


def test_insertion_deletion__a_wrong_map_is_worse_than_a_random_one():
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(6), torch.zeros(6, dtype=torch.long)
    curves = insertion_deletion(backbone, pixels, targets, -right_map().expand(6, 4, 4), seeds=range(6), steps=16)
    means = {name: np.mean([curve.auc()[name] for curve in curves]) for name in curves[0].auc()}
    assert means["deletion_auc"] > means["random_deletion_auc"] + 0.1
    assert means["insertion_auc"] < means["random_insertion_auc"]


def test_insertion_deletion__curves_begin_and_end_where_they_must():
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(1), torch.tensor([0])
    curve = insertion_deletion(backbone, pixels, targets, right_map(), seeds=[0], steps=5, batch_size=2)[0]
    with torch.no_grad():
        whole = backbone.model(pixels).logits.double().softmax(-1)[0, 0].item()
    assert curve.fractions.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert curve.deletion[[0, -1]].tolist() == pytest.approx([whole, 0.5])  # from the image to the mean colour everywhere
    assert curve.insertion[-1] == pytest.approx(whole)
    assert curve.random_deletion[[0, -1]].tolist() == pytest.approx([whole, 0.5])
    assert curve.insertion[0] == curve.random_insertion[0]


def test_insertion_deletion__an_image_alone_has_the_curves_it_has_in_a_batch():
    backbone, pixels, targets = corner.corner_backbone(), corner.noisy_pixels(3), torch.tensor([0, 1, 0])
    maps = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    together = insertion_deletion(backbone, pixels, targets, maps, seeds=[4, 5, 6], steps=4)
    alone = insertion_deletion(backbone, pixels[1:2], targets[1:2], maps[1:2], seeds=[5], steps=4)
    assert alone[0].auc() == pytest.approx(together[1].auc())


def test_auc__trapezoids():
    line = np.array([1.0, 0.5, 0.0])
    found = Curves(np.array([0, 0.5, 1]), line, 1 - line, np.ones(3), np.array([0.0, 1.0, 0.0])).auc()
    assert found == {"deletion_auc": 0.5, "insertion_auc": 0.5, "random_deletion_auc": 1.0, "random_insertion_auc": 0.5}
