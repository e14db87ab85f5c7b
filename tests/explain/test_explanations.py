"""From images to explanations: what is asked, what is found, what is written; and the images chosen from a run."""

import copy
import csv
import importlib.util
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_transfer.backbones.backbone import Backbone, Provenance
from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.backbones.onnx_body import OnnxBody
from hf_transfer.backbones.wrapper import TransferConfig, TransferForImageClassification
from hf_transfer.data.loose_images import LooseImage, find_images
from hf_transfer.deploy.predict import Classifier
from hf_transfer.errors import UserError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.explain.class_grid import choose_images
from hf_transfer.explain.explanations import Question, ask, evaluating, explain_batch, strip_of
from hf_transfer.explain.maps import METHODS
from hf_transfer.explain.records import PictureNames, check_output, explain_files, rows_of
from hf_transfer.explain.view import View
from hf_transfer.recipe.schema import Model
from hf_transfer.run_directory import replacing

_spec = importlib.util.spec_from_file_location("corner_model", Path(__file__).with_name("corner_model.py"))
corner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(corner)

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


@pytest.fixture
def backbone(checkpoint):
    return load_as_it_is(Model(backbone=str(checkpoint)))


def explained(question, pixels, size=(64, 64)):
    backbone = corner.corner_backbone()
    names = [f"{index}.png" for index in range(len(pixels))]
    return explain_batch(backbone, View(backbone.preprocessing), question, names, [size] * len(pixels), pixels)


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_explain_batch__the_peak_is_where_the_network_looks(method):
    found = explained(Question(method), corner.noisy_pixels(3), size=(320, 96))
    for image in found:
        assert image.predicted == 0
        assert image.probabilities.sum() == pytest.approx(1.0)
        (explanation,) = image.explanations
        assert explanation.target == 0
        assert explanation.blank is None
        assert all(0 < value < 8 for value in explanation.peak)
        x, y = explanation.original_peak
        assert (x, y) == pytest.approx((explanation.peak[0] * 10, explanation.peak[1] * 3), abs=2)


def test_explain_batch__most_probable_classes_in_order():
    found = explained(Question("occlusion", top_k=2), corner.noisy_pixels(1))[0]
    assert [explanation.target for explanation in found.explanations] == [0, 1]
    assert found.explanations[0].blank is None
    assert found.explanations[1].blank == "the map is empty: no place speaks for the class"
    assert found.explanations[1].peak is None
    assert found.explanations[1].original_peak is None


def test_explain_batch__a_named_class():
    found = explained(Question("occlusion", target=1), -corner.noisy_pixels(2))
    assert [image.explanations[0].target for image in found] == [1, 1]
    assert [image.explanations[0].blank for image in found] == [None, None]


@pytest.fixture(scope="module")
def vision_transformer(tmp_path_factory):
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("vit")
    widths = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    ViTForImageClassification(ViTConfig(num_labels=5, image_size=32, patch_size=8, **widths)).save_pretrained(directory)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)
    return load_as_it_is(Model(backbone=str(directory)))


@pytest.mark.parametrize("method", METHODS)
def test_explain_batch__every_method_on_a_vision_transformer(vision_transformer, method):
    question = ask(vision_transformer, method)
    view, pixels = View(vision_transformer.preprocessing), corner.noisy_pixels(2)
    with evaluating(vision_transformer.model):
        found = explain_batch(vision_transformer, view, question, ["a", "b"], [(64, 64)] * 2, pixels)
        again = explain_batch(vision_transformer, view, question, ["b"], [(64, 64)], pixels[1:])
    for image in found:
        (explanation,) = image.explanations
        assert explanation.raw.shape == {"integrated_gradients": (32, 32), "occlusion": (16, 16)}.get(method, (4, 4))
        assert explanation.raw.device.type == "cpu"
        assert explanation.target == (image.predicted if METHODS[method].of_class else None)
        assert explanation.layer == ("vit.layers.3.layernorm_before" if METHODS[method].layered else None)
    scale = float(found[1].explanations[0].raw.abs().max())
    torch.testing.assert_close(again[0].explanations[0].raw, found[1].explanations[0].raw, atol=1e-3 * scale + 1e-6, rtol=0)
    assert all(parameter.grad is None for parameter in vision_transformer.model.parameters())


def test_explain_batch__scores():
    found = explained(Question("integrated_gradients", faithfulness=True), corner.noisy_pixels(2))
    for image in found:
        scores = image.explanations[0].scores
        assert scores["completeness_delta"] == pytest.approx(0, abs=1e-5)
        assert scores["deletion_auc"] < scores["random_deletion_auc"]


def test_explain_batch__no_curves_of_a_blank_map():
    backbone = corner.corner_backbone()
    backbone.model.weight.data.zero_()
    pixels = corner.noisy_pixels(1)
    question = Question("occlusion", faithfulness=True)
    found = explain_batch(backbone, View(backbone.preprocessing), question, ["a"], [(9, 9)], pixels)[0].explanations[0]
    assert found.blank == "the map is constant: every place has the value 0"
    assert found.scores == {}


def test_evaluating__leaves_the_model_as_it_was():
    model = corner.corner_backbone().model.train()
    model.dropout.eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not model.training
        assert not model.weight.requires_grad
        raise KeyError
    assert model.training
    assert not model.dropout.training
    assert model.weight.requires_grad
    assert model.weight.grad is None


def test_ask__four_depths(backbone):
    found = ask(backbone, "gradcam", layers="first,second, third,last")
    assert found.layers == tuple(
        (f"{name}: resnet.encoder.stages.{stage}", f"resnet.encoder.stages.{stage}")
        for stage, name in enumerate(["first", "second", "third", "last"])
    )


def test_ask__a_path(backbone):
    assert ask(backbone, "layercam", layers="resnet.embedder").layers == (("resnet.embedder", "resnet.embedder"),)


def test_ask__a_class(backbone):
    assert ask(backbone, "occlusion", target="owl").target == 2


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (
            {"method": "occlusion", "layers": "third", "target": "owI"},
            [
                "--layers: occlusion reads no layer; leave it out",
                "--target: 'owI' is not a class of the model (did you mean 'owl'?): cat, dog, owl",
            ],
        ),
        ({"method": "eigencam", "top_k": 2}, ["--target, --top-k: eigencam does not explain a class; leave them out"]),
        ({"method": "gradcam", "top_k": 4}, ["--top-k: expected 1 to 3, the number of classes, found 4"]),
        ({"method": "gradcam", "top_k": 0}, ["--top-k: expected 1 to 3, the number of classes, found 0"]),
        (
            {"method": "gradcam", "target": "cat", "top_k": 2},
            ["--target, --top-k: name one class, or explain the most probable ones, not both"],
        ),
    ],
)
def test_ask__what_does_not_fit(backbone, arguments, problems):
    with pytest.raises(UserError) as caught:
        ask(backbone, **arguments)
    assert str(caught.value) == "\n".join(problems)


def test_ask__at_most_as_many_classes_as_a_picture_has_rows(vision_transformer):
    vision_transformer = replace(vision_transformer, model=copy.copy(vision_transformer.model))
    vision_transformer.model.config = ViTConfig(num_labels=1000)
    assert ask(vision_transformer, "occlusion", top_k=20).top_k == 20
    with pytest.raises(UserError) as caught:
        ask(vision_transformer, "occlusion", top_k=171)
    assert str(caught.value) == "--top-k: expected 1 to 20 (a picture has a row for each), found 171"


def test_ask__no_layers_of_maps():
    with pytest.raises(UserError, match=r"^--layers: corner has no layer of maps that could be found; name one by its path$"):
        ask(corner.corner_backbone(), "gradcam")
    assert ask(corner.corner_backbone(), "gradcam", layers="dropout").layers == (("dropout", "dropout"),)


@pytest.fixture
def onnx_backbone():
    """A network whose body is an ONNX graph: the mean of each channel, computed by onnxruntime."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["images", "axes"], ["features"], keepdims=0)],
        "means",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array([2, 3], np.int64), "axes")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    body = OnnxBody(torch.frombuffer(bytearray(made), dtype=torch.uint8))
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(body=body, head=nn.Linear(3, 2)))
    model = TransferForImageClassification(TransferConfig(library="onnx", num_labels=2), network)
    return Backbone(model, ViTImageProcessor(size={"height": 32, "width": 32}), ("network.head",), Provenance("quantized"))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "occlusion"])
def test_ask__nothing_inside_an_onnx_graph(onnx_backbone, method):
    with pytest.raises(UserError) as caught:
        ask(onnx_backbone, method, layers="last", target="nobody")
    assert str(caught.value) == (
        "--method: this model's backbone is an ONNX graph: it has no gradient and no layers to read; use --method occlusion"
    )


def test_ask__occlusion_of_an_onnx_graph(onnx_backbone):
    question, view = ask(onnx_backbone, "occlusion", faithfulness=True), View(onnx_backbone.preprocessing)
    (found,) = explain_batch(onnx_backbone, view, question, ["a"], [(32, 32)], corner.noisy_pixels(1))
    assert found.explanations[0].raw.shape == (16, 16)
    assert found.explanations[0].raw.abs().max() > 0


def independent(backbone):
    """Return the corner network as a model of several labels an image."""
    backbone.model.config = SimpleNamespace(**vars(backbone.model.config), problem_type="multi_label_classification")
    return backbone


def test_explain_batch__probabilities_of_several_labels_are_those_of_predict():
    backbone, pixels = independent(corner.corner_backbone()), corner.noisy_pixels(2)
    view, question = View(backbone.preprocessing), Question("occlusion", top_k=2)
    classifier = Classifier(backbone, device=torch.device("cpu"))
    logits = classifier.logits(pixels)
    for image, row in zip(explain_batch(backbone, view, question, ["a", "b"], [(9, 9)] * 2, pixels), logits, strict=True):
        np.testing.assert_allclose(image.probabilities, 1 / (1 + np.exp(-row.astype(float))), rtol=1e-6)
        assert image.probabilities.sum() == pytest.approx(1.0)  # its logits are x and -x
        # Covering the corner leaves a logit of 0 and a sigmoid of a half; of two classes a softmax would be the sigmoid of 2 x.
        for explanation in image.explanations:
            drop = float(explanation.raw.flatten()[explanation.raw.abs().argmax()])
            assert abs(drop) < abs(image.probabilities[explanation.target] - 0.5) + 1e-6


def test_explain_batch__one_logit_is_a_sigmoid():
    class Single(corner.CornerModel):
        config = SimpleNamespace(num_labels=1, id2label={0: "bright"})

        def forward(self, pixel_values):
            return SimpleNamespace(logits=super().forward(pixel_values).logits[:, :1])

    backbone = replace(corner.corner_backbone(), model=Single().eval())
    view, pixels = View(backbone.preprocessing), corner.noisy_pixels(1)
    (found,) = explain_batch(backbone, view, Question("occlusion"), ["a"], [(9, 9)], pixels)
    assert 0.9 < found.probabilities[0] < 1.0
    assert found.explanations[0].blank is None


def test_ask__unknown_layers_are_all_named(backbone):
    with pytest.raises(UserError) as caught:
        ask(backbone, "gradcam", layers="last,forth,resnet.encoder.stage.1")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("--layers: ")
    assert "'forth'" in lines[0]
    assert "'resnet.encoder.stage.1' (did you mean 'resnet.encoder.stages.1'?)" in lines[1]


def test_explain_files__writes_a_picture_and_a_row_for_each(tmp_path, backbone, capsys):
    generator = np.random.default_rng(0)
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (50, 80, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b/0.png").write_bytes(b"no image")
    question = ask(backbone, "gradcam", layers="second,last")
    images = find_images([str(tmp_path / "a"), str(tmp_path / "b")])
    rows, unreadable = explain_files(backbone, question, images, tmp_path / "out", batch_size=2)
    assert unreadable == 1
    assert "b/0.png: not an image in a known format" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "1-2.explained.png", "1.explained.png", "2.explained.png", "explanations.csv",
    ]  # fmt: skip
    with (tmp_path / "out/explanations.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(Path(row["file"]).parent.name, row["picture"]) for row in written] == [
        ("a", "1.explained.png"), ("a", "1.explained.png"), ("b", "1-2.explained.png"), ("b", "1-2.explained.png"),
        ("b", "2.explained.png"), ("b", "2.explained.png"),
    ]  # fmt: skip
    assert [row["layer"] for row in written[:2]] == ["resnet.encoder.stages.1", "resnet.encoder.stages.3"]
    for row, kept in zip(written, rows, strict=True):
        assert row["predicted"] == row["target"] == kept["predicted"]
        assert row["probability"] == row["target_probability"] == str(kept["probability"])
        assert row["deletion_auc"] == ""
        if not row["blank"]:
            assert 0 <= float(row["peak_x"]) <= 80
            assert 0 <= float(row["peak_y"]) <= 50
    assert all(parameter.requires_grad and parameter.grad is None for parameter in backbone.model.parameters())


def test_explain_files__an_interruption_leaves_no_table_of_other_pictures(tmp_path, backbone):
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "1.png")
    Image.new("RGB", (64, 64), (30, 200, 30)).save(tmp_path / "2.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "explanations.csv").write_text("of other pictures")
    question, images = ask(backbone, "gradcam"), find_images([str(tmp_path / "1.png"), str(tmp_path / "2.png")])

    class Interrupted(list):
        """A list of images during whose second batch somebody presses Ctrl-C."""

        def __getitem__(self, places):
            if places.start == 2:
                raise KeyboardInterrupt
            return super().__getitem__(places)

    with pytest.raises(KeyboardInterrupt):
        explain_files(backbone, question, Interrupted([*images, *images]), out, batch_size=1)
    assert (out / "1.explained.png").is_file()
    assert not (out / "explanations.csv").exists()


def test_explain_files__the_size_of_a_batch_changes_nothing(tmp_path, backbone):
    generator = np.random.default_rng(1)
    for index in range(5):
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    question, images = ask(backbone, "gradcam"), find_images([str(tmp_path)])
    found = [explain_files(backbone, question, images, tmp_path / f"out{size}", batch_size=size)[0] for size in (1, 3)]
    for one, other in zip(*found, strict=True):
        assert one["peak_x"] == other["peak_x"]
        assert one["probability"] == pytest.approx(other["probability"], abs=2e-6)


def test_check_output__does_not_write_among_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError) as caught:
        check_output(tmp_path, overwrite=False)
    assert str(caught.value) == (
        f"--output: {tmp_path} is not empty; nothing was touched. Choose another directory, or replace files of the same name "
        "with --overwrite."
    )
    check_output(tmp_path, overwrite=True)
    check_output(tmp_path / "new", overwrite=False)


@pytest.mark.parametrize("name", ["cat.explained.png", "Cat.Explained.PNG", "explanations.csv"])
def test_check_output__does_not_replace_the_images_themselves(tmp_path, name):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    photos.mkdir()
    (photos / name).write_bytes(b"mine")
    elsewhere.symlink_to(photos)
    (tmp_path / "link.png").symlink_to(photos / name)
    for image in (photos / name, elsewhere / name, tmp_path / "link.png"):
        with pytest.raises(UserError) as caught:
            check_output(photos, [LooseImage(str(image))], overwrite=True)
        assert str(caught.value) == (
            f"--output: {image}: among the images to explain, and could be replaced by a picture; nothing was touched. Choose "
            "another directory."
        )
    check_output(tmp_path / "out", [LooseImage(str(photos / name))], overwrite=True)
    check_output(photos, [LooseImage(str(photos / "cat.png")), LooseImage("https://h/cat.explained.png")], overwrite=True)


def test_picture_names__each_once():
    names = PictureNames()
    given = [names.of(name) for name in ("a/x.jpg", "b/X.png", "b/x-2.png", "https://h/x.jpg?w=3", "..", "caf\u00e9 1.tif")]
    stems = ["x", "X-2", "x-2-2", "x-3", "image", "caf\u00e9 1"]
    assert given == [f"{stem}.explained.png" for stem in stems]


def test_picture_names__long_ones_fit_a_file_system(tmp_path):
    names = PictureNames()
    given = [names.of("\u5b57" * 82 + ".png"), names.of("\u5b57" * 82 + ".jpg"), names.of("x" * 300)]
    assert given[:2] == ["\u5b57" * 66 + ".explained.png", "\u5b57" * 66 + "-2.explained.png"]
    for name in given:
        with replacing(tmp_path / name) as temporary:
            temporary.write_bytes(b"")


def predictions_of(labels, predicted, certainty, classes):
    logits = np.zeros((len(labels), classes), dtype=np.float32)
    logits[np.arange(len(labels)), predicted] = certainty
    ids = [str(index) for index in range(len(labels))]
    return Predictions(ids, [None] * len(ids), np.array(labels), np.array(predicted), logits, [f"c{c}" for c in range(classes)])


def test_choose_images__spread_over_the_recognised_and_the_surest_mistakes():
    labels = [0, 0, 0, 0, 0, 0, 0, 0, 1]
    predicted = [0, 0, 0, 1, 1, 1, 0, 0, 1]
    found = choose_images(predictions_of(labels, predicted, [1, 1, 1, 2, 5, 3, 1, 1, 1], 3))
    assert found == {0: [0, 7, 4, 5], 1: [8]}


def test_choose_images__of_many_classes_those_with_the_most_mistakes():
    labels = np.repeat(np.arange(40), 3)
    predicted = labels.copy()
    wrong = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]
    predicted[np.isin(labels, wrong) & (np.arange(120) % 3 == 0)] = 0
    found = choose_images(predictions_of(labels, predicted, 1.0, 40))
    assert list(found) == wrong
    assert all(len(positions) == 3 for positions in found.values())


def test_explain_batch__every_class_that_is_said_or_the_most_probable_where_none_is():
    backbone, pixels = independent(corner.corner_backbone()), corner.noisy_pixels(3)
    view, names = View(backbone.preprocessing), ["a", "b", "c"]
    chances = explain_batch(backbone, view, Question("occlusion"), names, [(9, 9)] * 3, pixels)[0].probabilities

    def targets(thresholds, **asked):
        backbone.model.config.thresholds = thresholds
        found = explain_batch(backbone, view, Question("occlusion", **asked), names, [(9, 9)] * 3, pixels)
        return [(image.said, [explanation.target for explanation in image.explanations]) for image in found]

    order = [int(label) for label in np.argsort(-chances)]
    assert targets([0.001, 0.001])[0] == (tuple(order), order)
    assert targets([0.999999, 0.999999])[0] == ((), order[:1])
    assert targets([0.001, 0.999999], target=1)[0] == ((0,), [1])
    pixels[2] = -pixels[2]
    some = targets([0.5, 0.999999])
    assert [said for said, _ in some] == [(0,), (0,), ()]
    assert [told for _, told in some] == [[0], [0], [1]]  # of the third the most probable
    assert [len(told) for _, told in targets([0.000001, 0.5])] == [1, 1, 2]  # the others of a batch change nothing


def test_strip_of_and_rows_of__name_every_class_that_is_said(tmp_path):
    backbone, pixels = independent(corner.corner_backbone()), corner.noisy_pixels(1)
    question, classes = Question("occlusion"), ["bright", "dark"]
    for thresholds, answer, predicted in (
        ([0.001, 0.001], "predicted bright", "bright|dark"),
        ([0.999999, 0.999999], "none of the classes; the most probable is bright", ""),
    ):
        backbone.model.config.thresholds = thresholds
        (found,) = explain_batch(backbone, View(backbone.preprocessing), question, ["x.png"], [(9, 9)], pixels)
        _, heading = strip_of(found, question, classes)
        assert heading.splitlines()[1].startswith(answer)
        rows = rows_of(found, question, classes, "x.explained.png")
        assert {row["predicted"] for row in rows} == {predicted} and rows[0]["probability"] is None
        assert [row["target"] for row in rows] == (["bright", "dark"] if predicted else ["bright"])


def test_choose_images__of_several_labels_recognised_missed_and_wrong():
    labels = np.zeros((8, 2), dtype=bool)
    labels[:5, 0] = True
    predicted = np.zeros((8, 2), dtype=bool)
    predicted[[0, 1, 2, 5, 6], 0] = True
    logits = np.zeros((8, 2), dtype=np.float32)
    logits[:, 0] = [5, 5, 5, -1, -3, 2, 4, -5]
    ids = [str(index) for index in range(8)]
    found = Predictions(ids, [None] * 8, labels, predicted, logits, ["a", "b"], None, np.full(2, 0.5))
    assert choose_images(found) == {0: [0, 2, 4, 6]}  # first and last recognised, the surest miss, the surest that is not there
    assert choose_images(found, wrong=4) == {0: [0, 2, 4, 6, 3, 5]}
