"""Features of whole splits, and heads put back: what a head gives on features, the saved model gives on images."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hf_transfer
from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.transformers_models import load_checkpoint
from hf_transfer.data import dataset
from hf_transfer.data.dataset import ImageDataset
from hf_transfer.data.images import decode_rgb
from hf_transfer.errors import BackboneError
from hf_transfer.features import extraction
from hf_transfer.features.extraction import Extractor, FeatureModel
from hf_transfer.features.frozen import (
    AugmentedViews,
    Request,
    check_saved,
    extract_splits,
    fill_store,
    head_logits,
    set_head,
)
from hf_transfer.features.space import weights_digest
from hf_transfer.features.store import FeatureStore
from hf_transfer.recipe.schema import Head, HiddenLayer, Model

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "backbones" / "tiny_models.py")
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)
checkpoint_of, distilled_checkpoint = _tiny.checkpoint_of, _tiny.distilled_checkpoint

hf_transfer.register()
CPU = torch.device("cpu")
CLASSES = ["cat", "dog", "owl"]
OTHERS = [
    "timm:test_vit",
    "timm:test_resnet",
    "timm:test_efficientnet",
    "torchvision:mnasnet0_5",
    "torchvision:squeezenet1_1",
    "torchvision:convnext_tiny",
]


def check_round_trip(backbone, pixels, tmp_path):
    """A random head, put into the model and saved, gives on images what it gives on features."""
    model = FeatureModel(backbone)
    with torch.no_grad():
        features = model(pixels)
    model.close()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, features.shape[1], generator=generator) / features.shape[1] ** 0.5
    bias = torch.randn(3, generator=generator)
    set_head(backbone, weight, bias)
    expected = features.float() @ weight.T + bias
    backbone.save(tmp_path / "model")
    saved = load_checkpoint(str(tmp_path / "model"), None, class_names=None)
    torch.testing.assert_close(head_logits(saved, features), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        found = saved.model.eval()(pixel_values=pixels).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [*(family.name for family in _tiny.FAMILIES)])
def test_set_head__transformers_families(name, checkpoint_of, tmp_path):
    row = {family.name: family for family in _tiny.FAMILIES}[name]
    backbone = build_backbone(Model(backbone=str(checkpoint_of(row))), CLASSES, 0)
    pixels = torch.randn(2, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(1))
    check_round_trip(backbone, pixels, tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_set_head__other_libraries(name, tmp_path):
    backbone = build_backbone(Model(backbone=name, pretrained=False), CLASSES, 0)
    check_round_trip(backbone, torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1)), tmp_path)


def test_set_head__several_heads_are_averaged(distilled_checkpoint, tmp_path):
    backbone = build_backbone(Model(backbone=str(distilled_checkpoint)), CLASSES, 0)
    assert len(backbone.heads) == 2
    pixels = torch.randn(2, 3, *backbone.preprocessing.size, generator=torch.Generator().manual_seed(1))
    check_round_trip(backbone, pixels, tmp_path)


@pytest.mark.parametrize("name", [*(family.name for family in _tiny.FAMILIES)])
def test_extractor__leaves_a_network_that_can_be_trained(name, checkpoint_of):
    """Strategy two_phase trains the network that its features came from; BEiT keeps the positions it has computed."""
    row = {family.name: family for family in _tiny.FAMILIES}[name]
    backbone = build_backbone(Model(backbone=str(checkpoint_of(row))), CLASSES, 0)
    pixels = torch.rand(2, 3, *row.size, generator=torch.Generator().manual_seed(0))
    with Extractor(backbone, CPU, None, False, 0).ready() as compute:
        assert not compute(pixels).requires_grad
    backbone.model.train()(pixel_values=pixels).logits.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in backbone.model.parameters())


def test_extract_splits__precision_by_split_and_once(lite0, textile, tmp_path):
    def run(*views):
        asked = Request(lite0, textile.tables, ["train", "validation"], ["test"], CPU, torch.bfloat16, views=views)
        return extract_splits(asked, FeatureStore(tmp_path / "store"))

    first = run()
    assert {name: (found.dtype, len(found)) for name, found in first.fast.items()} == {
        "train": (torch.bfloat16, 70),
        "validation": (torch.bfloat16, 20),
    }
    assert {name: (found.dtype, len(found)) for name, found in first.exact.items()} == {"test": (torch.float32, 20)}
    assert (first.computed, first.total, first.compiled, first.views) == (110, 110, False, [])
    again = run(AugmentedViews("basic", 2, 3))
    assert (again.computed, again.total) == (140, 250)  # two views of 70 images
    assert torch.equal(again.fast["train"], first.fast["train"])
    assert [len(view) for view in again.views] == [70, 70]
    assert not torch.equal(*again.views)
    assert run(AugmentedViews("basic", 2, 3)).computed == 0
    assert run(AugmentedViews("basic", 2, 4)).computed == 140  # views belong to a seed


def test_extract_splits__tells_what_it_would_take_alone(lite0, textile, tmp_path):
    asked = Request(lite0, textile.tables, ["train", "validation", "test"], [], CPU)
    first = extract_splits(asked, FeatureStore(tmp_path / "store"))
    again = extract_splits(asked, FeatureStore(tmp_path / "store"))
    assert again.computed == 0
    assert again.seconds < first.alone_seconds < first.seconds
    assert again.alone_seconds == first.alone_seconds
    few = replace(asked, tables={"train": textile.tables["train"].select(np.arange(7))}, fast=["train"])
    whole = replace(asked, tables={"train": textile.tables["train"]}, fast=["train"])
    part = extract_splits(few, FeatureStore(tmp_path / "store")).alone_seconds
    assert part == pytest.approx(extract_splits(whole, FeatureStore(tmp_path / "store")).alone_seconds / 10)


def test_extract_splits__finds_what_was_compiled(lite0, textile, tmp_path, monkeypatch):
    """Where compiled features are there already, `auto` takes them instead of computing others."""
    tables = {"validation": textile.tables["validation"]}
    store = FeatureStore(tmp_path / "store")
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)  # compiling itself takes a minute; `-m slow` does it
    always, auto, never = (
        extract_splits(Request(lite0, tables, ["validation"], [], CPU, compile_mode=mode), store)
        for mode in ("always", "auto", "never")
    )
    assert [(found.compiled, found.computed) for found in (always, auto, never)] == [(True, 20), (True, 0), (False, 20)]
    assert always.spaces == auto.spaces != never.spaces


@pytest.mark.slow
def test_extract_splits__compiled_features_agree(lite0, textile, tmp_path):
    tables = {"validation": textile.tables["validation"]}
    requests = [Request(lite0, tables, ["validation"], [], CPU, compile_mode=mode) for mode in ("always", "never")]
    found = [extract_splits(request, FeatureStore(tmp_path)).fast["validation"] for request in requests]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)
    fill_store(requests, FeatureStore(tmp_path / "together"))
    together = [extract_splits(request, FeatureStore(tmp_path / "together")) for request in requests]
    assert [features.computed for features in together] == [0, 0]
    for alone, shared in zip(found, together, strict=True):
        torch.testing.assert_close(shared.fast["validation"], alone, rtol=1e-5, atol=1e-6)


def test_extract_splits__wants_a_linear_head(textile, tmp_path):
    hidden = Head(hidden=[HiddenLayer(size=8)])
    backbone = build_backbone(Model(backbone="timm:test_resnet", pretrained=False, head=hidden), CLASSES, 0)
    with pytest.raises(BackboneError) as caught:
        extract_splits(Request(backbone, textile.tables, ["train"], [], CPU), FeatureStore(tmp_path))
    assert str(caught.value) == (
        "features.cache: expected a head with one linear layer at its end, found Sequential with 2 at "
        f"{backbone.heads[0]}; set features.cache to false"
    )


def bytes_in(store):
    """Every feature of a store by space and identifier, bit for bit."""
    found = {}
    for shard in store.root.glob("*/shard-*"):
        content = load_file(shard)
        for row, features in zip(content["ids"], content["features"], strict=True):
            assert (shard.parent.name, bytes(row.tolist())) not in found
            found[shard.parent.name, bytes(row.tolist())] = features.view(torch.uint8)
    return found


def test_fill_store__the_features_of_each_network_alone_each_image_decoded_once(lite0, textile, tmp_path, monkeypatch):
    tables = textile.tables | {"train": textile.tables["train"].select(np.arange(40))}
    networks = [lite0, *(build_backbone(Model(backbone=name, pretrained=False), CLASSES, 0) for name in OTHERS[:2])]
    views = [AugmentedViews("basic", 2, 3)]
    requests = [Request(network, tables, ["train", "validation"], ["test"], CPU, torch.bfloat16) for network in networks]
    requests[1] = replace(requests[1], fast=["train", "validation", "test"])  # in both precisions
    requests[2] = replace(requests[2], views=views)
    alone, together = FeatureStore(tmp_path / "alone"), FeatureStore(tmp_path / "together")
    for request in requests:
        fill_store([request], alone)
    decoded = []
    monkeypatch.setattr(dataset, "decode_rgb", lambda content: decoded.append(len(content)) or decode_rgb(content))
    computed = fill_store(requests, together)
    assert computed == 3 * 80 + 20 + 2 * 40
    batches = -(-40 // 32) * 32 + 2 * 32  # each split's last batch is filled up
    assert len(decoded) == batches
    expected, found = bytes_in(alone), bytes_in(together)
    assert expected.keys() == found.keys()
    assert len(found) == computed
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert fill_store(requests, together) == 0
    assert len(decoded) == batches


def test_fill_store__goes_on_after_an_interruption_and_shows_images_only_to_who_lacks_them(
    lite0, textile, tmp_path, monkeypatch
):
    monkeypatch.setattr(extraction, "SHARD_ROWS", 32)
    other = build_backbone(Model(backbone="timm:test_resnet", pretrained=False), CLASSES, 0)
    tables = {"train": textile.tables["train"]}
    requests = [Request(network, tables, ["train"], [], CPU) for network in (lite0, other)]
    whole, store = FeatureStore(tmp_path / "whole"), FeatureStore(tmp_path / "store")
    for request in requests:
        fill_store([request], whole)
    few = {"train": tables["train"].select(np.arange(10, 20))}
    fill_store([replace(requests[1], tables=few)], store)
    decoded = []

    def interrupted(content):
        decoded.append(len(content))
        if len(decoded) == 80:
            raise KeyboardInterrupt
        return decode_rgb(content)

    monkeypatch.setattr(dataset, "decode_rgb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill_store(requests, store)
    left = fill_store(requests, store)
    assert left == 2 * (60 - 32)  # ten images for one network, then 32 for both, had been written
    expected, found = bytes_in(whole), bytes_in(store)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_check_saved__finds_other_weights_and_other_heads(lite0, textile, tmp_path):
    table = textile.tables["test"]
    pixels = torch.stack([ImageDataset(table, lite0.preprocessing)[i]["pixel_values"] for i in range(len(table))])
    with torch.no_grad():
        logits = lite0.model.eval()(pixel_values=pixels).logits
    weights = weights_digest(lite0.model, lite0.heads)
    check_saved(lite0, weights, table, logits, exact=True)
    with pytest.raises(RuntimeError, match="logits differ"):
        check_saved(lite0, weights, table, logits + 0.1, exact=True)
    with pytest.raises(RuntimeError, match="frozen weights"):
        check_saved(lite0, "0" * 32, table, logits, exact=True)
    assert np.isfinite(logits.numpy()).all()
