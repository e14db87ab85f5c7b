"""What a configuration says of its classes, and that it survives being saved and loaded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.backbones.task import check_task, is_multi_label, save_thresholds
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Head, Model

CLASSES = ["cat", "dog", "owl"]
HIDDEN = Head(hidden=[{"size": 8}])


@pytest.fixture(params=["stock", "timm", "torchvision", "hidden", "hidden timm"])
def section(request, vit_checkpoint):
    return {
        "stock": Model(backbone=str(vit_checkpoint)),
        "timm": Model(backbone="timm:test_vit", pretrained=False),
        "torchvision": Model(backbone="torchvision:squeezenet1_1", pretrained=False),
        "hidden": Model(backbone=str(vit_checkpoint), head=HIDDEN),
        "hidden timm": Model(backbone="timm:test_vit", pretrained=False, head=HIDDEN),
    }[request.param]


def test_task__survives_saving_in_every_wrapper(section, tmp_path):
    build_backbone(section, CLASSES, 0, multi_label=True).save(tmp_path)
    save_thresholds(tmp_path, [0.2, 0.5, 0.7])
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert is_multi_label(loaded.config)
    assert loaded.config.thresholds == [0.2, 0.5, 0.7]
    loaded.save_pretrained(tmp_path / "again")
    again = load_as_it_is(Model(backbone=str(tmp_path))).model.config
    assert (again.problem_type, again.thresholds) == ("multi_label_classification", [0.2, 0.5, 0.7])
    other = build_backbone(Model(backbone=str(tmp_path)), ["a", "b"], 0).model.config  # a new head, of one label an image
    assert (is_multi_label(other), hasattr(other, "thresholds")) == (False, False)


def test_task__the_pipeline_of_a_saved_model_gives_sigmoids(section, tmp_path):
    backbone = build_backbone(section, CLASSES, 0, multi_label=True)
    backbone.save(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    scores = {
        found["label"]: found["score"] for found in pipeline("image-classification", model=str(tmp_path), device="cpu")(image)
    }
    inputs = backbone.processor(image, return_tensors="pt")
    with torch.no_grad():
        expected = backbone.model.eval()(**inputs).logits[0].sigmoid()
    assert [scores[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-5)


def test_task__loss_of_our_wrapper_is_the_binary_cross_entropy():
    section = Model(backbone="torchvision:squeezenet1_1", pretrained=False)
    model = build_backbone(section, CLASSES, 0, multi_label=True).model.eval()
    labels = torch.tensor([[1.0, 1.0, 0.0]])
    output = model(torch.randn(1, 3, 64, 64), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    assert output.loss.item() == pytest.approx(expected.item())


def test_check_task__each_kind_of_checkpoint_for_its_task(vit_checkpoint, tmp_path):
    section = Model(backbone=str(vit_checkpoint))
    several = build_backbone(section, CLASSES, 0, multi_label=True).model.config
    one = build_backbone(section, CLASSES, 0).model.config
    check_task(several, "x", multi_label=True)
    check_task(one, "x", multi_label=False)
    with pytest.raises(BackboneError, match=r"x gives several labels an image .* set data.task to 'multi_label'"):
        check_task(several, "x", multi_label=False)
    with pytest.raises(BackboneError, match=r"needs a checkpoint of several labels an image, .*; x has no problem_type"):
        check_task(one, "x", multi_label=True)


def test_save_thresholds__leaves_the_rest_of_the_file(tmp_path):
    (tmp_path / "config.json").write_text('{"a": "\u00e9", "thresholds": [0.1]}', encoding="utf-8")
    save_thresholds(tmp_path, [0.25])
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {"a": "\u00e9", "thresholds": [0.25]}
