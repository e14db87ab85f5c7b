"""Reference study R5: small networks from random weights on CIFAR-100, one recipe for each variant and a study of all."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from offline import CIFAR100, RECIPES, offline
from torch import nn

from hf_transfer.backbones.build import build_backbone, load_as_it_is
from hf_transfer.backbones.scratch.attention import SelfAttention
from hf_transfer.backbones.scratch.mixstyle import MixStyle
from hf_transfer.backbones.scratch.normalizer import InputNormalizer
from hf_transfer.backbones.scratch.temperatures import temperatures
from hf_transfer.cli import main
from hf_transfer.data.augmentation import build_train_transform
from hf_transfer.recipe import load_recipe
from hf_transfer.recipe.schema import Model
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.studies.study import cells, load_study
from hf_transfer.training.arguments import build_arguments, training_defaults
from hf_transfer.training.freezing import FreezingCallback, trained_parameters
from hf_transfer.training.rates import RateSchedule

FOLDER = RECIPES / "cifar100_scratch"
STUDY = RECIPES / "studies" / "cifar100_scratch.json"
STEM = 3 * 64 * 7 * 7 + 2 * 64
RESNET18 = 11_689_512 - 900 * 513  # the table's counts are with 1,000 classes
VIT, VITN, RELATIVE = (count - 900 * 1025 for count in (10_814_952, 10_805_736, 11_598_312))
# name: the backbone, parameters with 100 classes (those of the study's table where it has them), published accuracy
VARIANTS = {
    "resnet18": ("resnet18", RESNET18, 0.354),
    "resnet34": ("resnet34", 21_797_672 - 900 * 513, 0.334),
    "resnet18-gn": ("resnet18-gn", RESNET18, 0.370),
    "resnet18-wonorm": ("resnet18-wonorm", RESNET18, None),
    "resnet18-pcnorm": ("resnet18-pcnorm", RESNET18, None),
    "resnet18-ms1": ("resnet18-ms1", RESNET18, None),
    "resnet18-ms2": ("resnet18-ms2", RESNET18, 0.385),
    "resnet18-ms3": ("resnet18-ms3", RESNET18, None),
    "resnet18-aug": ("resnet18", RESNET18, 0.408),
    "resnet18-clr1e-4": ("resnet18", RESNET18, None),
    "resnet18-finetune-level": ("resnet18", RESNET18, None),
    "vit-12x256-8x8": ("vit-12x256-8x8", VIT, 0.345),
    "vitn-12x256-8x8": ("vitn-12x256-8x8", VITN, 0.367),
    "vitn-12x256-8x8-ra": ("vitn-12x256-8x8-ra", RELATIVE, 0.388),
    "vitn-12x256-8x8-dm": ("vitn-12x256-8x8-dm", VITN, 0.371),
    "vitn-12x256-8x8-lt": ("vitn-12x256-8x8-lt", VITN + 12, 0.365),
    "vitn-12x256-8x8-ltv": ("vitn-12x256-8x8-ltv", VITN + 12, None),
    "vitn-12x256-8x8-dm-lt": ("vitn-12x256-8x8-dm-lt", VITN + 12, None),
    "vit-aux-3x4x256-8x8": ("vit-aux-3x4x256-8x8", 13_391_288 - 3 * 900 * 1025, 0.358),
    "vitn-24x256-8x8": ("vitn-24x256-8x8", VITN + 12 * 788_992, None),
    "vitn-12x768-8x8": ("vitn-12x768-8x8", 87_845_476, None),
    "toy-dilated": ("toy-dilated", 61_896 - 900 * 33, 0.189),
}
QUICK = ["resnet18-gn", "vitn-12x256-8x8-lt", "toy-dilated"]
IMPROVED = "resnet18-improved"


def recipe_of(name, *overrides):
    return load_recipe(FOLDER / f"{name}.json", overrides)


def network_of(name, seed=0):
    return build_backbone(recipe_of(name).model, CIFAR100, seed)


def rates(training, steps, folder):
    """Return the learning rate of each step, as the Trainer sets it."""
    arguments = build_arguments(training_defaults(training | {"use_cpu": True, "report_to": []}), folder, 0)
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": "head"}], lr=arguments.learning_rate)
    kind, options = arguments.lr_scheduler_type.value, arguments.lr_scheduler_kwargs
    schedule = RateSchedule(
        optimizer, kind, options, arguments.get_warmup_steps, steps=arguments.max_steps, steps_per_epoch=352
    )
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


# --- the recipes as they are written ---


def test_recipes__one_for_each_variant():
    assert {path.stem for path in FOLDER.glob("*.json")} == {*VARIANTS, IMPROVED}


@pytest.mark.parametrize("name", VARIANTS)
def test_recipe__the_settings_of_the_original(name):
    recipe, (backbone, _, published) = recipe_of(name), VARIANTS[name]
    assert recipe.model.backbone == f"scratch:{backbone}"
    assert recipe.output_dir == f"runs/cifar100_scratch/{name}"
    assert (recipe.data.source, recipe.data.label_column, recipe.data.validation_fraction) == (
        "uoft-cs/cifar100",
        "fine_label",
        0.1,
    )
    constant = name == "resnet18-clr1e-4"
    assert recipe.augment.preset == ("crop_pad_flip_rotate" if name == "resnet18-aug" else "none")
    assert {key: recipe.training[key] for key in ("optim", "max_steps", "max_grad_norm", "eval_strategy", "eval_steps")} == {
        "optim": "adam",
        "max_steps": 5000,
        "max_grad_norm": 100,
        "eval_strategy": "steps",
        "eval_steps": 100,
    }
    assert recipe.training["per_device_train_batch_size"] == 128
    assert recipe.training["learning_rate"] == (1e-4 if constant else 2e-4)
    assert recipe.evaluation.monitor == ["train_200", "test"]
    assert (recipe.reference.test_accuracy if recipe.reference else None) == published


def test_recipe__the_learning_rate_is_the_original_s_at_every_step(tmp_path):
    steps = np.arange(5000)
    expected = np.interp(steps, [0, 500, 5000], [1e-6, 2e-4, 1e-6])
    np.testing.assert_allclose(rates(recipe_of("resnet18").training, 5000, tmp_path), expected, rtol=1e-9)
    assert set(rates(recipe_of("resnet18-clr1e-4").training, 300, tmp_path)) == {1e-4}


def test_recipe__the_augmentation_keeps_what_evaluation_sees_at_32_pixels():
    from PIL import Image

    recipe = recipe_of("resnet18-aug")
    preprocessing = build_backbone(recipe.model, CIFAR100, 0).preprocessing
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    torch.testing.assert_close(preprocessing(image), pixels)  # native size, 0 to 1: the network normalises
    torch.manual_seed(0)
    transform = build_train_transform(recipe.augment.preset, preprocessing)
    shapes = {transform(image).shape for _ in range(3)}
    assert shapes == {(3, 32, 32)}


def test_recipe__improved_sees_larger_images_for_longer():
    recipe = recipe_of(IMPROVED)
    assert recipe.model.backbone == "scratch:resnet18@64"
    assert (recipe.training["num_train_epochs"], recipe.augment.preset, recipe.augment.cutmix) == (
        100,
        "crop_pad_flip_rotate",
        1.0,
    )


@pytest.mark.parametrize("name", QUICK)
def test_recipe__parameters_and_layer_groups(name):
    check_network(name, network_of(name))


@pytest.mark.parametrize("level", range(6))
def test_finetune_level__trains_what_lies_above(level):
    recipe = recipe_of("resnet18-finetune-level", f"strategy.frozen_groups={level}")
    backbone = build_backbone(recipe.model, CIFAR100, 0)
    parts = [STEM, *(sum(p.numel() for p in layer.parameters()) for layer in stages(backbone)), 512 * 100 + 100]
    assert sum(parts) == RESNET18
    schedule = build_schedule(recipe.strategy, [group.name for group in backbone.groups])
    trained = trained_parameters(
        backbone.model, backbone.groups, schedule.phases[0], frozen_batch_norm=schedule.frozen_batch_norm
    )
    sizes = {parameter: values.numel() for parameter, values in backbone.model.named_parameters()}
    assert sum(sizes[parameter] for parameter in trained) == sum(parts[level:])
    FreezingCallback(backbone.groups, schedule).apply(backbone.model, schedule.phases[0])
    backbone.model.train()
    modes = [backbone.model.network.resnet.bn1.training, *(layer[0].bn1.training for layer in stages(backbone))]
    assert modes == [number >= level for number in range(5)]
    assert backbone.model.network.normalizer.training is (level == 0)


def stages(backbone):
    resnet = backbone.model.network.resnet
    return [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]


def test_study__has_every_variant_with_its_published_figure():
    found = [cell.recipe for cell in cells(load_study(STUDY))]
    assert len(found) == 3 * (19 + 2 + 5)
    by_settings = {}
    for recipe in found:
        by_settings.setdefault(settings(recipe), []).append(recipe)
    assert all(sorted(recipe.seed for recipe in recipes) == [0, 1, 2] for recipes in by_settings.values())
    for name, (_, _, published) in VARIANTS.items():
        recipes = by_settings[settings(recipe_of(name))]
        assert {recipe.reference.test_accuracy for recipe in recipes} == {published}, name
    levels = {recipe.strategy.frozen_groups for recipe in found if recipe.strategy.name == "partial"}
    assert levels == {1, 2, 3, 4, 5}


def settings(recipe):
    """Return what a recipe trains, whatever it is called and whichever its seed."""
    told = {
        key: value for key, value in recipe.model_dump(mode="json").items() if key in ("data", "model", "strategy", "augment")
    }
    training = {key: value for key, value in recipe.training.items() if value is not None}
    return json.dumps(told | {"training": training, "monitor": recipe.evaluation.monitor}, sort_keys=True)


# --- carried out offline, in two steps ---


@pytest.fixture(scope="session")
def carry_out(tmp_path_factory, cifar100, checkpoints):
    """Run a variant once and return its directory; all are gone in the end, and their checkpoints at once."""
    folder = tmp_path_factory.mktemp("r5")

    def start(name):
        path, root = FOLDER / f"{name}.json", folder / name
        if not root.exists():
            overrides = offline(json.loads(path.read_text()), cifar100, checkpoints)
            assert main(["run", str(path), f"output_dir={root}", *overrides]) == 0
            shutil.rmtree(root / "checkpoints")
        return root

    yield start
    shutil.rmtree(folder)


def test_variant__runs(carry_out):
    check_run("toy-dilated", carry_out("toy-dilated"))


@pytest.mark.reference
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "toy-dilated"])
def test_variant__runs_too(name, carry_out):
    check_run(name, carry_out(name))


@pytest.mark.reference
def test_variant__improved_runs(carry_out):
    root = carry_out(IMPROVED)
    backbone = load(root)
    assert backbone.preprocessing.size == (64, 64)
    assert backbone.parameter_count == RESNET18
    assert {row["split"] for row in history(root)} >= {"validation", "train_200", "test"}


@pytest.mark.reference
def test_finetune_level__what_is_frozen_is_saved_as_it_was_drawn(carry_out):
    before = network_of("resnet18-finetune-level").model.state_dict()
    after = load(carry_out("resnet18-finetune-level")).model.state_dict()
    stem = ("network.resnet.conv1.", "network.resnet.bn1.", "network.normalizer.")
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert not [name for name in moved if name.startswith(stem)]
    assert {"network.resnet.layer1.0.bn1.running_mean", "network.resnet.layer1.0.conv1.weight", "network.head.weight"} <= {
        *moved
    }


@pytest.mark.reference
def test_group_norm__the_run_is_quantized(carry_out, tmp_path, capsys):
    root = carry_out("resnet18-gn")
    capsys.readouterr()
    assert main(["quantize", str(root), "--output", str(tmp_path / "int8"), "--seconds", "0.1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mode"] == "static"
    assert report["size_mb"]["int8"] < 0.3 * report["size_mb"]["float"]
    assert report["same_class"]["images"] == 200


@pytest.mark.reference
def test_temperatures__of_a_model_that_is_evaluated_as_it_is(carry_out, tmp_path, cifar100, capsys):
    root, output = carry_out("vitn-12x256-8x8-lt"), tmp_path / "evaluated"
    assert main(["evaluate", str(root), "--data", str(cifar100), "--output-dir", str(output)]) == 0
    assert "learned temperatures of the attention: mean 1.0000" in capsys.readouterr().out
    learned = [json.loads((folder / "metrics.json").read_text())["attention_temperatures"] for folder in (root, output)]
    assert learned[0] == learned[1]


@pytest.mark.reference
def test_study__learned_temperatures_curves_and_summary(tmp_path, cifar100, checkpoints, capsys):
    root = tmp_path / "study"
    chosen = ["toy-dilated-[01]-*", "vitn-12x256-8x8-lt-[01]-*", "resnet18-partial-5-0-*"]
    overrides = [f"output_dir={root}", *offline(json.loads(STUDY.read_text()), cifar100, checkpoints)]
    only = [part for pattern in chosen for part in ("--only", pattern)]
    assert main(["study", str(STUDY), *overrides, *only]) == 0
    runs = sorted(path.parent for path in root.glob("cells/*/README.md"))
    assert [path.name.rpartition("-")[0] for path in runs] == [
        "resnet18-partial-5-0",
        "toy-dilated-0",
        "toy-dilated-1",
        "vitn-12x256-8x8-lt-0",
        "vitn-12x256-8x8-lt-1",
    ]
    learned = [json.loads((path / "metrics.json").read_text()).get("attention_temperatures") for path in runs]
    assert [found is None for found in learned] == [True, True, True, False, False]
    page = (root / "report.html").read_text(encoding="utf-8")
    mean, deviation = (np.mean([found[key] for found in learned[3:]]) for key in ("mean", "deviation"))
    assert "Temperature (deviation)" in page and f"{mean:.3f} ({deviation:.3f})" in page

    capsys.readouterr()
    assert main(["report", str(root), "--overlay", "*dilated*", "--json"]) == 0
    drawn = [Path(path).name for path in json.loads(capsys.readouterr().out)["plots"]]
    assert {"overlay.png", "overlay.svg", "curves.png"} <= set(drawn)
    picture = (root / "plots" / "overlay.svg").read_text()
    assert "train_200" in picture and "toy-dilated" in picture and "vitn" not in picture

    assert main(["report", str(root), "--summary", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"train", "validation", "train_200", "test"}
    for split in ("validation", "train_200", "test"):
        assert {root / line["run"] for line in told[split]} == set(runs)
        for line in told[split]:
            rows = history(root / line["run"])
            scored = {(row["split"], int(row["step"])): float(row["accuracy"]) for row in rows if row["accuracy"]}
            chosen = max((1, 2), key=lambda step, scored=scored: (scored["validation", step], -step))
            assert (line["step"], line["accuracy"]) == (chosen, scored[split, chosen])
            assert line["best_accuracy_not_selectable"] == max(scored[split, 1], scored[split, 2])
    assert main(["report", str(root), "--summary"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| Run | Step chosen on validation |") == 3
    assert "## test\n" in printed and "## train" in printed


def load(root):
    return load_as_it_is(Model(backbone=str(root)))


def history(root):
    with (root / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_run(name, root):
    """Check a finished run of two steps: the model that was saved, what trained, what was monitored, what is reported."""
    metrics = json.loads((root / "metrics.json").read_text())
    _, parameters, published = VARIANTS[name]
    assert metrics["cost"]["parameters"] == parameters
    (trained,) = metrics["cost"]["trainable_parameters"].values()
    assert trained == parameters - (STEM if name == "resnet18-finetune-level" else 0)
    backbone = load(root)
    assert [backbone.model.config.id2label[label] for label in range(100)] == CIFAR100
    check_network(name, backbone)

    rows = history(root)
    assert [row["split"] for row in rows if row["step"] == "2" and row["accuracy"]] == ["validation", "train_200", "test"]
    first = 1e-4 if name == "resnet18-clr1e-4" else 1e-6
    assert float(rows[0]["learning_rate/head"]) == pytest.approx(first)
    assert metrics["monitored"] == {"train_200": 2, "test": 2}
    assert [metrics[split]["n"] for split in ("train", "validation", "test")] == [400, 100, 200]

    card, page = ((root / file).read_text(encoding="utf-8") for file in ("README.md", "report.html"))
    assert ("Published test accuracy" in page) is (published is not None)
    learns = name.endswith(("-lt", "-ltv"))
    assert ("attention_temperatures" in metrics) is learns
    assert ("Learned temperatures" in page) is ("## Learned temperatures" in card) is learns
    assert (root / "plots" / "temperatures.png").exists() is learns
    if learns:
        values = temperatures(backbone.model)
        assert metrics["attention_temperatures"]["values"] == values
        assert len(values) == 12 and math.fsum(values) / 12 == pytest.approx(metrics["attention_temperatures"]["mean"])


def check_network(name, backbone):
    """Check that a network is what the table says of its variant, with a head for 100 classes."""
    network, groups = backbone.model.network, [group.name for group in backbone.groups]
    assert backbone.parameter_count == VARIANTS[name][1]
    assert backbone.preprocessing.size == (32, 32)
    heads = [backbone.model.get_submodule(path) for path in backbone.heads]
    last = [[module for module in head.modules() if isinstance(module, nn.Linear)][-1] for head in heads]
    assert [layer.out_features for layer in last] == [100] * (3 if "-aux-" in name else 1)
    kinds = [InputNormalizer] if not name.endswith("-wonorm") else []
    assert [type(module) for module in network.modules() if isinstance(module, InputNormalizer)] == kinds
    if kinds:
        assert network.normalizer.running_mean.numel() == (3 if name.endswith("-pcnorm") else 1)
    if name.startswith("resnet"):
        assert groups == ["stem", *(f"network.resnet.layer{number}" for number in range(1, 5)), "head"]
        norm = nn.GroupNorm if name.endswith("-gn") else nn.BatchNorm2d
        norms = [module for module in network.modules() if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d))]
        assert {type(module) for module in norms} == {norm}
        assert {module.num_groups for module in norms if norm is nn.GroupNorm} <= {16}
        levels = int(name[-1]) if name[:-1].endswith("-ms") else 0
        mixing = [isinstance(layer[-1], MixStyle) for layer in stages(backbone)]
        assert mixing == [number <= levels for number in range(1, 5)]
        assert all((module.p, module.alpha) == (0.5, 0.1) for module in network.modules() if isinstance(module, MixStyle))
    elif name.startswith("vit"):
        depth = 24 if "24x" in name else 12
        assert groups == ["stem", *(f"network.blocks.{number}" for number in range(depth)), "head"]
        attention = [module for module in network.modules() if isinstance(module, SelfAttention)]
        assert len(attention) == depth
        endings = name.rpartition("8x8")[2].split("-")
        assert {module.masked_diagonal for module in attention} == {"dm" in endings}
        assert {module.position is not None for module in attention} == {"ra" in endings}
        assert len(temperatures(network)) == (depth if {"lt", "ltv"} & set(endings) else 0)
        assert {hasattr(module, "plain_temperature") for module in attention} == {"ltv" in endings}
        assert {module.heads for module in attention} == {12 if "x768" in name else 4}
    else:
        assert groups == [*(f"network.features.{number}" for number in range(4)), "head"]
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert [module.dilation for module in convolutions] == [(1, 1), (2, 2), (4, 4), (8, 8)]


# --- what the user may ask for and cannot have ---

NO_DEVIATION = "1 x 1, which have a mean but no deviation"
BAD = {
    "resnet18-ms4": f"MixStyle after stage 4 is refused: at 32 x 32 pixels its maps are {NO_DEVIATION}",
    "resnet18-ms3@16": f"MixStyle after stage 3 needs maps larger than {NO_DEVIATION}; images of 16 x 16 pixels give 1 x 1",
    "vitn-12x256-64x64": "images of 32 x 32 pixels are smaller than a patch of 64 x 64",
    "resnet19": "unknown network scratch:resnet19 (did you mean 'resnet18'?); known: resnet18, resnet18-gn,",
    "resnet18-lt": "resnet18 has no variant '-lt', it takes -gn, -wonorm, -pcnorm, -ms1, -ms2, -ms3; known: resnet18,",
}


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("backbone", BAD)
def test_bad_backbone__one_message_and_nothing_written(backbone, command, tmp_path, cifar100, capsys):
    path, root = FOLDER / "resnet18.json", tmp_path / "run"
    settings = [f"model.backbone=scratch:{backbone}", f"output_dir={root}", f"data.source={cifar100}", "data.label_column=null"]
    arguments = [part for setting in settings for part in ("--set", setting)] if command == "check" else settings
    assert main([command, str(path), *arguments]) == 2
    told = capsys.readouterr().err
    assert told.count("error:") == 1
    assert BAD[backbone] in told
    assert not root.exists()


def test_bad_backbone__of_a_study_all_of_them_at_once(tmp_path, capsys):
    raw = json.loads(STUDY.read_text())
    raw["axes"]["model.backbone"] = ["scratch:resnet18", *(f"scratch:{backbone}" for backbone in BAD)]
    study = tmp_path / "study.json"
    study.write_text(json.dumps(raw))
    assert main(["check", str(study)]) == 2
    told = capsys.readouterr().err
    assert told.count("error:") == 1
    assert all(problem in told for problem in BAD.values())
