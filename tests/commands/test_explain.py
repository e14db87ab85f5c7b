"""`hf-transfer explain` from end to end, on a tiny network and a few images."""

import csv
import json
import os
import shutil
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
    before = (out / "0.explained.png").read_bytes()
    assert main(arguments) == 2
    assert f"error: --output: {out} is not empty; nothing was touched." in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    assert (out / "0.explained.png").read_bytes() == before


def test_explain__the_images_themselves_are_never_replaced(tmp_path, checkpoint, photos, capsys):
    own = tmp_path / "photos"
    shutil.copytree(photos / "cat", own)
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    arguments = ["explain", str(checkpoint), str(own), "--output", str(own), "--overwrite"]
    assert main(arguments) == 0
    assert {name: (own / name).read_bytes() for name in before} == before
    assert (own / "0.explained.png").is_file()
    assert main(arguments) == 2
    assert "0.explained.png, " in (said := capsys.readouterr().err)
    assert "among the images to explain, and could be replaced by a picture; nothing was touched" in said
    assert {name: (own / name).read_bytes() for name in before} == before


def test_explain__files_passed_over_are_counted(tmp_path, checkpoint, photos, capsys):
    own = tmp_path / "photos"
    shutil.copytree(photos / "cat", own)
    (own / "notes.txt").write_text("mine")
    assert main(["explain", str(checkpoint), str(own), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "passed over 1 hidden or other files" in capsys.readouterr().err


def test_explain__output_in_the_home_folder(tmp_path, checkpoint, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["explain", str(checkpoint), str(photos / "cat/0.png"), "--output", "~/out"]) == 0
    assert (tmp_path / "out/0.explained.png").is_file()


@pytest.mark.parametrize("images", [True, False])
def test_explain__output_below_a_file(tmp_path, run, photos, capsys, images):
    (tmp_path / "mine.txt").write_text("mine")
    places = [str(photos / "cat/0.png")] if images else []
    assert main(["explain", str(run), *places, "--output", str(tmp_path / "mine.txt/sub")]) == 2
    assert f"error: --output: {tmp_path / 'mine.txt'} is a file, so" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_explain__a_checkpoint_saved_in_half(tmp_path, checkpoint, photos):
    half = tmp_path / "half"
    shutil.copytree(checkpoint, half)
    ResNetForImageClassification.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(half)
    assert main(["explain", str(half), str(photos / "cat/0.png"), "--output", str(tmp_path / "out")]) == 0
    (row,) = table_of(tmp_path / "out")
    assert row["predicted"] in CLASSES


def test_explain__a_run_from_its_source_opens_it_once(run, photos, tmp_path, caplog, capsys):
    predictions = Predictions.read(run / "predictions/test.parquet")
    nowhere = [None] * len(predictions.sample_ids)
    moved = Predictions(predictions.sample_ids, nowhere, predictions.labels, predictions.predicted, predictions.logits, CLASSES)
    moved.write(run / "predictions/test.parquet")
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["data"]["source"] = str(tmp_path / "nowhere")
    (run / "recipe.json").write_text(json.dumps(recipe))
    assert main(["explain", str(run)]) == 2
    assert "its test images cannot be read any more (cat/1.png, cat/2.png, cat/0.png and 6 more)" in capsys.readouterr().err
    assert len([message for message in caplog.messages if "cannot be shown" in message]) == 1


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


def test_explain__the_card_of_a_finished_run_shows_it(run, capsys):
    from hf_transfer.report.model_card import write_model_card

    (run / "metrics.json").write_text(json.dumps({"test": {"accuracy": 2 / 3, "n": 9}}))
    write_model_card(run)
    assert "plots/explanations.png" not in (run / "README.md").read_text()
    assert main(["explain", str(run)]) == 0
    assert "plots/explanations.png" in (run / "README.md").read_text()
    assert capsys.readouterr().err == ""
    (run / "README.md").write_text("# My words\n")
    assert main(["explain", str(run), "--overwrite"]) == 0
    assert (run / "README.md").read_text() == "# My words\n"
    left = f"{run / 'README.md'} was edited, or written by an earlier version, so it was left as it is\n"
    assert capsys.readouterr().err == left


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


@pytest.fixture
def folder(tmp_path, run):
    """Two finished runs, one that is not, and one without a model, as nearest neighbours leave it."""
    (run / "metrics.json").write_text(json.dumps({"test": {"accuracy": 2 / 3, "n": 9}, "cost": {}}))
    (run / "README.md").write_text("# Card\n")
    root = tmp_path / "runs"
    for name in ("one", "two", "near", "waiting"):
        shutil.copytree(run, root / name, symlinks=True)
    (root / "waiting/README.md").unlink()
    (root / "near/model").unlink()
    return root


def test_explain__a_folder_of_runs(folder, capsys):
    assert main(["explain", str(folder)]) == 1  # one has no model
    said = capsys.readouterr()
    assert f"18 images of 2 runs; {folder / 'report.html'}" in said.out
    assert f"{folder / 'waiting'}: not finished, passed over" in said.err
    assert f"{folder / 'near'}: " in said.err
    drawn = [(folder / name / "plots/explanations.png").exists() for name in ("one", "two", "near", "waiting")]
    assert drawn == [True, True, False, False]
    assert "<summary>2 galleries</summary>" in (folder / "report.html").read_text()
    before = (folder / "one/plots/explanations.csv").stat().st_mtime_ns
    shutil.rmtree(folder / "near")
    assert main(["explain", str(folder), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == []
    assert f"{folder / 'one'}: has its picture already; --overwrite draws it again" in said.err
    assert (folder / "one/plots/explanations.csv").stat().st_mtime_ns == before
    assert main(["explain", str(folder), "--json", "--overwrite"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["run"] for row in rows} == {str(folder / "one"), str(folder / "two")}


def test_explain__what_a_folder_cannot_be_asked(folder, capsys):
    assert main(["explain", str(folder), "--output", str(folder / "out"), "--layers", "first,last"]) == 2
    said = capsys.readouterr().err
    assert "--output: each run of a folder has its picture in its own plots/; leave it out" in said
    assert "name one layer" in said
    assert not (folder / "one/plots").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size: expected 1 or more, found 0"),
        (["--device", "cuda:99"], "--device: 'cuda:99' cannot be used here: "),
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
