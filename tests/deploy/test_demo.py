import gc
import importlib.util
import re
import runpy
import shutil
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.backbones.build import load_as_it_is
from hf_transfer.data.loose_images import LooseImage
from hf_transfer.deploy.demo import About, about, build_demo, export_space, serve
from hf_transfer.deploy.predict import Classifier, predict_images
from hf_transfer.deploy.quantize import quantized_backbone
from hf_transfer.errors import UserError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.recipe.schema import Model

gradio = pytest.importorskip("gradio")

CPU = torch.device("cpu")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


# Gradio leaves event loops open; they close themselves when they are collected, here at the latest.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def _leaves_nothing_behind():
    """One thread, which is enough for a tiny network; and what gradio left open is collected before other tests begin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with a tiny model of seven classes, a card and predictions for three images."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("runs") / "tiny"
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7)
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: label for label, name in enumerate(NAMES)}
    ResNetForImageClassification(config).save_pretrained(root / "model")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "model")
    (root / "recipe.json").write_text("{}")
    (root / "README.md").write_text(
        "---\nlicense: mit\ntags:\n- vision\n---\n\n# Tiny 'beasts'\n\nTells **seven** beasts\napart.\n\n## Results\n"
    )
    paths = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        paths.append(str(root / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    labels = np.array([2, 1, 2, 0])
    Predictions(list("abcd"), [*paths, "gone.png"], labels, labels, np.zeros((4, 7), np.float32), NAMES).write(
        root / "predictions" / "test.parquet"
    )
    return root


@pytest.fixture(scope="module")
def backbone(run):
    return load_as_it_is(Model(backbone=str(run)))


@pytest.fixture(scope="module")
def address(run, backbone):
    """The address of a page that is being served."""
    page = build_demo(Classifier(backbone, device=CPU), about(str(run), NAMES), top_k=3)
    yield serve(page)
    page.close()


def row_of(backbone, path):
    return next(predict_images(backbone, [LooseImage(str(path))], device=CPU, batch_size=1, top_k=3))


def test_about__run_has_its_card_and_one_test_image_of_each_class(run):
    expected = About("Tiny 'beasts'", "Tells **seven** beasts apart.", (run / "1.png", run / "0.png"), "mit")
    assert about(str(run), NAMES) == expected
    assert about(str(run / "model"), NAMES) == expected


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("no heading", ("m", "An image classifier for 1 classes: ant.")),
        ("# Heading", ("Heading", "An image classifier for 1 classes: ant.")),
        ("# Heading\n\n## Next\n\ntext", ("Heading", "An image classifier for 1 classes: ant.")),
        ("# Heading\ntext", ("Heading", "text")),
    ],
)
def test_about__card_of_another_kind(tmp_path, card, expected):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "README.md").write_text(card)
    assert about(str(tmp_path / "m"), ["ant"]) == About(*expected)


def test_about__model_that_is_no_directory():
    assert about("timm:owner/name", NAMES) == About(
        "name", "An image classifier for 7 classes: ant, bee, cat, dog, eel, fox, gnu."
    )


def test_build_demo__page_answers_what_predict_says(address, backbone, run):
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, analytics_enabled=False)
    answer = client.predict(handle_file(run / "0.png"), api_name="/classify")
    client.close()
    row = row_of(backbone, run / "0.png")
    assert answer["label"] == row.classes[0]
    assert [entry["label"] for entry in answer["confidences"]] == list(row.classes)
    np.testing.assert_allclose([entry["confidence"] for entry in answer["confidences"]], row.probabilities, rtol=1e-12)


def test_build_demo__file_that_is_no_image(backbone, tmp_path):
    page = build_demo(Classifier(backbone, device=CPU), About("t", "l"))
    (tmp_path / "a.svg").write_text("<svg/>")
    classify = next(function.fn for function in page.fns.values() if function.api_name == "classify")
    with pytest.raises(gradio.Error, match="This file cannot be read as an image: cannot identify image file"):
        classify(str(tmp_path / "a.svg"))
    assert classify(None) is None
    assert not page.analytics_enabled


def test_serve__port_that_is_taken(backbone):
    page = build_demo(Classifier(backbone, device=CPU), About("t", "l"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^the page cannot be served at 127\.0\.0\.1:{port}: "):
            serve(page, port=port)
    page.close()


def test_export_space__its_app_answers_what_predict_says(backbone, run, tmp_path, monkeypatch):
    what = about(str(run), NAMES)
    export_space(backbone, what, tmp_path / "space", top_k=3)
    files = sorted(
        path.relative_to(tmp_path / "space").as_posix() for path in (tmp_path / "space").rglob("*") if path.is_file()
    )
    assert files == [
        "README.md",
        "app.py",
        "examples/1.png",
        "examples/2.png",
        "model/config.json",
        "model/model.safetensors",
        "model/preprocessor_config.json",
        "requirements.txt",
    ]
    header = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---\n")[1])
    assert header == {
        "title": "Tiny 'beasts'",
        "sdk": "gradio",
        "sdk_version": gradio.__version__,
        "app_file": "app.py",
        "pinned": False,
        "license": "mit",
    }
    assert (tmp_path / "space" / "requirements.txt").read_text().split() == ["torch", "torchvision", "transformers"]
    monkeypatch.chdir(tmp_path / "space")
    app = Path("app.py").read_text()
    assert app.count(").launch()") == 1
    Path("app.py").write_text(app.replace(").launch()", ")"))  # the page, without a server
    found = runpy.run_path("app.py")["classify"](str(run / "0.png"))
    row = row_of(backbone, run / "0.png")
    assert list(found)[::-1] == list(row.classes)
    np.testing.assert_allclose(list(found.values())[::-1], row.probabilities, atol=1e-6)


def test_export_space__of_two_classes_with_one_name_the_more_probable_counts(run, tmp_path, monkeypatch):
    backbone = load_as_it_is(Model(backbone=str(run)))
    backbone.model.config.id2label = dict(enumerate(["crane"] * 7))
    row = row_of(backbone, run / "0.png")
    export_space(backbone, About("t", "l"), tmp_path / "space", top_k=3)
    monkeypatch.chdir(tmp_path / "space")
    Path("app.py").write_text(Path("app.py").read_text().replace(").launch()", ")"))
    found = runpy.run_path("app.py")["classify"](str(run / "0.png"))
    assert found == {"crane": pytest.approx(row.probabilities[0], abs=1e-6)}


def test_export_space__frozen_int8_backbone_needs_onnxruntime(backbone, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    quantized = quantized_backbone(backbone, [torch.zeros(2, 3, 32, 32)])
    export_space(quantized, About("t", "l"), tmp_path / "space")
    packages = (tmp_path / "space" / "requirements.txt").read_text().split()
    assert packages == ["torch", "torchvision", "transformers", "hf-transfer-learning", "onnxruntime"]


def test_build_demo__uploads_are_looked_over_often(backbone):
    assert build_demo(Classifier(backbone, device=CPU), About("t", "l")).delete_cache == (300, 3600)


def test_export_space__text_of_a_card_stays_text(backbone, tmp_path):
    title = "a'b\"c\\ {x}\n__import__('os')"
    export_space(backbone, About(title, "'''"), tmp_path / "space")
    compiled = compile((tmp_path / "space" / "app.py").read_text(), "app.py", "exec")
    assert title in compiled.co_consts or any(
        title in constant for constant in compiled.co_consts if isinstance(constant, tuple)
    )
    assert yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---\n")[1])["title"] == title


def test_export_space__folder_that_holds_something(backbone, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError) as error:
        export_space(backbone, About("t", "l"), tmp_path)
    assert str(error.value) == (
        f"--export: expected a new or empty folder, found something in {tmp_path.resolve()}; nothing was touched"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs playwright")
def test_build_demo__in_a_browser(address, backbone, run):
    from playwright.sync_api import sync_playwright

    servers = set()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: servers.add(request.url.split("/")[2]))
        page.goto(address)
        page.get_by_role("heading", name="Tiny 'beasts'").wait_for()  # fails when it does not appear
        page.set_input_files("input[type=file]", run / "0.png")
        shown = page.get_by_test_id("label-output-value")
        shown.wait_for()
        row = row_of(backbone, run / "0.png")
        assert shown.inner_text().strip() == row.classes[0]
        listed = re.sub(r"\s+", " ", page.locator(".confidence-set").all_inner_texts()[0])
        assert listed.strip() == f"{row.classes[0]} {row.probabilities[0]:.0%}"
        page.locator("button.gallery-item").nth(0).click()  # the first example: 1.png
        second = row_of(backbone, run / "1.png")
        page.wait_for_function(
            "wanted => document.querySelector('.confidence-set')?.innerText.replace(/\\s+/g, ' ').trim() === wanted",
            arg=f"{second.classes[0]} {second.probabilities[0]:.0%}",
        )
        browser.close()
    assert {server for server in servers if server} <= {address.split("/")[2]}


def label_backbone(run, thresholds):
    backbone = load_as_it_is(Model(backbone=str(run)))
    backbone.model.config.problem_type = "multi_label_classification"
    backbone.model.config.thresholds = thresholds
    return backbone


def test_build_demo__every_class_that_reaches_its_threshold_or_none(run):
    backbone = label_backbone(run, [0.5] * 7)
    row = row_of(backbone, run / "0.png")
    assert 0 < len(row.classes) < 7
    for thresholds, expected in (([0.5] * 7, dict(zip(row.classes, row.probabilities, strict=True))), ([0.999] * 7, None)):
        page = build_demo(Classifier(label_backbone(run, thresholds), device=CPU), About("t", "l"), top_k=1)
        classify = next(function.fn for function in page.fns.values() if function.api_name == "classify")
        assert classify(str(run / "0.png")) == (expected or "none of the classes")


def test_export_space__of_several_labels_says_what_predict_says(run, tmp_path, monkeypatch):
    row = row_of(label_backbone(run, [0.5] * 7), run / "0.png")
    threshold = sorted(row.every.values())[3]
    said = {}
    for name, thresholds in (("some", [threshold] * 7), ("none", [0.999] * 7)):
        space = tmp_path / name
        export_space(label_backbone(run, thresholds), About("Tiny", "Tells beasts apart."), space)
        monkeypatch.chdir(space)
        Path("app.py").write_text(Path("app.py").read_text().replace(").launch()", ")"))
        said[name] = runpy.run_path(str(space / "app.py"))["classify"](str(run / "0.png"))
    assert said["none"] == "none of the classes"
    assert said["some"] == pytest.approx({name: chance for name, chance in row.every.items() if chance >= threshold}, rel=1e-4)


def test_about__an_example_of_each_label_that_images_show(run, tmp_path):
    labels = np.zeros((4, 7), dtype=bool)
    labels[0, [1, 2]] = labels[1, [1, 3]] = labels[2, [1]] = True  # the fourth shows none
    root = tmp_path / "labels"
    paths = [str(run / f"{number}.png") for number in (0, 1, 2, 0)]
    found = Predictions(list("abcd"), paths, labels, labels, np.zeros((4, 7), np.float32), NAMES, None, np.full(7, 0.5))
    found.write(root / "predictions" / "test.parquet")
    assert about(str(root), NAMES).examples == (run / "0.png", run / "1.png")
