"""What the card says to do, done: its Python is executed and its commands are run, on real models that are tiny."""

import contextlib
import io
import re
import shlex

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

from hf_transfer.backbones.timm_models import load_timm
from hf_transfer.backbones.torchvision_models import load_torchvision
from hf_transfer.cli import main
from hf_transfer.deploy.predict import load_model
from hf_transfer.report.model_card import model_card_text, training_card_text, write_model_card

CLASSES = ["a", "b", "c"]


def stock(directory):
    labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels)
    ResNetForImageClassification(config).save_pretrained(directory)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.875).save_pretrained(directory)


def of_timm(directory):
    load_timm("test_efficientnet", class_names=CLASSES, pretrained=False).save(directory)


def wrapper(directory):
    load_torchvision("mobilenet_v3_small", class_names=CLASSES, pretrained=False, replace="classifier", hidden=[]).save(
        directory
    )


@pytest.fixture(params=[stock, of_timm, wrapper], ids=lambda build: build.__name__)
def run_dir(request, make_run, tmp_path, monkeypatch):
    """A run whose model is a real one, with images beside it; the working directory of the test."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    found = make_run(
        classes=CLASSES,
        model_type=None,
        recipe_changes={"data": {"source": str(tmp_path / "images"), "test_fraction": 0.2}},
        environment_changes={"backbone_hub_id": None},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        request.param(found / "model")
    Image.open(tmp_path / "images" / "a" / "0.png").save(found / "image.jpg")
    monkeypatch.chdir(found)
    return found


def python_of(card):
    return re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)


def commands_of(card):
    lines = re.search(r"```bash\n(.*?)\n```", card, re.DOTALL)[1].splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("#")]


def test_usage_section__its_python_and_its_commands_work_and_agree(run_dir):
    write_model_card(run_dir)
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    backbone = load_model("model")
    with Image.open("image.jpg") as image, torch.no_grad():
        expected = backbone.model(pixel_values=backbone.preprocessing(image)[None]).logits[0]
    blocks = python_of(card)
    assert len(blocks) == (3 if "With timm alone" in card else 2)
    for block in blocks:
        names = {}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block, names)
        if "logits" in names:
            torch.testing.assert_close(names["logits"], expected, atol=1e-5, rtol=1e-4)
        else:
            assert names["classifier"].model.config.id2label[int(expected.argmax())] in printed.getvalue()
        assert CLASSES[int(expected.argmax())] in printed.getvalue()
    commands = {words[1]: words for words in commands_of(card)}
    assert list(commands) == ["predict", "evaluate", "explain"]
    for command in ("predict", "explain"):
        assert main(commands[command][1:]) == 0


@pytest.mark.slow  # it draws a whole report
def test_usage_section__evaluation_of_the_run(run_dir):
    commands = commands_of(model_card_text(run_dir))
    assert main(commands[1][1:]) == 0


def test_usage_section__hub_card_names_the_repository_and_its_branch(run_dir):
    card = model_card_text(run_dir, repo_id="me/leaves", revision="a b")
    for block in python_of(card):
        compile(block, "card", "exec")
        assert '"me/leaves", revision="a b"' in block or '"hf-hub:me/leaves@a b"' in block
    assert commands_of(card) == [
        ["hf-transfer", "predict", "me/leaves", "image.jpg", "--revision", "a b"],
        ["hf-transfer", "evaluate", "me/leaves", "--revision", "a b", "--data", "IMAGES"],
        ["hf-transfer", "explain", "me/leaves", "image.jpg", "--revision", "a b"],
    ]
    assert "in the run directory" not in card


def test_usage_section__data_that_others_have_need_not_be_named(make_run):
    for source in ("uoft-cs/cifar10", "package:textile"):
        run = make_run(recipe_changes={"data": {"source": source}}, environment_changes={"data_source": source})
        assert ["hf-transfer", "evaluate", "me/x"] in commands_of(model_card_text(run, repo_id="me/x"))
        for path in sorted(run.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        run.rmdir()


def test_usage_section__a_run_without_a_test_split_is_evaluated_on_the_other(make_run):
    run = make_run(splits=("train", "validation"))
    assert ["hf-transfer", "evaluate", ".", "--split", "validation"] in commands_of(model_card_text(run))


@pytest.mark.parametrize(
    ("model", "library", "timm", "register"),
    [
        ({"backbone": "microsoft/resnet-18"}, "transformers", False, False),
        ({"backbone": "timm:resnet18"}, "transformers", True, False),
        ({"backbone": "timm/resnet18.a1_in1k"}, "transformers", True, False),
        ({"backbone": "torchvision:resnet18"}, "hf_transfer", False, True),
        ({"backbone": "timm:resnet18", "head": {"hidden": [{"size": 8}]}}, "hf_transfer", False, True),
    ],
)
def test_training_card_text__says_how_to_load_what_is_trained(make_run, model, library, timm, register):
    hub_id = model["backbone"] if "/" in model["backbone"] else None
    run = make_run(model_type=None, recipe_changes={"model": model}, environment_changes={"backbone_hub_id": hub_id})
    text = training_card_text(run, repo_id="me/leaves", step=1, steps=2, validation=None)
    assert ModelCard(text).data.library_name == library
    assert ("timm.create_model" in text) is timm
    assert ("hf_transfer.register()" in text) is register
