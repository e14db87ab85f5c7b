"""Keys of later versions: an error that says so, never ignored."""

import pytest

from hf_transfer.errors import RecipeError
from hf_transfer.recipe import parse_recipe
from hf_transfer.recipe.availability import check_availability
from hf_transfer.recipe.json_schema import json_schema
from hf_transfer.recipe.schema import Recipe

MINIMAL = {"output_dir": "runs/x", "data": {"source": "package:digits"}, "model": {"backbone": "timm:resnet18"}}


def problems_of(overrides):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(MINIMAL, overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("data.task=multi_label", "use 'single_label'"),
        ("features.pooling=mean", "use 'default'"),
    ],
)
def test_check_availability__says_what_to_do_meanwhile(override, advice):
    key = override.partition("=")[0]
    assert problems_of([override]) == [f"{key}: is not available in this version; {advice}"]


def test_check_availability__every_default_is_available():
    defaults = Recipe.model_validate(MINIMAL).model_dump(mode="json", by_alias=True)
    assert check_availability(defaults) == []


def test_check_availability__is_told_beside_other_problems():
    assert problems_of(["features.pooling=mean", "augment.cutmix=-1", "features.views=x", "sed=1"]) == [
        "augment.cutmix: expected 0 or more, found -1",
        "features.views: expected a whole number, found the text 'x'",
        "sed: is not a key of the recipe (did you mean 'seed'?)",
        "features.pooling: is not available in this version; use 'default'",
    ]


def test_check_availability__every_key_is_one_of_the_schema():
    from hf_transfer.recipe.availability import _LATER

    schema = json_schema()
    for path, _, _ in _LATER:
        assert f'"{path.rpartition(".")[2]}": {{' in schema, path
