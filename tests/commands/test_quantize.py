import json

import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny network with random weights, no run of ours."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.effect_noise((40, 40), 20 + 10 * number).convert("RGB").save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_quantize__a_model_with_images(model, photos, tmp_path, capsys):
    output = tmp_path / "int8"
    arguments = [
        "quantize",
        str(model),
        "--mode",
        "static",
        "--images",
        str(photos),
        "--output",
        str(output),
        "--seconds",
        "0.1",
    ]
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report == json.loads((output / "quantize.json").read_text())
    assert report["calibration"]["names"] == [str(photos / f"{number}.png") for number in range(5)]
    assert report["same_class"]["images"] == 5
    assert "accuracy" not in report
    assert f"left out {photos / 'broken.png'}: not an image in a known format" in printed.err

    assert main(arguments) == 2
    assert "holds a quantized model; choose another folder, or replace it with --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--calibration-images", "3", "--overwrite"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{output / 'model.int8.onnx'}: static quantization, calibrated with ")
    assert "of 3 images have the same class" in shown or "of 2 images have the same class" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--output: say where to write; only for a run is there a default, and MODEL is none"),
        (["--calibration-images", "0"], "--calibration-images: expected 1 or more, found 0"),
        (
            ["--output", "OUT", "--mode", "static"],
            "static quantization needs calibration images, and the model is no run with a training split: --images",
        ),
        (
            ["--output", "OUT", "--mode", "dynamic", "--images", "x.png"],
            "--images and --calibration-images: dynamic quantization needs no calibration images; leave them out, or say "
            "--mode static",
        ),
        (["--output", "OUT", "--images", "nowhere"], "nowhere: there is no such file or folder"),
    ],
)
def test_quantize__what_does_not_go(options, message, model, tmp_path, capsys):
    options = [str(tmp_path / "out") if option == "OUT" else option for option in options]
    assert main(["quantize", str(model), *options]) == 2
    assert message.replace("MODEL", str(model)) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
