"""The sentences that a user's mistake is told in."""

import pytest

from hf_transfer.errors import (
    BackboneError,
    DataError,
    LabelError,
    Problem,
    RecipeError,
    RunDirectoryError,
    UserError,
    listed,
    message_of,
    nearest,
    require,
)


def test_recipe_error__lists_every_problem():
    error = RecipeError([Problem("data.source", "is required"), Problem("", "no such file")], "a.json")
    assert str(error) == "Found 2 problems in a.json:\n  - data.source: is required\n  - no such file"
    assert [problem.path for problem in error.problems] == ["data.source", ""]


def test_recipe_error__singular():
    assert str(RecipeError([Problem("seed", "wrong")])) == "Found 1 problem in the recipe:\n  - seed: wrong"


@pytest.mark.parametrize("kind", [BackboneError, DataError, LabelError, RunDirectoryError])
def test_user_error__every_mistake_is_one(kind):
    assert issubclass(kind, UserError)
    assert str(kind("what to do")) == "what to do"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("learning_rat", " (did you mean 'learning_rate'?)"),
        ("weight_deacy", " (did you mean 'weight_decay'?)"),
        ("banana", ""),
        ("", ""),
    ],
)
def test_nearest__names_one_or_none(name, expected):
    assert nearest(name, ["learning_rate", "weight_decay"]) == expected


def test_listed__cuts_and_counts_the_rest():
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed("abc", 3) == "a, b, c"
    assert listed("abcde", 3) == "a, b, c and 2 more"
    assert listed(name for name in ("x", "y")) == "x, y"


def test_message_of__an_error_of_this_process_is_its_text():
    assert message_of(DataError("data: cannot read x.jpg")) == "data: cannot read x.jpg"
    assert message_of(DataError("two\nlines")) == "two\nlines"


def test_message_of__an_error_of_a_loader_process_loses_its_traceback():
    text = (
        "Caught DataError in DataLoader worker process 0.\n"
        "Original Traceback (most recent call last):\n"
        '  File "dataset.py", line 1, in fetch\n'
        '    raise DataError("data: ...")\n'
        "hf_transfer.errors.DataError: data: cannot read x.jpg: image file is truncated\n"
    )
    assert message_of(DataError(text)) == "data: cannot read x.jpg: image file is truncated"


def test_require__is_installed():
    require("torch", "torch", "everything")


def test_require__names_the_extra():
    with pytest.raises(UserError) as caught:
        require("no_such_module", "labels", "features.label_quality", ", or set it to false")
    assert str(caught.value) == (
        "features.label_quality needs no_such_module: pip install 'hf-transfer-learning[labels]', or set it to false"
    )
