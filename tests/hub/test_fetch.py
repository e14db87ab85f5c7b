"""What was fetched from a Hub is enough: the study runs when the Hub has gone."""

import json

import client
import loopback_hub
import repositories
from datasets import ClassLabel, Image

STUDY = {
    "output_dir": "runs/study",
    "base": {"data": {"source": "ann/animals", "validation_fraction": 0.25}, "model": {"backbone": "ann/vit"}},
    "axes": {"model.backbone": ["ann/vit", "ann/timm"], "strategy": ["linear_probe"]},
}


def test_fetch__then_the_study_runs_without_the_hub(tmp_path):
    root = tmp_path / "hub"
    labels = {"train": {"label": [0, 1, 2] * 8}, "test": {"label": [0, 1, 2] * 4}}
    features = {"image": Image(), "label": ClassLabel(names=repositories.CLASSES)}
    repositories.write_parquet(root / "datasets/ann/animals/data", features, labels)
    repositories.write_vit(root / "models/ann/vit")
    repositories.write_timm(root / "models/ann/timm", "test_vit")
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    with loopback_hub.LoopbackHub(root) as server:
        environment = client.client_environment(server.url, tmp_path / "home") | {"HF_TRANSFER_CACHE": str(tmp_path / "cache")}
        done = client.run_command(environment, ["fetch", "study.json", "--json"], tmp_path)
        assert done.returncode == 0, done.stderr
        fetched = [(found["name"], found["kind"], found["problem"]) for found in json.loads(done.stdout)]
        assert fetched == [
            ("ann/vit", "model", ""),
            ("ann/timm", "model", ""),
            ("ann/animals", "data", ""),
        ]
    done = client.run_command(environment, ["study", "study.json", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["done"]) == 2


def test_fetch__what_the_hub_does_not_have(tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    with loopback_hub.LoopbackHub(tmp_path / "hub") as server:
        environment = client.client_environment(server.url, tmp_path / "home")
        done = client.run_command(environment, ["fetch", "study.json"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "missing: model ann/vit: model.backbone: " in done.stderr
    assert "missing: data ann/animals: data.source: " in done.stderr
    assert "Traceback" not in done.stderr
