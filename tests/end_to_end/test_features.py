"""The frozen path through the whole way: linear probe, nearest neighbours, two phases."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.images import decode_rgb
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.features.store import FeatureStore
from hf_transfer.recipe import load_recipe
from hf_transfer.report.history import read_history
from hf_transfer.run_directory import RunDirectory

PROBE = "recipes/textile_linear_probe.json"
FEW = ["data.max_train_samples=80", "data.max_validation_samples=24", "data.max_test_samples=24"]


def cache_of(root):
    return {**os.environ, "HF_TRANSFER_CACHE": str(root)}


@pytest.fixture(scope="module")
def probe_run(launch, tmp_path_factory):
    """The probe recipe on a few images with a cache of its own: (run directory, cache, finished process)."""
    root = tmp_path_factory.mktemp("probe")
    script = (
        "import sys\n"
        "from hf_transfer.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert 'transformers.trainer' not in sys.modules\n"
    )
    done = launch("-c", script, "run", PROBE, f"output_dir={root / 'run'}", *FEW, env=cache_of(root / "cache"))
    assert done.returncode == 0, done.stderr
    return root / "run", root / "cache", done


def test_probe__run_directory_is_complete(probe_run):
    root, _, done = probe_run
    assert {path.name for path in root.iterdir()} == {
        "recipe.json",
        "environment.json",
        "metrics.json",
        "history.csv",
        "probe.json",
        "predictions",
        "model",
        "README.md",
        "report.html",
        "calibration.json",
        "plots",
    }
    assert RunDirectory(root).is_finished
    assert "warning" not in done.stderr.lower()
    metrics = json.loads((root / "metrics.json").read_text())
    assert [metrics[split]["n"] for split in ("train", "validation", "test")] == [80, 24, 24]
    assert metrics["cost"]["trainable_parameters"] == {"linear_probe": 1280 * 3 + 3}
    assert metrics["cost"]["precision"] in ("bf16", "fp32")
    probe = json.loads((root / "probe.json").read_text())
    chosen = [candidate for candidate in probe["candidates"] if candidate["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["validation"]["accuracy"] == max(c["validation"]["accuracy"] for c in probe["candidates"])
    assert chosen[0]["validation"]["accuracy"] == pytest.approx(metrics["validation"]["accuracy"])
    assert read_history(root / "history.csv")[-1].phase == "linear_probe"
    assert probe["features"]["computed"] == 128


def test_probe__the_saved_model_gives_the_reported_logits(probe_run):
    root, _, _ = probe_run
    model = AutoModelForImageClassification.from_pretrained(root / "model").eval()
    processor = AutoImageProcessor.from_pretrained(root / "model")
    found = Predictions.read(root / "predictions" / "test.parquet")
    with torch.no_grad():
        for path, logits in zip(found.paths[:8], found.logits[:8], strict=True):
            pixels = processor(decode_rgb(Path(path).read_bytes()), return_tensors="pt")["pixel_values"]
            np.testing.assert_allclose(model(pixel_values=pixels).logits[0].numpy(), logits, rtol=1e-3, atol=1e-3)
    assert (found.logits.argmax(1) == found.predicted).all()


def test_probe__frozen_weights_are_the_pretrained_ones(probe_run):
    root, _, _ = probe_run
    backbone = build_backbone(load_recipe(PROBE).model, ["a", "b", "c"], 0)
    before = backbone.model.state_dict()
    saved = AutoModelForImageClassification.from_pretrained(root / "model").state_dict()
    assert before.keys() == saved.keys()
    differing = [name for name in before if not torch.equal(before[name], saved[name])]
    assert sorted(differing) == [f"{backbone.heads[0]}.bias", f"{backbone.heads[0]}.weight"]


def test_probe__a_few_shot_run_computes_nothing_new(probe_run, launch, tmp_path):
    _, cache, _ = probe_run
    overrides = [FEW[1], FEW[2], "seed=5", "data.samples_per_class=4", "features.compile=never"]
    done = launch("hf_transfer/run.py", PROBE, f"output_dir={tmp_path / 'few'}", *overrides, env=cache_of(cache))
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "few" / "probe.json").read_text())["features"]
    assert facts["total"] == 12 + 24 + 24
    assert facts["computed"] < 12  # but for images that were not among the 80


def test_probe__its_resolved_recipe_repeats_it(probe_run, launch, tmp_path):
    root, cache, _ = probe_run
    again = tmp_path / "again"
    done = launch("hf_transfer/run.py", str(root / "recipe.json"), f"output_dir={again}", env=cache_of(cache))
    assert done.returncode == 0, done.stderr
    one, other = (load_file(path / "model" / "model.safetensors") for path in (root, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((again / "probe.json").read_text())["features"]["computed"] == 0
    metrics, repeated = (json.loads((path / "metrics.json").read_text()) for path in (root, again))
    assert metrics["test"] == repeated["test"]


def test_probe__two_processes_extract_the_same_bits(probe_run, launch, tmp_path):
    exact = ["training.bf16=false", "training.use_cpu=true", "features.compile=never"]
    one, two = tmp_path / "one", tmp_path / "two"
    done = launch("hf_transfer/run.py", PROBE, f"output_dir={one / 'run'}", *FEW, *exact, env=cache_of(one / "cache"))
    assert done.returncode == 0, done.stderr
    launcher = ("-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml")
    done = launch(
        *launcher, "hf_transfer/run.py", PROBE, f"output_dir={two / 'run'}", *FEW, *exact, env=cache_of(two / "cache")
    )
    assert done.returncode == 0, done.stderr
    rows = []
    for root in (one, two):
        (space,) = FeatureStore(root / "cache" / "features").stored()
        shards = (root / "cache" / "features" / space.key).glob("shard-*")
        found = {}
        for shard in map(load_file, shards):
            found |= {bytes(i.tolist()): f for i, f in zip(shard["ids"], shard["features"], strict=True)}
        rows.append(found)
    assert len(list((two / "cache" / "features").glob("*/shard-*"))) >= 2
    assert rows[0].keys() == rows[1].keys()
    assert len(rows[0]) == 128
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])
    first, second = (json.loads((root / "run" / "metrics.json").read_text()) for root in (one, two))
    assert first["test"] == second["test"]


def test_knn__metrics_and_predictions_without_a_model(probe_run, launch, tmp_path):
    _, cache, _ = probe_run
    root = tmp_path / "knn"
    done = launch("hf_transfer/run.py", "recipes/textile_knn.json", f"output_dir={root}", *FEW, env=cache_of(cache))
    assert done.returncode == 0, done.stderr
    assert RunDirectory(root).is_finished
    assert not (root / "model").exists()
    metrics = json.loads((root / "metrics.json").read_text())
    found = Predictions.read(root / "predictions" / "test.parquet")
    assert metrics["test"]["accuracy"] == pytest.approx((found.predicted == found.labels).mean())
    np.testing.assert_allclose(np.exp(found.logits).sum(1), 1, rtol=1e-5)
    candidates = json.loads((root / "probe.json").read_text())["candidates"]
    assert [c["neighbours"] for c in candidates] == [10, 20]
    assert "saved no model" in (root / "README.md").read_text()


def test_two_phase__starts_from_a_fitted_head(launch, tmp_path):
    root = tmp_path / "run"
    short = ["training.max_steps=1", "training.per_device_train_batch_size=8", "training.learning_rate=1e-9"]
    words = [f"output_dir={root}", *FEW, "strategy=two_phase", *short]
    done = launch("hf_transfer/run.py", PROBE, *words, env=cache_of(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    metrics = json.loads((root / "metrics.json").read_text())
    assert list(metrics["cost"]["trainable_parameters"]) == ["head", "full"]
    assert metrics["cost"]["trainable_parameters"]["head"] == 1280 * 3 + 3
    phase0, final = (
        AutoModelForImageClassification.from_pretrained(path).state_dict()
        for path in (root / "checkpoints" / "phase0", root / "model")
    )
    head = [name for name in phase0 if "classifier" in name]
    assert len(head) == 2
    for name in head:  # one step at a rate of nothing
        torch.testing.assert_close(final[name], phase0[name], rtol=0, atol=1e-6)
    pretrained = build_backbone(load_recipe(PROBE).model, ["a", "b", "c"], 0).model.state_dict()
    assert [name for name in pretrained if not torch.equal(pretrained[name], phase0[name])] == [*pretrained][-2:]
    assert (root / "probe.json").is_file()


def test_linear_probe__says_why_it_runs_live(launch, tmp_path):
    root = tmp_path / "run"
    words = [f"output_dir={root}", *FEW, "training.optim=sgd", "training.max_steps=1", "training.save_strategy=epoch"]
    done = launch("hf_transfer/run.py", PROBE, *words, env=cache_of(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "sees every image in every epoch: training.max_steps is for the Trainer" in done.stderr
    assert (root / "checkpoints").is_dir()
    assert not (tmp_path / "cache").exists()
