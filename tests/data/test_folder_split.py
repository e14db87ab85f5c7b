"""A folder of class folders, split: who goes where, what is written, what is refused. The images are of package:textile."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conformal_clip_data import textile_simulated_root

from hf_transfer.data.build import build_splits
from hf_transfer.data.folder_split import check_request, describe, part_sizes, plan_split, write_split
from hf_transfer.errors import DataError
from hf_transfer.recipe.schema import Data

# Images of Caltech-256's classes 001 to 256, without the clutter; 198.spider's RENAME2 is no image.
CALTECH256 = """
98 97 151 127 148 90 106 232 102 94 278 216 98 86 122 91 104 101 124 83 142 97 110 112 114 106 100 110 103 104 90 101 102 100
87 106 120 110 85 124 87 87 124 121 85 133 94 103 106 97 114 85 82 118 98 102 106 93 83 87 102 83 122 131 101 83 83 110 99 84
99 118 100 115 83 84 92 90 99 116 95 81 95 84 112 80 93 98 110 212 95 201 112 104 86 285 89 100 80 93 138 88 111 97 270 87 89
85 156 85 84 84 116 120 88 107 121 108 87 130 82 103 111 91 101 242 128 105 190 91 92 190 136 119 93 93 156 192 86 89 117 107
130 82 798 82 202 174 103 111 109 120 93 103 92 96 105 149 209 83 103 91 90 101 88 92 86 140 92 102 84 99 106 84 83 110 96 98
80 102 100 120 100 84 103 81 95 88 119 112 111 112 174 112 87 104 100 108 105 100 81 97 91 80 87 98 115 109 102 111 95 136 101
139 84 98 105 81 84 94 103 91 80 110 90 99 147 95 95 94 112 358 100 122 114 97 90 97 84 201 95 93 90 91 91 101 92 84 100 96
800 116 435 95 103 108
"""


@pytest.fixture
def textile(tmp_path):
    """Twenty, fifteen and eight images of three classes."""
    root = tmp_path / "textile"
    for name, count in (("global", 20), ("local", 15), ("nominal", 8)):
        (root / name).mkdir(parents=True)
        for path in sorted((Path(str(textile_simulated_root())) / name).iterdir())[:count]:
            shutil.copy(path, root / name / path.name)
    return root


def names(split):
    return {part: table.sample_ids.tolist() for part, table in split.tables.items()}


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def message(function, *arguments, **options):
    with pytest.raises(DataError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_part_sizes__of_caltech256_are_those_of_the_reference_study():
    counts = np.array(CALTECH256.split(), dtype=int)
    sizes = part_sizes(counts, [0.7, 0.1, 0.2])
    assert (len(counts), counts.sum()) == (256, 29_780)
    assert sizes.sum(axis=1).tolist() == [20_729, 2_971, 6_080]
    assert (sizes.sum(axis=0) == counts).all() and (sizes > 0).all()


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (80, [0.7, 0.1, 0.2], [56, 7, 17]),
        (10, [0.7, 0.1, 0.2], [7, 1, 2]),
        (3, [0.98, 0.01, 0.01], [1, 1, 1]),
        (20, [0.98, 0.01, 0.01], [18, 1, 1]),
        (7, [0.8, 0.2], [5, 2]),
    ],
)
def test_part_sizes__no_part_is_empty(count, fractions, sizes):
    assert part_sizes(np.array([count]), fractions)[:, 0].tolist() == sizes


def test_plan_split__every_image_once_in_proportion_to_its_class(textile):
    split = plan_split(textile)
    assert split.class_names == ["global", "local", "nominal"]
    assert split.counts() == {
        "global": {"train": 14, "validation": 1, "test": 5},
        "local": {"train": 10, "validation": 1, "test": 4},
        "nominal": {"train": 5, "validation": 1, "test": 2},
    }
    everyone = sorted(name for found in names(split).values() for name in found)
    assert everyone == sorted(path.relative_to(textile).as_posix() for path in textile.rglob("*.jpg"))


def test_plan_split__the_seed_decides_and_other_classes_do_not(textile):
    first, again, other = (names(plan_split(textile, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first["test"] != other["test"]
    without = names(plan_split(textile, drop=["local"]))
    assert without == {part: [name for name in found if not name.startswith("local/")] for part, found in first.items()}


def test_plan_split__does_not_depend_on_the_file_system(textile, tmp_path):
    copy = tmp_path / "copy"
    for path in sorted(textile.rglob("*.jpg"), reverse=True):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.parent.name)
    assert names(plan_split(copy)) == names(plan_split(textile))


def test_plan_split__counts_of_each_class(textile):
    rest = plan_split(textile, per_class=[4, 2])
    assert [len(table) for table in rest.tables.values()] == [12, 6, 25]
    exact = plan_split(textile, per_class=[4, 2, 1])
    assert [table.class_counts(3).tolist() for table in exact.tables.values()] == [[4] * 3, [2] * 3, [1] * 3]
    assert exact.left_out.tolist() == [13, 8, 1]
    assert names(rest)["train"] == names(exact)["train"]


def test_plan_split__a_part_that_is_not_wanted(textile):
    assert {part: len(table) for part, table in plan_split(textile, fractions=[0.8, 0, 0.2]).tables.items()} == {
        "train": 34,
        "test": 9,
    }


def test_plan_split__groups_stay_together(textile):
    for number, path in enumerate(sorted(textile.rglob("*.jpg"))):
        burst = path.parent / f"burst_{number // 3}"
        burst.mkdir(exist_ok=True)
        path.rename(burst / path.name)
    split = plan_split(textile, fractions=[0.6, 0, 0.4], group_by="folder")
    bursts = [{name.split("/")[1] for name in found} for found in names(split).values()]
    assert sum(map(len, bursts)) == 15 and not bursts[0] & bursts[1]
    assert describe(split)["groups"] == {"train": len(bursts[0]), "test": len(bursts[1])}
    assert all(abs(found["train"] - 0.6 * sum(found.values())) < 2 for found in split.counts().values())


def test_plan_split__too_few_images_of_a_class(textile):
    for path in sorted((textile / "nominal").iterdir())[2:]:
        path.unlink()
    assert message(plan_split, textile) == (
        "expected at least 3 images, one for each of train, validation, test, of every class; too few of 'nominal' (2). Add "
        "images, or drop the class."
    )
    assert message(plan_split, textile, per_class=[14, 1]) == (
        "expected at least 15 images and one for test, of every class; too few of 'local' (15), 'nominal' (2). Add images, or "
        "drop the class."
    )
    assert message(plan_split, textile, group_by="path:(global|local|nominal)") == (
        "data: a split into train + validation + test that keeps groups together needs every class in at least 3 groups; too "
        "few of 'global' (1), 'local' (1), 'nominal' (1). Add groups, remove the class, or give split folders of your own."
    )


def test_check_request__all_problems_at_once(textile, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    found = message(check_request, textile, out, fractions=[0.7, 0.1, 0.1], drop=["gloval"], group_by="burst")
    assert found.splitlines() == [
        "found 4 problems:",
        f"  - --drop: {textile} has no class folder 'gloval' (did you mean 'global'?)",
        f"  - OUT: {out} is not empty (mine.txt); nothing was touched. Choose another folder.",
        "  - --fractions: expected shares of train, validation and test that make 1, at most one of the last two 0; found 0.7 "
        "0.1 0.1 (together 0.9)",
        "  - --group-by: expected 'folder' (the images of one folder inside the class folders belong together) or 'path:' and "
        "a regular expression with one group in parentheses, such as 'path:(patient_\\d+)'; found 'burst'",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"per_class": [3]},
            "--per-class: expected numbers of images for train, validation and (if not the rest) test; found 3",
        ),
        (
            {"per_class": [3, 0, 2]},
            "--per-class: expected numbers of images for train, validation and (if not the rest) test; found 3 0 2",
        ),
        (
            {"per_class": [3, 1], "group_by": "folder"},
            "--group-by: whole groups cannot be counted out by image; use --fractions instead of --per-class",
        ),
        (
            {"fractions": [1.0, 0.0, 0.0]},
            "--fractions: expected shares of train, validation and test that make 1, at most one of the last two 0; found 1 0 "
            "0 (together 1)",
        ),
        ({"drop": ["global", "local", "nominal"]}, "--drop: expected a class that is kept"),
    ],
)
def test_check_request__one_problem(textile, tmp_path, options, words):
    assert message(check_request, textile, tmp_path / "out", **options) == words


def test_write_split__an_empty_folder_keeps_who_may_read_it(textile, tmp_path):
    out = tmp_path / "private"
    out.mkdir(mode=0o700)
    split = plan_split(textile)
    write_split(split, out, describe(split))
    assert (out / "train").is_dir() and out.stat().st_mode & 0o777 == 0o700


def test_check_request__the_folder_one_is_in(textile, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert message(check_request, textile, Path()) == (
        "OUT: . is the folder you are in, which cannot be replaced; name a folder inside it"
    )


def test_check_request__places(textile, tmp_path):
    inside, file = textile / "split", tmp_path / "file"
    file.write_text("")
    assert message(check_request, textile, inside) == (
        f"OUT: {inside} is inside the source, which is never changed; choose a folder elsewhere"
    )
    assert message(check_request, textile, file) == f"OUT: {file} is a file; expected an empty folder or nothing"
    assert (
        message(check_request, file, tmp_path / "out") == f"SOURCE: expected a folder of class folders, found a file at {file}"
    )
    nowhere = tmp_path / "nowhere"
    assert message(check_request, nowhere, file).startswith(
        f"found 2 problems:\n  - SOURCE: expected a folder of class folders, found nothing at {nowhere}\n"
    )
    write_split(split := plan_split(textile), tmp_path / "out", describe(split))
    assert message(check_request, tmp_path / "out", tmp_path / "again") == (
        f"SOURCE: {tmp_path / 'out'} is split already (test, train, validation); name one of these folders to split it"
    )


@pytest.mark.parametrize("link", [False, True])
def test_write_split__what_a_recipe_reads_and_nothing_of_the_source_changes(textile, tmp_path, link):
    before, out = files(textile), tmp_path / "new" / "out"
    split = plan_split(textile)
    write_split(split, out, describe(split), link=link)
    assert files(textile) == before
    written = {name: content for name, content in files(out).items() if name != "split.json"}
    assert written == {f"{part}/{name}": before[name] for part, found in names(split).items() for name in found}
    links = {path.stat().st_nlink for path in out.rglob("*.jpg")}
    assert links == ({2} if link else {1})
    found = build_splits(Data(source=str(out)), ["train", "validation", "test"], training=True)
    assert found.class_names == split.class_names
    assert {part: len(table) for part, table in found.tables.items()} == {"train": 29, "validation": 3, "test": 11}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_describe__the_manifest(textile, tmp_path):
    first, second = sorted((textile / "global").iterdir())[:2]
    twins = [name for part in ("train", "test") for name in names(plan_split(textile))[part][:1]]
    (textile / twins[1]).write_bytes((textile / twins[0]).read_bytes())
    bad = next(name for name in names(plan_split(textile))["validation"] if name.startswith("local/"))
    (textile / bad).write_bytes(b"no image")
    split = plan_split(textile, drop=["nominal"], seed=0)
    manifest = describe(split)
    assert list(manifest) == [
        "source",
        "seed",
        "dropped",
        "group_by",
        "fractions",
        "class_to_index",
        "images",
        "counts",
        "left_out",
        "files_digest",
        "duplicates_across_splits",
        "unreadable",
    ]
    assert manifest["class_to_index"] == {"global": 0, "local": 1}
    assert manifest["images"] == {"train": 24, "validation": 2, "test": 9}
    assert manifest["dropped"] == ["nominal"]
    assert manifest["duplicates_across_splits"] == [[f"train: {twins[0]}", f"test: {twins[1]}"]]
    assert manifest["unreadable"] == {
        f"validation/{bad}": "not an image in a known format (it begins with the text 'no image')"
    }
    write_split(split, tmp_path / "out", manifest)
    assert json.loads((tmp_path / "out" / "split.json").read_text()) == manifest
    assert describe(plan_split(textile, drop=["nominal"]))["files_digest"] == manifest["files_digest"]
    first.write_bytes(second.read_bytes())
    assert describe(plan_split(textile, drop=["nominal"]))["files_digest"] != manifest["files_digest"]


def test_write_split__what_cannot_be_read_leaves_nothing(textile, tmp_path):
    split = plan_split(textile)
    gone = textile / names(split)["test"][-1]
    manifest = describe(split)
    gone.unlink()
    assert message(write_split, split, tmp_path / "out", manifest) == (
        f"{gone}: No such file or directory; {tmp_path / 'out'} was not written."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["textile"]


def test_write_split__never_over_what_came_meanwhile(textile, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    split = plan_split(textile)
    (out / "mine.txt").write_text("mine")
    assert "was not written" in message(write_split, split, out, describe(split))
    assert files(out) == {"mine.txt": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "textile"]


def test_write_split__killed_leaves_no_half_of_a_split(textile, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from hf_transfer.data import folder_split as f\n"
        "split = f.plan_split(Path(sys.argv[1])); copy = f.shutil.copy2\n"
        "f.shutil.copy2 = lambda *paths: (copy(*paths), print('copied', flush=True), time.sleep(0.2))\n"
        "f.write_split(split, Path(sys.argv[2]), {})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(textile), str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    left = [path.name for path in tmp_path.iterdir() if path.name != "textile"]
    assert left == [f".out.{process.pid}.tmp"]
    split = plan_split(textile)
    write_split(split, tmp_path / "out", describe(split))
    assert len(files(tmp_path / "out")) == 44
