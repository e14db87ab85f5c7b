"""Reference study R3: ten torchvision models on a folder of three classes, with confusion matrices and activation maps."""

import csv
import functools
import json
import shutil

import pytest
import torch
from offline import RECIPES, VEHICLES, image_folder, offline
from torch import nn

from hf_transfer.backbones.torchvision_models import load_torchvision
from hf_transfer.cli import main
from hf_transfer.explain.cam import depths
from hf_transfer.recipe import load_recipe
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.studies.study import cells, load_study
from hf_transfer.training.arguments import build_arguments, training_defaults
from hf_transfer.training.freezing import freeze_except, trainable_count, trained_parameters

STUDY, IMPROVED = (RECIPES / "studies" / f"{name}.json" for name in ("vehicles", "vehicles_improved"))
# Inputs of the new head, parameters in all, the layer whose maps are drawn, published test accuracy.
MODELS = {
    "convnext_tiny": (768, 27_822_435, "features.7", 0.9846),
    "densenet161": (2208, 26_478_627, "features.norm5", 0.8605),
    "efficientnet_b0": (1280, 4_011_391, "features.8", 0.5757),
    "googlenet": (1024, 5_602_979, "inception5b", 0.7426),
    "mobilenet_v3_small": (1024, 1_520_931, "features.12", 0.4674),
    "mnasnet0_75": (1280, 1_893_051, "layers.16", 0.7428),
    "swin_t": (768, 27_521_661, "norm", 0.9958),
    "shufflenet_v2_x2_0": (2048, 5_351_143, "conv5", 0.7432),
    "vit_b_16": (768, 85_800_963, "encoder.layers.encoder_layer_11.ln_1", 0.9773),
    "wide_resnet50_2": (2048, 66_840_387, "layer4", 0.2511),
}


def name_of(recipe):
    return recipe.model.backbone.partition(":")[2].partition(".")[0]


CELLS = {name_of(cell.recipe): cell.recipe for cell in cells(load_study(STUDY))}


@functools.cache
def shapes_only(name):
    """Return the network of a cell without memory for its weights."""
    section = CELLS[name].model
    with torch.device("meta"):
        return load_torchvision(name, class_names=VEHICLES, pretrained=False, replace=section.head.replace)


def test_vehicles__is_the_study_s_training(tmp_path):
    assert list(CELLS) == list(MODELS)
    for name, recipe in CELLS.items():
        arguments = build_arguments(training_defaults(recipe.training, recipe.strategy), tmp_path, recipe.seed)
        assert (recipe.training["optim"], arguments.learning_rate, arguments.weight_decay) == ("adam", 0.05, 0.0)
        assert (arguments.num_train_epochs, arguments.warmup_steps, arguments.max_grad_norm) == (20, 0, 0.0)
        assert arguments.lr_scheduler_type == "reduce_lr_on_plateau"
        assert arguments.lr_scheduler_kwargs == {"factor": 0.2, "patience": 10, "mode": "max"}  # accuracy grows
        assert (recipe.strategy.name, recipe.loss.name) == ("full", "cross_entropy")
        assert recipe.model.pretrained is (name != "wide_resnet50_2")
        assert recipe.reference.test_accuracy == MODELS[name][3]


@pytest.mark.parametrize("name", MODELS)
def test_vehicles__the_last_linear_layer_is_new_and_everything_trains(name):
    backbone = shapes_only(name)
    model, (path,) = backbone.model, backbone.heads
    width, parameters, _, _ = MODELS[name]
    head = model.get_submodule(path)
    assert (type(head), head.in_features, head.out_features) == (nn.Linear, width, 3)
    assert [module for module in model.modules() if isinstance(module, nn.Linear)][-1] is head
    (phase,) = build_schedule(CELLS[name].strategy, [group.name for group in backbone.groups]).phases
    freeze_except(model, trained_parameters(model, backbone.groups, phase))
    assert trainable_count(model) == backbone.parameter_count == parameters


@pytest.mark.parametrize("name", MODELS)
def test_vehicles__maps_are_read_behind_the_last_stage(name):
    assert shapes_only(name).cam_layers[-1] == f"network.{MODELS[name][2]}"


def test_vehicles__densenet_has_four_depths():
    assert depths(shapes_only("densenet161")) == {
        "first": "network.features.denseblock1",
        "second": "network.features.denseblock2",
        "third": "network.features.denseblock3",
        "last": "network.features.norm5",
    }


def test_vehicles__googlenet_has_no_auxiliary_classifiers():
    """As torchvision's own builder leaves them out where it loads ImageNet weights: the loss is that of one head."""
    network = shapes_only("googlenet").model.network
    assert (network.aux_logits, network.aux1, network.aux2) == (False, None, None)


def test_vehicles_improved__a_sane_rate_and_equal_terms_for_all():
    found = [cell.recipe for cell in cells(load_study(IMPROVED))]
    assert {(name_of(recipe), recipe.seed) for recipe in found} == {(name, seed) for name in MODELS for seed in range(3)}
    assert {recipe.training["learning_rate"] for recipe in found} == {1e-4}
    assert all(recipe.model.pretrained for recipe in found)
    assert "0.05" in json.loads(IMPROVED.read_text())["description"]


def rows_of(table):
    return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))


def carry_out(path, root, images, *overrides):
    """Run a study in two steps, at a rate at which random weights stay finite; return the directory of each cell's run."""
    settings = [*offline(json.loads(path.read_text()), images, root), "base.training.learning_rate=1e-4", *overrides]
    assert main(["study", str(path), f"output_dir={root}", *settings]) == 0
    return {name_of(load_recipe(run / "recipe.json")): run for run in (root / "cells").iterdir()}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two images of each class in each split, of three sizes."""
    splits = ("train", "validation", "test")
    return image_folder(
        tmp_path_factory.mktemp("images") / "vehicles",
        VEHICLES,
        per_class=2,
        size=[(96, 64), (64, 96), (300, 200)],
        splits=splits,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, images):
    """The study in two steps, each of its runs explained."""
    root = tmp_path_factory.mktemp("study") / "vehicles"
    runs = carry_out(STUDY, root, images)
    assert main(["explain", str(root)]) == 0
    yield root, runs
    shutil.rmtree(root)


@pytest.mark.reference
@pytest.mark.parametrize("name", MODELS)
def test_vehicles__a_cell_trains_all_of_it_and_saves_a_model_of_three_classes(study, name):
    run = study[1][name]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["cost"]["trainable_parameters"] == {"full": MODELS[name][1]}
    assert [metrics[split]["n"] for split in ("train", "validation", "test")] == [6, 6, 6]
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["id2label"] == {str(label): vehicle for label, vehicle in enumerate(VEHICLES)}
    assert any((run / "tensorboard").rglob("events.*"))
    assert {row["split"] for row in rows_of(run / "history.csv")} >= {"train", "validation"}


@pytest.mark.reference
@pytest.mark.parametrize("name", MODELS)
def test_vehicles__a_cell_has_a_strip_of_maps(study, images, name, tmp_path):
    run, layer = study[1][name], f"network.{MODELS[name][2]}"
    assert (run / "plots" / "explanations.png").stat().st_size > 20_000
    drawn = rows_of(run / "plots" / "explanations.csv")
    assert [(row["method"], row["layer"]) for row in drawn] == [("gradcam", layer)] * 6
    # With random weights nothing may speak for the class that was predicted; for one of the three something does.
    photos = [str(next((images / "test" / vehicle).iterdir())) for vehicle in VEHICLES]
    assert main(["explain", str(run), *photos, "--top-k", "3", "--output", str(tmp_path)]) == 0
    rows = rows_of(tmp_path / "explanations.csv")
    assert sorted({(row["file"], row["layer"]) for row in rows if row["peak_x"]}) == sorted((photo, layer) for photo in photos)


@pytest.mark.reference
def test_vehicles__densenet_at_four_depths(study, images, tmp_path):
    photo = next((images / "test" / "truck").iterdir())
    words = ["--layers", "first,second,third,last", "--output", str(tmp_path)]
    assert main(["explain", str(study[1]["densenet161"]), str(photo), *words]) == 0
    rows = rows_of(tmp_path / "explanations.csv")
    assert [row["layer"].rpartition(".")[2] for row in rows] == ["denseblock1", "denseblock2", "denseblock3", "norm5"]


@pytest.mark.reference
def test_vehicles__the_report_has_every_matrix_and_every_strip(study):
    root, runs = study
    page = (root / "report.html").read_text()
    assert "10 galleries" in page
    (table,) = json.loads((root / "leaderboard.json").read_text())["tables"]
    assert {row["backbone"].partition(":")[2]: row["published"] for row in table["rows"].values()} == {
        name: values[3] for name, values in MODELS.items()
    }
    assert page.count('<table class="matrix">') == 10
    for name in VEHICLES:
        assert page.count(f'<th scope="col"><bdi>{name}</bdi></th>') == 10
    for run in runs.values():
        assert (run / "plots" / "confusion_matrix.png").is_file()


@pytest.mark.reference
def test_vehicles_improved__a_cell_of_each_kind_runs(tmp_path, images):
    few = ["torchvision:mobilenet_v3_small", "torchvision:swin_t", "torchvision:wide_resnet50_2.IMAGENET1K_V1"]
    axes = {"model.backbone": few, "seed": [0]}
    runs = carry_out(IMPROVED, tmp_path / "improved", images, f"axes={json.dumps(axes)}")
    assert set(runs) == {"mobilenet_v3_small", "swin_t", "wide_resnet50_2"}
    shutil.rmtree(tmp_path / "improved")
