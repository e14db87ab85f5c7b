"""Reference study R2: frozen VGG16, MobileNetV2 and MobileNetV3-Large with the study's own heads, trained by one command."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from offline import CIFAR10, RECIPES, image_folder, offline
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.torchvision_models import load_torchvision
from hf_transfer.backbones.transformers_models import load_checkpoint
from hf_transfer.cli import main
from hf_transfer.recipe import load_recipe
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.studies.study import cells, load_study
from hf_transfer.training.arguments import build_arguments, training_defaults
from hf_transfer.training.freezing import freeze_except, trainable_count, trained_parameters

STUDY, IMPROVED = (RECIPES / "studies" / f"{name}.json" for name in ("cifar10_frozen_heads", "cifar10_frozen_heads_improved"))
NAMES = ["vgg16", "mobilenet_v2", "mobilenet_v3_large"]
CELLS = {cell.recipe.model.backbone.partition(":")[2].partition(".")[0]: cell.recipe for cell in cells(load_study(STUDY))}

MOBILE_HEAD = ["Linear 1280-512", "ReLU", "Dropout 0.5", "Linear 512-10"]
HEADS = {
    "vgg16": ["Linear 25088-512", "ReLU", "Dropout 0.5", "Linear 512-64", "ReLU", "Dropout 0.5", "Linear 64-10"],
    "mobilenet_v2": MOBILE_HEAD,
    "mobilenet_v3_large": MOBILE_HEAD,
}
TRAINED = {"vgg16": 12_879_050, "mobilenet_v2": 661_002, "mobilenet_v3_large": 661_002}
PUBLISHED = {"vgg16": 0.676, "mobilenet_v2": 0.7871, "mobilenet_v3_large": 0.8437}


def layers(module):
    """Return the layers of a head in words."""
    words = []
    for layer in module:
        name = type(layer).__name__
        if isinstance(layer, nn.Linear):
            name += f" {layer.in_features}-{layer.out_features}"
        words.append(f"{name} {layer.p}" if isinstance(layer, nn.Dropout) else name)
    return words


def shapes_only(recipe):
    """Return a cell's network without memory for its weights."""
    head = recipe.model.head
    with torch.device("meta"):
        return load_torchvision(
            recipe.model.backbone.partition(":")[2],
            class_names=CIFAR10,
            pretrained=False,
            replace=head.replace,
            hidden=[layer.model_dump() for layer in head.hidden],
        )


def test_cifar10_frozen_heads__is_the_study_s_training(tmp_path):
    assert list(CELLS) == NAMES
    for name, recipe in CELLS.items():
        arguments = build_arguments(training_defaults(recipe.training, recipe.strategy), tmp_path, recipe.seed)
        assert (recipe.training["optim"], arguments.learning_rate, arguments.weight_decay) == ("adam", 1e-3, 0.0)
        assert (arguments.per_device_train_batch_size, arguments.num_train_epochs) == (128, 10)
        assert (arguments.lr_scheduler_type, arguments.warmup_steps, arguments.max_grad_norm) == ("constant", 0, 0.0)
        assert (recipe.data.source, recipe.data.validation_fraction) == ("uoft-cs/cifar10", 0.2)
        assert (recipe.strategy.name, recipe.augment.preset) == ("linear_probe", "none")
        assert (recipe.reference.test_accuracy, recipe.reference.source) == (PUBLISHED[name], "reference study R2")


@pytest.mark.parametrize("name", NAMES)
def test_cifar10_frozen_heads__the_exact_head_trains_and_nothing_else(name):
    recipe = CELLS[name]
    backbone = shapes_only(recipe)
    model, (path,) = backbone.model, backbone.heads
    assert layers(model.get_submodule(path)) == HEADS[name]
    groups = backbone.groups
    (phase,) = build_schedule(recipe.strategy, [group.name for group in groups]).phases
    freeze_except(model, trained_parameters(model, groups, phase))
    assert trainable_count(model) == TRAINED[name]
    model.train()
    training = {key for key, module in model.named_modules() if module.training and not any(module.children())}
    assert training == {f"{path}.{number}" for number in range(len(HEADS[name]))}


def test_cifar10_frozen_heads__mobilenet_v3_keeps_the_layer_before_its_last():
    network = shapes_only(CELLS["mobilenet_v3_large"]).model.network
    assert layers(network.classifier)[:3] == ["Linear 960-1280", "Hardswish", "Dropout 0.2"]


def test_cifar10_frozen_heads__the_whole_image_at_224_with_imagenet_s_statistics():
    section = CELLS["mobilenet_v2"].model.model_copy(update={"pretrained": False})
    backbone = build_backbone(section, CIFAR10, 0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = backbone.preprocessing(image).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1.01 / 255 / 0.224)  # a grey level


def test_cifar10_frozen_heads_improved__convolutions_train_after_a_linear_head():
    found = [cell.recipe for cell in cells(load_study(IMPROVED))]
    assert len(found) == 4 * 2 * 3
    assert {recipe.model.backbone for recipe in found} > {recipe.model.backbone for recipe in CELLS.values()}
    for recipe in found:
        assert (recipe.model.head.replace, recipe.model.head.hidden, recipe.model.crop_pct) == ("last", [], None)
        if recipe.strategy.name == "two_phase":
            rate = 1e-4 if "vgg16" in recipe.model.backbone else 1e-3
            assert (recipe.training["learning_rate"], recipe.training["num_train_epochs"]) == (rate, 10)
        else:
            assert (recipe.strategy.name, recipe.training) == ("linear_probe", {})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two training and two test images of each class."""
    return image_folder(tmp_path_factory.mktemp("images") / "cifar10", CIFAR10, per_class=2)


def carry_out(path, root, images, checkpoints, *overrides):
    """Run a study in two steps; return the directory of each cell's run with its recipe, and the leaderboard's rows."""
    settings = [*offline(json.loads(path.read_text()), images, checkpoints), "base.data.max_test_samples=10", *overrides]
    assert main(["study", str(path), f"output_dir={root}", *settings]) == 0
    (table,) = json.loads((root / "leaderboard.json").read_text())["tables"]
    runs = [(run, load_recipe(run / "recipe.json")) for run in sorted((root / "cells").iterdir())]
    return runs, list(table["rows"].values())


@pytest.fixture(scope="module")
def study(tmp_path_factory, images, checkpoints):
    """The study in two steps: its runs by the network's name, and the leaderboard's rows."""
    root = tmp_path_factory.mktemp("study") / "cifar10_frozen_heads"
    runs, rows = carry_out(STUDY, root, images, checkpoints)
    yield {recipe.model.backbone.partition(":")[2].partition(".")[0]: (run, recipe) for run, recipe in runs}, rows
    shutil.rmtree(root)


@pytest.mark.reference
@pytest.mark.parametrize("name", NAMES)
def test_cifar10_frozen_heads__a_cell_leaves_what_is_frozen_as_it_was(study, name):
    run, recipe = study[0][name]
    before = build_backbone(recipe.model, CIFAR10, recipe.seed)
    (head,) = before.heads
    after = load_file(run / "model" / "model.safetensors")
    changed = {key for key, tensor in before.model.state_dict().items() if not torch.equal(tensor, after[key])}
    assert changed == {f"{head}.{key}" for key in before.model.get_submodule(head).state_dict()}

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["cost"]["trainable_parameters"] == {"linear_probe": TRAINED[name]}
    assert [metrics[split]["n"] for split in ("train", "validation", "test")] == [10, 10, 10]
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["id2label"] == {str(label): name for label, name in enumerate(CIFAR10)}


@pytest.mark.reference
def test_cifar10_frozen_heads__one_command_reports_curves_and_times_of_all(study):
    runs, rows = study
    assert {row["backbone"].partition(":")[2].partition(".")[0] for row in rows} == set(NAMES)
    assert all(row["costs"]["train_seconds"] > 0 for row in rows)
    assert sorted(row["costs"]["trainable_parameters"] for row in rows) == sorted(TRAINED.values())
    for run, _ in runs.values():
        assert (run / "plots" / "curves.png").is_file()
        assert {row["split"] for row in csv.DictReader((run / "history.csv").read_text().splitlines())} >= {
            "train",
            "validation",
        }


@pytest.fixture
def lively(study, tmp_path):
    """The MobileNetV2 of the study with batch-norm statistics of noise: with random weights and none, features vanish."""
    backbone = load_checkpoint(str(study[0]["mobilenet_v2"][0]), None, class_names=None)
    model = backbone.model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, of which there is one
            module.reset_running_stats()
    with torch.no_grad():
        model(pixel_values=torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    backbone.save(tmp_path / "lively")
    return tmp_path / "lively"


@pytest.mark.reference
def test_cifar10_frozen_heads__one_image_is_classified_and_occluded(lively, images, tmp_path, capsys):
    image = next((images / "test" / "cat").iterdir())
    capsys.readouterr()
    assert main(["predict", str(lively), str(image), "--json", "--top-k", "10"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["predictions"]
    assert sorted(entry["class"] for entry in told["top"]) == CIFAR10

    maps = tmp_path / "maps"
    assert main(["explain", str(lively), str(image), "--method", "occlusion", "--target", "cat", "--output", str(maps)]) == 0
    (row,) = csv.DictReader((maps / "explanations.csv").read_text().splitlines())
    assert (row["method"], row["target"], row["predicted"]) == ("occlusion", "cat", told["class"])
    assert row["blank"] == ""
    assert (maps / row["picture"]).is_file()


@pytest.mark.reference
def test_cifar10_frozen_heads_improved__each_cell_trains_what_its_strategy_says(tmp_path, images, checkpoints):
    short = {"training.max_steps": 2, "training.per_device_train_batch_size": 2}
    overrides = [*json.loads(IMPROVED.read_text())["overrides"], {"when": {"strategy": "two_phase"}, "set": short}]
    root = tmp_path / "improved"
    settings = ["axes.seed=[0]", f"overrides={json.dumps(overrides)}"]
    runs, rows = carry_out(IMPROVED, root, images, checkpoints, *settings)
    assert len(rows) == len(runs) == 8
    for run, recipe in runs:
        cost = json.loads((run / "metrics.json").read_text())["cost"]
        head = 10 * ((4096 if "vgg16" in recipe.model.backbone else 1280) + 1)
        phases = {"linear_probe": {"linear_probe": head}, "two_phase": {"head": head, "full": cost["parameters"]}}
        assert cost["trainable_parameters"] == phases[recipe.strategy.name]
    shutil.rmtree(root)
