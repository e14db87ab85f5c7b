"""Recipes whose model or data is a list."""

import pytest

from hf_transfer.errors import RecipeError
from hf_transfer.recipe import Benchmark, Recipe, parse_any

RAW = {
    "mode": "evaluate",
    "output_dir": "runs/b",
    "data": [{"source": "package:textile", "max_test_samples": 5}, {"source": "photos/textile"}],
    "model": [{"backbone": "timm:resnet18"}, {"backbone": "runs/quickstart/"}, {"backbone": "other/resnet18"}],
    "evaluation": {"tta": "flip"},
}


def problems_of(raw, overrides=()):
    with pytest.raises(RecipeError) as caught:
        parse_any(raw, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_parse_any__a_cell_for_each_pair():
    benchmark = parse_any(RAW, ["seed=3"])
    assert isinstance(benchmark, Benchmark)
    assert benchmark.output_dir == "runs/b"
    assert [(cell.data.source, cell.model.backbone, cell.output_dir) for cell in benchmark.cells] == [
        ("package:textile", "timm:resnet18", "runs/b/package-textile/timm-resnet18"),
        ("package:textile", "runs/quickstart/", "runs/b/package-textile/quickstart"),
        ("package:textile", "other/resnet18", "runs/b/package-textile/resnet18"),
        ("photos/textile", "timm:resnet18", "runs/b/textile/timm-resnet18"),
        ("photos/textile", "runs/quickstart/", "runs/b/textile/quickstart"),
        ("photos/textile", "other/resnet18", "runs/b/textile/resnet18"),
    ]
    assert {(cell.seed, cell.evaluation.tta, tuple(cell.evaluation.splits)) for cell in benchmark.cells} == {
        (3, "flip", ("test",))
    }


def test_parse_any__equal_names_get_numbers():
    cells = parse_any({**RAW, "data": RAW["data"][0], "model": [{"backbone": "a/x"}, {"backbone": "b/x"}]}).cells
    assert [cell.output_dir for cell in cells] == ["runs/b/package-textile/x", "runs/b/package-textile/x-2"]


def test_parse_any__one_run_is_a_recipe():
    raw = {**RAW, "data": RAW["data"][0], "model": RAW["model"][0]}
    assert isinstance(parse_any(raw), Recipe)


def test_parse_any__all_problems_at_once_and_each_once():
    raw = {**RAW, "mode": "train", "model": [{"backbone": 3}, {"backbone": "a"}], "data": [{"source": "x"}, {"suorce": "y"}]}
    assert problems_of({**raw, "evaluation": {}}, ["model.backbone=x"]) == [
        "model.backbone: cannot be set: 'model' is a list",
        "mode: expected 'evaluate': a list of models or data sets is scored, not trained",
        "model.0.backbone: expected text, found 3",
        "data.1.source: is required, and is missing",
        "data.1.suorce: is not a key of the recipe (did you mean 'source'?)",
    ]


def test_parse_any__empty_lists():
    assert problems_of({**RAW, "model": [], "data": []}) == [
        "model: expected at least one, found an empty list",
        "data: expected at least one, found an empty list",
    ]


def test_parse_any__names_that_meet_a_number_or_another_case():
    models = [{"backbone": name} for name in ("runs/vit", "runs/vit-2", "old/vit", "A/VIT")]
    cells = parse_any({**RAW, "data": RAW["data"][0], "model": models}).cells
    assert [cell.output_dir.rpartition("/")[2] for cell in cells] == ["vit", "vit-2", "vit-3", "VIT-4"]


def test_parse_any__what_is_missing_and_where_to_write():
    raw = {key: value for key, value in RAW.items() if key != "data"}
    assert problems_of(raw) == ["data: is required, and is missing"]
    assert problems_of({**RAW, "output_dir": ""}) == ["output_dir: expected text that is not empty, found the text ''"]
    assert problems_of({**RAW, "output_dir": 5}) == ["output_dir: expected text, found 5"]
