"""`hf-transfer data split`, as a user types it."""

import json
import shutil
from pathlib import Path

import pytest
from conformal_clip_data import textile_simulated_root

from hf_transfer.cli import main


@pytest.fixture
def textile(tmp_path):
    root = tmp_path / "textile"
    for name, count in (("global", 12), ("local", 10), ("nominal", 5)):
        (root / name).mkdir(parents=True)
        for path in sorted((Path(str(textile_simulated_root())) / name).iterdir())[:count]:
            shutil.copy(path, root / name / path.name)
    return root


def split(*words):
    return main(["data", "split", *map(str, words)])


def test_split__writes_and_tells(textile, tmp_path, capsys):
    out = tmp_path / "out"
    assert split(textile, out, "--fractions", 0.6, 0.2, 0.2, "--drop", "nominal", "--seed", 3) == 0
    assert capsys.readouterr().out == (
        "                     train  validation        test\n"
        "2 classes               13           4           5\n"
        "smallest class           6           2           2  (local)\n"
        f"written: {out}\n"
    )
    assert sorted(path.name for path in out.iterdir()) == ["split.json", "test", "train", "validation"]
    manifest = json.loads((out / "split.json").read_text())
    assert (manifest["source"], manifest["seed"], manifest["dropped"]) == (str(textile), 3, ["nominal"])


def test_split__dry_run_and_json(textile, tmp_path, capsys):
    assert split(textile, tmp_path / "out", "--per-class", 2, 1, 1, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "15 images are in no split\n" in said
    assert said.endswith(f"nothing was written: --dry-run ({tmp_path / 'out'})\n")
    assert split(textile, tmp_path / "out", "--per-class", 2, 1, 1, "--dry-run", "--json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["images"] == {"train": 6, "validation": 3, "test": 3}
    assert manifest["left_out"] == {"global": 8, "local": 6, "nominal": 1}
    assert not (tmp_path / "out").exists()


def test_split__equal_and_unreadable_images_are_told(textile, tmp_path, capsys):
    for number, path in enumerate(sorted((textile / "global").iterdir())):
        path.write_bytes(b"" if number == 0 else (textile / "global" / "textile_0012.jpg").read_bytes())
    assert split(textile, tmp_path / "out") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("warning: equal images stand in more than one split, such as train: global/textile_00")
    assert told[1].endswith("/global/textile_0001.jpg; split.json lists them")


def test_split__bad_input_has_one_message(textile, tmp_path, capsys):
    assert split(textile, textile / "inside", "--fractions", 0.5, 0.2, 0.2, "--drop", "nomial") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: found 3 problems:",
        f"  - --drop: {textile} has no class folder 'nomial' (did you mean 'nominal'?)",
        f"  - OUT: {textile / 'inside'} is inside the source, which is never changed; choose a folder elsewhere",
        "  - --fractions: expected shares of train, validation and test that make 1, at most one of the last two 0; found 0.5 "
        "0.2 0.2 (together 0.9)",
    ]
    assert not (textile / "inside").exists()
    assert split(textile, tmp_path / "out", "--group-by", "folder") == 2
    assert "expected images in folders inside the class folders; 27 of 27 have none" in capsys.readouterr().err


def test_split__never_over_another(textile, tmp_path, capsys):
    assert split(textile, tmp_path / "out", "--link") == 0
    assert split(textile, tmp_path / "out") == 2
    assert "is not empty (split.json, test, train and 1 more); nothing was touched" in capsys.readouterr().err
