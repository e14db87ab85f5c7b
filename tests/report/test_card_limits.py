import pytest

from hf_transfer.report.card_limits import limits_section
from hf_transfer.report.saved_run import SavedRun

TEST = {"accuracy": 0.9, "accuracy_ci95": [0.8, 0.95], "n": 50}


def limits(tmp_path, metrics, environment=None, recipe=None, published=False):
    run = SavedRun(tmp_path, recipe or {}, environment or {}, metrics, None, [])
    return limits_section(run, published=published).split("\n- ")[1:]


def scores(**f1):
    return {name: {"f1": value, "n": 20} for name, value in f1.items()}


def test_limits_section__nothing_known(tmp_path):
    assert limits(tmp_path, {}) == [
        "There is no validation split: nothing was selected by a score on images held out from training."
    ]


def test_limits_section__chance(tmp_path):
    first = limits(tmp_path, {"test": TEST}, recipe={"seed": 7})[0]
    assert first == (
        "The figures of the test split come from 50 images. The 95 % interval of the accuracy, 0.8000 to 0.9500, tells how far "
        "the choice of these images may have moved it; macro F1, balanced accuracy, NLL and ECE are given without an interval. "
        "They are of one training run (seed 7): how much another seed would change them was not measured."
    )
    evaluated = limits(tmp_path, {"test": {"accuracy": 0.9, "n": 50}}, recipe={"mode": "evaluate", "seed": 7})[0]
    assert evaluated == "The figures of the test split come from 50 images."


def test_limits_section__weakest_classes(tmp_path):
    per_class = scores(a=0.9, b=0.1, c=0.5, d=0.3, e=1.0, f=0.95) | {"g": {"f1": None, "n": 0}}
    points = limits(tmp_path, {"test": TEST | {"per_class": per_class}})
    assert points[1] == (
        "Lowest F1 on the test split: `b` 0.1000 (of 20 images), `d` 0.3000 (of 20 images), `c` 0.5000 (of 20 images). "
        "The split has no image of `g`: nothing is known of how well they are recognised."
    )


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"a": 5, "b": 9, "c": 5}, ["Fewest training images, 5: `a`, `c`."]),
        ({"a": 5, "b": 5}, []),
        ({"a": 9} | {f"c{i}": 2 for i in range(5)}, ["Fewest training images, 2: `c0`, `c1`, `c2` and 2 more."]),
    ],
)
def test_limits_section__smallest_classes(tmp_path, sizes, said):
    points = limits(tmp_path, {}, {"class_counts": {"train": sizes}})
    assert [point for point in points if point.startswith("Fewest")] == said


def test_limits_section__conditions(tmp_path):
    assert any("was not measured" in point and "another camera" in point for point in limits(tmp_path, {"test": {"n": 3}}))
    [found] = [
        point
        for point in limits(tmp_path, {"test": {"robustness": {"blur": {}}}, "night": {"n": 3}})
        if "other conditions" in point
    ]
    assert found == (
        "Of other conditions than those of the data, only these were measured: the further test sets night and the "
        "corruptions of test, as told above."
    )


@pytest.mark.parametrize(("published", "end"), [(False, "; environment.json lists them."), (True, ".")])
def test_limits_section__duplicates(tmp_path, published, end):
    duplicates = {"duplicates_across_splits": [["a", "b"], ["c", "d"]]}
    assert limits(tmp_path, {}, duplicates, published=published)[-1] == (
        f"Images that stand in more than one split, byte for byte: 2{end}"
    )


def test_limits_section__a_checkpoint_that_has_seen_the_images(tmp_path):
    points = limits(tmp_path, {"test": TEST}, {"seen_in_training": {"test": 12}}, {"mode": "evaluate"})
    assert points[-1] == (
        "Nothing was trained here. **12 of the 50 images of test were training images of this checkpoint**: its figures there "
        "say how well it remembers."
    )


def test_limits_section__classes_of_few_images_and_scores_that_are_all_alike(tmp_path):
    per_class = scores(a=1.0, b=1.0) | {"c": {"f1": 1.0, "n": 19}}
    points = limits(tmp_path, {"test": TEST | {"per_class": per_class}})
    assert points[1] == "Fewer than 20 images of the split, too few for figures of their own: `c`."
