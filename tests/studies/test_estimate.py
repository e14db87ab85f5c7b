"""What cells cost, told from those that were measured: the very one, one like it, or another scaled by the work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_transfer.studies.estimate import estimates
from hf_transfer.studies.study import cells, load_study

LITE = ["package:efficientnet_lite0", "package:efficientnet_lite1", "package:efficientnet_lite2"]  # 0.38, 0.60, 0.86 GMACs
IMAGES = {
    "train": {"a": 60, "b": 40},
    "validation": {"a": 10, "b": 10},
    "test": {"a": 15, "b": 15},
}
# Images through the network in a run on these: 4 epochs of 3 x 100 and 20, then 150 that are scored; a probe sees each once.
FULL, PROBE = 4 * (300 + 20) + 150, 150


def in_a_key(value):
    return value["name"] if isinstance(value, dict) else value


@pytest.fixture
def cells_of(tmp_path, monkeypatch):
    """Return the cells of a study, by their values."""
    monkeypatch.chdir(tmp_path)

    def make(axes, tune=None, **base):
        recipe = {"data": {"source": "images", "test_fraction": 0.2}, "model": {"backbone": LITE[0]}, "strategy": "full"}
        recipe["training"] = {"num_train_epochs": 4}
        Path("study.json").write_text(json.dumps({"base": recipe | base, "axes": axes, "tune": tune}))
        return {tuple(map(in_a_key, cell.values.values())): cell for cell in cells(load_study("study.json"))}

    return make


def measure(cell, seconds, images=IMAGES, computed=None, searched=None, total=150):
    """Write what a finished run leaves behind that an estimate reads."""
    root = Path(cell.recipe.output_dir)
    root.mkdir(parents=True)
    (root / "metrics.json").write_text(json.dumps({"cost": {"total_seconds": seconds}}))
    (root / "environment.json").write_text(json.dumps({"class_counts": images}))
    (root / "README.md").write_text("done")
    if computed is not None:
        (root / "probe.json").write_text(json.dumps({"features": {"computed": computed, "total": total}}))
    if searched is not None:
        (root / "tuning.json").write_text(json.dumps({"seconds": searched}))


def told(found):
    """Return what is told of each cell, by its values: seconds, basis, and the values of the cell it is from."""
    names = {cell.id: values for values, cell in found.items()}
    rows = estimates(list(found.values()), Path("runs/study"))
    assert [row["id"] for row in rows] == list(names) and [row["values"] for row in rows] == [
        cell.values for cell in found.values()
    ]
    return {names[row["id"]]: (row["seconds"], row["basis"], names.get(row["measured_on"])) for row in rows}


def test_estimates__nothing_is_known(cells_of):
    found = cells_of({"model.backbone": LITE})
    assert set(told(found).values()) == {(None, None, None)}
    assert {row["state"] for row in estimates(list(found.values()), Path("runs/study"))} == {"new"}


def test_estimates__the_cell_itself_and_one_like_it(cells_of):
    found = cells_of({"training.learning_rate": [1e-3, 1e-2], "seed": [0, 1, 2]})
    measure(found[1e-3, 0], 50.0)
    measure(found[1e-2, 1], 60.0)
    assert told(found) == {
        (1e-3, 0): (50.0, "measured", (1e-3, 0)),
        (1e-3, 1): (50.0, "alike", (1e-3, 0)),
        (1e-3, 2): (50.0, "alike", (1e-3, 0)),
        (1e-2, 0): (60.0, "alike", (1e-2, 1)),
        (1e-2, 1): (60.0, "measured", (1e-2, 1)),
        (1e-2, 2): (60.0, "alike", (1e-2, 1)),
    }


def test_estimates__scaled_by_the_gmacs_of_the_nearest(cells_of):
    found = cells_of({"model.backbone": [*LITE, "timm:resnet34"]})
    measure(found[LITE[0],], 38.0)
    assert told(found) == {
        (LITE[0],): (38.0, "measured", (LITE[0],)),
        (LITE[1],): (pytest.approx(60.0), "scaled", (LITE[0],)),
        (LITE[2],): (pytest.approx(86.0), "scaled", (LITE[0],)),
        ("timm:resnet34",): (None, None, None),  # the shortlist does not know it
    }
    measure(found[LITE[1],], 90.0)
    assert told(found)[LITE[2],] == (pytest.approx(90 * 0.86 / 0.60), "scaled", (LITE[1],))


def test_estimates__scaled_by_the_images_that_pass_through(cells_of):
    found = cells_of({"training.num_train_epochs": [4, 8], "data.samples_per_class": [None, 50, 10]})
    measure(found[4, None], float(FULL))
    expected = {  # of one class there are but 40 training images
        (4, None): FULL,
        (4, 50): 4 * (3 * 90 + 20) + 140,
        (4, 10): 4 * (3 * 20 + 20) + 70,
        (8, None): 8 * (3 * 100 + 20) + 150,
        (8, 50): 8 * (3 * 90 + 20) + 140,
        (8, 10): 8 * (3 * 20 + 20) + 70,
    }
    assert {values: seconds for values, (seconds, _, _) in told(found).items()} == pytest.approx(expected)


def test_estimates__how_many_images_there_are_cannot_be_told(cells_of):
    axes = {"data.max_train_samples": [50, 80, None], "data.source": ["images", "others"]}
    found = cells_of(axes)
    measure(found[50, "images"], 100.0, images=IMAGES | {"train": {"a": 30, "b": 20}})
    known = told(found)
    ratio = (4 * (3 * 80 + 20) + 130) / (4 * (3 * 50 + 20) + 100)
    assert known.pop((50, "images"))[0] == 100.0
    assert known.pop((80, "images")) == (pytest.approx(100 * ratio), "scaled", (50, "images"))
    assert set(known.values()) == {(None, None, None)}


def test_estimates__fine_tuning_from_a_probe_that_computed_its_features(cells_of):
    found = cells_of(
        {"model.backbone": LITE[:2], "strategy": ["linear_probe", "full", "two_phase"], "seed": [0, 1]}, training={}
    )
    probe, again = (LITE[0], "linear_probe", 0), (LITE[0], "linear_probe", 1)
    measure(found[again], 2.0, computed=0)
    assert told(found)[probe] == (2.0, "alike", again)  # it will find the features, too
    assert told(found)[LITE[0], "full", 0] == (None, None, None)
    measure(found[probe], 15.0, computed=150)
    known = told(found)
    passes = 3 * (300 + 20) + 150
    assert known[LITE[0], "full", 1] == (pytest.approx(15 * passes / PROBE), "scaled", probe)
    assert known[LITE[0], "two_phase", 0] == (pytest.approx(15 * (passes + 120) / PROBE), "scaled", probe)
    assert known[LITE[1], "linear_probe", 0] == (pytest.approx(15 * 0.60 / 0.38), "scaled", probe)
    measure(found[LITE[1], "full", 0], 300.0)
    assert told(found)[LITE[0], "full", 0] == (pytest.approx(300 * 0.38 / 0.60), "scaled", (LITE[1], "full", 0))


def test_estimates__phases_of_their_own_only_from_the_same(cells_of):
    gradual = {"name": "gradual", "phase_epochs": 2}
    found = cells_of({"model.backbone": LITE[:2], "strategy": ["full", gradual]}, training={})
    measure(found[LITE[0], "full"], 10.0)
    assert told(found)[LITE[0], "gradual"] == (None, None, None)
    measure(found[LITE[0], "gradual"], 38.0)
    assert told(found)[LITE[1], "gradual"] == (pytest.approx(60.0), "scaled", (LITE[0], "gradual"))


def test_estimates__evaluations_of_the_same_images_only(cells_of):
    axes = {"model.backbone": LITE[:2], "data.max_test_samples": [None, 10]}
    found = cells_of(axes, mode="evaluate", training={})
    measure(found[LITE[0], None], 3.8, images={"test": IMAGES["test"]})
    known = told(found)
    assert known[LITE[1], None] == (pytest.approx(6.0), "scaled", (LITE[0], None))
    assert known[LITE[0], 10] == known[LITE[1], 10] == (None, None, None)


def test_estimates__a_tuned_cell_takes_a_run_more_than_it_has_trials(cells_of):
    tune = {"trials": 8, "space": {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}
    found = cells_of({"strategy": ["linear_probe", "full"], "seed": [0, 1, 2]}, tune, training={})
    measure(found["full", 0], 20.0, searched=150.0)
    measure(found["linear_probe", 0], 4.0, computed=150)
    Path("runs/study/tuning", found["full", 1].id).mkdir(parents=True)
    known = told(found)
    assert known["full", 0] == (170.0, "measured", ("full", 0))
    assert known["full", 1] == known["full", 2] == (180.0, "alike", ("full", 0))
    assert known["linear_probe", 1] == (4.0, "alike", ("linear_probe", 0))
    states = {row["id"]: row["state"] for row in estimates(list(found.values()), Path("runs/study"))}
    assert [states[found["full", seed].id] for seed in (0, 1, 2)] == ["done", "begun", "new"]


def test_estimates__imports_neither_torch_nor_transformers():
    script = "import sys, hf_transfer.studies.estimate\nassert not {'torch', 'transformers', 'optuna'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
