"""What cells share is computed before they run, and each of them finds exactly what it asks for."""

import json
from pathlib import Path

import pytest
import repositories

from hf_transfer import pipeline
from hf_transfer.backbones.build import build_backbone
from hf_transfer.data import dataset
from hf_transfer.data.images import decode_rgb
from hf_transfer.features.store import FeatureStore
from hf_transfer.recipe.schema import Model
from hf_transfer.studies import sharing
from hf_transfer.studies.sharing import share_features
from hf_transfer.studies.study import Study, cells

SIZES = {"max_train_samples": 20, "max_validation_samples": 12, "max_test_samples": 12}
DECODED = 3 * 32  # each split once; its only batch is filled up
STATISTICS = 16  # images that are looked at before a backbone is used


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two checkpoints of one input size and different statistics."""
    root = tmp_path_factory.mktemp("networks")
    for name, statistics in (("test_resnet", {}), ("test_vit", {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]})):
        build_backbone(Model(backbone=f"timm:{name}", pretrained=False), ["a", "b"], 0).save(root / name)
        config = json.loads((root / name / "config.json").read_text())
        del config["label_names"]  # as timm publishes its networks
        config["pretrained_cfg"] |= statistics
        (root / name / "config.json").write_text(json.dumps(config))
    return [str(root / "test_resnet"), str(root / "test_vit")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def decoded(monkeypatch):
    found = []
    monkeypatch.setattr(dataset, "decode_rgb", lambda content: found.append(len(content)) or decode_rgb(content))
    return found


def cells_of(tmp_path, axes, *overrides, **more):
    base = {"data": {"source": "package:digits", "test_fraction": 0.2, **SIZES}, "training": {"use_cpu": True}, **more}
    study = {"base": base, "output_dir": str(tmp_path / "study"), "axes": axes, "overrides": list(overrides)}
    return cells(Study.model_validate(study))


def rows(cache):
    """The number of features of each network and way of computing."""
    return sorted(space.rows for space in FeatureStore(cache).stored())


def test_share_features__every_strategy_finds_everything(networks, tmp_path, cache):
    axes = {"model.backbone": networks, "strategy": ["linear_probe", "knn", "two_phase"], "seed": [0, 1]}
    short = {"when": {"strategy": "two_phase"}, "set": {"training.max_steps": 1, "training.report_to": []}}
    views = {"when": {"strategy": "linear_probe", "seed": 1}, "set": {"augment.preset": "basic", "features.views": 2}}
    found = cells_of(tmp_path, axes, short, views)
    share_features(found)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("shard-*")}
    assert len(before) >= 2
    asked = [cell for cell in found if cell.recipe.model.backbone == networks[1]]
    asked = [cell for cell in asked if cell.recipe.strategy.name == "linear_probe" or cell.recipe.seed == 0]
    assert len(asked) == 4
    for cell in asked:
        pipeline.run(cell.recipe)
        probe = json.loads(Path(cell.recipe.output_dir, "probe.json").read_text())
        cost = json.loads(Path(cell.recipe.output_dir, "metrics.json").read_text())["cost"]
        strategy, seed = cell.recipe.strategy.name, cell.recipe.seed
        assert probe["features"]["computed"] == 0, cell.id
        assert probe["features"]["total"] == (32 if strategy == "two_phase" else 44 + 40 * seed)
        assert cost["extraction_seconds"] == probe["features"]["alone_seconds"] > 0
        assert 0 < cost["extraction_spent_seconds"] == probe["features"]["seconds"] < cost["train_seconds"]
        assert ("logme" in probe) == (strategy != "two_phase")
        if strategy == "two_phase":  # cut off before it was finished: the first phase is not done again, its cost stays known
            Path(cell.recipe.output_dir, "README.md").unlink()
            again = pipeline.run(cell.recipe, resume=True).metrics["cost"]
            assert again["extraction_spent_seconds"] == 0
            assert again["extraction_seconds"] == cost["extraction_seconds"]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("shard-*")} == before


def test_share_features__an_image_is_decoded_once_for_all(networks, tmp_path, cache, decoded):
    axes = {
        "model.backbone": networks,
        "strategy": ["linear_probe", "knn"],
        "data.samples_per_class": [1, None],
        "seed": [0, 1],
    }
    found = cells_of(tmp_path, axes, {"when": {"data.samples_per_class": 1}, "set": {"data.max_train_samples": None}})
    share_features([cell for cell in found if cell.values["data.samples_per_class"] is None])
    assert len(decoded) == DECODED + 2 * STATISTICS
    whole = rows(cache)
    assert len(whole) in (2, 4)  # float32 and, where this machine gains from it, bf16, of each network
    share_features(found)
    # The few-shot cells need two batches at most that were not there, at most ten images of each network.
    assert len(decoded) <= DECODED + 4 * STATISTICS + 32
    assert sum(rows(cache)) - sum(whole) < 2 * 10


def test_share_features__what_cannot_be_used_is_left_to_its_cell(networks, tmp_path, cache, capsys):
    repositories.write_vit(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "preprocessor_config.json").read_text())
    config["size"] = {"height": 8, "width": 8}  # the network refuses images of this size
    (tmp_path / "other" / "preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "empty").mkdir()
    backbones = [str(tmp_path / "empty"), str(tmp_path / "other"), networks[0]]
    axes = {"model.backbone": backbones, "strategy": ["knn", "two_phase", "full"]}
    share_features(cells_of(tmp_path, axes))
    assert rows(cache) == [0, 44]
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("warning")]) == 1
    assert "features could not be computed together, now each backbone alone: ValueError: " in "".join(said)
    share_features(cells_of(tmp_path, axes, data={"source": str(tmp_path / "nowhere")}))
    assert rows(cache) == [0, 44]


def test_share_features__in_several_passes_where_memory_is_short(networks, tmp_path, cache, decoded, monkeypatch):
    found = cells_of(tmp_path, {"model.backbone": networks, "seed": [0]}, strategy="knn")
    monkeypatch.setattr(sharing, "MEMORY_SHARE", 1e-12)
    share_features(found)
    assert len(decoded) == 2 * DECODED + 2 * STATISTICS
    assert rows(cache) == [44, 44]


def test_share_features__nothing_for_one_cell_or_for_those_that_train_all(networks, tmp_path, cache):
    share_features(cells_of(tmp_path, {"model.backbone": networks[:1]}, strategy="knn"))
    share_features(cells_of(tmp_path, {"model.backbone": networks, "strategy": ["full", "gradual"]}))
    share_features(cells_of(tmp_path, {"model.backbone": networks}, strategy="linear_probe", features={"cache": False}))
    assert not cache.exists()
