"""A study file: what its cells are, what they are called, and what it is told when it says something else."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from hf_transfer.errors import RecipeError
from hf_transfer.recipe.words import candidate
from hf_transfer.studies.study import Tune, cells, is_study, load_study

ROOT = Path(__file__).resolve().parents[2]
BASE = {"data": {"source": "package:digits"}, "model": {"backbone": "timm:resnet18"}}
AXES = {"model.backbone": ["timm:resnet18", "torchvision:resnet18"], "strategy": ["linear_probe", "full"], "seed": [0, 1]}


@pytest.fixture
def write(tmp_path):
    def write(**study):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({"base": BASE, "axes": AXES, **study}))
        return path

    return write


def values_of(path, *overrides):
    return [tuple(cell.values.values()) for cell in cells(load_study(path, overrides))]


def problems_of(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        cells(load_study(path, overrides))
    return [str(problem) for problem in caught.value.problems]


def test_cells__every_combination_the_last_axis_fastest(write):
    found = cells(load_study(write()))
    assert [tuple(cell.values.values()) for cell in found] == [
        (backbone, strategy, seed)
        for backbone in AXES["model.backbone"]
        for strategy in AXES["strategy"]
        for seed in AXES["seed"]
    ]
    first = found[0]
    assert (first.recipe.model.backbone, first.recipe.strategy.name, first.recipe.seed) == ("timm:resnet18", "linear_probe", 0)
    assert first.recipe.augment.preset == "none"  # as the strategy alone would have it
    assert first.recipe.output_dir == f"runs/mine/cells/{first.id}"
    assert first.id.startswith("resnet18-linear_probe-0-")
    assert candidate(first.values) == "resnet18 linear_probe"


def test_cells__an_id_depends_on_what_the_run_depends_on_and_on_nothing_else(write):
    before = {cell.id for cell in cells(load_study(write()))}
    assert len(before) == 8
    said = write(description="other words", base={**BASE, "description": "x", "expected": None})
    assert {cell.id for cell in cells(load_study(said))} == before
    more = {cell.id for cell in cells(load_study(write(axes={**AXES, "seed": [0, 1, 2]})))}
    assert before < more and len(more) == 12
    changed = {cell.id for cell in cells(load_study(write(), ["base.training.learning_rate=0.5"]))}
    assert not changed & before


def test_cells__left_out_added_and_set_where_they_match(write):
    study = write(
        exclude=[{"model.backbone": "torchvision:resnet18", "strategy": ["full", "knn"]}],
        include=[{"model.backbone": "timm:resnet34", "strategy": {"name": "partial", "frozen_groups": 1}, "seed": 0}],
        overrides=[
            {"when": {"strategy": "full"}, "set": {"training.num_train_epochs": 3}},
            {"when": {"strategy": ["full", "partial"], "seed": 0}, "set": {"loss.name": "focal"}},
        ],
    )
    found = {tuple(_name(value) for value in cell.values.values()): cell.recipe for cell in cells(load_study(study))}
    assert [key for key in found if key[0] == "torchvision:resnet18"] == [
        ("torchvision:resnet18", "linear_probe", 0),
        ("torchvision:resnet18", "linear_probe", 1),
    ]
    epochs = {key: recipe.training.get("num_train_epochs") for key, recipe in found.items()}
    assert {key[1] for key, count in epochs.items() if count == 3} == {"full"}
    focal = [key for key, recipe in found.items() if recipe.loss.name == "focal"]
    assert focal == [("timm:resnet18", "full", 0), ("timm:resnet34", "partial", 0)]


def _name(value):
    return value["name"] if isinstance(value, dict) else value


def test_load_study__base_in_a_file_beside_it(write, tmp_path):
    (tmp_path / "base.json").write_text(json.dumps({**BASE, "seed": 5}))
    found = cells(load_study(write(base="base.json", axes={"strategy": ["full"]}, output_dir="runs/other")))
    assert found[0].recipe.seed == 5
    assert found[0].recipe.output_dir == f"runs/other/cells/{found[0].id}"


def test_load_study__overrides(write):
    assert values_of(write(), "axes.seed=[7]", 'axes.strategy=["knn"]') == [
        (backbone, "knn", 7) for backbone in AXES["model.backbone"]
    ]
    one = ["axes.seed=[7]", 'axes.strategy=["knn"]', 'axes.model.backbone=["timm:resnet18"]']
    assert values_of(write(), *one) == [("timm:resnet18", "knn", 7)]


@pytest.mark.parametrize(
    ("study", "overrides", "expected"),
    [
        (
            {"axis": {}, "axes": {"seed": []}},
            [],
            [
                "axes: expected a dotted key with at least one value, found 'seed' with 0",
                "axis: is not a key of the study (did you mean 'axes'?)",
            ],
        ),
        ({"axes": {"seed": [0, 0]}}, [], ["axes: expected different values, found one of 'seed' twice"]),
        (
            {"axes": {"strategy": ["full", "fool"], "seed": [0, 1]}},
            [],
            ["strategy.name: ", "found the text 'fool' [in the cell strategy=fool, seed=0]"],
        ),
        ({"exclude": [{"seed": [0, 1]}]}, [], ["exclude: leaves no cell"]),
        ({"axes": {"model.backbon": ["x"]}}, [], ["model.backbon: is not a key of the recipe (did you mean 'backbone'?)"]),
    ],
)
def test_load_study__mistakes_are_told_once(write, study, overrides, expected):
    found = problems_of(write(**study), *overrides)
    if len(expected) == len(found):
        assert all(problem.startswith(words) for problem, words in zip(found, expected, strict=True)), found
    else:
        assert len(found) == 1 and found[0].startswith(expected[0]) and found[0].endswith(expected[1]), found


def test_load_study__missing_base(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"base": "nothing.json", "axes": AXES}))
    with pytest.raises(RecipeError, match=r"nothing\.json:\n  - no such file"):
        load_study(tmp_path / "mine.json")


def test_is_study(write, tmp_path):
    assert is_study(write())
    assert not is_study(ROOT / "recipes/quickstart.json")
    (tmp_path / "broken.json").write_text("{")
    assert not is_study(tmp_path / "broken.json") and not is_study(tmp_path / "nothing.json")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/studies").glob("*.json")), ids=lambda path: path.stem)
def test_load_study__the_studies_of_this_repository(path):
    assert len(cells(load_study(path))) > 1


def test_study__imports_neither_torch_nor_transformers():
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from hf_transfer.studies.study import cells, load_study\n"
        "cells(load_study('recipes/studies/textile_lite.json'))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("values", [[0.05], [0.05, 0.05]])
def test_study__a_search_needs_different_values(values):
    with pytest.raises(ValidationError, match=r"expected at least two values of 'training.weight_decay', all different; found"):
        Tune.model_validate({"trials": 4, "space": {"training.weight_decay": values}})
