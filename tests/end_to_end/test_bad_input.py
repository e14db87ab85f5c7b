"""The user's mistakes: one clear message, exit status 2, no traceback, nothing written."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny ResNet with ten classes and its processor."""
    path = tmp_path_factory.mktemp("checkpoint")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10)
    ResNetForImageClassification(config).save_pretrained(path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of six images."""
    root = tmp_path / "images"
    for name, level in (("dark", 20), ("light", 220)):
        (root / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (16, 16), (level + number,) * 3).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a recipe that must be refused; return the message."""

    def run(raw, *arguments):
        recipe = tmp_path / "recipe.json"
        recipe.write_text(json.dumps(raw))
        output = tmp_path / "run"
        status = main(["run", str(recipe), f"output_dir={output}", *arguments])
        captured = capsys.readouterr()
        assert status == 2
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert captured.err.startswith("error: ")
        assert not output.exists(), "nothing may be written"
        return captured.err.removeprefix("error: ").strip()

    return run


def recipe(checkpoint, source, **sections):
    raw = {"data": {"source": str(source), "test_fraction": 0.2}, "model": {"backbone": checkpoint}}
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
    return raw


def test_misspelt_keys_batch_size_and_learning_rate__all_at_once(refused, checkpoint, folder, tmp_path):
    raw = recipe(
        checkpoint,
        folder,
        data={"validaton_fraction": 0.2},
        training={"per_device_train_batch_size": 0, "learning_rate": -0.1, "learnin_rate": 1.0},
    )
    assert refused(raw) == (
        f"Found 4 problems in {tmp_path / 'recipe.json'}:\n"
        "  - training.per_device_train_batch_size: expected at least 1, found 0\n"
        "  - training.learning_rate: expected more than 0, found -0.1\n"
        "  - training.learnin_rate: is not a field of transformers.TrainingArguments (did you mean 'learning_rate'?)\n"
        "  - data.validaton_fraction: is not a key of the recipe (did you mean 'validation_fraction'?)"
    )


def test_unknown_backbones(refused, folder):
    messages = {
        "timm:resnet18x": "model.backbone: timm has no model 'resnet18x' (did you mean 'resnet18'?)",
        "torchvision:resnet51": (
            "model.backbone: torchvision has no classification model 'resnet51' (did you mean 'resnet50'?)"
        ),
        "package:efficientnet_lite9": (
            "model.backbone: no packaged weights are called 'efficientnet_lite9' (did you mean 'efficientnet_lite2'?); "
            "known: package:efficientnet_lite0, package:efficientnet_lite1, package:efficientnet_lite2"
        ),
        "tim:resnet50": (
            "model.backbone: 'tim:' is not a known prefix; expected a Hub id, a local directory, timm:NAME, "
            "torchvision:NAME, package:NAME or scratch:NAME"
        ),
        "./nowhere": "model.backbone: expected a directory with a config.json, found no such directory: ./nowhere",
    }
    for backbone, message in messages.items():
        assert refused(recipe(backbone, folder)) == message


def test_directory_that_is_no_checkpoint(refused, folder):
    message = refused(recipe(str(folder), folder))
    assert message == f"model.backbone: expected a config.json in {folder} (or in its model/), found none"


def test_unknown_sources(refused, checkpoint):
    assert refused(recipe(checkpoint, "package:textiles")) == (
        "data.source: no packaged data set is called 'textiles' (did you mean 'textile'?); "
        "known: package:textile, package:digits"
    )
    assert refused(recipe(checkpoint, "./nowhere")) == "data.source: no such folder: ./nowhere"


def test_hub_ids_offline__say_what_was_tried_and_how_to_work_offline(refused, checkpoint, folder):
    message = refused(recipe("google/vit-base-patch16-224-in21k", folder))
    assert message.startswith("model.backbone: google/vit-base-patch16-224-in21k is neither a local directory nor in the cache")
    assert "hf download google/vit-base-patch16-224-in21k" in message
    assert "package:efficientnet_lite0" in message
    message = refused(recipe(checkpoint, "uoft-cs/cifar10"))
    assert "uoft-cs/cifar10" in message
    assert "To work offline:" in message


def test_empty_class_folder(refused, checkpoint, folder):
    (folder / "gray").mkdir()
    assert refused(recipe(checkpoint, folder)) == (
        f"data.source: expected at least one image in every class folder; found none in {folder / 'gray'}. "
        "Add images, or remove the folder if the class is not wanted."
    )


def test_one_class_only(refused, checkpoint, folder):
    for path in (folder / "light").iterdir():
        path.unlink()
    (folder / "light").rmdir()
    assert refused(recipe(checkpoint, folder)) == "data: expected at least two classes, found 1: dark"


def test_split_that_cannot_be_stratified(refused, checkpoint, folder):
    for number in range(4):
        (folder / "light" / f"{number}.png").unlink()
    assert refused(recipe(checkpoint, folder)) == (
        "data: a stratified split into train + test + validation needs at least 3 images of every class; too few of 'light' "
        "(2). Add images, remove the class, or give split folders of your own."
    )


def test_no_test_split(refused, checkpoint, folder):
    raw = recipe(checkpoint, folder, data={"test_fraction": None})
    assert refused(raw) == (
        "evaluation.splits: asked for test, and the source brings no such split. Set data.test_fraction (0.2, say) to hold out "
        "test images, or leave the split out of evaluation.splits."
    )


def test_unreadable_image__named_by_path(refused, checkpoint, folder):
    (folder / "dark" / "0.png").write_bytes(b"no image")
    (folder / "light" / "1.png").write_bytes(b"")
    message = refused(recipe(checkpoint, folder))
    assert message.splitlines()[0] == "data: found 2 unreadable images:"
    assert f"  - {folder / 'dark' / '0.png'}: not an image in a known format" in message
    assert f"  - {folder / 'light' / '1.png'}: the file is empty" in message
    assert message.endswith("set data.on_bad_image to 'skip' to leave them out, listed and counted.")


def test_image_that_breaks_during_training__stops_and_is_named(tmp_path, checkpoint, folder, capsys):
    for path in folder.rglob("*.png"):  # large enough for header and end to survive the damage
        Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    broken = folder / "dark" / "0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:2000] + bytes(100) + whole[2100:])
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(checkpoint, folder, training={"num_train_epochs": 1, "disable_tqdm": True})))
    for workers in (0, 2):
        output = tmp_path / f"run{workers}"
        arguments = [f"output_dir={output}", f"training.dataloader_num_workers={workers}"]
        assert main(["run", str(path), *arguments]) == 2
        error = capsys.readouterr().err
        message = next(line for line in error.splitlines() if line.startswith("error: "))
        assert f"cannot read the image {broken}" in message
        assert "Traceback" not in error


def test_labels_that_do_not_match(refused, checkpoint, folder):
    raw = {"mode": "evaluate", "data": {"source": str(folder)}, "model": {"backbone": checkpoint}}
    message = refused(raw)
    assert message.startswith("evaluation: the classes of the data set and of the checkpoint differ.")
    assert "data set (2): dark, light" in message
    assert "checkpoint (10): LABEL_0, LABEL_1" in message


def test_foreign_directory__is_never_touched(tmp_path, checkpoint, folder, capsys):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(checkpoint, folder)))
    assert main(["run", str(path), f"output_dir={folder}", "--overwrite"]) == 2
    assert "holds no run of this package" in capsys.readouterr().err
    assert len(list(folder.rglob("*.png"))) == 12


def test_missing_recipe(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err == f"error: Found 1 problem in {tmp_path / 'none.json'}:\n  - no such file\n"


def test_check__tells_all_problems_of_all_recipes(tmp_path, capsys):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(recipe("x/y", "package:digits")))
    bad.write_text(json.dumps(recipe("x/y", "package:digits", strategy="ful")))
    assert main(["check", str(good), str(bad), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found[str(good)] == []
    assert "did you mean 'full'" in found[str(bad)][0]


def test_check_data__finds_truncated_images(tmp_path, checkpoint, folder, capsys):
    broken = folder / "dark" / "0.png"
    Image.effect_noise((64, 64), 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:2000])
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(checkpoint, folder)))
    assert main(["check", str(path)]) == 0
    capsys.readouterr()
    assert main(["check", "--data", str(path)]) == 2
    assert str(broken) in capsys.readouterr().err


def test_namesake__is_refused(monkeypatch, tmp_path, capsys):
    import importlib.metadata

    real = importlib.metadata.distribution
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: object() if name == "hf_transfer" else real(name))
    assert main(["recipes", str(Path(__file__).parents[2] / "recipes")]) == 2
    assert "pip uninstall -y hf_transfer" in capsys.readouterr().err


def test_statistics_for_0_1_pixels_on_0_255_pixels(refused, checkpoint, tmp_path):
    broken = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, broken)
    ViTImageProcessor(size={"height": 32, "width": 32}, do_rescale=False).save_pretrained(broken)
    assert refused(recipe(str(broken), "package:digits")).startswith(
        "model.backbone: the checkpoint's statistics (mean 0.5 0.5 0.5, std 0.5 0.5 0.5) give inputs between -1.00 and 1.00, "
        "found -1.00 to 509.00 in the first batch: 0-255 pixels were normalised with statistics for 0-1 pixels."
    )


def test_revision_of_what_has_none(refused, folder):
    raw = recipe("package:efficientnet_lite0", folder, model={"revision": "main"})
    assert refused(raw) == "model.revision: package: backbones have no revisions; leave it out"


def test_class_weights__of_classes_that_are_not_there(refused, checkpoint, folder):
    message = refused(recipe(checkpoint, folder, loss={"class_weights": {"drak": 1.0, "light": 2.0}}))
    assert "loss.class_weights" in message and "drak" in message and "did you mean 'dark'" in message


def test_strategy__that_does_not_fit_the_network(refused, checkpoint, folder):
    strategy = {"name": "custom", "phases": [{"name": "a", "train": ["layer9"], "epochs": 1}]}
    assert "strategy.phases.0.train: no layer group fits 'layer9'; there are " in refused(
        recipe(checkpoint, folder, strategy=strategy)
    )
    message = refused(recipe(checkpoint, folder, strategy={"name": "lora", "lora": {"targets": ["q_proj"]}}))
    assert "strategy.lora.targets: no layer that can be adapted is called 'q_proj'" in message
    message = refused(recipe(checkpoint, folder, strategy={"name": "gradual"}))
    assert message.endswith("strategy.phase_epochs: strategy 'gradual' needs it, or training.num_train_epochs")
