"""Classes from one end to the other: some that a split lacks, some in another order, some that nobody learnt."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions

LEVELS = {"9": 0, "10": 90, "\N{LATIN SMALL LETTER E WITH ACUTE}": 180}
NAMES = list(LEVELS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose test split lacks the last of three classes, and its images."""
    root = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for name in NAMES if split == "train" else NAMES[:2]:
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (16, 16, 3)) + LEVELS[name]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    recipe = {
        "output_dir": str(root / "run"),
        "data": {"source": str(root / "images")},
        "model": {"backbone": "scratch:lenet"},
        "training": {"max_steps": 6, "learning_rate": 0.01, "per_device_train_batch_size": 12, "disable_tqdm": True},
        "evaluation": {"speed": False},
    }
    (root / "recipe.json").write_text(json.dumps(recipe))
    assert main(["run", str(root / "recipe.json")]) == 0
    return root


def test_class_that_the_test_split_lacks__has_no_figures_and_stops_no_report(trained):
    metrics = json.loads((trained / "run" / "metrics.json").read_text())
    assert list(metrics["test"]["per_class"]) == NAMES
    assert metrics["test"]["per_class"][NAMES[2]]["recall"] is None
    assert metrics["test"]["per_class"][NAMES[2]]["n"] == 0
    recalls = [metrics["test"]["per_class"][name]["recall"] for name in NAMES[:2]]
    assert metrics["test"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    for file in ("README.md", "report.html", "plots/confusion_matrix.png", "plots/per_class.png"):
        assert (trained / "run" / file).stat().st_size, file
    card = (trained / "run" / "README.md").read_text()
    assert NAMES[2] in card and "nan" not in card.split("---")[2].lower().split()
    assert main(["report", str(trained / "run")]) == 0


def test_class_order__is_the_data_sets_and_the_scores_follow(trained, tmp_path):
    order = [NAMES[2], "10", "9"]
    files = sorted((trained / "images" / "test").rglob("*.png"))
    rows = {"image": [str(file) for file in files], "label": [order.index(file.parent.name) for file in files]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=order)})
    datasets.DatasetDict(test=datasets.Dataset.from_dict(rows, features=features)).save_to_disk(str(tmp_path / "saved"))
    assert (
        main(["evaluate", str(trained / "run"), "--data", str(tmp_path / "saved"), "--output-dir", str(tmp_path / "out")]) == 0
    )
    found = Predictions.read(tmp_path / "out" / "predictions" / "test.parquet")
    before = Predictions.read(trained / "run" / "predictions" / "test.parquet")
    assert (before.class_names, found.class_names) == (NAMES, order)
    place = {file.relative_to(trained / "images").as_posix(): row for row, file in enumerate(files)}
    rows = [place[str(name)] for name in before.sample_ids]
    columns = [order.index(name) for name in NAMES]
    np.testing.assert_allclose(found.logits[rows][:, columns], before.logits, rtol=1e-4, atol=1e-5)
    assert [order[label] for label in found.labels[rows]] == [NAMES[label] for label in before.labels]


def test_class_that_nobody_learnt__stops_an_evaluation_by_name(trained, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    for name in ("9", "10", "11"):
        (tmp_path / "more" / name).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / "more" / name / "0.png")
    assert (
        main(["evaluate", str(trained / "run"), "--data", str(tmp_path / "more"), "--output-dir", str(tmp_path / "out")]) == 2
    )
    said = capsys.readouterr().err
    assert f"  only in the data set: 11\n  only in the checkpoint: {NAMES[2]}\n" in said
    assert not (tmp_path / "out").exists()


def test_classes_of_predictions__are_the_models(trained, capsys):
    image = sorted((trained / "images" / "test" / "10").iterdir())[0]
    capsys.readouterr()
    assert main(["predict", str(trained / "run"), str(image), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["predictions"]
    assert {entry["class"] for entry in told["top"]} == set(NAMES)
