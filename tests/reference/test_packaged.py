"""Recipes on packaged weights and images that no other test carries out, and the one for anybody's folder: few images."""

import json

import pytest
from offline import RECIPES, VEHICLES, image_folder

from hf_transfer.cli import main

FEW = ["data.max_train_samples=32", "data.max_validation_samples=12", "data.max_test_samples=12"]
SHORT = ["training.num_train_epochs=1", "training.disable_tqdm=true", "training.dataloader_num_workers=0"]


def carry_out(name, root, *overrides):
    assert main(["run", str(RECIPES / f"{name}.json"), f"output_dir={root / name}", *overrides]) == 0
    return json.loads((root / name / "metrics.json").read_text())


@pytest.mark.reference
def test_textile_partial__and_textile_benchmark_on_its_model(tmp_path):
    partial = carry_out("textile_partial", tmp_path, *FEW, *SHORT)
    assert partial["test"]["n"] == 12
    where, models = tmp_path / "textile_benchmark", json.dumps([{"backbone": str(tmp_path / "textile_partial")}])
    assert main(["run", str(RECIPES / "textile_benchmark.json"), f"output_dir={where}", f"model={models}", FEW[2]]) == 0
    (scored,) = json.loads((where / "benchmark.json").read_text())["rows"]
    assert scored["accuracy"] == partial["test"]["accuracy"]


@pytest.mark.reference
def test_image_folder__on_a_folder_of_jpegs(tmp_path):
    images = image_folder(tmp_path / "images", VEHICLES, per_class=20, size=[(64, 48), (48, 80)], splits=())
    found = carry_out(
        "image_folder",
        tmp_path,
        f"data.source={images}",
        "model.pretrained=false",
        "training.per_device_train_batch_size=4",
        *SHORT,
    )
    assert found["test"]["n"] == 9
