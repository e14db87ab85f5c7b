import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions

RECIPE = {"data": {"source": "./gone"}, "model": {"backbone": "timm:resnet18"}, "strategy": "linear_probe"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a tiny model and the predictions for three images, which are there."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("runs") / "tiny"
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2)
    ResNetForImageClassification(config).save_pretrained(root / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "model")
    (root / "recipe.json").write_text(json.dumps(RECIPE))
    noise = np.random.default_rng(0)
    paths = [root.parent / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    zeros = np.zeros(3, np.int64)
    predictions = Predictions(["0", "1", "2"], [str(path) for path in paths], zeros, zeros, np.zeros((3, 2)), ["a", "b"])
    predictions.write(root / "predictions" / "test.parquet")
    return root


def test_export__a_run_on_its_own_images(run, capsys):
    assert main(["export", str(run), "--format", "onnx, torch_export", "--opset", "18", "--seconds", "0"]) == 0
    out, err = capsys.readouterr()
    assert sorted(path.name for path in (run / "export").iterdir()) == ["export.json", "model.onnx", "model.pt2"]
    assert f"wrote {run / 'export' / 'model.onnx'} (" in out
    assert "opset 18; float32 [batch, 3, 32, 32])" in out
    assert out.count("same class on 3 of 3 images") == 2
    assert [line.split()[0] for line in out.splitlines()[-3:]] == ["torch", "onnx", "torch_export"]
    assert err == ""
    assert main(["export", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"error: --output: {run / 'export'} holds export.json, model.onnx, model.pt2; choose another folder, or replace them "
        "with --overwrite\n"
    )


def test_export__a_model_directory_on_other_images(run, tmp_path, capsys):
    arguments = ["export", str(run / "model"), "--images", str(run.parent), "--output", str(tmp_path / "x"), "--json"]
    assert main([*arguments, "--with-preprocessing", "--seconds", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["directory"] == str(tmp_path / "x") and report["model"] == str(run / "model")
    assert report["artefacts"][0]["parity"]["images"] == 3
    assert report["artefacts"][0]["input"]["name"] == "images"


@pytest.mark.parametrize("named", [False, True])
def test_export__a_directory_that_is_no_model(named, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images = ["--images", str(tmp_path / "a.png")] if named else []
    assert main(["export", str(tmp_path / "notes"), *images]) == 2
    assert capsys.readouterr().err == (
        f"error: model.backbone: expected a config.json in {tmp_path / 'notes'} (or in its model/), found none\n"
        if named
        else f"error: export: {tmp_path / 'notes'} is no run directory with images of its own; give some with --images PLACE\n"
    )


def test_export__images_that_cannot_be_read(run, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert main(["export", str(run / "model"), "--images", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --images: cannot read {tmp_path / 'broken.png'}: cannot identify image")
    assert not (tmp_path / "out").exists()


def test_export__a_run_whose_images_are_gone(run, tmp_path, capsys):
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "model").symlink_to(run / "model")
    (moved / "recipe.json").symlink_to(run / "recipe.json")
    assert main(["export", str(moved)]) == 2
    assert capsys.readouterr().err == (
        f"error: {moved}: expected predictions/test.parquet, which names the images to compare on; give some with --images "
        "PLACE\n"
    )
    zeros = np.zeros(1, np.int64)
    gone = Predictions(["0"], [str(tmp_path / "gone.png")], zeros, zeros, np.zeros((1, 2)), ["a", "b"])
    gone.write(moved / "predictions" / "validation.parquet")
    assert main(["export", str(moved)]) == 2
    assert capsys.readouterr().err == (
        f"error: {moved}: none of the images of its validation split can be found; give some with --images PLACE\n"
    )
    assert not (moved / "export").exists()


def test_export__images_of_the_split_that_are_gone_are_counted(run, tmp_path, capsys):
    for part in ("model", "recipe.json"):
        (tmp_path / part).symlink_to(run / part)
    zeros = np.zeros(2, np.int64)
    paths = [str(run.parent / "0.png"), str(tmp_path / "gone.png")]
    Predictions(["0", "1"], paths, zeros, zeros, np.zeros((2, 2)), ["a", "b"]).write(tmp_path / "predictions" / "test.parquet")
    assert main(["export", str(tmp_path), "--format", "torch_export", "--seconds", "0"]) == 0
    out, err = capsys.readouterr()
    assert "same class on 1 of 1 images" in out
    assert err == "1 of 2 images of the test split cannot be found or read any more; compared on the others\n"


def test_export__a_clone_of_a_published_model_is_no_run(run, tmp_path, capsys):
    clone = tmp_path / "clone"
    shutil.copytree(run / "model", clone)
    shutil.copy(run / "recipe.json", clone)
    assert main(["export", str(clone)]) == 2
    assert capsys.readouterr().err == (
        f"error: export: {clone} is no run directory with images of its own; give some with --images PLACE\n"
    )
    arguments = ["--images", str(run.parent / "0.png"), "--output", str(tmp_path / "x"), "--format", "torch_export"]
    assert main(["export", str(clone), *arguments, "--seconds", "0"]) == 0


def test_export__output_that_cannot_be_written_is_told_first(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "export"
    assert main(["export", "~nosuch/model", "--images", "nowhere.png", "--output", str(output)]) == 2
    assert capsys.readouterr().err == (
        f"error: --output: {tmp_path / 'file'} is a file, so {output / 'export.json'} cannot be written; choose another place\n"
    )
