"""Features pooled in another way: through store, probe, saved model and a second run's evaluation of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.features.store import FeatureStore


@pytest.fixture
def written(checkpoints, tmp_path):
    """A recipe on the digits for the tiny ViT."""
    raw = {
        "output_dir": str(tmp_path / "run"),
        "data": {
            "source": "package:digits",
            "test_fraction": 0.2,
            "max_train_samples": 120,
            "max_validation_samples": 40,
            "max_test_samples": 40,
        },
        "model": {"backbone": str(checkpoints / "vit")},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(raw))
    return str(tmp_path / "recipe.json")


def run(written, name, pooling, strategy="linear_probe"):
    output = Path(written).parent / name
    assert main(["run", written, f"output_dir={output}", f"strategy={strategy}", f"features.pooling={pooling}"]) == 0
    return output


def logits_of(directory):
    return Predictions.read(directory / "predictions" / "test.parquet").logits


def test_linear_probe__on_both_the_class_token_and_the_mean(written, tmp_path):
    plain, both = (run(written, name, name) for name in ("default", "cls_mean"))
    widths = [
        json.loads((path / "model" / "config.json").read_text()).get("head", {}).get("in_features") for path in (plain, both)
    ]
    assert widths == [None, 64]  # a stock class, and our wrapper
    spaces = [json.loads((path / "probe.json").read_text())["features"]["spaces"] for path in (plain, both)]
    assert not set(spaces[0]) & set(spaces[1])
    assert set(FeatureStore().keys()) >= {*spaces[0], *spaces[1]}
    assert not np.allclose(logits_of(plain), logits_of(both))

    evaluation = {
        "mode": "evaluate",
        "output_dir": str(tmp_path / "again"),
        "data": json.loads((both / "recipe.json").read_text())["data"],
        "model": {"backbone": str(both)},
        "evaluation": {"speed": False},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert main(["run", str(tmp_path / "evaluation.json")]) == 0
    np.testing.assert_allclose(logits_of(tmp_path / "again"), logits_of(both), rtol=1e-4, atol=1e-5)


def test_knn__each_pooling_has_features_of_its_own(written):
    found = {name: run(written, name, name, "knn") for name in ("default", "cls", "mean")}
    spaces = {name: json.loads((path / "probe.json").read_text())["features"]["spaces"] for name, path in found.items()}
    assert spaces["default"] == spaces["cls"]  # what enters a ViT's head is its class token
    assert not set(spaces["mean"]) & set(spaces["cls"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["strategy=full"],
            "features.pooling: expected 'default' except for 'linear_probe' and 'knn', with a linear head; found 'mean' with "
            "'full'",
        ),
        (
            ["strategy=linear_probe", 'model.head={"hidden": [{"size": 8}]}'],
            "features.pooling: expected 'default' except for 'linear_probe' and 'knn', with a linear head; found 'mean' with "
            "model.head.hidden",
        ),
        (["mode=evaluate"], "features.pooling: belongs to a new head, and an evaluation has none; leave it out"),
        (
            ["strategy=knn", "features.pooling=men"],
            "features.pooling: expected 'default', 'cls', 'mean' or 'cls_mean'; found the text 'men' (did you mean 'mean'?)",
        ),
    ],
)
def test_pooling__where_it_does_not_belong(written, capsys, arguments, said):
    changes = [part for change in ["features.pooling=mean", *arguments] for part in ("--set", change)]
    assert main(["check", written, *changes]) == 2
    assert f"  - {said}" in capsys.readouterr().err
