"""The search of a cell: which settings it tries, what it chooses, what it leaves on disk, and what it never looks at."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import repositories
from PIL import Image

from hf_transfer.errors import DataError, RecipeError, UserError
from hf_transfer.run_directory import RunDirectory
from hf_transfer.studies import tuning
from hf_transfer.studies.cell_run import carry_out
from hf_transfer.studies.study import cells, load_study

RATE = {"low": 1e-4, "high": 1e-1, "log": True}
SMALL = {
    "source": "package:digits",
    "test_fraction": 0.2,
    "max_train_samples": 24,
    "max_validation_samples": 20,
    "max_test_samples": 20,
}
TRAINING = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "dataloader_num_workers": 0,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": [],
}


@pytest.fixture
def cells_of(tmp_path, monkeypatch):
    """Return the cells of a study of a tiny ViT that is fine-tuned, with a search of the given space."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))

    def make(space, trials=3, axes=None, training=None, data=SMALL, **base):
        recipe = {"data": data, "model": {"backbone": "vit"}, "strategy": "full", "training": TRAINING | (training or {})}
        study = {"base": recipe | base, "axes": axes or {"seed": [0]}, "tune": {"trials": trials, "space": space}}
        Path("study.json").write_text(json.dumps(study))
        return cells(load_study("study.json"))

    return make


def test_settings__own_values_first_and_the_same_for_every_candidate(cells_of):
    space = {"training.learning_rate": RATE, "training.weight_decay": [0.0, 0.05], "augment.mixup": {"low": 0, "high": 1}}
    axes = {"model.backbone": ["timm:resnet18", "timm:resnet34"], "strategy": ["full", "norm_only"], "seed": [0, 1]}
    found = cells_of(space, trials=8, axes=axes, training={"learning_rate": 0.003})
    tried = {cell.id: tuning.settings(cell) for cell in found}
    assert len(tried) == 8
    for seed in (0, 1):
        first, *others = [tried[cell.id] for cell in found if cell.recipe.seed == seed]
        assert all(other == first for other in others)
        assert first[0] == {"training.learning_rate": 0.003, "training.weight_decay": 0.0, "augment.mixup": 0.0}
        assert len(first) == 8 and all(list(values) == list(space) for values in first)
        assert all(1e-4 <= values["training.learning_rate"] <= 1e-1 for values in first)
        assert {values["training.weight_decay"] for values in first} == {0.0, 0.05}
        assert all(float(f"{values['augment.mixup']:.3g}") == values["augment.mixup"] for values in first)
    assert tried[found[0].id][1:] != tried[found[1].id][1:]  # another seed
    assert tuning.settings(found[0]) == tried[found[0].id]


def test_settings__spread_over_the_range(cells_of):
    (cell,) = cells_of({"training.learning_rate": RATE}, trials=8, training={"learning_rate": 1.0})
    rates = [values["training.learning_rate"] for values in tuning.settings(cell)]
    assert sorted(int(8 * (math.log10(rate) + 4) / 3) for rate in rates) == list(range(8))


def test_settings__own_values_are_those_that_the_run_would_have(cells_of):
    space = {"training.learning_rate": RATE | {"low": 1e-6}, "training.per_device_eval_batch_size": [32, 64]}
    (cell,) = cells_of(space)
    assert tuning.settings(cell)[0] == {"training.learning_rate": 5e-5, "training.per_device_eval_batch_size": 64}
    (cell,) = cells_of({"strategy.layer_decay": {"low": 0.5, "high": 1.0}})  # null where nothing is said
    assert len(tuning.settings(cell)) == 3


def test_settings__every_combination_where_there_are_fewer_than_trials(cells_of):
    space = {"training.learning_rate": [1e-3, 1e-2], "training.optim": ["sgd", "adam", "adamw_torch"]}
    (cell,) = cells_of(space, trials=20)
    found = tuning.settings(cell)
    assert len(found) == 6 and len({tuple(values.values()) for values in found}) == 6


def test_check__every_mistake_once_and_what_is_right_never(cells_of):
    axes = {"strategy": ["full", "norm_only", "linear_probe"], "seed": [0, 1]}
    good = {"training.learning_rate": RATE, "loss.gamma": {"low": 0, "high": 5}, "training.optim": ["sgd", "adam"]}
    assert tuning.check(cells_of(good, axes=axes)) == []
    wrong = {
        "training.learning_rat": RATE,
        "training.optim": ["sgd", "adan"],
        "training.per_device_train_batch_size": {"low": 8, "high": 64},
        "augment.cutout": [0, 1],
        "strategy.layer_decay": {"low": 0.5, "high": 1.5},
        "seeds.x": [1, 2],
    }
    with pytest.raises(RecipeError) as raised:  # before anything is carried out
        cells_of(wrong, axes=axes)
    told = [str(problem) for problem in raised.value.problems]
    assert [line.partition(" [tune.space, ")[0] for line in told] == [
        "training.learning_rat: is not a field of transformers.TrainingArguments (did you mean 'learning_rate'?)",
        told[1].partition(" [")[0],
        "training.per_device_train_batch_size: expected a whole number, found 8.0",
        "training.per_device_train_batch_size: expected a whole number, found 64.0",
        "augment.cutout: is not a key of the recipe",
        "strategy.layer_decay: expected 1 or less, found 1.5",
        "seeds: is not a key of the recipe (did you mean 'seed'?)",
    ]
    assert told[1].startswith("training.optim: expected one of ") and "found 'adan'" in told[1]
    assert all(line.partition("in the cell ")[2].startswith("full-0-") for line in told)
    assert '[tune.space, training.optim="adan", in the cell ' in told[1]


def test_check_available__says_what_to_install(cells_of, monkeypatch):
    frozen, tuned = cells_of({"training.learning_rate": RATE}, axes={"strategy": ["linear_probe", "full"]})
    tuning.check_available([frozen, tuned])
    monkeypatch.setitem(sys.modules, "optuna", None)
    tuning.check_available([frozen])
    with pytest.raises(UserError, match=r"^a study with tune needs optuna: pip install .*\[tune\]', or remove tune$"):
        tuning.check_available([frozen, tuned])
    with pytest.raises(UserError, match="needs optuna"):
        carry_out(tuned)
    assert not Path(tuned.recipe.output_dir).parents[1].exists()


def test_search__the_best_on_validation_and_what_is_left_of_the_trials(cells_of):
    repositories.write_vit(Path("vit"))
    space = {"training.learning_rate": [1e-9, 1e30, 0.03]}
    (cell,) = cells_of(
        space,
        training={"learning_rate": 1e-9, "num_train_epochs": 4, "warmup_steps": 0},
        evaluation={"speed": True, "monitor": ["test"]},
    )
    found = tuning.search(cell, Path("trials"))
    trials = {trial["values"]["training.learning_rate"]: trial for trial in found["trials"]}
    assert [trial["number"] for trial in found["trials"]] == [1, 2, 3] and found["trials"][0] is trials[1e-9]
    assert {rate: trial["state"] for rate, trial in trials.items()} == {1e-9: "done", 1e30: "failed", 0.03: "done"}
    assert "training diverged" in trials[1e30]["reason"] and trials[1e30]["validation_accuracy"] is None
    assert trials[0.03]["validation_accuracy"] > trials[1e-9]["validation_accuracy"]
    assert found["chosen"] == {"training.learning_rate": 0.03}
    assert found["space"] == space
    assert found["seconds"] == pytest.approx(sum(trial["seconds"] for trial in found["trials"])) and found["seconds"] > 0
    assert json.loads(Path("trials/trials.json").read_text()) == found

    place = RunDirectory(Path("trials", f"trial-{trials[0.03]['number']}"))
    metrics = place.read_metrics()
    assert metrics.keys() == {"validation", "cost"}
    assert metrics["validation"]["accuracy"] == trials[0.03]["validation_accuracy"]
    assert metrics["validation"]["nll"] == trials[0.03]["validation_nll"]
    recipe = json.loads(place.recipe.read_text())
    assert recipe["description"] == f"Trial {trials[0.03]['number']} of 3 of {cell.id}"
    assert recipe["training"]["learning_rate"] == 0.03 and recipe["evaluation"]["splits"] == ["validation"]
    assert recipe["evaluation"]["monitor"] == []
    assert sorted(path.name for path in place.predictions.iterdir()) == ["validation.parquet"]
    assert place.history.is_file()
    assert not [path for path in Path("trials").rglob("*") if path.suffix == ".safetensors" or path.name == "checkpoints"]

    before = place.metrics.stat().st_mtime_ns
    assert tuning.search(cell, Path("trials")) == found  # nothing is left to do
    assert place.metrics.stat().st_mtime_ns == before


def test_search__several_labels_an_image_by_mean_average_precision(cells_of):
    repositories.write_vit(Path("vit"))
    Path("shapes").mkdir()
    lines, rng = ["file_name,labels"], np.random.default_rng(0)
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(f"shapes/{number}.png")
        lines.append(f"{number}.png,{('a', 'b', 'a|b', '|')[number % 4]}")
    Path("shapes/metadata.csv").write_text("\n".join(lines))
    data = {"source": "shapes", "task": "multi_label", "validation_fraction": 0.3, "test_fraction": 0.3}
    (cell,) = cells_of({"training.learning_rate": [1e-9, 0.01]}, data=data, trials=2)
    found = tuning.search(cell, Path("trials"))
    for trial in found["trials"]:
        metrics = RunDirectory(Path("trials", f"trial-{trial['number']}")).read_metrics()
        assert trial["validation_mean_average_precision"] == metrics["validation"]["mean_average_precision"]
        assert not any("accuracy" in key for key in trial)
    assert tuning.search(cell, Path("trials")) == found  # read back under its own name


def test_search__equals_are_told_apart_by_likelihood_and_then_by_order(cells_of):
    (cell,) = cells_of({"training.learning_rate": [1e-3, 1e-2, 1e-1, 1.0]}, trials=4)
    scores = [(0.5, 0.9), (0.75, 0.8), (0.75, 0.6), (0.75, 0.6)]
    trials = [
        {"number": k, "values": values, "state": "done", "validation_accuracy": a, "validation_nll": b, "seconds": 1.5}
        for k, (values, (a, b)) in enumerate(zip(tuning.settings(cell), scores, strict=True), start=1)
    ]
    Path("trials").mkdir()
    Path("trials/trials.json").write_text(json.dumps({"trials": trials}))
    found = tuning.search(cell, Path("trials"))
    assert found["chosen"] == trials[2]["values"]
    assert found["seconds"] == 6.0


def test_search__every_trial_fails_and_is_tried_again(cells_of):
    (cell,) = cells_of({"training.learning_rate": [1e-3, 1e-2]}, trials=2)
    Path("vit").mkdir()
    with pytest.raises(UserError) as caught:
        tuning.search(cell, Path("trials"))
    wrong = "model.backbone: expected a config.json in vit (or in its model/), found none"
    assert str(caught.value) == (
        "tune: every one of 2 trials failed:\n"
        + "\n".join(f"  - training.learning_rate={rate}: {wrong}" for rate in _rates(tuning.settings(cell)))
    )
    repositories.write_vit(Path("vit"))
    found = tuning.search(cell, Path("trials"))
    assert [trial["state"] for trial in found["trials"]] == ["done", "done"]


def _rates(settings):
    return [values["training.learning_rate"] for values in settings]


def test_search__test_images_are_not_decoded(cells_of):
    repositories.write_vit(Path("vit"))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "validation", "test", "elsewhere"):
        for place, image in enumerate(pixels):
            path = Path("images" if split != "elsewhere" else ".", split, "ab"[place % 2], f"{place}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            if split in ("test", "elsewhere"):
                content = path.read_bytes()  # its header and its end stay whole, its pixels do not
                path.write_bytes(content[:1000] + bytes(200) + content[1200:])
    (cell,) = cells_of(
        {"training.learning_rate": [1e-3, 1e-2]}, 2, data={"source": "images"}, evaluation={"extra": {"other": "elsewhere"}}
    )
    assert tuning.search(cell, Path("trials"))["chosen"] is not None
    with pytest.raises(DataError, match="test/"):
        carry_out(cell)
