import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor, pipeline

from hf_transfer.cli import main


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    names = ["ant", "bee", "cat"]
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    config.id2label, config.label2id = dict(enumerate(names)), {name: label for label, name in enumerate(names)}
    directory = tmp_path_factory.mktemp("model")
    ResNetForImageClassification(config).save_pretrained(directory)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three images in a folder, and the folder above it is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in (2, 10, 1):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_predict__table_says_what_the_stock_pipeline_says(model, photos, capsys):
    assert main(["predict", model, "photos", "--top-k", "2"]) == 0
    printed = capsys.readouterr()
    stock = pipeline("image-classification", model=model, device="cpu")
    expected = ["file           class  probability  next"]
    for name in ("photos/1.png", "photos/2.png", "photos/10.png"):
        first, second = stock(name, top_k=2)
        expected.append(f"{name:<13}  {first['label']:<5}  {first['score']:>11.4f}  {second['label']} {second['score']:.4f}")
    assert printed.out.splitlines() == expected


def test_predict__json_with_logits(model, photos, capsys):
    assert main(["predict", model, "photos/*0.png", "photos/1.png", "--json", "--logits", "--batch-size", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unreadable"] == []
    assert [row["file"] for row in told["predictions"]] == ["photos/10.png", "photos/1.png"]
    for row in told["predictions"]:
        assert len(row["logits"]) == len(row["top"]) == 3
        assert (row["class"], row["probability"]) == (row["top"][0]["class"], row["top"][0]["probability"])


def test_predict__unreadable_files_are_told_and_the_status_is_1(model, photos, capsys):
    (photos / "3.png").write_bytes(b"")
    (photos / "notes.txt").write_text("text")
    assert main(["predict", model, "photos", "--output", "out/p.csv", "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0] == "passed over 1 hidden or other files"
    assert "cannot read photos/3.png: the file is empty\n" in printed.err
    assert printed.err.endswith("1 of 4 images could not be read\n")
    assert printed.out.startswith("3 predictions in out/p.csv: ")
    assert len((photos.parent / "out" / "p.csv").read_text().splitlines()) == 4


def test_predict__file_that_exists_is_kept(model, photos, capsys):
    (photos.parent / "p.json").write_text("precious")
    assert main(["predict", model, "photos", "--output", "p.json"]) == 2
    assert capsys.readouterr().err == "error: --output: p.json exists; choose another name, or replace it with --overwrite\n"
    assert (photos.parent / "p.json").read_text() == "precious"
    assert main(["predict", model, "photos", "--output", "p.json", "--overwrite"]) == 0
    assert len(json.loads((photos.parent / "p.json").read_text())["predictions"]) == 3


def test_predict__output_that_cannot_be_written_is_told_first(photos, capsys):
    (photos.parent / "file").write_text("precious")
    assert main(["predict", "./nowhere", "photos", "--output", "file/p.csv"]) == 2
    assert capsys.readouterr().err == (
        "error: --output: file is a file, so file/p.csv cannot be written; choose another place\n"
    )


def test_predict__mistakes_are_told_together(model, photos, capsys):
    assert main(["predict", model, "photos", "--top-k", "0", "--batch-size", "-1", "--logits"]) == 2
    assert capsys.readouterr().err == (
        "error: --top-k: expected 1 or more, found 0\n"
        "--batch-size: expected 1 or more, found -1\n"
        "--logits: the table does not show them; add --output FILE or --json\n"
    )


def test_predict__places_and_models_that_are_not_there(model, photos, capsys):
    assert main(["predict", model, "nowhere", "x*.png"]) == 2
    assert capsys.readouterr().err == (
        "error: expected images (a file, folder, pattern or http(s) address) at:\n"
        "  - nowhere: there is no such file or folder\n"
        "  - x*.png: no image matches this pattern\n"
    )
    assert main(["predict", "./nowhere", "photos"]) == 2
    assert capsys.readouterr().err.startswith("error: model.backbone: expected a directory with a config.json")


def test_predict__folders_that_cannot_be_searched_are_told_and_the_status_is_1(model, photos, capsys):
    name = "deep" * 60
    place = os.open(photos, os.O_RDONLY)
    for _ in range(18):  # to where a path is longer than the system takes
        os.mkdir(name, dir_fd=place)
        outer, place = place, os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(outer)
    os.close(place)
    assert main(["predict", model, "photos", "--json"]) == 1
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert [row["file"] for row in told["predictions"]] == ["photos/1.png", "photos/2.png", "photos/10.png"]
    (closed,) = told["unreadable"]
    assert closed["file"].startswith(f"photos/{name}/") and closed["reason"] == "File name too long"
    assert printed.err == f"cannot read {closed['file']}: {closed['reason']}\n1 folders could not be searched\n"


def test_predict__run_of_strategy_knn(photos, tmp_path, capsys):
    (tmp_path / "recipe.json").write_text(json.dumps({"strategy": {"name": "knn"}}))
    assert main(["predict", str(tmp_path), "photos"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: this run saved no model: strategy 'knn' answers from its training images and has none; "
        "give a run of another strategy\n"
    )


def test_predict__several_labels_an_image(model, photos, tmp_path, capsys):
    labels = tmp_path / "labels"
    shutil.copytree(model, labels)
    config = json.loads((labels / "config.json").read_text())
    config |= {"problem_type": "multi_label_classification", "thresholds": [0.001, 0.001, 0.999999]}
    (labels / "config.json").write_text(json.dumps(config))
    assert main(["predict", str(labels), "photos/1.png"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "file          classes and their probabilities"
    stock = pipeline("image-classification", model=str(labels), device="cpu")
    chances = {answer["label"]: answer["score"] for answer in stock("photos/1.png", function_to_apply="sigmoid", top_k=3)}
    said = sorted(("ant", "bee"), key=lambda name: -chances[name])
    assert row == f"photos/1.png  {', '.join(f'{name} {chances[name]:.4f}' for name in said)}"
    (labels / "config.json").write_text(json.dumps(config | {"thresholds": [0.999999] * 3}))
    assert main(["predict", str(labels), "photos/1.png"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "photos/1.png  none"
    assert main(["predict", str(labels), "photos", "--output", "p.csv"]) == 0
    assert capsys.readouterr().out == "3 predictions in p.csv\n"
    assert main(["predict", str(labels), "photos", "--top-k", "2"]) == 2
    assert capsys.readouterr().err == (
        f"error: --top-k: an image may show several classes of {labels}, or none: every class that reaches its threshold is "
        "named; leave it out. --output and --json have the probabilities of all classes\n"
    )
