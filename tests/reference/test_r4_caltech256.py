"""Reference study R4: eleven timm backbones probed, four fine-tuned in as many ways, on Caltech-256 and on CIFAR-100."""

import csv
import functools
import json
import shutil

import pytest
import timm
import torch
from offline import CALTECH256, CIFAR100, RECIPES, image_folder, offline
from PIL import Image
from torch import nn

from hf_transfer.backbones.build import build_backbone
from hf_transfer.backbones.layer_groups import layer_groups
from hf_transfer.backbones.timm_models import classifier_paths
from hf_transfer.cli import main
from hf_transfer.pipeline import needs_features_only
from hf_transfer.recipe import load_recipe
from hf_transfer.recipe.schema import Model
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.studies.study import cells, load_study
from hf_transfer.training.arguments import build_arguments, training_defaults
from hf_transfer.training.freezing import freeze_except, trainable_count, trained_parameters

VIT = "vit_base_patch16_224.orig_in21k_ft_in1k"
EFFICIENTNET = "tf_efficientnetv2_m.in21k_ft_in1k"
SETS = {"caltech256": CALTECH256, "cifar100": CIFAR100}
PROBES = {"caltech256": "caltech256_linear_probe", "cifar100": "cifar100_linear_probe"}
IMPROVED = {"caltech256": "caltech256_linear_probe_improved", "cifar100": "cifar100_linear_probe_improved"}
FINETUNED = {"caltech256": "caltech256_finetune", "cifar100": "cifar100_finetune"}
# Width of the features, published accuracy on Caltech-256 and on CIFAR-100.
PROBED = {
    "pvt_v2_b3.in1k": (512, 0.7768, 0.5059),
    VIT: (768, 0.1538, 0.1877),
    "deit3_base_patch16_224.fb_in22k_ft_in1k": (768, 0.1393, 0.1669),
    "resnet50.a1_in1k": (2048, 0.8290, 0.5189),
    "resnet18.a1_in1k": (512, 0.7580, 0.4471),
    "resnet152.a1_in1k": (2048, 0.8058, 0.5259),
    "swin_base_patch4_window7_224.ms_in22k_ft_in1k": (1024, 0.7428, 0.2685),
    "mixer_b16_224.goog_in21k_ft_in1k": (768, 0.0673, 0.0896),
    EFFICIENTNET: (1280, 0.9320, 0.6478),
    "convnext_base.fb_in22k_ft_in1k": (1024, 0.8230, 0.5171),
    "regnety_040.pycls_in1k": (1088, 0.8711, 0.6264),
}


def blocks(*numbers):
    return [f"blocks.{number}" for number in numbers]


# The parts of each fine-tuned backbone below its head, from the top down, and how many parameters each has.
STAGES = {
    "resnet50.a1_in1k": [
        (["layer4"], 14_964_736),
        (["layer3"], 7_098_368),
        (["layer1", "layer2"], 1_435_392),
        (["stem"], 9_536),
    ],
    "regnety_040.pycls_in1k": [(["s4"], 6_806_928), (["s3"], 11_301_296), (["s1", "s2"], 1_448_504), (["stem"], 928)],
    "pvt_v2_b3.in1k": [
        (["stages.3"], 10_995_712),
        (["stages.2"], 30_184_000),
        (["stages.0", "stages.1"], 3_536_384),
        (["stem"], 9_600),
    ],
    VIT: [
        (blocks(8, 9, 10, 11), 28_353_024),  # the final norm is in the last block's group
        (blocks(4, 5, 6, 7), 28_351_488),
        (blocks(0, 1, 2, 3), 28_351_488),
        (["stem"], 742_656),
    ],
}
MULTIPLIERS = [1, 0.4, 0.3, 0.2, 0.1]


def name_of(recipe):
    return recipe.model.backbone.partition(":")[2]


@functools.cache
def cells_of(study):
    return [cell.recipe for cell in cells(load_study(RECIPES / "studies" / f"{study}.json"))]


@functools.cache
def shapes_only(name, classes):
    """Return a timm network without memory for its weights, as the stock wrapper holds it, and the paths of its head."""
    with torch.device("meta"):
        network = timm.create_model(name.partition(".")[0], num_classes=classes)
    return nn.ModuleDict({"timm_model": network}), tuple(f"timm_model.{path}" for path in classifier_paths(network))


def trained_in_each_phase(name, classes):
    """Return how many parameters train with the head alone, with one part more, ... as the specification has it."""
    width = PROBED[name][0]
    counts = [classes * (width + 1)]
    for _, count in STAGES[name]:
        counts.append(counts[-1] + count)
    return counts


@pytest.mark.parametrize("data", SETS)
def test_linear_probe__is_the_study_s_training_on_features_that_are_computed_once(data):
    found = cells_of(PROBES[data])
    assert [name_of(recipe) for recipe in found] == list(PROBED)
    for recipe in found:
        assert needs_features_only(recipe)
        assert recipe.training == {
            "num_train_epochs": 5,
            "learning_rate": 1e-3,
            "weight_decay": 1e-5,
            "optim": "adam",
            "per_device_train_batch_size": 256,
            "lr_scheduler_type": "constant",
        }
        assert name_of(recipe) in timm.list_pretrained(name_of(recipe))
        published = PROBED[name_of(recipe)][1 if data == "caltech256" else 2]
        assert (recipe.reference.test_accuracy, recipe.augment.preset) == (published, "none")


@pytest.mark.parametrize("name", PROBED)
def test_linear_probe__the_head_has_the_width_of_the_features(name):
    network, (path,) = shapes_only(name, 256)
    head = network.get_submodule(path)
    assert (type(head), head.in_features, head.out_features) == (nn.Linear, PROBED[name][0], 256)


@pytest.mark.parametrize("data", SETS)
def test_linear_probe_improved__searches_rates_over_three_seeds(data):
    found = cells_of(IMPROVED[data])
    assert {(name_of(recipe), recipe.seed) for recipe in found} == {(name, seed) for name in PROBED for seed in range(3)}
    assert all(needs_features_only(recipe) and "learning_rate" not in recipe.training for recipe in found)


@pytest.mark.parametrize(("data", "patience"), [("caltech256", 8), ("cifar100", 6)])
def test_finetune__is_the_study_s_training(data, patience, tmp_path):
    found = cells_of(FINETUNED[data])
    kinds = {(name_of(recipe), recipe.strategy.name, recipe.augment.preset) for recipe in found}
    ways = [("full", "basic"), ("gradual", "basic"), ("discriminative", "basic")]
    ways += [("complete", preset) for preset in ("basic", "strong", "randaugment")]
    assert len(found) == 24 and kinds == {(name, *way) for name in STAGES for way in ways}
    schedules = {"full": "cosine", "gradual": "constant", "discriminative": "reduce_lr_on_plateau", "complete": "cosine"}
    for recipe in found:
        arguments = build_arguments(training_defaults(recipe.training, recipe.strategy), tmp_path, recipe.seed)
        assert (arguments.learning_rate, arguments.weight_decay, arguments.per_device_train_batch_size) == (1e-4, 1e-5, 64)
        assert arguments.optim.startswith("adamw") and arguments.num_train_epochs <= 50
        kind, mixed = recipe.strategy.name, recipe.augment.preset != "basic"
        assert arguments.lr_scheduler_type == schedules[kind]
        assert arguments.warmup_steps == (0.1 if kind == "complete" else 0)
        assert (recipe.augment.mixup, recipe.augment.cutmix, arguments.label_smoothing_factor) == (
            (0.2, 1.0, 0.1) if mixed else (0.0, 0.0, 0.0)
        )
        if kind == "discriminative":
            assert (recipe.strategy.multipliers, recipe.strategy.patience) == (MULTIPLIERS, patience)
            # torch cuts after one evaluation more than its patience.
            assert arguments.lr_scheduler_kwargs == {
                "mode": "max",
                "factor": 0.1,
                "patience": patience - 1,
                "threshold": 0.001,
                "threshold_mode": "abs",
            }


@pytest.mark.parametrize("strategy", ["gradual", "complete"])
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("data", SETS)
def test_finetune__phases_thaw_the_study_s_groups_from_the_top_down(data, name, strategy):
    recipe = next(r for r in cells_of(FINETUNED[data]) if (name_of(r), r.strategy.name) == (name, strategy))
    classes = len(SETS[data])
    network, heads = shapes_only(name, classes)
    groups = layer_groups(network, heads)
    phases = build_schedule(recipe.strategy, [group.name for group in groups], recipe.training["num_train_epochs"]).phases
    assert [phase.epochs for phase in phases] == [5, 10, 10, 10, 10]
    patience = 8 if data == "caltech256" else 6
    assert {(phase.patience, phase.min_delta) for phase in phases} == {(patience, 0.001)}
    parts = [["head"], *(part for part, _ in STAGES[name])]
    counts = trained_in_each_phase(name, classes)
    for number, phase in enumerate(phases):
        thawed = {part: MULTIPLIERS[place] for place, stage in enumerate(parts[: number + 1]) for part in stage}
        assert {group.removeprefix("timm_model.") for group in phase.groups} == set(thawed)
        if strategy == "complete":
            assert {group.removeprefix("timm_model."): rate for group, rate in phase.rates.items()} == thawed
        freeze_except(network, trained_parameters(network, groups, phase))
        assert trainable_count(network) == counts[number]
    if name == VIT:
        top = next(group for group in groups if group.name.endswith("blocks.11"))
        assert "timm_model.norm.weight" in top.parameters


def written(root, data, classes):
    """Write an image of each of the first classes in each split; those of Caltech-256 are of very different sizes."""
    sizes = [(80, 60), (640, 427), (113, 750), (300, 300), (1200, 90), (225, 224)]
    size = sizes if data == "caltech256" else (32, 32)
    return image_folder(root / data, SETS[data][:classes], per_class=1, size=size, splits=("train", "validation", "test"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """For each data set a folder with eight of its classes: with all of them a large network would be at it for minutes."""
    root = tmp_path_factory.mktemp("images")
    return {data: written(root, data, 8) for data in SETS}


def carry_out(study, root, images, *overrides):
    """Carry a study out on a few images; return each run with its recipe, and the leaderboard's rows."""
    path = RECIPES / "studies" / f"{study}.json"
    settings = offline(json.loads(path.read_text()), images, root)
    assert main(["study", str(path), f"output_dir={root}", *settings, *overrides]) == 0
    (table,) = json.loads((root / "leaderboard.json").read_text())["tables"]
    runs = [(run, load_recipe(run / "recipe.json")) for run in sorted((root / "cells").iterdir())]
    return runs, list(table["rows"].values())


def check_probe(run, recipe, classes, name=None):
    """Check that a run has one head, trained as the study says, and a model of these classes."""
    width = PROBED[name or name_of(recipe)][0]
    cost = json.loads((run / "metrics.json").read_text())["cost"]
    assert cost["trainable_parameters"] == {"linear_probe": len(classes) * (width + 1)}
    (head,) = json.loads((run / "probe.json").read_text())["candidates"]
    assert (head["method"], head["normalization"], head["learning_rate"], head["epochs"]) == ("adam", "none", 1e-3, 5)
    history = csv.DictReader((run / "history.csv").read_text(encoding="utf-8").splitlines())
    assert [float(row["learning_rate/head"]) for row in history if row["split"] == "train"] == [1e-3] * 5
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["label_names"] == classes


@pytest.mark.reference
@pytest.mark.parametrize("data", SETS)
def test_linear_probe__with_all_classes(data, tmp_path):
    images = written(tmp_path, data, len(SETS[data]))
    axes = {"model.backbone": ["timm:resnet18.a1_in1k"]}
    ((run, recipe),), _ = carry_out(PROBES[data], tmp_path / "study", images, f"axes={json.dumps(axes)}")
    check_probe(run, recipe, SETS[data])


@pytest.mark.reference
@pytest.mark.parametrize("data", SETS)
def test_linear_probe__every_backbone_gets_a_head_on_its_features(data, images, tmp_path):
    names = [name for name in PROBED if name != EFFICIENTNET]
    axes = {"model.backbone": [f"timm:{name}" for name in names]}
    runs, rows = carry_out(PROBES[data], tmp_path / "study", images[data], f"axes={json.dumps(axes)}")
    assert len(runs) == len(rows) == len(names)
    for run, recipe in runs:
        check_probe(run, recipe, SETS[data][:8])
    published = {row["backbone"].partition(":")[2]: row["published"] for row in rows}
    assert published == {name: PROBED[name][1 if data == "caltech256" else 2] for name in names}
    assert "normalisation for 0-1 pixels" in (tmp_path / "study" / "leaderboard.md").read_text()
    shutil.rmtree(tmp_path / "study")


@pytest.mark.reference
@pytest.mark.parametrize("data", SETS)
def test_linear_probe__efficientnet_v2_m_on_weights_that_agree_with_themselves(data, images, tmp_path):
    """With random weights alone its features are in the 100,000s and half of that is rounding: a run says so and stops."""
    backbone = build_backbone(Model(backbone=f"timm:{EFFICIENTNET}", pretrained=False), SETS[data][:8], 0)
    for module in backbone.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # a single pass gives each norm the statistics of its own input
    photos = [Image.open(path).convert("RGB") for path in sorted((images[data] / "train").glob("*/*"))]
    with torch.no_grad():
        backbone.model.train()(pixel_values=torch.stack([backbone.preprocessing(photo) for photo in photos]))
    backbone.save(tmp_path / EFFICIENTNET)
    axes = {"model.backbone": [str(tmp_path / EFFICIENTNET)]}
    settings = [f"axes={json.dumps(axes)}", "base.model.pretrained=true"]
    ((run, recipe),), _ = carry_out(PROBES[data], tmp_path / "study", images[data], *settings)
    check_probe(run, recipe, SETS[data][:8], EFFICIENTNET)
    shutil.rmtree(tmp_path / "study")


@pytest.mark.reference
@pytest.mark.parametrize("data", SETS)
def test_linear_probe_improved__a_grid_of_twelve_heads(data, images, tmp_path):
    axes = {"model.backbone": ["timm:resnet18.a1_in1k", "timm:mixer_b16_224.goog_in21k_ft_in1k"], "seed": [0]}
    runs, _ = carry_out(IMPROVED[data], tmp_path / "study", images[data], f"axes={json.dumps(axes)}")
    for run, _ in runs:
        assert len(json.loads((run / "probe.json").read_text())["candidates"]) == 12
    shutil.rmtree(tmp_path / "study")


@pytest.mark.reference
@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("data", SETS)
def test_finetune__every_cell_of_a_backbone_trains_phase_by_phase(data, name, tmp_path):
    """Two classes; a step for each of the five phases of gradual and complete, two steps of the others."""
    raw = json.loads((RECIPES / "studies" / f"{FINETUNED[data]}.json").read_text())
    once = {"head_epochs": 1, "phase_epochs": 1, "patience": None}
    axes = raw["axes"] | {"model.backbone": [f"timm:{name}"]}
    axes["strategy"] = [one | once if "phase_epochs" in one else one for one in axes["strategy"]]
    overrides = [
        *raw["overrides"],
        {"when": {"strategy": ["full", "discriminative"]}, "set": {"training.max_steps": 2}},
        {"when": {"strategy": ["gradual", "complete"]}, "set": {"training.num_train_epochs": 5}},
    ]
    settings = [
        f"axes={json.dumps(axes)}",
        f"overrides={json.dumps(overrides)}",
        "base.training.max_steps=-1",
        "base.training.save_only_model=true",
    ]
    runs, rows = carry_out(FINETUNED[data], tmp_path / "study", written(tmp_path, data, 2), *settings)
    assert len(runs) == len(rows) == 6
    counts = trained_in_each_phase(name, 2)
    phases = dict(zip(["head", "2 stages", "3 stages", "4 stages", "5 stages"], counts, strict=True))
    for run, recipe in runs:
        trained = json.loads((run / "metrics.json").read_text())["cost"]["trainable_parameters"]
        kind = recipe.strategy.name
        assert trained == ({kind: counts[-1]} if kind in ("full", "discriminative") else phases)
    shutil.rmtree(tmp_path / "study")
