"""`hf-transfer data inspect`, as a user types it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conformal_clip_data import textile_simulated_root
from PIL import Image

from hf_transfer.cli import main


@pytest.fixture
def textile(tmp_path):
    root = tmp_path / "textile"
    for name, count in (("global", 10), ("local", 10), ("nominal", 5)):
        (root / name).mkdir(parents=True)
        for path in sorted((Path(str(textile_simulated_root())) / name).iterdir())[:count]:
            shutil.copy(path, root / name / path.name)
    return root


def inspect(*words):
    return main(["data", "inspect", *map(str, words)])


def test_inspect__nothing_odd(textile, capsys):
    assert inspect(textile, "data.test_fraction=0.2") == 0
    assert capsys.readouterr().out == (
        f"{textile}: 3 classes\n"
        "                train  validation        test\n"
        "images             15           5           5\n"
        "  global            6           2           2\n"
        "  local             6           2           2\n"
        "  nominal           3           1           1\n"
        "held out of the source's train split: validation and test\n"
        "train: width 250, height 250; RGB; JPEG\n"
        "validation: width 250, height 250; RGB; JPEG\n"
        "test: width 250, height 250; RGB; JPEG\n"
        "classes of few training images: nominal (3)\n"
        "equal byte for byte: none\n"
        "near duplicates: none\n"
    )


def test_inspect__what_is_odd(textile, capsys):
    first = sorted((textile / "global").iterdir())[0]
    for number in range(7):
        (textile / "global" / f"bad_{number}.jpg").touch()
    shutil.copy(first, textile / "local" / "copy.jpg")
    Image.open(first).resize((225, 225)).save(textile / "local" / "small.png")
    (textile / "Global ").mkdir()
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("L").save(textile / "Global " / "mirrored.jpg")
    assert inspect(textile) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("names of classes that are hardly different: 'Global ' / 'global'")
    assert lines[start - 1] == "classes of few training images: Global (1)"
    assert lines[start + 1] == "unreadable: 7"
    assert lines[start + 2].endswith(": the file is empty")
    assert lines[start + 7] == "  and 2 more, which --json lists"
    exact = lines[start + 9].split(", ")
    assert lines[start + 8].startswith("equal byte for byte: 2 images in 1 group; ")
    assert lines[start + 8].endswith(" 1 in several classes")
    assert {part.split(": ")[1] for part in exact} == {f"global/{first.name} (global)", "local/copy.jpg (local)"}
    assert lines[start + 10].startswith("near duplicates: 3 images in 1 group; ")
    assert lines[-3:] == [
        "a run would stop:",
        "  data: a stratified split into train + validation needs at least 2 images of every class; too few of 'Global ' (1). "
        "Add images, remove the class, or give split folders of your own.",
        "  data: found 7 unreadable images; mend or remove, or set data.on_bad_image to 'skip'",
    ]


def test_inspect__many_classes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(21):
        (tmp_path / "images" / f"c{number}").mkdir(parents=True)
        for image in range(4 if number == 7 else 2 if number == 9 else 3):
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(
                tmp_path / "images" / f"c{number}" / f"{image}.png"
            )
    assert inspect(tmp_path / "images", "--limit", 30) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("images: 21 classes, of which the smallest, the median and the largest are shown")
    assert [line.split() for line in lines[2:7]] == [
        ["images", "42", "21"],
        ["images", "read", "30", "21"],
        ["c9", "1", "1"],
        [lines[5].split()[0], "2", "1"],
        ["c7", "3", "1"],
    ]
    assert "--limit: what follows on images is of 30 of each split at most" in lines


def test_inspect__recipe_with_its_splits_and_json(textile, tmp_path, capsys):
    recipe = {
        "data": {"source": str(textile), "test_fraction": 0.2, "group_column": "path:(\\d)[.]jpg", "validation_fraction": 0.3},
        "model": {"backbone": "timm:resnet18.a1_in1k"},
        "training": {"num_train_epochs": 1},
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    assert inspect(path, "--json", "data.max_test_samples=3") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["source"], report["sheet"], report["problems"]) == (str(textile), None, [])
    assert report["splits"]["test"]["images"] == 3
    assert sum(found["groups"] for split, found in report["splits"].items() if split != "test") <= 10
    assert report["groups_across_splits"] == {}


def test_inspect__sheet_is_written_and_not_overwritten(textile, tmp_path, capsys):
    sheet = tmp_path / "sheets" / "sheet.png"
    (textile / "local" / "bad.jpg").touch()
    assert inspect(textile, "--sheet", sheet, "--limit", 12) == 0
    assert capsys.readouterr().out.endswith(f"written: {sheet}\n")
    with Image.open(sheet) as drawn:
        assert drawn.width > 2 * 4 * 160 and drawn.height > 3 * 160
        colours = drawn.convert("L").getcolors()
    assert len(colours) > 100
    before = sheet.read_bytes()
    assert inspect(textile, "--sheet", sheet) == 2
    assert capsys.readouterr().err == (
        f"error: --sheet: {sheet} exists; nothing was touched. Choose another name, or replace it with --overwrite.\n"
    )
    assert sheet.read_bytes() == before
    assert inspect(textile, "--sheet", sheet, "--overwrite") == 0
    assert sheet.read_bytes() != before


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere/at/all"], "data.source: no such folder: nowhere/at/all"),
        (["nothing.json"], "Found 1 problem in nothing.json:\n  - no such file"),
        (["package:textil"], "no packaged data set is called 'textil' (did you mean 'textile'?)"),
        (["package:textile", "--limit", "0"], "--limit: expected 1 or more, found 0"),
        (["package:textile", "--sheet", "sheet.jpg"], "--sheet: expected the name of a PNG file, found sheet.jpg"),
        (
            ["package:textile", "seed=3", "data.split_sed=3"],
            "Found 1 problem in the command line:\n"
            "  - seed: is no key of a data source; expected keys such as data.test_fraction",
        ),
        (
            ["package:textile", "data.split_sed=3"],
            "Found 1 problem in the command line:\n  - data.split_sed: is not a key of the recipe (did you mean 'split_seed'?)",
        ),
    ],
)
def test_inspect__mistakes_have_one_message(words, message, capsys):
    assert inspect(*words) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == "" and "Traceback" not in told.err


def test_inspect__benchmark_with_one_data_set_and_with_two(textile, tmp_path, capsys):
    raw = {
        "mode": "evaluate",
        "data": {"source": str(textile)},
        "model": [{"backbone": "timm:resnet18.a1_in1k"}, {"backbone": "timm:resnet34.a1_in1k"}],
    }
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(raw))
    assert inspect(path) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == ["                 test", "images             25"]
    path.write_text(json.dumps(raw | {"data": [{"source": str(textile)}, {"source": "package:digits"}]}))
    assert inspect(path) == 2
    assert capsys.readouterr().err == (
        f"error: data inspect: the runs of {path} read their data in 2 ways; name one of their sources: "
        f"{textile}, package:digits\n"
    )
