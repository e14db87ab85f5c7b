"""Which images belong together, and splits that keep them on one side."""

import numpy as np
import pytest

from hf_transfer.data.groups import assign_groups, groups_of_paths
from hf_transfer.data.splits import hash_order
from hf_transfer.errors import DataError

PATHS = ["cat/walk_1/a.jpg", "cat/walk_2/b.jpg", "dog/walk_1/c.jpg", "dog/yard/far/d.jpg"]


def message(paths, rule, **options):
    with pytest.raises(DataError) as caught:
        groups_of_paths(paths, rule, **options)
    return str(caught.value)


def assign(groups, labels, fractions, seed=0):
    groups = np.array(groups)
    return assign_groups(groups, np.array(labels), fractions, hash_order(np.unique(groups), seed))


def test_groups_of_paths__of_one_folder_whatever_the_class():
    assert groups_of_paths(PATHS, "folder").tolist() == ["walk_1", "walk_2", "walk_1", "yard/far"]


def test_groups_of_paths__by_what_a_pattern_finds():
    assert groups_of_paths(PATHS, "path:^([^/]+/[^/]+)/").tolist() == ["cat/walk_1", "cat/walk_2", "dog/walk_1", "dog/yard"]
    assert groups_of_paths(["a/p07_1.png", "b/p07_2.png"], r"path:/(p\d+)_").tolist() == ["p07", "p07"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            "patient",
            "data.group_column: expected 'folder' (the images of one folder inside the class folders belong together) or "
            "'path:' and a regular expression with one group in parentheses, such as 'path:(patient_\\d+)'; found 'patient'",
        ),
        ("path:(", "data.group_column: '(' is no regular expression: missing ), unterminated subpattern at position 0"),
        ("path:a", "data.group_column: expected a regular expression with one group in parentheses, found 0 in 'a'"),
        ("path:(a)(b)", "data.group_column: expected a regular expression with one group in parentheses, found 2 in '(a)(b)'"),
        (
            r"path:(walk_\d)",
            "data.group_column: expected '(walk_\\d)' to find a group in the path of every image; 1 of 4 have none: "
            "dog/yard/far/d.jpg",
        ),
        (
            "path:(walk_1)?",
            "data.group_column: expected '(walk_1)?' to find a group in the path of every image; 4 of 4 have none: "
            "cat/walk_1/a.jpg, cat/walk_2/b.jpg, dog/walk_1/c.jpg and 1 more",
        ),
    ],
)
def test_groups_of_paths__a_rule_that_does_not_fit(rule, words):
    assert message(PATHS, rule) == words


def test_groups_of_paths__an_image_outside_of_folders():
    assert message([*PATHS, "cat/e.jpg"], "folder", key="--group-by") == (
        "--group-by: expected images in folders inside the class folders; 1 of 5 have none: cat/e.jpg"
    )


def test_assign_groups__whole_groups_in_proportion_of_every_class():
    rng = np.random.default_rng(0)
    sizes = rng.geometric(0.1, 200)
    groups = np.repeat([f"patient {i}" for i in range(200)], sizes)
    labels = (rng.random(len(groups)) < np.repeat(rng.beta(0.5, 1.5, 200), sizes)).astype(int)
    for seed in range(3):
        parts, missing = assign(groups, labels, [0.6, 0.2, 0.2], seed)
        assert missing == []
        assert all(len(set(parts[groups == name])) == 1 for name in np.unique(groups))
        for label in (0, 1):
            found = np.bincount(parts[labels == label], minlength=3)
            assert np.abs(found - np.array([0.6, 0.2, 0.2]) * found.sum()).max() < 1.5


def test_assign_groups__groups_of_one_image_are_an_ordinary_stratified_split():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    parts, missing = assign([f"{i}" for i in range(100)], labels, [0.7, 0.1, 0.2])
    assert missing == []
    assert [np.bincount(labels[parts == part]).tolist() for part in range(3)] == [[35, 21, 14], [5, 3, 2], [10, 6, 4]]


def test_assign_groups__the_largest_goes_where_most_is_wanted_and_no_class_is_missing():
    for seed in range(5):
        parts, missing = assign(np.repeat(["a", "b", "c"], [50, 3, 2]), np.zeros(55, int), [0.6, 0.2, 0.2], seed)
        assert missing == []
        assert np.bincount(parts).tolist() in ([50, 3, 2], [50, 2, 3])


def test_assign_groups__the_seed_decides_and_the_order_of_rows_does_not():
    groups, labels = np.repeat([f"g{i}" for i in range(40)], 5), np.tile([0, 1, 1, 0, 1], 40)
    first, other = (assign(groups, labels, [0.5, 0.5], seed)[0] for seed in (0, 1))
    rows = np.random.default_rng(0).permutation(200)
    assert assign(groups[rows], labels[rows], [0.5, 0.5])[0].tolist() == first[rows].tolist()
    assert first.tolist() != other.tolist()


def test_assign_groups__classes_that_share_no_group_do_not_influence_each_other():
    rng = np.random.default_rng(1)
    counts = [[int(size) for size in rng.integers(1, 9, 12)] for _ in range(4)]
    groups = [f"{c}/{g}" for c, sizes in enumerate(counts) for g, size in enumerate(sizes) for _ in range(size)]
    labels = np.repeat(range(4), [sum(sizes) for sizes in counts])
    everyone = dict(zip(groups, assign(groups, labels, [0.7, 0.1, 0.2])[0].tolist(), strict=True))
    some = [place for place, label in enumerate(labels) if label in (1, 3)]
    parts, _ = assign([groups[place] for place in some], labels[some], [0.7, 0.1, 0.2])
    assert {groups[place]: int(part) for place, part in zip(some, parts, strict=True)}.items() <= everyone.items()


def test_assign_groups__what_is_missing_is_told():
    parts, missing = assign(["a", "a", "b"], [0, 1, 0], [0.5, 0.5])
    assert missing == [(int(1 - parts[1]), 1)]
