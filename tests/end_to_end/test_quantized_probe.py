"""Quantized transfer learning through the whole way: an int8 backbone, a float head on its features, the saved model."""

import json
import os

import numpy as np
import pytest

from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.recipe.schema import Model

RECIPE = "recipes/textile_quantized_probe.json"
FEW = ["data.max_train_samples=60", "data.max_validation_samples=24", "data.max_test_samples=24"]


@pytest.fixture(scope="module")
def quantized_run(launch, tmp_path_factory):
    root = tmp_path_factory.mktemp("quantized")
    environment = {**os.environ, "HF_TRANSFER_CACHE": str(root / "cache")}
    done = launch("hf_transfer/run.py", RECIPE, f"output_dir={root / 'run'}", *FEW, env=environment)
    assert done.returncode == 0, done.stderr
    return root / "run"


def test_quantized_probe__run_directory(quantized_run):
    metrics = json.loads((quantized_run / "metrics.json").read_text())
    assert metrics["cost"]["precision"] == "int8"
    assert metrics["cost"]["parameters"] > 3_000_000  # of the float network
    assert metrics["cost"]["trainable_parameters"] == {"quantized_probe": 1280 * 3 + 3}
    assert metrics["test"]["accuracy"] > metrics["test"]["majority_baseline"]
    probe = json.loads((quantized_run / "probe.json").read_text())
    assert probe["features"]["computed"] == 60 + 24 + 24
    assert len(probe["features"]["spaces"]) == 1
    quantization = probe["quantization"]
    assert quantization["size_mb"]["int8"] < 0.35 * quantization["size_mb"]["float"]
    images = set(quantization["calibration_images"])
    assert len(images) == 60
    for split in ("validation", "test"):
        assert not images & set(Predictions.read(quantized_run / "predictions" / f"{split}.parquet").sample_ids)


def test_quantized_probe__a_fresh_process_gives_the_reported_logits(quantized_run, launch):
    found = Predictions.read(quantized_run / "predictions" / "test.parquet")
    paths = found.paths[:6]
    done = launch("-m", "hf_transfer.cli", "predict", str(quantized_run), *paths, "--json", "--logits")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["predictions"]
    assert [row["file"] for row in rows] == paths
    np.testing.assert_allclose([row["logits"] for row in rows], found.logits[:6], rtol=1e-4, atol=1e-4)


def test_quantized_probe__evaluate_gives_the_reported_accuracy(quantized_run, launch, tmp_path):
    again = tmp_path / "again"
    options = ["data.test_fraction=0.2", FEW[2], "--output-dir", str(again)]
    done = launch("-m", "hf_transfer.cli", "evaluate", str(quantized_run), "--data", "package:textile", *options)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((root / "metrics.json").read_text())["test"] for root in (quantized_run, again))
    assert after["accuracy"] == before["accuracy"]
    costs = [json.loads((root / "metrics.json").read_text())["cost"] for root in (quantized_run, again)]
    assert costs[0]["parameters"] == costs[1]["parameters"]
    assert after["nll"] == pytest.approx(before["nll"], rel=1e-4)


def test_quantized_probe__plain_transformers_after_register(quantized_run, launch):
    script = (
        "import sys, hf_transfer\n"
        "from transformers import AutoModelForImageClassification\n"
        "hf_transfer.register()\n"
        "model = AutoModelForImageClassification.from_pretrained(sys.argv[1])\n"
        "print(model.config.library, len(model.get_buffer('network.body.graph')) == model.config.arguments['bytes'])\n"
    )
    done = launch("-c", script, str(quantized_run / "model"))
    assert (done.returncode, done.stdout.split()) == (0, ["onnx", "True"]), done.stderr


def test_quantized_probe__what_cannot_be_saved_is_refused_before_anything_is_written(launch, tmp_path):
    backbone = load_as_it_is(Model(backbone="package:efficientnet_lite0"))
    backbone.save(tmp_path / "bordered")
    config = tmp_path / "bordered" / "config.json"
    content = json.loads(config.read_text())
    content["pretrained_cfg"]["crop_mode"] = "border"
    config.write_text(json.dumps(content))
    options = [f"model.backbone={tmp_path / 'bordered'}", f"output_dir={tmp_path / 'run'}", *FEW]
    done = launch("hf_transfer/run.py", RECIPE, *options, env={**os.environ, "HF_TRANSFER_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 2, done.stderr
    assert "this checkpoint pads images with a border, which our wrapper cannot store" in done.stderr
    assert not (tmp_path / "run").exists()
