"""From the `data` section to checked splits."""

import json

import numpy as np
import pytest

from hf_transfer.data.build import build_splits
from hf_transfer.data.sources.folders import read_class_folders
from hf_transfer.errors import DataError
from hf_transfer.recipe import parse_recipe
from hf_transfer.recipe.schema import Data

ALL = ["train", "validation", "test"]


def message(section, wanted=ALL, *, training=True, **options):
    with pytest.raises(DataError) as caught:
        build_splits(section, wanted, training=training, **options)
    return str(caught.value)


def ids(splits):
    return {split: table.sample_ids.tolist() for split, table in splits.tables.items()}


def counts(splits):
    return {split: table.class_counts(len(splits.class_names)).tolist() for split, table in splits.tables.items()}


def digits(**changes):
    return Data(source="package:digits", test_fraction=0.2, **changes)


@pytest.fixture
def split_folders(grow, tmp_path):
    """A source that brings train and test."""
    grow({"cat": 20, "dog": 10}, tmp_path / "source" / "train")
    grow({"cat": 4, "dog": 6}, tmp_path / "source" / "test")
    return tmp_path / "source"


# Splitting


def test_build_splits__holds_out_validation_and_test():
    splits = build_splits(digits(validation_fraction=0.1), ALL, training=True)
    assert list(splits.tables) == ALL
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 1258, "validation": 180, "test": 359}
    everyone = [name for names in ids(splits).values() for name in names]
    assert sorted(everyone) == sorted(f"digits/{row}" for row in range(1797))
    assert splits.skipped == {split: [] for split in ALL}
    assert splits.revision is None
    whole = np.array(counts(splits)["train"]) + counts(splits)["validation"] + counts(splits)["test"]
    assert np.abs(counts(splits)["test"] - 0.2 * whole).max() < 1.5
    assert np.abs(counts(splits)["validation"] - 0.1 * whole).max() < 1.5


def test_build_splits__textile_is_split_in_proportion():
    splits = build_splits(Data(source="package:textile", test_fraction=0.2), ALL, training=True)
    assert counts(splits) == {"train": [300, 300, 600], "validation": [100, 100, 200], "test": [100, 100, 200]}
    assert splits.class_names == ["global", "local", "nominal"]


def test_build_splits__the_seed_of_the_run_plays_no_part():
    raw = {"output_dir": "x", "data": {"source": "package:digits", "test_fraction": 0.2}, "model": {"backbone": "x"}}
    first, other_seed, other_split = (
        build_splits(parse_recipe(raw, [change]).data, ALL, training=True)
        for change in ("seed=0", "seed=1", "data.split_seed=1")
    )
    assert ids(first) == ids(other_seed)
    assert first.fingerprint == other_seed.fingerprint
    assert ids(first) != ids(other_split)
    assert first.fingerprint != other_split.fingerprint


def test_build_splits__validation_is_made_though_only_test_is_evaluated():
    assert ids(build_splits(digits(), ["test"], training=True)) == ids(build_splits(digits(), ALL, training=True))


def test_build_splits__a_given_test_split_is_never_touched(split_folders):
    given = read_class_folders(split_folders).tables
    for section in (Data(source=str(split_folders)), Data(source=str(split_folders), test_fraction=0.5)):
        splits = build_splits(section, ALL, training=True)
        assert splits.tables["test"].sample_ids.tolist() == given["test"].sample_ids.tolist()
        assert counts(splits) == {"train": [16, 8], "validation": [4, 2], "test": [4, 6]}
        rest = splits.tables["train"].sample_ids.tolist() + splits.tables["validation"].sample_ids.tolist()
        assert sorted(rest) == sorted(given["train"].sample_ids.tolist())


def test_build_splits__given_splits_are_all_taken_as_they_are(split_folders, grow):
    grow({"cat": 1, "dog": 2}, split_folders / "val")
    given = read_class_folders(split_folders).tables
    splits = build_splits(Data(source=str(split_folders), validation_fraction=0.5, test_fraction=0.5), ["test"], training=True)
    assert ids(splits) == {split: given[split].sample_ids.tolist() for split in ALL}


def test_build_splits__a_wanted_split_is_missing():
    assert message(Data(source="package:digits")) == (
        "evaluation.splits: asked for test, and the source brings no such split. "
        "Set data.test_fraction (0.2, say) to hold out test images, or leave the split out of evaluation.splits."
    )
    assert "test" not in build_splits(Data(source="package:digits"), ["validation"], training=True).tables


def test_build_splits__training_needs_a_train_split(grow, tmp_path):
    grow({"cat": 1, "dog": 1}, tmp_path / "test")
    assert message(Data(source=str(tmp_path))) == "data.source: expected a train split, found only test"


def test_build_splits__training_needs_two_classes(grow):
    root = grow({"cat": 9})
    assert message(Data(source=str(root))) == "data: expected at least two classes, found 1: cat"
    assert counts(build_splits(Data(source=str(root)), ["test"], training=False)) == {"test": [9]}


def test_build_splits__training_needs_images_of_every_class(grow, tmp_path):
    grow({"cat": 4, "dog": 4}, tmp_path / "train")
    grow({"cat": 1, "bird": 1}, tmp_path / "test")
    assert message(Data(source=str(tmp_path))) == (
        "data: expected training images of every class; found none of bird. Add training images of it, or remove it from the "
        "other splits."
    )


def test_build_splits__a_class_too_small_to_stratify(grow):
    section = Data(source=str(grow({"cat": 9, "dog": 2})), test_fraction=0.2)
    assert message(section) == (
        "data: a stratified split into train + test + validation needs at least 3 images of every class; "
        "too few of 'dog' (2). Add images, remove the class, or give split folders of your own."
    )


def test_build_splits__fractions_that_leave_nothing():
    section = Data(source="package:digits", test_fraction=0.6, validation_fraction=0.4)
    assert message(section) == (
        "data: expected held-out fractions that leave images to train on; found test 0.6, validation 0.4"
    )


# Evaluation without training


def test_build_splits__an_evaluation_takes_a_source_without_splits_as_test():
    splits = build_splits(Data(source="package:digits"), ["test"], training=False)
    assert ids(splits) == {"test": [f"digits/{row}" for row in range(1797)]}


def test_build_splits__an_evaluation_takes_the_given_split(split_folders):
    given = read_class_folders(split_folders).tables
    for split in ("train", "test"):
        splits = build_splits(Data(source=str(split_folders)), [split], training=False)
        assert ids(splits) == {split: given[split].sample_ids.tolist()}


def test_build_splits__an_evaluation_scores_the_test_images_of_a_training(grow):
    """Also of classes so small that every part gets one image."""
    section = Data(source=str(grow({"cat": 30, "dog": 3})), test_fraction=0.5, validation_fraction=0.3)
    trained = ids(build_splits(section, ALL, training=True))
    for wanted in (["test"], ["validation"], ["train"], ["train", "test"]):
        assert ids(build_splits(section, wanted, training=False)) == {split: trained[split] for split in wanted}


def test_build_splits__an_evaluation_does_not_guess_among_several_splits(grow, tmp_path):
    for split in ("train", "val"):
        grow({"cat": 1, "dog": 1}, tmp_path / split)
    assert message(Data(source=str(tmp_path)), ["test"], training=False) == (
        "evaluation.splits: the source has train and validation but no test split; "
        "name one of its splits, or set data.test_fraction"
    )


def test_build_splits__an_evaluation_of_a_missing_split(split_folders):
    (split_folders / "train").rename(split_folders.parent / "elsewhere")
    assert message(Data(source=str(split_folders)), ["validation"], training=False).startswith(
        "evaluation.splits: asked for validation, and the source brings no such split."
    )


# Subsets


def test_build_splits__subsets_are_stratified_and_leave_others_alone():
    full = build_splits(digits(), ALL, training=True)
    small = build_splits(digits(max_train_samples=50, max_validation_samples=20, max_test_samples=30), ALL, training=True)
    assert {split: len(table) for split, table in small.tables.items()} == {"train": 50, "validation": 20, "test": 30}
    for split in ALL:
        assert set(ids(small)[split]) < set(ids(full)[split])
        assert min(counts(small)[split]) >= 1
    again = build_splits(digits(max_train_samples=50, max_validation_samples=20, max_test_samples=30), ALL, training=True)
    assert ids(again) == ids(small)
    assert again.fingerprint == small.fingerprint != full.fingerprint
    few = build_splits(digits(samples_per_class=4), ALL, training=True)
    assert counts(few)["train"] == [4] * 10
    assert ids(few)["test"] == ids(full)["test"]


def test_build_splits__a_maximum_below_the_number_of_classes_names_its_key():
    for split in ALL:
        section = digits(**{f"max_{split}_samples": 9})
        assert message(section) == f"data.max_{split}_samples: expected at least one image of each of the 10 classes, found 9"


# Integrity


def test_build_splits__duplicates_across_splits_are_found(split_folders):
    source = split_folders / "train" / "cat" / "000.png"
    (split_folders / "test" / "dog" / "copy.png").write_bytes(source.read_bytes())
    splits = build_splits(Data(source=str(split_folders), split_seed=1), ALL, training=True)
    where = "train" if "train/cat/000.png" in ids(splits)["train"] else "validation"
    assert splits.duplicates == [[f"{where}: train/cat/000.png", "test: test/dog/copy.png"]]


@pytest.fixture
def spoilt(grow, noise):
    """Thirty images, of which one is empty, one is text, one is cut off and one is missing."""
    root = grow({"cat": 15, "dog": 15})
    before = build_splits(Data(source=str(root), test_fraction=0.2), ALL, training=True)
    (root / "cat" / "003.png").write_bytes(b"")
    (root / "dog" / "020.png").write_text("text")
    (root / "dog" / "025.png").unlink()
    (root / "dog" / "025.png").symlink_to(root / "nowhere.png")
    whole = (root / "cat" / "007.png").read_bytes()
    (root / "cat" / "007.png").write_bytes(whole[:-40])
    return root, before


BAD = {"cat/003.png", "cat/007.png", "dog/020.png", "dog/025.png"}


def test_build_splits__unreadable_images_are_all_listed_with_their_paths(spoilt):
    root, _ = spoilt
    found = message(Data(source=str(root), test_fraction=0.2), decode=True)
    lines = found.splitlines()
    assert lines[0] == "data: found 4 unreadable images:"
    assert sorted(lines[1:5]) == [
        f"  - {root}/cat/003.png: the file is empty",
        lines[[f"{root}/cat/007.png" in line for line in lines].index(True)],
        f"  - {root}/dog/020.png: not an image in a known format (it begins with the text 'text')",
        f"  - {root}/dog/025.png: No such file or directory",
    ]
    assert lines[5:] == ["Mend or remove them, or set data.on_bad_image to 'skip' to leave them out, listed and counted."]


def test_build_splits__without_decoding_what_headers_and_ends_tell_is_listed(spoilt):
    root, _ = spoilt
    assert message(Data(source=str(root), test_fraction=0.2)) == message(Data(source=str(root), test_fraction=0.2), decode=True)


def test_build_splits__many_unreadable_images_are_counted(grow):
    root = grow({"cat": 15, "dog": 15})
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    lines = message(Data(source=str(root), test_fraction=0.2)).splitlines()
    assert lines[0] == "data: found 30 unreadable images:"
    assert len(lines) == 23
    assert lines[21] == "  and 10 more"


def test_build_splits__skipping_leaves_them_out_and_moves_nobody(spoilt):
    root, before = spoilt
    after = build_splits(Data(source=str(root), test_fraction=0.2, on_bad_image="skip"), ALL, training=True)
    expected = {split: [name for name in names if name not in BAD] for split, names in ids(before).items()}
    assert ids(after) == expected
    skipped = [(split, name) for split, items in after.skipped.items() for name, _ in items]
    where = {name: split for split, names in ids(before).items() for name in names}
    assert sorted(skipped) == sorted((where[name], str(root / name)) for name in BAD)
    assert sum(len(table) for table in after.tables.values()) == 26
    assert after.fingerprint != before.fingerprint


def test_build_splits__skipping_with_nothing_to_skip_is_the_same(grow):
    root = str(grow({"cat": 9, "dog": 9}))
    plain, skipping = (
        build_splits(Data(source=root, test_fraction=0.2, on_bad_image=choice), ALL, training=True)
        for choice in ("error", "skip")
    )
    assert ids(plain) == ids(skipping)
    assert plain.fingerprint == skipping.fingerprint


def test_build_splits__skipping_may_not_lose_a_class_or_a_split(split_folders):
    for path in (split_folders / "train" / "dog").iterdir():
        path.write_bytes(b"")
    section = Data(source=str(split_folders), on_bad_image="skip")
    assert message(section).startswith("data: expected training images of every class; found none of dog. ")
    # An evaluation of the training images only leaves them out.
    evaluated = build_splits(section, ["train"], training=False)
    assert counts(evaluated) == {"train": [20, 0]}
    assert len(evaluated.skipped["train"]) == 10
    for path in (split_folders / "test").rglob("*.png"):
        path.write_bytes(b"")
    assert message(section, ["test"], training=False) == "data: every image of the test split is unreadable"


def test_build_splits__the_users_files_stay_as_they_are(spoilt):
    root, _ = spoilt
    files = sorted(root.rglob("*"))
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.is_file()]
    build_splits(Data(source=str(root), test_fraction=0.2, on_bad_image="skip"), ALL, training=True)
    message(Data(source=str(root), test_fraction=0.2), decode=True)
    assert sorted(root.rglob("*")) == files
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.is_file()] == before


def test_build_splits__further_test_sets(split_folders, grow, tmp_path):
    grow({"dog": 3}, tmp_path / "winter")
    grow({"train/cat": 2, "test/dog": 1, "test/cat": 2}, tmp_path / "later")
    section = Data(source=str(split_folders))
    extra = {"winter": str(tmp_path / "winter"), "later": str(tmp_path / "later")}
    splits = build_splits(section, ["test"], training=True, extra=extra)
    assert splits.class_names == ["cat", "dog"]
    assert {name: table.labels.tolist() for name, table in splits.extra.items()} == {"winter": [1, 1, 1], "later": [0, 0, 1]}
    assert splits.table("winter") is splits.extra["winter"] and splits.table("test") is splits.tables["test"]
    assert all(table.digests is not None for table in splits.extra.values())
    assert splits.fingerprint == build_splits(section, ["test"], training=True).fingerprint


def test_build_splits__a_further_test_set_that_does_not_fit(split_folders, grow, tmp_path):
    grow({"train/cat": 2, "validation/cat": 2}, tmp_path / "later")
    section = Data(source=str(split_folders))
    assert message(section, extra={"later": str(tmp_path / "later")}) == (
        f"evaluation.extra.later: expected a test split or no splits, found train and validation in {tmp_path / 'later'}"
    )


def test_build_splits__images_of_a_further_test_set_that_stand_in_train(split_folders, tmp_path):
    (tmp_path / "again" / "cat").mkdir(parents=True)
    first = sorted((split_folders / "train" / "cat").iterdir())[0]
    (tmp_path / "again" / "cat" / "x.png").write_bytes(first.read_bytes())
    splits = build_splits(Data(source=str(split_folders)), ["test"], training=True, extra={"again": str(tmp_path / "again")})
    assert len(splits.duplicates) == 1 and "again: cat/x.png" in splits.duplicates[0]


# Groups

BURSTS = r"path:(\w+/textile_\d{3})"  # ten images that follow each other


def test_build_splits__groups_stay_together_and_subsets_work():
    section = Data(source="package:textile", group_column=BURSTS, test_fraction=0.2, validation_fraction=0.1)
    whole = build_splits(section, ALL, training=True)
    of_split = [set(table.groups.tolist()) for table in whole.tables.values()]
    assert sum(map(len, of_split)) == len(set.union(*of_split)) == 203
    assert np.abs(np.array(counts(whole)["test"]) - [100, 100, 200]).max() <= 5
    assert whole.shared_groups == {}
    few = build_splits(section.model_copy(update={"samples_per_class": 4, "max_test_samples": 40}), ALL, training=True)
    assert counts(few)["train"] == [4, 4, 4]
    assert len(few.tables["test"]) == 40
    assert set(ids(few)["test"]) <= set(ids(whole)["test"])
    assert set(few.tables["test"].groups) <= of_split[2]


def test_build_splits__given_splits_that_share_groups_are_reported(grow, tmp_path):
    grow({"cat/ann": 3, "cat/bob": 2, "dog/bob": 3, "dog/eve": 2}, tmp_path / "train")
    grow({"cat/eve": 1, "dog/ann": 2}, tmp_path / "test")
    section = Data(source=str(tmp_path), group_column="folder")
    splits = build_splits(section, ["test"], training=False)
    assert splits.shared_groups == {}  # one split is read
    splits = build_splits(section, ["train", "test"], training=False)
    assert splits.shared_groups == {"ann": {"train": 3, "test": 2}, "eve": {"train": 2, "test": 1}}


def test_build_splits__a_group_column_that_does_not_fit():
    assert message(Data(source="package:textile", group_column="folder", test_fraction=0.2)).startswith(
        "data.group_column: expected images in folders inside the class folders; 2000 of 2000 have none: global/"
    )


# Several labels an image


def several(root, grow, rows):
    """Write a listing of images with these lists of labels."""
    grow({"photographs": len(rows)}, root)
    files = sorted((root / "photographs").iterdir())
    lines = [json.dumps({"path": f"photographs/{file.name}", "label": row}) for file, row in zip(files, rows, strict=True)]
    (root / "x.jsonl").write_text("\n".join(lines))
    return Data(source=str(root / "x.jsonl"), task="multi_label")


def test_build_splits__several_labels(grow, tmp_path):
    section = several(tmp_path / "set", grow, [["cat", "dog"], ["cat"], [], ["dog", "owl"]] * 10)
    further = several(tmp_path / "further", grow, [["owl"], [], ["owl", "cat"]])
    splits = build_splits(section, ["test"], training=False, extra={"further": further.source})
    assert (splits.multi_label, splits.task, splits.class_names) == (True, "multi_label", ["cat", "dog", "owl"])
    assert splits.extra["further"].labels.tolist() == [[False, False, True], [False] * 3, [True, False, True]]
    training = build_splits(section.model_copy(update={"test_fraction": 0.25}), ["test"], training=True)
    assert {split: len(table) for split, table in training.tables.items()} == {"train": 22, "validation": 8, "test": 10}
    assert np.abs(np.array(counts(training)["test"]) - [5, 5, 2.5]).max() <= 1
    assert build_splits(Data(source="package:digits", max_test_samples=20), ["test"], training=False).task == "single_label"


def test_build_splits__a_class_that_no_training_image_shows(grow, tmp_path):
    section = several(tmp_path / "set", grow, [["cat"], ["dog"], []] * 4)
    text = (tmp_path / "set" / "x.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"split": "train" if place else "test"} for place, line in enumerate(text)]
    rows[0]["label"] = ["cat", "owl"]
    (tmp_path / "set" / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "expected training images of every class; found none of owl" in message(section, ["test"])


def test_build_splits__class_folders_give_one_label_each(grow, caplog):
    section = Data(source=str(grow({"cat": 12, "dog": 8})), task="multi_label")
    splits = build_splits(section, ["train"], training=True)
    assert all((table.labels.sum(axis=1) == 1).all() for table in splits.tables.values())
    assert "gives one label an image, so no image shows two classes" in caplog.text
