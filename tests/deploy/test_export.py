import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.deploy.export import Parity, declared_processor, export_model, write_torch_export
from hf_transfer.deploy.onnx_graph import LogitsOnly, run_onnx
from hf_transfer.errors import UserError
from hf_transfer.recipe.schema import Model


@pytest.fixture
def backbone(checkpoint_of, family_named, lively):
    found = load_as_it_is(Model(backbone=str(checkpoint_of(family_named("resnet")))))
    lively(found.model)
    return found


@pytest.fixture(scope="module")
def images():
    """Smooth and sharp images of several shapes."""
    noise = np.random.default_rng(0)
    shapes = [(40, 60), (60, 40), (32, 32), (200, 150)]
    return [Image.fromarray(noise.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def _export(backbone, output, images, **options):
    return export_model(backbone, output, name="tiny", images=images, seconds=0.0, **options)


def test_export_model__both_formats(backbone, images, tmp_path):
    output = tmp_path / "a" / "export"
    report = _export(backbone, output, images, formats=["onnx", "torch_export"])
    assert sorted(path.name for path in output.iterdir()) == ["export.json", "model.onnx", "model.pt2"]
    assert json.loads((output / "export.json").read_text()) == json.loads(json.dumps(report))
    assert report["passed"] and report["model"] == "tiny" and len(report["class_names"]) == 7
    for artefact in report["artefacts"]:
        (file,) = artefact["files"]
        content = (output / file["name"]).read_bytes()
        assert file["bytes"] == len(content) and file["sha256"] == hashlib.sha256(content).hexdigest()
        assert artefact["parity"]["images"] == artefact["parity"]["argmax_equal"] == len(images)
        assert artefact["parity"]["max_abs_difference"] <= 1e-4
        assert artefact["input"] == {"dtype": "float32", "shape": ["batch", 3, 32, 32], "name": "pixel_values"}
        assert b"/site-packages/" not in content
    assert report["artefacts"][0]["opset"] == 20
    declared = report["preprocessing"]["declared"]
    assert declared == json.loads(backbone.processor.to_json_string())
    carried = json.loads(run_onnx(output / "model.onnx").get_modelmeta().custom_metadata_map["preprocessing"])
    assert carried == report["preprocessing"]
    assert set(report["timing"]["latency_ms"]) == {"torch", "onnx", "torch_export"}
    assert set(report["timing"]["images_per_second"]) == {"8", "32"}
    assert all(latency["p95"] >= latency["median"] > 0 for latency in report["timing"]["latency_ms"].values())


def test_export_model__runs_in_a_process_without_this_package(backbone, images, tmp_path):
    _export(backbone, tmp_path, images, formats=["onnx", "torch_export"])
    pixels = torch.stack([backbone.preprocessing(image) for image in images])
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    scripts = {
        "onnx": "import onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])\n"
        "names = json.loads(session.get_modelmeta().custom_metadata_map['class_names'])\n"
        "logits = session.run(['logits'], {'pixel_values': pixels})[0]\n"
        "assert logits.shape == (4, len(names)) and 'torch' not in sys.modules\n",
        "pt2": "import torch\n"
        "logits = torch.export.load('model.pt2').module()(torch.from_numpy(pixels)).detach().numpy()\n"
        "assert 'transformers' not in sys.modules\n",
    }
    with torch.no_grad():
        wanted = backbone.model(pixel_values=pixels).logits.numpy()
    for name, lines in scripts.items():
        script = f"import json, sys\nimport numpy\npixels = numpy.load('pixels.npy')\n{lines}numpy.save('{name}.npy', logits)\n"
        script += "assert 'hf_transfer' not in sys.modules\n"
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), wanted, atol=1e-4)


def test_export_model__with_preprocessing(backbone, images, tmp_path):
    report = _export(backbone, tmp_path, images, preprocessing=True)
    (artefact,) = report["artefacts"]
    assert artefact["input"] == {"dtype": "uint8", "shape": ["batch", "height", "width", 3], "name": "images"}
    assert artefact["preprocessing"]["max_difference_in_steps"] < 1e-3
    assert artefact["parity"]["max_abs_difference"] <= 1e-4 and artefact["parity"]["argmax_equal"] == len(images)
    session = run_onnx(tmp_path / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == report["class_names"]
    twice = np.stack([np.asarray(images[0])] * 2)
    with torch.no_grad():
        wanted = backbone.model(pixel_values=backbone.preprocessing(images[0])[None]).logits.numpy()
    np.testing.assert_allclose(session.run(None, {"images": twice})[0], np.repeat(wanted, 2, axis=0), atol=1e-4)


def test_export_model__nothing_is_kept_of_one_that_differs(backbone, images, tmp_path):
    calls = 0

    class Drifting(torch.nn.Module):
        """Answers otherwise once it has been traced: an exported graph cannot follow."""

        def forward(self, features):
            nonlocal calls
            calls += 1
            return features if torch.compiler.is_exporting() else features + 0.5

    backbone.model.classifier.append(Drifting())
    output = tmp_path / "export"
    report = _export(backbone, output, images)
    assert calls and not report["passed"]
    parity = report["artefacts"][0]["parity"]
    assert parity["max_abs_difference"] == pytest.approx(0.5, abs=1e-3) and not parity["passed"]
    assert list(tmp_path.iterdir()) == []


def test_export_model__is_not_overwritten(backbone, images, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(UserError) as caught:
        _export(backbone, tmp_path, images)
    assert str(caught.value) == (
        f"--output: {tmp_path} holds model.onnx; choose another folder, or replace them with --overwrite"
    )
    assert (tmp_path / "model.onnx").read_text() == "mine"
    (tmp_path / "model.pt2").write_text("of the export before")
    assert _export(backbone, tmp_path, images, overwrite=True)["passed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.json", "model.onnx", "notes.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["onnx", "coreml"]}, "--format: expected onnx or torch_export, or both; found coreml"),
        ({"formats": []}, "--format: expected onnx or torch_export, or both; found none"),
        ({"images": []}, "export: expected at least one image to compare logits on, found none"),
        (
            {"formats": ["torch_export"], "preprocessing": True},
            "--with-preprocessing: only an ONNX file can take its preprocessing along; add onnx to --format",
        ),
        ({"opset": 99}, "opset: expected a number from 18 to 23, found 99"),
    ],
)
def test_export_model__refuses(options, message, backbone, images, tmp_path):
    with pytest.raises(UserError) as caught:
        _export(backbone, tmp_path / "export", **({"images": images} | options))
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_export_model__needs_the_extra(backbone, images, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"^format onnx needs onnxruntime: pip install 'hf-transfer-learning\[export\]'$"):
        _export(backbone, tmp_path / "export", images)
    assert _export(backbone, tmp_path / "export", images, formats=["torch_export"])["passed"]


@pytest.mark.parametrize("name", ["swin", "beit"])
def test_write_torch_export__any_batch(name, family_named, lively, tmp_path):
    model = lively(family_named(name).build())
    write_torch_export(LogitsOnly(model), torch.zeros(2, 3, 32, 32), tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for batch in (1, 5):
        pixels = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            torch.testing.assert_close(loaded(pixels), model(pixel_values=pixels).logits, atol=1e-4, rtol=0)


def test_export_model__checkpoint_that_was_saved_in_bf16(backbone, images, tmp_path):
    backbone.model.to(torch.bfloat16)
    assert _export(backbone, tmp_path, images)["passed"]


def test_declared_processor__without_paths():
    processor = ViTImageProcessor(size={"height": 8, "width": 9}, name_or_path="/home/somebody/model")
    declared = declared_processor(processor)
    assert declared["size"] == {"height": 8, "width": 9} and declared["resample"] == 2
    assert "somebody" not in json.dumps(declared)


def test_write_torch_export__says_what_cannot_be_exported(tmp_path, capfd):
    class OnlyTwoImages(torch.nn.Module):
        def forward(self, pixels):
            return pixels.flatten(1)[:, :3] + torch.ones(2, 3)

    with pytest.raises(UserError, match=r"^OnlyTwoImages cannot be exported with torch\.export: "):
        write_torch_export(OnlyTwoImages(), torch.zeros(2, 3, 4, 4), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_parity__of():
    logits = np.array([[1.0, 2.0], [20.0, 3.0]], np.float32)
    assert Parity.of(logits, logits + np.float32(1e-3)) == Parity(
        images=2, max_abs_difference=pytest.approx(1e-3, rel=1e-2), tolerance=pytest.approx(2e-3), argmax_equal=2
    )
    assert Parity.of(logits, logits).passed
    other = logits.copy()
    other[0] = 2.0, 1.9999
    swapped = dataclasses.replace(Parity.of(logits, other), max_abs_difference=0.0)
    assert swapped.argmax_equal == 1 and not swapped.passed
    other[0, 0] = np.nan
    assert not Parity.of(logits, other).passed


def test_parity__of_several_labels_asks_which_reach_their_thresholds():
    logits, thresholds = np.array([[1.0, 2.0], [20.0, 3.0]], np.float32), np.array([0.5, 0.99])
    swapped = logits[:, ::-1] + np.float32(1e-5)  # other classes would be the most probable
    assert Parity.of(logits, logits, thresholds).facts().keys() == {
        *("images", "max_abs_difference", "tolerance", "said_equal", "passed"),
    }
    assert Parity.of(logits, logits, thresholds).passed
    assert Parity.of(logits, swapped, thresholds).said_equal == 1  # 0.95 for the second class is too little


def test_export_model__several_labels_carry_sigmoid_and_thresholds(backbone, images, tmp_path):
    backbone.model.config.problem_type = "multi_label_classification"
    backbone.model.config.thresholds = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    report = _export(backbone, tmp_path / "export", images)
    assert report["passed"] and (report["activation"], report["thresholds"]) == ("sigmoid", backbone.model.config.thresholds)
    assert report["artefacts"][0]["parity"]["said_equal"] == len(images)
    carried = run_onnx(tmp_path / "export" / "model.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(carried["thresholds"]) == backbone.model.config.thresholds and carried["activation"] == '"sigmoid"'
