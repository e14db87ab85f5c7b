"""`export`, `quantize` and `demo` take a model of the Hub at a revision: the real client, a loopback Hub."""

import json

import client
import loopback_hub
import numpy as np
import onnxruntime
import pytest
import repositories
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForImageClassification


def command(*words):
    return {"job": "command", "words": list(words)}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Use the branch `old` of a model, whose weights are others than those of the main branch."""
    folder = tmp_path_factory.mktemp("revisions")
    model = folder / "hub/models/ann/vit"
    repositories.write_tokens(folder / "hub")
    repositories.write_vit(model, seed=1)
    repositories.write_vit(model / ".revisions/old", seed=2)
    (folder / "photos").mkdir()
    for number, picture in enumerate(repositories.pictures(4, seed=0)):
        picture.save(folder / "photos" / f"{number}.png")
    old, photos = ("--revision", "old"), ("--images", "photos", "--seconds", "0.1")
    jobs = {
        "export": command("export", "ann/vit", *old, *photos, "--output", "exported"),
        "quantize": command("quantize", "ann/vit", *old, *photos, "--mode", "dynamic", "--output", "int8"),
        "demo": command("demo", "ann/vit", *old, "--export", "space"),
        "export files": command("export", "hub/models/ann/vit", *old, *photos),
        "quantize files": command("quantize", "hub/models/ann/vit", *old, *photos, "--output", "none"),
        "demo files": command("demo", "hub/models/ann/vit", *old, "--export", "none"),
    }
    with loopback_hub.LoopbackHub(folder / "hub") as server:
        results = client.run_jobs(client.client_environment(server.url, folder / "home"), jobs, folder)
    return folder, results


def old_logits(folder, pixels):
    model = AutoModelForImageClassification.from_pretrained(folder / "hub/models/ann/vit/.revisions/old").eval()
    with torch.no_grad():
        return model(pixel_values=torch.from_numpy(pixels)).logits.numpy()


@pytest.mark.parametrize(
    ("job", "file", "tolerance"), [("export", "exported/model.onnx", 1e-4), ("quantize", "int8/model.int8.onnx", 0.02)]
)
def test_revision__the_file_computes_what_the_old_model_does(said, job, file, tolerance):
    folder, results = said
    assert results[job]["status"] == 0, results[job]["stderr"]
    pixels = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(folder / file)
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})
    np.testing.assert_allclose(logits, old_logits(folder, pixels), rtol=0, atol=tolerance)


@pytest.mark.parametrize("report", ["exported/export.json", "int8/quantize.json"])
def test_revision__is_written_down(said, report):
    assert json.loads((said[0] / report).read_text())["model"] == "ann/vit@old"


def test_revision__the_space_holds_the_old_weights(said):
    folder, results = said
    assert results["demo"]["status"] == 0, results["demo"]["stderr"]
    found, old = (
        load_file(folder / place / "model.safetensors") for place in ("space/model", "hub/models/ann/vit/.revisions/old")
    )
    assert found.keys() == old.keys()
    assert all(np.array_equal(found[name], old[name]) for name in old)


@pytest.mark.parametrize("job", ["export files", "quantize files", "demo files"])
def test_revision__files_have_none(said, job):
    assert (said[1][job]["status"], said[1][job]["stderr"]) == (
        2,
        "error: model.revision: hub/models/ann/vit is a directory here, which has no revisions; leave it out\n",
    )
