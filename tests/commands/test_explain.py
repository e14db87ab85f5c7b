"""`hf-transfer explain` from end to end, on a tiny network and a few images."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.recipe import dump_recipe, parse_recipe

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("resnet")
    labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: label for label, name in enumerate(CLASSES)}}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic", **labels)
    ResNetForImageClassification(config).save_pretrained(directory)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Nine images in three class folders."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for index in range(3):
            pixels = generator.integers(0, 256, (60, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((180, 120)).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def run(tmp_path, checkpoint, photos):
    """A run directory as a finished run leaves it, one image of each class mistaken."""
    root = tmp_path / "run"
    root.mkdir()
    (root / "model").symlink_to(checkpoint)
    raw = {"data": {"source": str(photos)}, "model": {"backbone": str(checkpoint)}, "output_dir": str(root)}
    (root / "recipe.json").write_text(json.dumps(dump_recipe(parse_recipe(raw, [], source="test"))))
    paths = sorted(photos.rglob("*.png"))
    labels = np.repeat(np.arange(3), 3)
    predicted = np.where(np.arange(9) % 3 == 0, (labels + 1) % 3, labels)
    logits = np.eye(3, dtype=np.float32)[predicted]
    ids = [path.relative_to(photos).as_posix() for path in paths]
    Predictions(ids, [str(path) for path in paths], labels, predicted, logits, CLASSES).write(root / "predictions/test.parquet")
    return root


def table_of(directory):
    with (directory / "explanations.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_explain__images(tmp_path, checkpoint, photos, capsys):
    out = tmp_path / "out"
    assert main(["explain", str(checkpoint), str(photos / "cat"), str(photos / "dog/*.png"), "--output", str(out)]) == 0
    assert f"6 pictures and explanations.csv in {out}" in capsys.readouterr().out
    rows = table_of(out)
    assert [Path(row["file"]).relative_to(photos).as_posix() for row in rows] == [
        f"{name}/{index}.png" for name in ("cat", "dog") for index in range(3)
    ]
    for row in rows:
        assert (out / row["picture"]).is_file()
        assert row["predicted"] in CLASSES
        assert (row["method"], row["layer"]) == ("gradcam", "resnet.encoder.stages.3")


def test_explain__json_with_everything(tmp_path, checkpoint, photos, capsys):
    out = tmp_path / "out"
    arguments = ["--output", str(out), "--json", "--faithfulness", "--method", "occlusion", "--target", "owl"]
    assert main(["explain", str(checkpoint), str(photos / "cat/0.png"), *arguments]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["target"] == "owl"
    assert row["layer"] is None
    if row["blank"] is None:
        assert 0 <= row["deletion_auc"] <= 1
        assert 0 <= row["random_insertion_auc"] <= 1
        assert 0 <= row["peak_x"] <= 180
        assert 0 <= row["peak_y"] <= 120
    (written,) = table_of(out)
    assert written == {name: "" if value is None else str(value) for name, value in row.items()}


def test_explain__unreadable_files_are_told_and_the_others_done(tmp_path, checkpoint, photos, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((photos / "cat/0.png").read_bytes()[:500])
    out = tmp_path / "out"
    arguments = ["explain", str(checkpoint), str(broken), str(photos / "cat/0.png"), "--output", str(out), "--batch-size", "1"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert f"cannot read {broken}: " in said
    assert "1 of 2 images could not be read" in said
    assert [Path(row["file"]).name for row in table_of(out)] == ["0.png"]


def test_explain__nothing_is_overwritten_silently(tmp_path, checkpoint, photos, capsys):
    out = tmp_path / "out"
    arguments = ["explain", str(checkpoint), str(photos / "cat/0.png"), "--output", str(out)]
    assert main(arguments) == 0
    before = (out / "0.png").read_bytes()
    assert main(arguments) == 2
    assert f"error: --output: {out} is not empty; nothing was touched." in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert (out / "0.png").read_bytes() == before


def test_explain__a_run(run, capsys):
    assert main(["explain", str(run)]) == 0
    assert f"9 images in {run / 'plots/explanations.png'}" in capsys.readouterr().out
    first = (run / "plots/explanations.png").read_bytes()
    rows = table_of(run / "plots")
    assert [Path(row["file"]).parent.name for row in rows] == ["cat"] * 3 + ["dog"] * 3 + ["owl"] * 3
    assert [Path(row["file"]).name for row in rows[:3]] == ["1.png", "2.png", "0.png"]  # the mistake last
    assert main(["explain", str(run)]) == 2
    assert "exist; nothing was touched" in capsys.readouterr().err
    assert main(["explain", str(run), "--overwrite"]) == 0
    assert (run / "plots/explanations.png").read_bytes() == first


def test_explain__a_run_whose_images_moved(tmp_path, run, capsys):
    predictions = Predictions.read(run / "predictions/test.parquet")
    paths = ["/gone/0.png", *predictions.paths[1:]]
    ids = ["cat/none.png", *predictions.sample_ids[1:]]
    moved = Predictions(ids, paths, predictions.labels, predictions.predicted, predictions.logits, CLASSES)
    moved.write(run / "predictions/test.parquet")
    assert main(["explain", str(run), "--output", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "cannot read cat/none.png" in captured.err
    assert "8 images in" in captured.out
    assert not (run / "plots").exists()


def test_explain__what_a_run_cannot_be_asked(tmp_path, checkpoint, capsys):
    assert main(["explain", str(checkpoint), "--top-k", "2"]) == 2
    said = capsys.readouterr().err
    assert f"MODEL is the directory of a run that scored a test split; {checkpoint} is none. Name images" in said
    assert "leave --target and --top-k out and name one layer" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size: expected 1 or more, found 0"),
        (["--target", "dgo"], "--target: 'dgo' is not a class of the model (did you mean 'dog'?): cat, dog, owl"),
        (["--method", "rollout"], "attention"),
    ],
)
def test_explain__mistakes(tmp_path, checkpoint, photos, capsys, arguments, message):
    out = tmp_path / "out"
    assert main(["explain", str(checkpoint), str(photos / "cat/0.png"), "--output", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "explanations.csv").exists()


def test_explain__help_without_torch():
    code = (
        "import sys; from hf_transfer.cli import main\n"
        "try: main(['explain', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert "--faithfulness" in done.stdout
