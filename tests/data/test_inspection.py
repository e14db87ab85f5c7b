"""What an inspection finds in planted folders, and that its splits are those of a run."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conformal_clip_data import textile_simulated_root
from PIL import Image

from hf_transfer.data.build import build_splits
from hf_transfer.data.inspection import inspect_images, odd_classes, plan_splits
from hf_transfer.recipe.schema import Data


def inspected(root, **section):
    return inspect_images(plan_splits(Data(source=str(root), **section))).report


@pytest.fixture(scope="session")
def textile():
    """Return files of real images of one class."""
    return sorted((Path(str(textile_simulated_root())) / "local").iterdir())[:30]


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"test_fraction": 0.2, "split_seed": 3},
        {"group_column": "path:(.)[.]png$", "test_fraction": 0.25},
        {"max_train_samples": 12, "max_validation_samples": 4},
        {"samples_per_class": 3},
    ],
)
def test_plan_splits__as_a_training_has_them(grow, section):
    section = Data(source=str(grow({"cat": 40, "dog": 30})), **section)
    plan = plan_splits(section)
    tables = build_splits(section, [], training=True).tables
    assert {split: table.sample_ids.tolist() for split, table in plan.tables.items()} == {
        split: table.sample_ids.tolist() for split, table in tables.items()
    }
    assert plan.held_out == [split for split in ("test", "validation") if split in tables]
    assert plan.problems == []


@pytest.mark.parametrize(
    "section, wanted",
    [
        ({}, ["test"]),
        ({"test_fraction": 0.2}, ["test"]),
        ({}, ["train", "validation"]),
        ({"max_test_samples": 4}, ["test"]),
    ],
)
def test_plan_splits__as_an_evaluation_has_them(grow, section, wanted):
    section = Data(source=str(grow({"cat": 20, "dog": 10})), **section)
    plan = plan_splits(section, wanted, training=False)
    tables = build_splits(section, wanted, training=False).tables
    assert {split: table.sample_ids.tolist() for split, table in plan.tables.items()} == {
        split: table.sample_ids.tolist() for split, table in tables.items()
    }


def test_plan_splits__what_would_stop_a_run_is_noted(grow, tmp_path):
    grow({"train/cat": 4, "train/dog": 1, "test/cat": 1, "test/cow": 2})
    plan = plan_splits(Data(source=str(tmp_path / "images")), ["validation", "test"])
    assert {split: len(table) for split, table in plan.tables.items()} == {"train": 5, "test": 3}
    assert plan.problems == [
        "data: a stratified split into train + validation needs at least 2 images of every class; too few of 'dog' (1). "
        "Add images, remove the class, or give split folders of your own.",
        "evaluation.splits: asked for validation, and the source brings no such split",
        "data: expected training images of every class; found none of cow. Add training images of it, or remove it from the "
        "other splits.",
    ]


def test_inspect_images__splits_counts_and_sizes(grow, tmp_path, noise):
    root = grow({"train/cat": 6, "train/dog": 5, "test/cat": 2, "test/dog": 2})
    noise(20, 40).save(root / "test/cat/wide.jpg")
    report = inspected(root)
    test, train = report["splits"]["test"], report["splits"]["train"]
    assert {split: (found["from"], found["images"], found["read"]) for split, found in report["splits"].items()} == {
        "train": ("source", 9, 9),
        "validation": ("held out", 2, 2),
        "test": ("source", 5, 5),
    }
    assert (report["class_names"], train["classes"], test["classes"]) == (
        ["cat", "dog"],
        {"cat": 5, "dog": 4},
        {"cat": 3, "dog": 2},
    )
    assert (train["width"], train["height"]) == ({"min": 12, "median": 12.0, "max": 12},) * 2
    assert test["width"] == {"min": 12, "median": 12.0, "max": 40}
    assert test["height"] == {"min": 12, "median": 12.0, "max": 20}
    assert (test["modes"], test["formats"]) == ({"RGB": 5}, {"PNG": 4, "JPEG": 1})
    assert report["problems"] == report["exact_duplicates"] == report["unreadable"] == []
    assert report["near_duplicates"]["groups"] == []


def test_inspect_images__bad_and_odd_files(grow, noise):
    root = grow({"cat": 5, "dog": 5})
    cat = root / "cat"
    encoded = io.BytesIO()
    noise(50, 50).save(encoded, "JPEG")
    (cat / "zero.jpg").touch()
    (cat / "truncated.jpg").write_bytes(encoded.getvalue()[:2000])
    (cat / "text.jpg").write_text("no image")
    Image.new("1", (20_000, 20_000)).save(cat / "bomb.png")
    (cat / "jpeg.png").write_bytes(encoded.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(30, 60).save(cat / "rotated.jpg", exif=exif)
    noise().save(cat / "animated.gif", save_all=True, append_images=[noise(), noise()])
    noise().save(cat / "one.gif")
    noise(30, 60).save(cat / "rotated.png", exif=exif)
    noise().save(cat / "pages.tif", save_all=True, append_images=[noise()])
    Image.fromarray(np.arange(144, dtype=np.uint16).reshape(12, 12) * 400).save(cat / "sixteen.png")
    noise().convert("CMYK").save(cat / "cmyk.jpg")
    noise().convert("RGBA").save(cat / "alpha.png")
    noise().convert("L").save(cat / "gray.jfif", "JPEG")
    for colour in ("black", "white"):
        Image.new("RGB", (12, 12), colour).save(cat / f"{colour}.png")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.*")}

    report = inspected(root, validation_fraction=0.1)

    def of(kind):
        return sorted(Path(image["image"]).name for image in report[kind])

    reasons = {Path(image["image"]).name: image["reason"] for image in report["unreadable"]}
    assert reasons.keys() == {"zero.jpg", "truncated.jpg", "text.jpg", "bomb.png"}
    assert (reasons["zero.jpg"], reasons["text.jpg"]) == (
        "the file is empty",
        "not an image in a known format (it begins with the text 'no image')",
    )
    assert "truncated" in reasons["truncated.jpg"] and "decompression bomb" in reasons["bomb.png"]
    assert report["problems"] == ["data: found 4 unreadable images; mend or remove, or set data.on_bad_image to 'skip'"]
    assert inspected(root, validation_fraction=0.1, on_bad_image="skip")["problems"] == []
    assert [(Path(image["image"]).name, image["format"]) for image in report["wrong_suffix"]] == [("jpeg.png", "JPEG")]
    assert (of("rotated"), of("several_frames"), of("blank")) == (
        ["rotated.jpg", "rotated.png"],
        ["animated.gif", "pages.tif"],
        ["black.png", "white.png"],
    )
    modes = sum((Counter(found["modes"]) for found in report["splits"].values()), Counter())
    assert modes == {"RGB": 16, "palette": 2, "16-bit gray": 1, "CMYK": 1, "RGBA": 1, "L": 1}
    assert max(found["height"]["max"] for found in report["splits"].values()) == 60  # upright
    assert report["exact_duplicates"] == report["near_duplicates"]["groups"] == []
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*.*")}


def test_inspect_images__sixteen_bit_colour(tmp_path, grow):
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(range(12)) for _ in range(2)))
    root = grow({"cat": 3, "dog": 3})
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (root / "cat" / "deep.png").write_bytes(png)
    assert any("16-bit RGB" in found["modes"] for found in inspected(root)["splits"].values())


def test_inspect_images__duplicates(tmp_path, textile):
    root = tmp_path / "images"
    for number, path in enumerate(textile):
        folder = root / ("test" if number % 3 == 0 else "train") / ("b" if number % 2 else "a")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{number:02}.jpg")
    shutil.copy(textile[0], root / "train/a/copy_of_00.jpg")
    shutil.copy(textile[2], root / "train/b/copy_of_02.jpg")
    Image.open(textile[3]).save(root / "train/a/encoded_03.jpg", quality=60)
    Image.open(textile[4]).resize((225, 225)).save(root / "train/a/resized_04.png")
    Image.open(textile[2]).save(root / "test/a/encoded_02.jpg", quality=60)
    report = inspected(root, validation_fraction=0.2)

    def told(groups):
        return sorted(
            (sorted(Path(image["image"]).stem for image in group["images"]), sorted(group["classes"])) for group in groups
        )

    assert told(report["exact_duplicates"]) == [(["00", "copy_of_00"], ["a"]), (["02", "copy_of_02"], ["a", "b"])]
    assert told(report["near_duplicates"]["groups"]) == [
        (["02", "copy_of_02", "encoded_02"], ["a", "b"]),
        (["03", "encoded_03"], ["a", "b"]),
        (["04", "resized_04"], ["a"]),
    ]
    across = next(group for group in report["exact_duplicates"] if group["classes"] == ["a"])
    assert "test" in across["splits"] and len(across["splits"]) == 2
    assert {"split": "test", "image": "test/a/00.jpg", "class": "a"} in across["images"]


def test_inspect_images__equal_unreadable_files_are_no_duplicates(grow):
    root = grow({"cat": 4, "dog": 4})
    for name in ("one.jpg", "two.jpg"):
        (root / "cat" / name).write_bytes(b"the same rubbish")
    assert inspected(root)["exact_duplicates"] == []


def test_inspect_images__no_image_can_be_read(grow):
    root = grow({"cat": 3, "dog": 3})
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    report = inspected(root)
    assert len(report["unreadable"]) == 6
    assert [(found["width"], found["modes"]) for found in report["splits"].values()] == [(None, {})] * 2
    assert report["exact_duplicates"] == report["near_duplicates"]["groups"] == []


def test_inspect_images__limit_and_samples(grow):
    plan = plan_splits(Data(source=str(grow({"cat": 20, "dog": 12}))))
    found = inspect_images(plan, limit=10, samples=2)
    assert {split: (part["images"], part["read"]) for split, part in found.report["splits"].items()} == {
        "train": (26, 10),
        "validation": (6, 6),
    }
    assert found.report["splits"]["train"]["classes"] == {"cat": 16, "dog": 10}  # of all
    assert {name: len(some) for name, some in found.samples["train"].items()} == {"cat": 2, "dog": 2}
    assert all(image.size == (12, 12) for some in found.samples["train"].values() for _, image in some)
    assert inspect_images(plan).samples == {"train": {}, "validation": {}}
    assert list(inspect_images(plan, samples=1, sampled_classes=1).samples["train"]) == ["cat"]


def test_inspect_images__groups(grow, tmp_path):
    root = tmp_path / "images"
    grow({f"{split}/{name}/{walk}": 2 for split in ("train", "test") for name in ("cat", "dog") for walk in ("w1", "w2")}, root)
    grow({"train/cat/w3": 2, "train/dog/w3": 2}, tmp_path / "more")
    shutil.copytree(tmp_path / "more", root, dirs_exist_ok=True)
    report = inspected(root, group_column="folder", validation_fraction=0.3)
    assert sum(found["groups"] for split, found in report["splits"].items() if split != "test") == 3
    assert report["splits"]["test"]["groups"] == 2
    assert set(report["groups_across_splits"]) == {"w1", "w2"}


def test_odd_classes__each_kind():
    names = ["Hot Dog", "hot_dog", "café", "CAFE ", "7", "-1.5", "only test", "nowhere", "few", "plenty"]
    train = np.array([9, 9, 9, 9, 9, 9, 0, 0, 4, 90])
    test = np.array([1, 1, 1, 1, 1, 1, 2, 0, 1, 0])
    assert odd_classes(names, {"train": train, "test": test}) == {
        "few": {"few": 4},
        "not_in_train": {"only test": {"test": 2}, "nowhere": {}},
        "not_in": {"test": ["plenty"]},
        "alike": [["Hot Dog", "hot_dog"], ["CAFE ", "café"]],
        "numeric": ["7", "-1.5"],
    }
    nothing = {"few": {}, "not_in_train": {}, "not_in": {}, "alike": [], "numeric": []}
    assert odd_classes(["cat", "dog"], {"test": np.array([3, 0])}) == nothing


def test_inspect_images__several_labels(grow, tmp_path):
    root = grow({"photographs": 24})
    files = sorted(path.name for path in (root / "photographs").iterdir())
    shown = [["cat", "dog"], ["cat"], [], ["dog", "owl"]]
    shutil.copy(root / "photographs" / files[0], root / "photographs" / "copy.png")
    lines = [
        json.dumps({"path": f"photographs/{name}", "label": shown[row % 4]}) for row, name in enumerate([*files, "copy.png"])
    ]
    (root / "x.jsonl").write_text("\n".join(lines))
    section = Data(source=str(root / "x.jsonl"), task="multi_label", validation_fraction=0.25)
    found = inspect_images(plan_splits(section), samples=2)
    counts = {split: part["classes"] for split, part in found.report["splits"].items()}
    assert {name: sum(part[name] for part in counts.values()) for name in ("cat", "dog", "owl")} == {
        "cat": 13,
        "dog": 13,
        "owl": 6,
    }
    duplicates = found.report["exact_duplicates"][0]
    assert [image["class"] for image in duplicates["images"]] == ["cat, dog", "cat, dog"]
    assert set(found.samples["train"]) == {"cat", "dog", "owl"}
    assert found.report["problems"] == []
