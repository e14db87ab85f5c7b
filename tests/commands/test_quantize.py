import json
import shutil

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
    assert "of 3 calibration images have the same class" in shown or "of 2 calibration images have the same class" in shown


def test_quantize__a_dynamic_copy_is_compared_on_images(model, photos, tmp_path, capsys):
    output = tmp_path / "int8"
    arguments = ["quantize", str(model), "--mode", "dynamic", "--images", str(photos), "--output", str(output)]
    assert main([*arguments, "--seconds", "0.1"]) == 0
    printed = capsys.readouterr()
    assert "5 of 5 other images have the same class" in printed.out
    assert f"left out {photos / 'broken.png'}: not an image in a known format" in printed.err
    report = json.loads((output / "quantize.json").read_text())
    assert report["calibration"] is None
    assert report["same_class"] == {"images": 5, "count": 5, "measured_on": "other images"}


def test_quantize__no_image_can_be_read(model, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    output = tmp_path / "int8"
    assert main(["quantize", str(model), "--mode", "static", "--images", str(broken), "--output", str(output)]) == 2
    expected = f"--images: none of the 1 images can be read ({broken}: not an image in a known format)"
    assert expected in capsys.readouterr().err
    assert not output.exists()


def test_quantize__a_clone_of_a_published_model_is_no_run(model, photos, tmp_path, capsys):
    clone = tmp_path / "clone"
    shutil.copytree(model, clone)
    for name in ("recipe.json", "metrics.json"):
        (clone / name).write_text("{}")
    assert main(["quantize", str(clone), "--mode", "static", "--images", str(photos)]) == 2
    assert f"only for a run is there a default, and {clone} is none" in capsys.readouterr().err
    output = tmp_path / "int8"
    arguments = ["quantize", str(clone), "--mode", "static", "--images", str(photos), "--output", str(output)]
    assert main([*arguments, "--seconds", "0.1"]) == 0
    assert json.loads((output / "quantize.json").read_text())["same_class"]["images"] == 5


def test_quantize__an_unfinished_run_says_so(tmp_path, capsys):
    (tmp_path / "recipe.json").write_text('{"mode": "train"}')
    assert main(["quantize", str(tmp_path)]) == 2
    assert "this run saved no model: it is not finished" in capsys.readouterr().err


def test_quantize__dynamic_images_for_a_run(model, photos, tmp_path, capsys):
    shutil.copytree(model, tmp_path / "run" / "model")
    (tmp_path / "run" / "recipe.json").write_text("{}")
    assert main(["quantize", str(tmp_path / "run"), "--mode", "dynamic", "--images", str(photos)]) == 2
    assert "the copy of a run is compared on the run's test images; leave it out" in capsys.readouterr().err


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
            ["--output", "OUT", "--mode", "dynamic", "--calibration-images", "8"],
            "--calibration-images: dynamic quantization calibrates nothing; leave it out, or say --mode static",
        ),
        (["--output", "FILE/sub"], "FILE is a file, so FILE/sub/model.int8.onnx cannot be written; choose another place"),
        (["--output", "OUT", "--images", "nowhere"], "nowhere: there is no such file or folder"),
    ],
)
def test_quantize__what_does_not_go(options, message, model, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    places = {"OUT": str(tmp_path / "out"), "FILE/sub": str(file / "sub")}
    assert main(["quantize", str(model), *(places.get(option, option) for option in options)]) == 2
    assert message.replace("MODEL", str(model)).replace("FILE", str(file)) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
