"""What is said of test images that were scored while a run trained."""

import pytest

from hf_transfer.report.watched import times_scored, watched_test


@pytest.mark.parametrize(
    ("monitored", "subject"),
    [
        (
            {"test": 50, "train_200": 50},
            "The test split was scored 50 times while training; it chose nothing, but whoever watched it",
        ),
        ({"test": 1}, "The test split was scored once while training; it chose nothing, but whoever watched it"),
        (
            {"test_1000": 2, "train_all": 2},
            "The first 1,000 images of the test split were scored 2 times while training; they chose nothing, but whoever "
            "watched them",
        ),
        (
            {"test_5": 3, "test": 3, "winter": 3},
            "The test split and the further test set winter were scored 3 times while training; they chose nothing, but "
            "whoever watched them",
        ),
        (
            {"test_5": 2, "test": 2},
            "The test split was scored 2 times while training; it chose nothing, but whoever watched it",
        ),
        (
            {"winter": 4},
            "The further test set winter was scored 4 times while training; it chose nothing, but whoever watched it",
        ),
    ],
)
def test_watched_test__one_sentence(monitored, subject):
    assert watched_test({"monitored": monitored, "test": {}}) == f"{subject} may have."


@pytest.mark.parametrize(
    "metrics", [{}, {"monitored": {}}, {"monitored": {"train_200": 5, "validation_9": 5}}, {"monitored": {"test": 0}}]
)
def test_watched_test__nothing_where_no_test_image_was_scored(metrics):
    assert watched_test(metrics) == ""


@pytest.mark.parametrize("found", [["test"], "test", {"test": "often"}, {"test": None}])
def test_watched_test__what_no_run_writes_is_passed_over(found):
    assert watched_test({"monitored": found}) == ""


def test_times_scored__counts_the_evaluations_of_a_resumed_run_once(tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("step,split,loss\n1,train,1\n1,test,1\n2,test,1\n2,test,1\n2,train_all,1\n")
    assert times_scored(["test", "train", "train_5"], history) == {"test": 2, "train_all": 1, "train_5": 0}
