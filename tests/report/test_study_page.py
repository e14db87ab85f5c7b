"""The page of a folder of runs: what it says, that foreign text stays text, and what a browser makes of it."""

import base64
import csv
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import many_runs
import numpy as np
import pytest
from PIL import Image

from hf_transfer.errors import UserError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report.study_page import write_study_report, written_by_others

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}$x$\u202e"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser sees: elements, headings, tables by their label, text by section, scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.tables, self.texts, self.scripts = [], [], {}, {}, []
        self.section, self.label = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = attributes["id"]
        if tag == "div" and "aria-label" in attributes:
            self.label = attributes["aria-label"]
        if tag == "table":
            self.tables[self.label] = []
        if tag == "tr":
            self.tables[self.label].append([])
        if tag in ("td", "th"):
            self.tables[self.label][-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
            return
        self.texts[self.section] = self.texts.get(self.section, "") + data
        if "td" in self.open or "th" in self.open:
            self.tables[self.label][-1][-1] += data

    def attributes(self, tag, name):
        return [found[name] for other, found in self.elements if other == tag and name in found]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three candidates of five seeds; read only."""
    root = tmp_path_factory.mktemp("study") / "runs"
    many_runs.write_runs(root, 15, 200)
    return root


@pytest.fixture(scope="module")
def report(written, tmp_path_factory):
    """The report of these, and what a browser sees of its page; read only."""
    root = Path(shutil.copytree(written, tmp_path_factory.mktemp("reported") / "runs"))
    found = write_study_report(root)
    page = Page(found.page.read_text(encoding="utf-8"))
    assert page.open == []
    return root, found, page


@pytest.fixture
def root(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "runs"))


def page_of(root, **options):
    page = Page(write_study_report(root, **options).page.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def change_recipe(run, change):
    recipe = json.loads((run / "recipe.json").read_text())
    change(recipe)
    (run / "recipe.json").write_text(json.dumps(recipe))


def as_study(root):
    """Move a folder of runs to where a study has its cells, and return the study's folder."""
    return root.rename(root.parent / "cells").parent


def read_lines(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_write_study_report__files(report):
    root, written, _ = report
    assert [path.relative_to(root).as_posix() for path in [written.page, *written.leaderboard]] == [
        "report.html",
        "leaderboard.json",
        "leaderboard.csv",
        "leaderboard.md",
    ]
    assert {path.relative_to(root).as_posix() for path in written.pictures} == {
        f"plots/{stem}.{kind}"
        for stem in ("accuracy", "pareto_train_seconds", "pareto_parameters", "curves")
        for kind in ("png", "svg")
    }
    assert all(path.stat().st_size > 1000 for path in written.pictures)


def test_write_study_report__the_verdict_first_then_the_leaderboard(report):
    root, written, page = report
    (table,) = written.board.tables
    start = page.texts[""]
    assert start.index(table.verdict.words) < start.index(table.warnings[0])
    rows = page.tables["Leaderboard"]
    lines = read_lines(root / "leaderboard.csv")
    assert [row[1].split()[0] for row in rows[1:]] == [line["name"] for line in lines]
    for title, key in {"Accuracy": "accuracy", "Validation": "validation_accuracy"}.items():
        place = rows[0].index(title)
        assert [row[place] for row in rows[1:]] == [f"{float(line[key]):.4f}" for line in lines]
    assert rows[1][rows[0].index("Training time")] == "64.0 s"
    assert rows[1][rows[0].index("Images")] == "200"
    assert "Latency" not in rows[0] and "ImageNet" not in rows[0]  # nobody has one


def test_write_study_report__a_cost_that_somebody_has_gets_its_column_and_chart(root):
    for number in (0, 5):
        metrics = json.loads((root / f"run_{number:03d}/metrics.json").read_text())
        metrics["speed"] = {"latency_ms": 12.34 + number}
        (root / f"run_{number:03d}/metrics.json").write_text(json.dumps(metrics))
    page = page_of(root)
    place = page.tables["Leaderboard"][0].index("Latency")
    cells = {row[1].split()[0]: row[place] for row in page.tables["Leaderboard"][1:]}
    assert cells == {"backbone_0": "12.3 ms", "backbone_1": "17.3 ms", "backbone_2": "\u2013"}
    assert "Accuracy against latency" in page.attributes("svg", "aria-label")
    assert (root / "plots/pareto_latency_ms.svg").is_file()


def test_write_study_report__searches_are_shown(root):
    for number in range(5):
        chosen = {"training.learning_rate": 0.00123 * (1 + number)}
        tuning = {"trials": [{}, {}, {}], "space": {}, "chosen": chosen}
        (root / f"run_{number:03d}/tuning.json").write_text(json.dumps(tuning))
    header, *rows = page_of(root).tables["Leaderboard"]
    (row,) = [row for row in rows if row[1].startswith("backbone_0")]
    assert row[header.index("Trials")] == "3"
    assert row[header.index("Tuned to")] == "learning_rate 0.00123, 0.00246, 0.00369, 0.00492, 0.00615"


def test_write_study_report__needs_nothing_else_and_runs_only_its_own_script(report):
    _, written, page = report
    text = written.page.read_text(encoding="utf-8")
    assert not {tag for tag, _ in page.elements} & {"link", "iframe", "object", "embed", "form", "base"}
    policy = next(policy for policy in page.attributes("meta", "content") if policy.startswith("default-src"))
    data, script = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert len(json.loads(data)["curves"]) == 45
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import", text)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_write_study_report__links_lead_to_each_run_from_wherever_the_page_is(root, tmp_path):
    odd = root / "a:b #1 50%"
    (root / "run_000").rename(odd)
    for run in (odd, root / "run_001"):
        (run / "report.html").write_text("<!DOCTYPE html>")
    links = [link for link in page_of(root).attributes("a", "href") if not link.startswith("#")]
    assert sorted(set(links)) == ["a%3Ab%20%231%2050%25/report.html", "run_001/report.html"]
    elsewhere = tmp_path / "shared" / "page.html"
    links = page_of(root, output=elsewhere).attributes("a", "href")
    assert "../runs/run_001/report.html" in links


def test_write_study_report__hostile_text_stays_text(root):
    cells = {}
    for number, run in enumerate(sorted(root.glob("run_*"))):
        change_recipe(run, lambda recipe: recipe.update(description=HOSTILE, hub={"my_token": "hf_" + "a" * 34}))
        change_recipe(run, lambda recipe: recipe["data"].update(source=f"/home/ann/{HOSTILE}"))
        cells[run.name] = {"model.backbone": {"name": f"{HOSTILE}{number // 5}"}, "seed": number % 5}
        path = run / "predictions/test.parquet"
        found = Predictions.read(path)
        names = [f"{HOSTILE}{place}" for place in range(10)]
        Predictions(found.sample_ids, found.paths, found.labels, found.predicted, found.logits, names).write(path)
        history = (run / "history.csv").read_text()
        (run / "history.csv").write_text(history.replace(",train,", ",</script><script>alert(2)//,"))
    root = as_study(root)
    (root / "study.json").write_text(json.dumps({"description": f"{HOSTILE} of /home/ann/notes.md", "cells": cells}))
    (root / "cells/run_014/README.md").unlink()
    (root / "failed").mkdir()
    (root / "failed/run_014.json").write_text(json.dumps({"error": f"{HOSTILE} in /home/ann/secret/file.py"}))
    text = write_study_report(root).page.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.scripts) == 2
    assert "<script>alert" not in text and "/home/ann" not in text and "hf_aaa" not in text
    assert "\u202e" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)  # a recipe in full is shown as it is
    assert "{{7*7}}" in page.texts[""]
    assert "<script>alert(1)</script>" in page.texts[""]  # as text
    assert "</script><script>alert(2)//" in json.loads(page.scripts[0])["splits"]


def test_write_study_report__half_finished_only(root):
    for run in root.glob("run_*"):
        (run / "README.md").unlink()
        (run / "metrics.json").unlink()
    shutil.rmtree(root / "run_013")
    (root / "run_014/history.csv").unlink()
    history = root / "run_000/history.csv"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:56]))
    os.utime(history, (2_000_000_000, 2_000_000_000))
    written = write_study_report(root)
    page = Page(written.page.read_text(encoding="utf-8"))
    assert written.board.tables == ()
    assert "No run is finished: there is nothing to compare yet, so there is no verdict." in page.texts[""]
    header, first, *_, last = page.tables["Runs that are in no table"]
    assert header == ["Run", "Candidate", "Seed", "State", "Step", "Phase", "Best on validation so far", "Last written"]
    assert first[:6] == ["run_000", "run_000", "0", "epoch 5 of 20 (25 %)", "500", "full"]
    assert re.fullmatch(r"0\.\d{4} at step \d+", first[6]) and first[7] == "2033-05-18 03:33 UTC"
    assert last[:4] == ["run_014", "run_014", "4", "begun, nothing logged yet"]
    assert {path.name for path in written.pictures} == {"curves.png", "curves.svg"}
    assert page.attributes("svg", "aria-label") == ["Accuracy against the step", "Loss against the step"]
    assert read_lines(root / "leaderboard.csv") == []


def test_write_study_report__what_is_in_no_table_is_said(root):
    (root / "run_014/README.md").unlink()
    (root / "run_013/predictions/test.parquet").unlink()
    cells = {run.name: {"model.backbone": run.name[:6]} for run in root.glob("run_*")} | {"later": {"model.backbone": "x"}}
    root = as_study(root)
    (root / "study.json").write_text(json.dumps({"cells": cells, "cheapest_by": "parameters"}))
    page = page_of(root)
    rows = {row[0]: row for row in page.tables["Runs that are in no table"][1:]}
    assert rows["cells/run_013"][3].startswith("finished, but left out; ") and "no such file" in rows["cells/run_013"][3]
    assert rows["cells/run_014"][3] == "epoch 20 of 20 (100 %)"
    assert "1 cell not begun" in page.texts["unfinished"] and "later" in page.texts["unfinished"]
    assert "15 runs, 13 of them compared" in page.texts[""]


def test_write_study_report__several_test_sets_have_a_table_each(root, tmp_path):
    many_runs.write_runs(root / "others", 5, 100)
    for run in (root / "others").iterdir():
        change_recipe(run, lambda recipe: recipe["data"].update(source="drawings"))
    page = page_of(root)
    assert "photos" in page.texts["leaderboard"] and "drawings" in page.texts["leaderboard-2"]
    assert (len(page.tables["Leaderboard-1"]), len(page.tables["Leaderboard-2"])) == (4, 2)
    assert "The runs were tested on 2 different sets of images" in page.texts[""]
    assert (root / "plots/accuracy_2.png").is_file()
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.attributes("a", "href") if link.startswith("#")} <= set(ids)


def test_write_study_report__one_run_with_one_seed(root):
    for run in sorted(root.glob("run_*"))[1:]:
        shutil.rmtree(run)
    page = page_of(root)
    assert "is the only candidate" in page.texts[""]
    assert "Beside the leader" not in page.tables["Leaderboard"][0]
    assert not [label for label in page.attributes("svg", "aria-label") if label.startswith("Accuracy against training")]


def test_write_study_report__few_shot_chart(root):
    for number, run in enumerate(sorted(root.glob("run_*"))):
        change_recipe(
            run, lambda recipe, number=number: recipe["data"].update(samples_per_class=[5, 20, 100, 5, 20][number % 5])
        )
        change_recipe(run, lambda recipe, number=number: recipe.update(seed=number % 5 // 3))
    page = page_of(root)
    assert "Accuracy against training images of a class" in page.attributes("svg", "aria-label")
    assert "few-shot" in [attributes.get("id") for _, attributes in page.elements]
    assert (root / "plots/few_shot.png").is_file()


def test_write_study_report__confusions_are_those_of_the_predictions(report):
    root, _, page = report
    found = [Predictions.read(root / f"run_{number:03d}/predictions/test.parquet") for number in range(5)]
    counts = np.zeros((10, 10))
    for predictions in found:
        np.add.at(counts, (predictions.labels, predictions.predicted), 1)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    rows = page.tables["Confusions of backbone_0"]
    assert [row[0] for row in rows[1:]] == [f"class {place}" for place in range(10)]
    for row, expected in zip(rows[1:], shares, strict=True):
        for text, share in zip(row[1:], expected, strict=True):
            assert text in ("<1", ">99") or float(text) == pytest.approx(share, abs=0.51)


def test_write_study_report__many_classes_are_a_small_picture(root):
    for run in root.glob("run_*"):
        path = run / "predictions/test.parquet"
        found = Predictions.read(path)
        logits = np.zeros((200, 30), dtype=np.float32)
        predicted = np.where(found.labels == 3, 7, found.labels)
        names = [f"class {place}" for place in range(30)]
        Predictions(found.sample_ids, found.paths, found.labels, predicted, logits, names).write(path)
    page = page_of(root)
    assert "class 3 taken for class 7: 100 %" in page.texts["confusions"]
    picture = page.attributes("img", "src")[0]
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
        assert image.size == (30, 30)
        assert image.getpixel((7, 3)) == image.getpixel((0, 0)) == (8, 72, 140)
        assert image.getpixel((3, 3)) == (255, 255, 255)


def test_write_study_report__galleries_are_made_to_fit(root):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (800, 1000, 3), dtype=np.uint8))
    for run in root.glob("run_*"):
        (run / "plots").mkdir()
        noise.save(run / "plots/explanations.png", compress_level=0)
    (root / "run_003/plots/explanations.png").write_bytes(b"cut off")
    page = page_of(root)
    assert len([alt for alt in page.attributes("img", "alt") if "speak for the predicted class" in alt]) == 14
    assert (root / "report.html").stat().st_size < 15_000_000


def test_write_study_report__overlay_shows_the_chosen_curves_only(root):
    written = write_study_report(root, overlay=["*_00[0-4]"])
    page = Page(written.page.read_text(encoding="utf-8"))
    assert {path.name for path in written.pictures} >= {"overlay.png", "overlay.svg", "curves.png"}
    assert "5 of 15 runs" in page.texts["curves"]
    assert [run["name"] for run in json.loads(page.scripts[0])["runs"]] == [f"run_00{place}" for place in range(5)]
    assert len(page.tables["Leaderboard"]) == 4
    with pytest.raises(UserError, match="--overlay: no run matches vit"):
        write_study_report(root, overlay=["vit"])


def test_write_study_report__pictures_of_an_earlier_time_go(root):
    write_study_report(root, overlay=["run_000"])
    for run in root.glob("run_*"):
        metrics = json.loads((run / "metrics.json").read_text())
        del metrics["cost"]["train_seconds"]
        (run / "metrics.json").write_text(json.dumps(metrics))
    (root / "plots/mine.png").write_bytes(b"mine")
    write_study_report(root)
    left = {path.name for path in (root / "plots").iterdir()}
    assert "pareto_train_seconds.png" not in left and "pareto_parameters.png" in left
    assert {"mine.png", "overlay.png"} <= left


def test_write_study_report__recipes_and_environments(root):
    environment = json.loads((root / "run_000/environment.json").read_text())
    environment["versions"]["torch"] = "2.14.0"
    (root / "run_000/environment.json").write_text(json.dumps(environment))
    page = page_of(root)
    assert page.tables["Differences between the recipes"][0] == ["Run", "seed", "model.backbone"]
    assert page.tables["Differences between the recipes"][6] == ["run_005", "0", "timm:backbone_1"]
    assert ["strategy.name", "full"] in page.tables["What all recipes share"]
    facts = dict(page.tables["Versions and platform"])
    assert facts["Python"] == "3.11.9"
    assert facts["torch"] == "2.14.0 (run_000)2.15.0 (14 runs)"


def test_write_study_report__no_run_and_no_file(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"expected run directories in .*empty, found none"):
        write_study_report(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_written_by_others__only_what_no_report_wrote(root):
    assert written_by_others(root) == []
    (root / "leaderboard.csv").write_text("mine")
    assert written_by_others(root) == [root / "leaderboard.csv"]
    write_study_report(root)
    assert written_by_others(root) == []


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("needs playwright and chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, report):
    """A function that opens the page of the folder at a width; it fails where the page complained or asked for anything."""
    complaints, pages = [], []

    def open_page(width, **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda request: complaints.extend([] if request.url.startswith(("file:", "data:")) else [request.url])
        )
        page.goto(report[1].page.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def numbers(path):
    return [float(number) for number in re.findall(r"[\d.]+", path)]


def column(page, place):
    cells = page.locator("table.sortable tbody tr").all()
    return [row.locator("th, td").nth(place).inner_text().split("\n")[0].split()[0] for row in cells]


def test_page__sorts_by_click_and_by_key(opened):
    page = opened(1280)
    titles = [text.strip() for text in page.locator("table.sortable thead th").all_inner_texts()]
    accuracy, training = titles.index("Accuracy"), titles.index("Training time")
    heads = page.locator("table.sortable thead th")
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    best_first = column(page, accuracy)
    assert best_first == sorted(best_first, reverse=True)
    heads.nth(accuracy).locator("button").click()
    assert heads.nth(accuracy).get_attribute("aria-sort") == "descending"
    assert heads.nth(0).get_attribute("aria-sort") is None
    heads.nth(accuracy).locator("button").press("Enter")
    assert heads.nth(accuracy).get_attribute("aria-sort") == "ascending"
    assert column(page, accuracy) == best_first[::-1]
    heads.nth(training).locator("button").press("Space")
    assert heads.nth(training).get_attribute("aria-sort") == "ascending"
    assert column(page, training) == ["64.0", "2.1", "3.1"]  # 64 s, 2.1 min, 3.1 min
    difference = titles.index("p")
    for _ in range(2):  # what is not known stays last, whichever way
        heads.nth(difference).locator("button").click()
        assert column(page, difference)[-1] == "\u2013"


def test_page__filters_rows_and_the_marks_of_their_charts(opened):
    page = opened(1280)
    page.fill("input.filter-rows", "BACKBONE_1")
    assert page.locator("table.sortable tbody tr:visible").count() == 1
    assert page.locator("section#leaderboard output").inner_text() == "1 of 3"
    assert page.locator(".bars .line.faded").count() == 2
    page.fill("input.filter-rows", "")
    assert page.locator("table.sortable tbody tr:visible").count() == 3
    assert page.locator(".faded").count() == 0


def test_page__filters_curves(opened):
    page = opened(1280)
    accuracy, loss = page.locator(".curve-panel").all()
    shown = "path:not([hidden])"
    assert (accuracy.locator(shown).count(), loss.locator(shown).count()) == (15, 15)  # at first validation only
    page.get_by_label("train", exact=True).check()
    assert loss.locator(shown).count() == 30
    page.get_by_role("checkbox", name="backbone_0").uncheck()
    assert accuracy.locator(shown).count() == 10
    page.locator("#curves fieldset", has_text="Seed").get_by_label("3", exact=True).uncheck()
    assert accuracy.locator(shown).count() == 8
    page.fill("#curve-pattern", "run_00 validation")
    assert (accuracy.locator(shown).count(), loss.locator(shown).count()) == (4, 4)
    assert page.locator("#curve-count").inner_text() == "8 of 45 curves"
    page.get_by_label("loss", exact=True).uncheck()
    assert not loss.is_visible()
    page.get_by_role("button", name="none").click()
    assert page.get_by_text("Nothing to draw for this choice.").first.is_visible()
    page.get_by_role("button", name="all").click()
    page.fill("#curve-pattern", "")
    assert accuracy.locator(shown).count() == 12


def test_page__curves_are_where_they_are_without_a_script(opened):
    still = opened(1280, java_script_enabled=False)
    assert still.locator(".curve-panel path").count() == 45
    assert not still.locator(".controls").first.is_visible()
    assert still.locator("table.sortable tbody tr:visible").count() == 3
    ticks = still.locator(".curve-panel").first.locator(".ticks text").all_inner_texts()
    path = still.locator('.curve-panel path[data-place="0"]').get_attribute("d")
    page = opened(1280)
    page.get_by_label("train", exact=True).check()  # without a script, every split is drawn
    assert page.locator(".curve-panel").first.locator(".ticks text").all_inner_texts() == ticks
    drawn = page.locator('.curve-panel path[data-place="0"]').get_attribute("d")
    assert numbers(drawn) == pytest.approx(numbers(path), abs=0.3)


def test_page__the_nearest_curve_is_named(opened):
    page = opened(1280)
    page.get_by_role("button", name="none").click()
    page.get_by_role("checkbox", name="backbone_2").check()
    area = page.locator(".curve-panel .area").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    line = page.locator(".curve-panel path:not([hidden])").first.get_attribute("d")
    x, y = map(float, re.match(r"M([\d.]+) ([\d.]+)", line).groups())
    page.mouse.move(box["x"] + box["width"] * x / 1000, box["y"] + box["height"] * y / 1000)
    assert re.fullmatch(r"backbone_2, seed \d, validation: 0\.\d+ at step 100", page.locator(".readout").first.inner_text())


def test_page__fits_a_phone(opened):
    page = opened(390, has_touch=True)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= room == 390
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, th, svg text')].map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 11
