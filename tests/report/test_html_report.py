import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hf_transfer.errors import RunDirectoryError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report import write_plots, write_report

HOSTILE = ["<script>alert(1)</script>", "$x^2$ & \"quoted\" 'name'", "x" * 300, "مرحبا \u202eabc", "{{ 7 * 7 }}", "\ud800"]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser sees: elements with their attributes, headings, tables by their label, text by section."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.tables, self.section = [], [], {}, ""
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = attributes["id"]
        if "aria-label" in attributes:
            self.label = attributes["aria-label"]
        if tag == "table":
            self.tables[self.label] = []
        if tag == "tr":
            self.tables[self.label].append([])
        if tag in ("td", "th"):
            self.tables[self.label][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.texts[self.section] = self.texts.get(self.section, "") + data
        if "td" in self.open or "th" in self.open:
            self.tables[self.label][-1][-1] += data

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}

    def attributes(self, tag, name):
        return [found[name] for other, found in self.elements if other == tag and name in found]


def page_of(run_dir, **options):
    return Page(write_report(run_dir, **options).read_text(encoding="utf-8"))


def test_write_report__sections_and_their_contents(make_run):
    run_dir = make_run(recipe_changes={"strategy": {"name": "gradual"}})
    write_plots(run_dir)
    page = page_of(run_dir)
    linked = [address.removeprefix("#") for address in page.attributes("a", "href")]
    assert linked == page.attributes("section", "id")
    assert linked == [
        "results",
        "classes",
        "calibration",
        "confusion",
        "pairs",
        "losses",
        "training",
        "cost",
        "data",
        "environment",
        "recipe",
    ]
    assert page.open == []
    metrics = json.loads((run_dir / "metrics.json").read_text())
    rows = page.tables["Figures of every split"]
    assert [row[0] for row in rows] == ["Split", "train", "validation", "test"]
    assert rows[3][1:3] == ["150", f"{metrics['test']['accuracy']:.4f}"]
    assert f"{metrics['test']['accuracy']:.4f}" in page.texts[""]
    assert page.tables["Phases of training"][1] == ["head", "1,539", "0.0138 %", "0 to 40", "2"]
    assert ["Device", "NVIDIA H100"] in page.tables["Cost of the run"]
    calibration = json.loads((run_dir / "calibration.json").read_text())
    assert f"temperature of {calibration['temperature']:.3f}" in page.texts["calibration"]


def test_write_report__needs_nothing_else(make_run):
    run_dir = make_run(classes=["a", "b", "c"])
    write_plots(run_dir)
    page = page_of(run_dir)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    sources = page.attributes("img", "src")
    assert len(sources) > 24
    for source in sources:
        kind, _, data = source.partition(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.load()
    assert all(address.startswith("#") for address in page.attributes("a", "href"))
    assert all(page.attributes("img", "alt"))
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_write_report__thumbnails_are_the_images(make_run):
    run_dir = make_run()
    source = next(source for source in page_of(run_dir).attributes("img", "src") if "jpeg" in source)
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        assert image.size == (80, 80)
        assert np.asarray(image).reshape(-1, 3).mean(axis=0) == pytest.approx([0, 0, 255], abs=3)


def test_write_report__images_that_are_nowhere_say_so(make_run):
    page = page_of(make_run(images=False))
    assert page.texts["losses"].count("image not found") == 24
    assert not page.attributes("img", "src")


def test_write_report__foreign_text_is_text(make_run):
    run_dir = make_run(classes=HOSTILE[:5], recipe_changes={"description": HOSTILE[0] + HOSTILE[5]})
    page = page_of(run_dir)
    assert "script" not in page.tags
    assert HOSTILE[0] in page.texts[""]
    names = [row[0] for row in page.tables["Figures of each class"][1:]]
    assert names == [*HOSTILE[:3], "مرحبا abc", HOSTILE[4]]
    assert [row[0] for row in page.tables["Images of each class"][1:]] == names


def test_write_report__nothing_of_the_machine(make_run):
    run_dir = make_run(environment_changes={"skipped": {"test": [["/home/alice/leaf images/bad.png", "broken"]]}})
    text = write_report(run_dir).read_text(encoding="utf-8")
    assert "alice" not in text
    assert "(removed)" in text  # the recipe's token
    assert "bad.png" in text


def test_write_report__further_test_sets_robustness_and_speed(make_run):
    shift = {"accuracy": -0.0512, "ci95": [-0.09, -0.01], "against": "test"}
    robustness = {"gaussian_noise": {"1": {"accuracy": 0.8, "accuracy_ci95": [0.75, 0.85]}, "2": {"accuracy": 0.5}}}
    speed = {"latency_ms": 11.52, "images_per_second": 210.4, "batch_size": 32, "flops": 1.82e9, "device": "CPU"}
    further = {"camera_b": {"shift": shift}, "test": {"robustness": robustness}, "speed": speed}
    page = page_of(make_run(splits=("validation", "test", "camera_b"), further=further))
    assert page.tables["Shift in accuracy of further test sets"][1] == ["camera_b", "test", "-0.0512", "-0.0900 to -0.0100"]
    header, row = page.tables["Accuracy under corruption"]
    assert header == ["Corruption", "None", "Severity 1", "Severity 2"]
    assert row[0] == "gaussian noise"
    assert row[2:] == ["0.800\n0.75 to 0.85", "0.500"]
    assert page.tables["Speed of the model"] == [
        ["Latency of one image, median", "11.5 ms"],
        ["Images per second (batches of 32)", "210.4"],
        ["Floating-point operations for an image", "1.82 billion"],
        ["Device", "CPU"],
    ]


def test_write_report__explanations_where_they_are(make_run):
    run_dir = make_run()
    (run_dir / "plots").mkdir()
    Image.new("RGB", (10, 10)).save(run_dir / "plots" / "explanations.png")
    assert "explanations" in page_of(run_dir).attributes("section", "id")


def test_write_report__no_class_given(make_run):
    run_dir = make_run()
    path = run_dir / "predictions" / "test.parquet"
    found = Predictions.read(path)
    none = np.full(len(found.labels), -1)
    logits = np.full_like(found.logits, -np.inf)
    Predictions(found.sample_ids, found.paths, found.labels, none, logits, found.class_names).write(path)
    write_plots(run_dir)
    page = page_of(run_dir)
    assert page.texts["losses"].count("no class") == 24
    assert "pairs" not in page.attributes("section", "id")


def test_write_report__257_classes_are_folded(make_run):
    page = page_of(make_run(classes=[f"{i:03}.thing" for i in range(257)]))
    assert "All 257 classes" in page.texts["classes"]
    assert len(page.tables["Figures of each class"]) == 258


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_write_report__validation_only(make_run, mode):
    run_dir = make_run(splits=("train", "validation"), recipe_changes={"mode": mode})
    assert ("evaluated no test split" in page_of(run_dir).texts[""]) == (mode == "train")


def test_write_report__watched_test_images_are_told_at_the_top(make_run):
    page = page_of(make_run(further={"monitored": {"test": 5, "train_200": 5}}))
    said = "The test split was scored 5 times while training; it chose nothing, but whoever watched it may have."
    assert said in page.texts[""]


def test_write_report__no_warning_where_no_test_images_were_watched(make_run):
    assert "(empty)" not in page_of(make_run()).texts[""]


def test_write_report__a_run_that_left_next_to_nothing(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "metrics.json").write_text("{}")
    page = page_of(tmp_path)
    assert page.attributes("section", "id") == ["recipe"]


def test_write_report__elsewhere(make_run, tmp_path):
    run_dir = make_run()
    output = tmp_path / "new" / "a.html"
    assert write_report(run_dir, output) == output
    assert output.stat().st_size > 10_000
    assert not (run_dir / "report.html").exists()


def test_write_report__folded_temperature_and_reference(make_run):
    run_dir = make_run(recipe_changes={"reference": {"test_accuracy": 0.9, "source": "R1"}})
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["temperature"] = 1.53
    metrics["test"]["accuracy"] = 0.95
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    write_plots(run_dir)
    page = page_of(run_dir)
    assert "divided already by 1.530" in page.texts["calibration"]
    assert "Published test accuracy: 0.9000 (R1); this run: 0.9500, +0.0500." in page.texts[""]


@pytest.mark.parametrize("name", ["metrics.json", "calibration.json", "predictions/test.parquet"])
def test_write_report__damaged_file(make_run, name):
    run_dir = make_run()
    (run_dir / name).write_text("what is this")
    with pytest.raises(RunDirectoryError, match=name):
        write_report(run_dir)
