"""Who is in which split."""

from dataclasses import replace

import numpy as np
import pytest

from hf_transfer.data.splits import apportion, hash_order, hold_out, subset
from hf_transfer.errors import DataError


def names_of(count):
    return [f"class {label}" for label in range(count)]


def members(parts):
    return {name: set(table.sample_ids.tolist()) for name, table in parts.items()}


def labels_of(counts):
    return np.repeat(np.arange(len(counts)), counts)


# Apportioning


@pytest.mark.parametrize(
    ("counts", "total", "shares"),
    [
        ([50, 30, 20], 10, [5, 3, 2]),
        ([3, 3, 3], 3, [1, 1, 1]),
        ([3, 3, 3], 4, [2, 1, 1]),
        ([97, 2, 1], 10, [10, 0, 0]),
        ([7, 0, 3], 10, [7, 0, 3]),
        ([7, 2], 0, [0, 0]),
    ],
)
def test_apportion__by_largest_remainders(counts, total, shares):
    assert apportion(np.array(counts), total).tolist() == shares


def test_apportion__hands_out_all_of_it_and_stays_within_one_of_exact():
    rng = np.random.default_rng(0)
    for _ in range(300):
        counts = rng.integers(0, 200, size=rng.integers(1, 30))
        counts[0] += 1
        total = int(rng.integers(0, counts.sum() + 1))
        shares = apportion(counts, total)
        assert shares.sum() == total
        assert (shares <= counts).all()
        assert (np.abs(shares - counts * total / counts.sum()) < 1).all()


# Order


def test_hash_order__depends_on_ids_and_split_seed_alone():
    ids = np.array([f"{index}.png" for index in range(200)])
    rows = np.random.default_rng(0).permutation(200)
    order = ids[hash_order(ids, 0)].tolist()
    assert ids[rows][hash_order(ids[rows], 0)].tolist() == order
    assert ids[hash_order(ids, 1)].tolist() != order
    assert order != ids.tolist()
    assert sorted(order) == sorted(ids.tolist())


def test_hash_order__never_changes_between_versions():
    """Splits of published runs must stay what they were."""
    ids = np.array([f"{index}.png" for index in range(8)])
    assert hash_order(ids, 0).tolist() == [6, 1, 0, 5, 4, 7, 3, 2]


# Holding out


def test_hold_out__is_disjoint_exhaustive_and_proportional(labelled):
    rng = np.random.default_rng(0)
    fractions = {"test": 0.2, "validation": 0.15}
    for _ in range(60):
        counts = rng.integers(3, 120, size=rng.integers(2, 12))
        table = labelled(rng.permutation(labels_of(counts)))
        parts = hold_out(table, fractions, 0, names_of(len(counts)))
        assert list(parts) == ["train", "test", "validation"]
        everyone = np.concatenate([part.sample_ids for part in parts.values()])
        assert sorted(everyone.tolist()) == sorted(table.sample_ids.tolist())
        for name, part in parts.items():
            found = part.class_counts(len(counts))
            assert (found >= 1).all(), "every class is in every part"
            if name != "train":
                assert (np.abs(found - fractions[name] * counts) <= 1.5).all()


def test_hold_out__labels_and_rows_stay_with_their_ids(labelled):
    table = labelled(np.random.default_rng(0).integers(0, 3, 90))
    for part in hold_out(table, {"validation": 0.3}, 0, names_of(3)).values():
        for row, label, sample_id in zip(part.rows, part.labels, part.sample_ids, strict=True):
            assert sample_id == f"image/{row}"
            assert label == table.labels[row]


def test_hold_out__is_the_same_for_any_order_of_rows(labelled):
    labels = labels_of([40, 25, 7])
    ids = np.array([f"{index}.png" for index in range(len(labels))])
    expected = members(hold_out(labelled(labels, ids), {"test": 0.2, "validation": 0.2}, 0, names_of(3)))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(labels))
        found = hold_out(labelled(labels[order], ids[order]), {"test": 0.2, "validation": 0.2}, 0, names_of(3))
        assert members(found) == expected


def test_hold_out__split_seed_decides(labelled):
    table = labelled(labels_of([50, 50]))
    first, again, other = (members(hold_out(table, {"test": 0.3}, seed, names_of(2))) for seed in (0, 0, 1))
    assert first == again
    assert first["test"] != other["test"]


def test_hold_out__an_added_image_moves_few_others(labelled):
    labels = labels_of([100, 100])
    ids = [f"{index}.png" for index in range(200)]
    before = members(hold_out(labelled(labels, ids), {"test": 0.2}, 0, names_of(2)))
    for number in range(20):
        added = labelled([*labels, 0], [*ids, f"added {number}.png"])
        after = members(hold_out(added, {"test": 0.2}, 0, names_of(2)))
        assert len(before["test"] - after["test"]) <= 2


def test_hold_out__the_smallest_classes_are_in_every_part(labelled):
    table = labelled(labels_of([3, 1000]))
    parts = hold_out(table, {"test": 0.45, "validation": 0.45}, 0, names_of(2))
    assert {name: part.class_counts(2).tolist()[0] for name, part in parts.items()} == {"train": 1, "test": 1, "validation": 1}


def test_hold_out__classes_without_images_are_no_obstacle(labelled):
    parts = hold_out(labelled(labels_of([10, 0, 10])), {"test": 0.5}, 0, names_of(3))
    assert parts["test"].class_counts(3).tolist() == [5, 0, 5]


def test_hold_out__too_few_images_of_a_class(labelled):
    with pytest.raises(DataError) as caught:
        hold_out(labelled(labels_of([2, 30, 1])), {"test": 0.2, "validation": 0.2}, 0, ["rust", "healthy", "blight"])
    assert str(caught.value) == (
        "data: a stratified split into train + test + validation needs at least 3 images of every class; too few of "
        "'rust' (2), 'blight' (1). Add images, remove the class, or give split folders of your own."
    )


@pytest.mark.parametrize("fractions", [{"test": 0.5, "validation": 0.5}, {"test": 0.7, "validation": 0.4}])
def test_hold_out__fractions_that_leave_nothing(labelled, fractions):
    with pytest.raises(DataError) as caught:
        hold_out(labelled(labels_of([50, 50])), fractions, 0, names_of(2))
    assert str(caught.value) == (
        f"data: expected held-out fractions that leave images to train on; found test {fractions['test']}, "
        f"validation {fractions['validation']}"
    )


# Subsets


def test_subset__a_total_is_stratified_and_exact(labelled):
    rng = np.random.default_rng(0)
    for _ in range(60):
        counts = rng.integers(1, 80, size=rng.integers(2, 12))
        table = labelled(rng.permutation(labels_of(counts)))
        total = int(rng.integers(len(counts), counts.sum() + 1))
        found = subset(table, 0, names_of(len(counts)), total=total, each=None, split="train").class_counts(len(counts))
        assert found.sum() == total
        assert (found >= 1).all()
        assert (found <= counts).all()
        exact = counts * total / counts.sum()
        if exact.min() >= 1:  # otherwise the smallest classes get one all the same, and the largest pay for it
            assert (np.abs(found - exact) < 1).all()


def test_subset__is_the_same_for_any_order_of_rows_and_follows_split_seed(labelled):
    labels = labels_of([40, 20])
    ids = np.array([f"{index}.png" for index in range(60)])
    order = np.random.default_rng(0).permutation(60)

    def chosen(table, seed):
        return set(subset(table, seed, names_of(2), total=12, each=None, split="train").sample_ids.tolist())

    first = chosen(labelled(labels, ids), 0)
    assert chosen(labelled(labels[order], ids[order]), 0) == first
    assert chosen(labelled(labels, ids), 1) != first


def test_subset__keeps_the_order_of_the_table(labelled):
    found = subset(labelled(labels_of([30, 30])), 0, names_of(2), total=10, each=None, split="train")
    assert found.rows.tolist() == sorted(found.rows.tolist())


def test_subset__few_shot_takes_as_many_of_each_class(labelled):
    table = labelled(labels_of([40, 5, 9]))
    five = subset(table, 0, names_of(3), total=None, each=5, split="train")
    assert five.class_counts(3).tolist() == [5, 5, 5]
    two = subset(table, 0, names_of(3), total=None, each=2, split="train")
    assert set(two.sample_ids.tolist()) < set(five.sample_ids.tolist())  # a larger shot keeps the smaller one's images


@pytest.mark.parametrize("total", [None, 60, 61, 10**9])
def test_subset__everything_fits(labelled, total):
    table = labelled(labels_of([40, 20]))
    assert subset(table, 0, names_of(2), total=total, each=None, split="test") is table


def test_subset__fewer_than_classes(labelled):
    with pytest.raises(DataError) as caught:
        subset(labelled(labels_of([4, 4, 4, 0])), 0, names_of(4), total=2, each=None, split="validation")
    assert str(caught.value) == "data.max_validation_samples: expected at least one image of each of the 3 classes, found 2"


def test_subset__too_few_for_few_shot(labelled):
    with pytest.raises(DataError) as caught:
        subset(labelled(labels_of([3, 9, 1])), 0, ["rust", "healthy", "blight"], total=None, each=4, split="train")
    assert str(caught.value) == (
        "data.samples_per_class: expected at least 4 training images of every class; too few of 'rust' (3), 'blight' (1)"
    )


# Groups


def grouped(labelled, groups, labels):
    return replace(labelled(labels), groups=np.array(groups))


def test_hold_out__groups_stay_on_one_side(labelled):
    rng = np.random.default_rng(0)
    groups = np.repeat([f"patient {i}" for i in range(60)], rng.integers(1, 8, 60))
    labels = rng.integers(0, 3, len(groups))
    parts = hold_out(grouped(labelled, groups, labels), {"test": 0.2, "validation": 0.2}, 0, names_of(3))
    assert list(parts) == ["train", "test", "validation"]
    everyone = np.concatenate([part.sample_ids for part in parts.values()])
    assert sorted(everyone.tolist()) == sorted(f"image/{row}" for row in range(len(groups)))
    of_part = [set(part.groups.tolist()) for part in parts.values()]
    assert sum(map(len, of_part)) == 60 and len(set.union(*of_part)) == 60
    for part, fraction in zip(parts.values(), (0.6, 0.2, 0.2), strict=True):
        assert np.abs(part.class_counts(3) - fraction * np.bincount(labels)).max() < 2.5


def test_hold_out__groups_in_any_order_of_rows(labelled):
    table = grouped(labelled, np.repeat([f"g{i}" for i in range(30)], 4), np.tile([0, 1], 60))
    rows = np.random.default_rng(0).permutation(120)
    first, second = (hold_out(t, {"test": 0.3}, 5, names_of(2)) for t in (table, table.select(rows)))
    assert members(first) == members(second)
    assert members(first) != members(hold_out(table, {"test": 0.3}, 6, names_of(2)))


def test_hold_out__too_few_groups_of_a_class(labelled):
    table = grouped(labelled, ["a", "a", "b", "c", "d"], [0, 0, 0, 1, 1])
    with pytest.raises(DataError) as caught:
        hold_out(table, {"test": 0.2, "validation": 0.2}, 0, ["cat", "dog"])
    assert str(caught.value) == (
        "data: a stratified split into train + test + validation needs at least 3 images of every class; too few of 'dog' (2). "
        "Add images, remove the class, or give split folders of your own."
    )
    with pytest.raises(DataError) as caught:
        hold_out(table.select(np.array([0, 1, 2, 3, 3])), {"test": 0.4}, 0, ["cat", "dog"])
    assert str(caught.value) == (
        "data: a split into train + test that keeps groups together needs every class in at least 2 groups; too few of 'dog' "
        "(1). Add groups, remove the class, or give split folders of your own."
    )


def test_hold_out__groups_that_allow_no_split(labelled):
    """Each class comes in two groups, and one of every three groups is on the side of another."""
    table = grouped(labelled, ["a", "a", "b", "b", "c", "c"], [0, 1, 1, 2, 2, 0])
    with pytest.raises(
        DataError, match=r"found no split into train \+ test that keeps groups together .*; missing: 'class \d' in"
    ):
        hold_out(table, {"test": 0.5}, 0, names_of(3))


def test_subset__keeps_the_groups_of_its_images(labelled):
    table = grouped(labelled, [f"g{i // 3}" for i in range(30)], [0, 1] * 15)
    part = subset(table, 0, names_of(2), total=10, each=None, split="train")
    assert part.groups.tolist() == [f"g{row // 3}" for row in part.rows]


# Images of several classes


def flags(rng, images, prevalence):
    """Return which classes each image shows, bool [images, C], drawn independently."""
    return rng.random((images, len(prevalence))) < np.array(prevalence)


@pytest.fixture
def several(labelled):
    """Return a table of these flags [n, C]."""

    def make(labels, ids=None):
        table = labelled(np.zeros(len(labels)), ids)
        return replace(table, labels=np.asarray(labels, dtype=bool))

    return make


def test_hold_out__several_labels_are_proportional(several):
    rng = np.random.default_rng(0)
    table = several(flags(rng, 1000, [0.5, 0.3, 0.1, 0.05]))
    parts = hold_out(table, {"test": 0.2, "validation": 0.15}, 0, names_of(4))
    assert list(parts) == ["train", "test", "validation"]
    everyone = np.concatenate([part.sample_ids for part in parts.values()])
    assert sorted(everyone.tolist()) == sorted(table.sample_ids.tolist())
    for name, share in (("train", 0.65), ("test", 0.2), ("validation", 0.15)):
        assert len(parts[name]) == pytest.approx(1000 * share, abs=5)
        np.testing.assert_allclose(parts[name].class_counts(4), share * table.class_counts(4), atol=4)
        none = (~parts[name].labels.any(axis=1)).sum()
        assert none == pytest.approx(share * (~table.labels.any(axis=1)).sum(), abs=10)


def test_hold_out__a_class_of_three_images_is_in_every_part(several):
    rng = np.random.default_rng(1)
    for _ in range(20):
        labels = flags(rng, 60, [0.6, 0.4, 0.2, 0.1, 0.0])
        labels[rng.choice(60, 3, replace=False), 4] = True
        labels[:3, :4] = True
        parts = hold_out(several(labels), {"test": 0.2, "validation": 0.2}, 0, names_of(5))
        assert all((part.class_counts(5) > 0).all() for part in parts.values())


def test_hold_out__several_labels_are_split_alike_in_any_order_of_rows(several):
    rng = np.random.default_rng(0)
    labels, ids = flags(rng, 90, [0.5, 0.3, 0.1]), np.array([f"{index}.png" for index in range(90)])
    expected = members(hold_out(several(labels, ids), {"validation": 0.2}, 0, names_of(3)))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(90)
        assert members(hold_out(several(labels[order], ids[order]), {"validation": 0.2}, 0, names_of(3))) == expected
    assert members(hold_out(several(labels, ids), {"validation": 0.2}, 1, names_of(3))) != expected


def test_hold_out__several_labels_of_too_few_images(several):
    labels = np.zeros((20, 2), dtype=bool)
    labels[:, 0], labels[:2, 1] = True, True
    with pytest.raises(DataError, match=r"needs at least 3 images of every class; too few of 'class 1' \(2\)"):
        hold_out(several(labels), {"test": 0.2, "validation": 0.2}, 0, names_of(2))


def test_hold_out__groups_of_several_labels_stay_together(several):
    rng = np.random.default_rng(0)
    table = several(flags(rng, 400, [0.5, 0.3, 0.1]))
    table = replace(table, groups=np.array([f"patient {index // 5}" for index in range(400)]))
    parts = hold_out(table, {"test": 0.25, "validation": 0.25}, 0, names_of(3))
    groups = [set(part.groups) for part in parts.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    np.testing.assert_allclose([len(part) for part in parts.values()], [200, 100, 100], atol=5)
    np.testing.assert_allclose(parts["test"].class_counts(3), 0.25 * table.class_counts(3), atol=4)


def test_subset__several_labels(several):
    rng = np.random.default_rng(0)
    labels = flags(rng, 500, [0.5, 0.3, 0.1, 0.0])
    labels[7, 3] = True
    table = several(labels)
    found = subset(table, 0, names_of(4), total=50, each=None, split="train")
    assert len(found) == 50
    np.testing.assert_allclose(found.class_counts(4), [25, 15, 5, 1], atol=3)
    assert subset(table, 0, names_of(4), total=500, each=None, split="train") is table
    alone = several(np.eye(4))
    with pytest.raises(
        DataError, match=r"data.max_train_samples: expected at least 4, so that every class is on one .* found 2"
    ):
        subset(alone, 0, names_of(4), total=2, each=None, split="train")
    with pytest.raises(DataError, match=r"data.samples_per_class: an image of several classes counts for each of them"):
        subset(table, 0, names_of(4), total=None, each=5, split="train")
