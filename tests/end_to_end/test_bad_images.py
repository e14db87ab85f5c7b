"""Every kind of bad image in one folder: a run stops before anything is written, or leaves them out and says so."""

import json
from pathlib import Path

import pytest
from bad_images import bad_images, odd_images
from PIL import Image

from hf_transfer.cli import main

BAD, ODD = bad_images(), odd_images()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name, level in (("dark", 20), ("light", 200)):
        (root / name).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (16, 16), (level + number,) * 3).save(root / name / f"{number}.png")
    for name, odd in ODD.items():
        (root / "dark" / name).write_bytes(odd.content)
    for name, bad in BAD.items():
        bad.write(root / "light" / name)
    return root


@pytest.fixture
def recipe(tmp_path, folder):
    raw = {
        "output_dir": str(tmp_path / "run"),
        "data": {"source": str(folder), "test_fraction": 0.2},
        "model": {"backbone": "scratch:lenet"},
        "training": {"max_steps": 2, "per_device_train_batch_size": 8, "disable_tqdm": True, "dataloader_num_workers": 0},
        "evaluation": {"speed": False},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(raw))
    return str(tmp_path / "recipe.json")


def test_run__stops_before_anything_is_written(tmp_path, recipe, folder, capsys):
    assert main(["run", recipe]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and not (tmp_path / "run").exists()
    in_header = {name: bad for name, bad in BAD.items() if bad.in_header}
    assert f"error: data: found {len(in_header)} unreadable images:" in said
    assert all(f"  - {folder / 'light' / name}: {bad.reason}" in said for name, bad in in_header.items())


def test_check_data__finds_them_all(recipe, folder, capsys):
    assert main(["check", "--data", recipe]) == 2
    said = capsys.readouterr().err
    assert all(f"  - {folder / 'light' / name}: {bad.reason}" in said for name, bad in BAD.items())


def test_run__skips_counts_and_lists_them(tmp_path, recipe, folder, capsys):
    assert main(["run", recipe, "data.on_bad_image=skip"]) == 0
    said = capsys.readouterr().err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    skipped = json.loads((tmp_path / "run" / "environment.json").read_text())["skipped"]
    listed = {Path(name).name: reason for items in skipped.values() for name, reason in items}
    assert listed.keys() == BAD.keys()
    assert all(reason.startswith(BAD[name].reason) for name, reason in listed.items())
    for split, items in skipped.items():
        assert f"left out {len(items)} unreadable images of {split}; environment.json lists them" in said
    splits = ("train", "validation", "test")
    assert {split: metrics[split]["skipped"] for split in splits} == {split: len(skipped.get(split, [])) for split in splits}
    assert sum(metrics[split]["n"] for split in splits) == 60 + len(ODD)
