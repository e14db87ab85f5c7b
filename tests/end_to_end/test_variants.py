"""Other ways through the pipeline, on tiny models and real digits: strategies, heads, evaluation mode, resuming, launching."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
)

import hf_transfer
from hf_transfer.backbones.build import build_backbone
from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.recipe.schema import Model
from hf_transfer.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


def read_metrics(root):
    return json.loads((root / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_linear_probe__trains_the_head_and_nothing_else(recipe, tmp_path, checkpoints, name):
    assert main(["run", recipe(strategy="linear_probe", model={"backbone": str(checkpoints / name)})]) == 0
    before = AutoModelForImageClassification.from_pretrained(checkpoints / name).state_dict()
    after = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model").state_dict()
    for key, tensor in after.items():
        if key.startswith("classifier"):
            assert tensor.shape[0] == 10
        else:
            assert torch.equal(tensor, before[key]), key
    width = {"resnet": 16, "vit": 32}[name]
    assert read_metrics(tmp_path / "run")["cost"]["trainable_parameters"] == {"linear_probe": 10 * (width + 1)}


def test_full__the_same_seed_gives_the_same_weights_and_another_seed_does_not(recipe, tmp_path):
    path = recipe()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main(["run", path, f"output_dir={tmp_path / name}", f"seed={seed}"]) == 0
    weights = {name: (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"]
    assert weights["a"] != weights["c"]
    tests = {name: Predictions.read(tmp_path / name / "predictions" / "test.parquet") for name in "abc"}
    assert tests["a"].sample_ids == tests["c"].sample_ids, "another seed must see the same test images"


def test_hidden_head__is_saved_as_our_model_type(recipe, tmp_path):
    head = {"hidden": [{"size": 24, "activation": "gelu", "dropout": 0.1}]}
    assert main(["run", recipe(model={"head": head})]) == 0
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["model_type"] == "hf_transfer"
    hf_transfer.register()
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model")
    assert [type(layer).__name__ for layer in model.network.classifier[1]] == ["Linear", "GELU", "Dropout", "Linear"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "hf_transfer.register()" in card


def test_speed__is_that_of_the_saved_model(recipe, tmp_path):
    assert main(["run", recipe(strategy="linear_probe", evaluation={"speed": True})]) == 0
    metrics = read_metrics(tmp_path / "run")
    speed = metrics["speed"]
    assert 0 < speed["latency_ms"] <= speed["latency_p95_ms"] and speed["precision"] == "fp32"
    assert speed["parameters"] == metrics["cost"]["parameters"]
    assert "Latency of one image, median" in (tmp_path / "run" / "README.md").read_text()


def test_scratch_network__its_auxiliary_classifiers_learn_too(recipe, tmp_path):
    """Reached in training only, they would stay as they were if they counted as layers that nothing reaches."""
    backbone = "scratch:vit-aux-2x1x64-8x8"
    assert main(["run", recipe(model={"backbone": backbone})]) == 0
    hf_transfer.register()
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model")
    before = build_backbone(Model(backbone=backbone), [str(digit) for digit in range(10)], 0).model.state_dict()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name, _ in model.named_parameters()} <= moved
    assert read_metrics(tmp_path / "run")["cost"]["trainable_parameters"] == {
        "full": sum(p.numel() for p in model.parameters())
    }


def test_torchvision_model__through_the_whole_way(recipe, tmp_path):
    model = {"backbone": "torchvision:mobilenet_v3_small", "pretrained": False, "head": {"replace": "last"}}
    data = {"max_train_samples": 20, "max_validation_samples": 10, "max_test_samples": 10}
    assert main(["run", recipe(model=model, data=data, training={"num_train_epochs": 1})]) == 0
    assert read_metrics(tmp_path / "run")["test"]["n"] == 10


@pytest.mark.parametrize("scheduler", ["reduce_lr_on_plateau", "cosine_with_min_lr", "constant_with_warmup"])
def test_schedulers__are_reachable(recipe, tmp_path, scheduler):
    training = {"lr_scheduler_type": scheduler, "optim": "adam", "weight_decay": 1e-5}
    if scheduler == "cosine_with_min_lr":
        training["lr_scheduler_kwargs"] = {"min_lr_rate": 0.1}
    assert main(["run", recipe(training=training)]) == 0
    resolved = json.loads((tmp_path / "run" / "recipe.json").read_text())["training"]
    if scheduler == "reduce_lr_on_plateau":
        assert resolved["lr_scheduler_kwargs"] == {"mode": "max"}


STRATEGIES = {
    "partial": ({"name": "partial", "frozen_groups": 1}, ["partial"]),
    "gradual": ({"name": "gradual", "stages": 3}, ["head", "2 stages", "3 stages"]),
    "discriminative": ({"name": "discriminative", "layer_decay": 0.9}, ["discriminative"]),
    "complete": ({"name": "complete", "stages": 3, "scheduler": "global"}, ["head", "2 stages", "3 stages"]),
    "norm_only": ({"name": "norm_only"}, ["norm_only"]),
    "custom": (
        {"name": "custom", "phases": [{"name": "a", "train": ["head"], "epochs": 1}, {"name": "b", "train": ["*"]}]},
        "ab",
    ),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies__through_the_whole_way(recipe, tmp_path, name):
    strategy, phases = STRATEGIES[name]
    extras = {"augment": {"preset": "trivial", "mixup": 0.2, "cutmix": 0.2, "erasing": 0.2}, "ema": {"decay": 0.9}}
    loss = {"name": "focal", "class_weights": "balanced"}
    path = recipe(strategy=strategy, loss=loss, training={"num_train_epochs": 3, "label_smoothing_factor": 0.1}, **extras)
    assert main(["run", path]) == 0
    trainable = read_metrics(tmp_path / "run")["cost"]["trainable_parameters"]
    assert list(trainable) == list(phases)
    assert list(trainable.values()) == sorted(trainable.values())
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model")
    assert max(trainable.values()) <= sum(parameter.numel() for parameter in model.parameters())
    card = (tmp_path / "run" / "README.md").read_text()
    assert strategy["name"] in card


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_lora__is_merged_and_the_adapter_is_kept(recipe, tmp_path, checkpoints):
    from peft import PeftModel

    assert (
        main(["run", recipe(strategy={"name": "lora", "lora": {"rank": 2}}, model={"backbone": str(checkpoints / "vit")})]) == 0
    )
    run = tmp_path / "run"
    before = AutoModelForImageClassification.from_pretrained(checkpoints / "vit").state_dict()
    merged = AutoModelForImageClassification.from_pretrained(run / "model").eval()
    moved = {key for key, tensor in merged.state_dict().items() if key in before and not torch.equal(tensor, before[key])}
    assert {key.split(".")[-2] for key in moved if not key.startswith("classifier")} == {"q_proj", "v_proj"}
    base = AutoModelForImageClassification.from_pretrained(checkpoints / "vit", num_labels=10, ignore_mismatched_sizes=True)
    adapted = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(adapted(pixel_values=pixels).logits, merged(pixel_values=pixels).logits, atol=1e-5)
    assert read_metrics(run)["cost"]["trainable_parameters"] == {"lora": 2 * 2 * 2 * (32 + 32) + 10 * 33}


def test_find_lr__suggests_draws_and_leaves_nothing_else(recipe, tmp_path, monkeypatch, capsys):
    path = recipe(strategy={"name": "gradual", "phase_epochs": 2}, augment={"preset": "basic", "mixup": 0.2})
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert main(["find-lr", path, "--steps", "40", "--json"]) == 0
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "recipe.find-lr.png"}
    assert (tmp_path / "recipe.find-lr.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(capsys.readouterr().out)
    assert 1e-7 < found["suggestion"] <= found["minimum"] <= 1.0
    assert found["rates"][0] == 1e-7 and len(found["losses"]) <= 40
    assert found["rates"][1] / found["rates"][0] == pytest.approx(1e7 ** (1 / 39))


@pytest.mark.parametrize(
    ("sections", "arguments", "message"),
    [
        ({"strategy": "knn"}, [], "find-lr: strategy 'knn' on cached features trains nothing"),
        (
            {"strategy": "linear_probe", "training": {"learning_rate": 0.1}},
            [],
            "find-lr: strategy 'linear_probe' on cached features",
        ),
        ({}, ["--low", "1"], "find-lr: expected 0 < low < high and at least 10 steps; found 1, 1 and 100"),
    ],
)
def test_find_lr__what_it_cannot_do(tmp_path, capsys, sections, arguments, message):
    raw = {"data": {"source": "package:digits"}, "model": {"backbone": "timm:test_vit"}, **sections}
    (tmp_path / "r.json").write_text(json.dumps(raw))
    assert main(["find-lr", str(tmp_path / "r.json"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_early_stopping__stops(recipe, tmp_path):
    path = recipe(training={"num_train_epochs": 30, "learning_rate": 1e-9}, early_stopping={"patience": 1})
    assert main(["run", path]) == 0
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) < 12


def test_evaluate__reproduces_the_figures_of_the_run(recipe, tmp_path, capsys):
    path = recipe(data={"max_test_samples": None})
    assert main(["run", path]) == 0
    expected = read_metrics(tmp_path / "run")["test"]
    capsys.readouterr()
    arguments = [
        "evaluate",
        str(tmp_path / "run"),
        "--data",
        "package:digits",
        "--output-dir",
        str(tmp_path / "again"),
        "data.test_fraction=0.2",
        "--json",
    ]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["test"]
    assert found == expected
    assert (tmp_path / "again" / "README.md").is_file()
    assert not (tmp_path / "again" / "model").exists()
    assert main(arguments) == 2, "a finished evaluation is not overwritten"
    assert main([*arguments, "--overwrite"]) == 0


def test_evaluate__label_map_of_ones_own(recipe, tmp_path, capsys):
    assert main(["run", recipe()]) == 0
    names = [str(number) for number in range(10)]
    (tmp_path / "map.json").write_text(json.dumps({name: [name] for name in names if name != "3"}))
    output = tmp_path / "mapped"
    arguments = ["--data", "package:digits", "--label-map", str(tmp_path / "map.json"), "--output-dir", str(output)]
    assert main(["evaluate", str(tmp_path / "run"), *arguments, "data.max_test_samples=100"]) == 0
    metrics = read_metrics(output)["test"]
    assert metrics["unmapped_classes"] == ["3"]
    assert metrics["per_class"]["3"]["recall"] == 0.0
    predictions = Predictions.read(output / "predictions" / "test.parquet")
    assert not (predictions.predicted == 3).any()
    assert "no class of the checkpoint stands for 3: counted as wrong" in capsys.readouterr().out


def test_evaluate__imagenet_head_on_the_wrong_classes_is_refused(tmp_path, capsys):
    status = main(["evaluate", "package:efficientnet_lite0", "--data", "package:textile", "--output-dir", str(tmp_path / "x")])
    assert status == 2
    error = capsys.readouterr().err
    assert "data set (3): global, local, nominal" in error
    assert "checkpoint (1000): tench, Tinca tinca, goldfish" in error
    assert not (tmp_path / "x").exists()


def test_resume__continues_an_unfinished_run_and_ends_like_an_uninterrupted_one(recipe, tmp_path):
    path = recipe(training={"num_train_epochs": 3, "save_total_limit": 5})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["run", path, f"output_dir={whole}"]) == 0
    assert main(["run", path, f"output_dir={cut}"]) == 0
    # As a kill after the second epoch leaves it: no later checkpoint, nothing of the end.
    last = max((cut / "checkpoints").iterdir(), key=lambda p: int(p.name.rpartition("-")[2]))
    for item in (last, cut / "model", cut / "predictions", cut / "plots"):
        for child in sorted(item.rglob("*"), reverse=True):
            child.rmdir() if child.is_dir() else child.unlink()
        item.rmdir()
    (cut / "metrics.json").unlink()
    (cut / "README.md").unlink()
    assert main(["run", path, f"output_dir={cut}"]) == 2, "not without being asked"
    assert main(["run", path, f"output_dir={cut}", "training.learning_rate=0.5", "--resume"]) == 2, "not another recipe"
    environment = cut / "environment.json"
    kept = environment.read_text()
    environment.write_text(json.dumps({**json.loads(kept), "data_fingerprint": "of other images"}))
    assert main(["run", path, f"output_dir={cut}", "--resume"]) == 2, "not on other images"
    environment.write_text(kept)
    assert main(["run", path, f"output_dir={cut}", "--resume"]) == 0
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    assert (cut / "history.csv").read_text() == (whole / "history.csv").read_text()
    found, expected = read_metrics(cut), read_metrics(whole)
    assert {k: v for k, v in found.items() if k != "cost"} == {k: v for k, v in expected.items() if k != "cost"}


def test_run__refuses_a_directory_that_another_run_writes_into(recipe, tmp_path, capsys):
    path = recipe(strategy="linear_probe")
    with RunDirectory(tmp_path / "run").held():
        for options in ([], ["--overwrite"], ["--resume"]):
            assert main(["run", path, *options]) == 2
            assert "another run is writing into" in capsys.readouterr().err
        assert [item.name for item in (tmp_path / "run").iterdir()] == [".lock"]
    assert main(["run", path]) == 0
    assert not (tmp_path / "run" / ".lock").exists()


def test_skip__counts_and_lists_unreadable_images(recipe, tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / name / f"{number:02}.png")
    for broken in ("a/03.png", "b/11.png"):
        (folder / broken).write_bytes((folder / broken).read_bytes()[:800])
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    data = {
        "source": str(folder),
        "on_bad_image": "skip",
        "max_train_samples": None,
        "max_validation_samples": None,
        "max_test_samples": None,
    }
    assert main(["run", recipe(data=data)]) == 0
    metrics = read_metrics(tmp_path / "run")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    listed = {item[0] for items in environment["skipped"].values() for item in items}
    assert listed == {str(folder / "a" / "03.png"), str(folder / "b" / "11.png")}
    assert sum(metrics[split]["n"] for split in ("train", "validation", "test")) == 38
    assert sum(metrics[split]["skipped"] for split in ("train", "validation", "test")) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before


def test_launch__accelerate_and_the_command(recipe, launch, tmp_path):
    path = recipe(training={"num_train_epochs": 1})
    done = launch("-m", "accelerate.commands.launch", "hf_transfer/run.py", path)
    assert done.returncode == 0, done.stderr
    done = launch("-m", "accelerate.commands.launch", "hf_transfer/run.py", path)
    assert done.returncode == 1, "the launcher's own status for a program that ended with 2"
    assert done.stderr.count("holds a finished run") == 1
    done = launch("-m", "hf_transfer.cli", "run", path, "--overwrite", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["test"]["n"] == 40


def test_launch__two_processes_evaluate_every_image_once(recipe, launch, tmp_path):
    path = recipe(training={"num_train_epochs": 1, "per_device_train_batch_size": 8}, data={"max_test_samples": 37})
    config = str(ROOT / "accelerate_configs" / "cpu_2proc.yaml")
    done = launch("-m", "accelerate.commands.launch", "--config_file", config, "hf_transfer/run.py", path)
    assert done.returncode == 0, done.stderr
    metrics = read_metrics(tmp_path / "run")
    assert metrics["test"]["n"] == 37
    assert metrics["cost"]["device"].startswith("2 x ")
    predictions = Predictions.read(tmp_path / "run" / "predictions" / "test.parquet")
    assert len(set(predictions.sample_ids)) == 37
    # One process on the saved model gives the same logits, image by image.
    output = tmp_path / "single"
    arguments = ["--data", "package:digits", "data.test_fraction=0.2", "data.max_test_samples=37", "--output-dir", str(output)]
    assert main(["evaluate", str(tmp_path / "run"), *arguments]) == 0
    single = Predictions.read(output / "predictions" / "test.parquet")
    assert single.sample_ids == predictions.sample_ids
    np.testing.assert_allclose(single.logits, predictions.logits, atol=1e-5)
