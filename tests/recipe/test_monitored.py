"""What may be monitored, and what is said of what may not."""

import pytest

from hf_transfer.errors import RecipeError
from hf_transfer.recipe import parse_recipe
from hf_transfer.recipe.monitored import Monitored, monitored

MINIMAL = {"output_dir": "runs/x", "data": {"source": "package:digits"}, "model": {"backbone": "timm:resnet18"}}
EXPECTED = (
    "expected train, test, the first N images of a split (train_200, validation_200, test_200) or a name in evaluation.extra"
)


def problems_of(monitor, **sections):
    raw = {**MINIMAL, **sections}
    raw["evaluation"] = {"monitor": monitor, **sections.get("evaluation", {})}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("name", "expected", "row", "is_test"),
    [
        ("test", Monitored("test", "test", None), "test", True),
        ("train", Monitored("train", "train", None), "train_all", False),
        ("train_all", Monitored("train_all", "train", None), "train_all", False),
        ("train_200", Monitored("train_200", "train", 200), "train_200", False),
        ("validation_7", Monitored("validation_7", "validation", 7), "validation_7", False),
        ("test_12", Monitored("test_12", "test", 12), "test_12", True),
        ("winter_5", Monitored("winter_5", "winter_5", None), "winter_5", True),
    ],
)
def test_monitored__what_a_name_stands_for(name, expected, row, is_test):
    found = monitored(name)
    assert found == expected
    assert (found.row, found.is_test) == (row, is_test)


def test_monitor__every_name_that_is_permitted():
    names = ["train", "test", "train_200", "validation_100", "test_1", "winter_5"]
    recipe = parse_recipe({**MINIMAL, "evaluation": {"monitor": names, "extra": {"winter_5": "photos/winter"}}})
    assert recipe.evaluation.monitor == names


def test_monitor__all_wrong_names_at_once():
    monitor = ["tets", "train_0", "test", "train_200", "test", "validation", "train_-3", "train_007", "winter", "train_1e3"]
    assert problems_of(monitor) == [
        f"evaluation.monitor.0: {EXPECTED}; found 'tets' (did you mean 'test'?)",
        "evaluation.monitor.1: expected a number of images from 1 on, without leading zeros; found 'train_0'",
        "evaluation.monitor.4: expected each name once; found 'test' again",
        "evaluation.monitor.5: validation is scored at every evaluation anyway; remove it, or name a part of it, such as "
        "validation_200",
        f"evaluation.monitor.6: {EXPECTED}; found 'train_-3' (did you mean 'train'?)",
        "evaluation.monitor.7: expected a number of images from 1 on, without leading zeros; found 'train_007'",
        f"evaluation.monitor.8: {EXPECTED}; found 'winter'",
        f"evaluation.monitor.9: {EXPECTED}; found 'train_1e3' (did you mean 'train'?)",
    ]


def test_monitor__a_further_test_set_that_is_called_like_a_part_of_a_split():
    extra = {"train_200": "photos/winter", "train_all": "photos/summer"}
    assert problems_of(["train_200"], evaluation={"extra": extra}) == [
        "evaluation.monitor.0: 'train_200' stands for images of train, and is a name in evaluation.extra; rename it there"
    ]
    assert problems_of(["train_all"], evaluation={"extra": extra}) == [
        "evaluation.monitor.0: 'train_all' stands for images of train, and is a name in evaluation.extra; rename it there"
    ]
    assert problems_of(["train", "train_all"]) == ["evaluation.monitor.1: expected each name once; found 'train_all' again"]


def test_monitor__is_a_list_of_names():
    assert problems_of("test") == ["evaluation.monitor: expected a list, found the text 'test'"]
    assert problems_of([200]) == ["evaluation.monitor.0: expected text, found 200"]


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"strategy": "knn"}, "strategy 'knn' trains nothing; remove it"),
        (
            {"strategy": "quantized_probe"},
            "strategy 'quantized_probe' fits a linear head on features that are computed once; remove it",
        ),
        ({"mode": "evaluate"}, "watches a training; leave it out"),
        ({"training": {"eval_strategy": "no"}}, "needs evaluations; found training.eval_strategy 'no'"),
    ],
)
def test_monitor__where_nothing_is_evaluated_while_training(sections, problem):
    assert problems_of(["test"], **sections) == [f"evaluation.monitor: {problem}"]


def test_monitor__no_further_test_set_may_be_called_monitored():
    assert problems_of([], evaluation={"extra": {"monitored": "photos"}})[0].startswith("evaluation.extra: expected names")
