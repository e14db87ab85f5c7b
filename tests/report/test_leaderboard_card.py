"""What the card of a leaderboard says, and what the Hub reads of it."""

import json
import re

import pytest
import small_study
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from hf_transfer.report.card_seal import is_unedited
from hf_transfer.report.leaderboard import build_leaderboard
from hf_transfer.report.leaderboard_card import check_leaderboard_metadata, leaderboard_card_text, model_link


def card(root, **options):
    board = build_leaderboard(root)
    runs = [run for found in board.tables for row in found.rows.values() for run in row.runs]
    places = {run: f"runs/{run.removeprefix('cells/')}" for run in runs}
    return leaderboard_card_text(root, board, repo_id="ann/small", places=places, **options)


@pytest.fixture
def study(tmp_path):
    return small_study.write_study(tmp_path / "study")


def test_leaderboard_card_text__metadata_that_the_hub_and_its_viewer_read(study):
    text = card(study)
    data = DatasetCard(text).data.to_dict()
    assert data["configs"] == [{"config_name": "default", "data_files": "leaderboard.csv"}]
    assert data["task_categories"] == ["image-classification"]
    assert "license" not in data
    assert check_leaderboard_metadata(text) == []
    assert is_unedited(text)


def test_leaderboard_card_text__the_question_and_the_verdict_come_first(study):
    words = build_leaderboard(study).tables[0].verdict.words
    assert words.startswith("resnet50 is best")
    lines = [line for line in card(study).split("---\n")[2].splitlines() if line]
    assert lines[0] == "# small: a leaderboard"
    assert lines[1] == "Which ResNet?"
    assert MarkdownIt().render(lines[2]) == f"<p><strong>{words}</strong></p>\n"
    assert lines[3].startswith("| Candidate | Seeds |")
    assert lines[5].startswith("| resnet50 | 2 |")


def test_leaderboard_card_text__links_the_models_that_are_on_the_hub(study):
    assert "None of the models is published." in card(study)
    small_study.publish(study / "cells/resnet50-0", "ann/a", private=False)
    small_study.publish(study / "cells/resnet50-1", "ann/b")
    text = card(study)
    assert "| resnet50 | [0](https://huggingface.co/ann/a) [1](https://huggingface.co/ann/b) | 2 |" in text
    assert "| resnet18 | \u2013 | 2 |" in text
    assert "2 models are linked, 1 of them private." in text


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"repo_id": "ann/a", "url": "https://x"})])
def test_model_link__of_a_file_that_says_nothing(tmp_path, text):
    assert model_link(tmp_path) is None
    (tmp_path / "hub.json").write_text(text)
    assert model_link(tmp_path) is None


def test_model_link__only_what_is_an_address(tmp_path):
    small_study.publish(tmp_path, "ann/a")
    assert model_link(tmp_path).repo_id == "ann/a"
    facts = json.loads((tmp_path / "hub.json").read_text())
    for wrong in ({"url": "javascript:alert(1)"}, {"url": "https://a b)[x](y"}, {"url": None}, {"repo_id": "a b"}):
        (tmp_path / "hub.json").write_text(json.dumps(facts | wrong))
        assert model_link(tmp_path) is None, wrong


def test_leaderboard_card_text__what_it_rests_on(study):
    text = card(study)
    assert "- `cats`: 600 train, 200 test images in 2 classes; seeds 0, 1; 2 candidates, 4 runs." in text
    assert "Accuracy of always answering the most frequent class 0.5000, of guessing 0.5000." in text
    assert "Of the 3 cells of the study" not in text
    assert "Of the 5 cells of the study 1 has no finished run: resnet101-0." in text
    assert "- One seed only" not in text
    assert "All 4 runs together took 80.0 s on CPU: one." in text
    assert "| `timm:resnet18` |" in text and "apache-2.0" in text
    assert "- parameters: resnet50 (1,000, 0." in text


def test_leaderboard_card_text__every_column_that_needs_it_is_explained(study):
    text = card(study)
    header = next(line for line in text.splitlines() if line.startswith("| Candidate"))
    explained = set(re.findall(r"^- \*\*(.+?)\*\*: ", text, re.MULTILINE))
    assert explained == set(header.strip("| ").split(" | ")) - {"Candidate", "Seeds", "Parameters"}


def test_leaderboard_card_text__how_to_repeat_a_study(study):
    text = card(study, revision="v 1")
    assert (
        "hf download ann/small study.json --repo-type dataset --revision 'v 1' --local-dir .\nhf-transfer study study.json"
        in text
    )
    assert 'load_dataset("ann/small", split="train", revision="v 1")' in text
    assert "`base.data.source=PATH`" in text
    for recipe in study.glob("cells/*/recipe.json"):
        recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"data": {"source": "package:digits"}}))
    text = card(study)
    assert "data.source=PATH" not in text
    assert 'pip install "hf-transfer-learning[demo]"' in text


def test_leaderboard_card_text__any_folder_of_runs(tmp_path):
    small_study.write_run(tmp_path / "one", 0.9, data={"source": "/home/ann/photos of cats"})
    small_study.write_run(tmp_path / "two", 0.8, backbone="timm:resnet50", data={"source": "/home/ann/photos of cats"})
    text = card(tmp_path)
    assert "hf-transfer run runs/one/recipe.json" in text
    assert "`data.source=PATH`" in text
    assert "/home/ann" not in text and "photos of cats" in text
    assert "study.json" not in text


def test_leaderboard_card_text__names_are_text(tmp_path):
    small_study.write_run(tmp_path / "one", 0.9, backbone="<script>x|[y](z)")
    small_study.write_run(tmp_path / "two", 0.9, backbone="timm:resnet50")
    body = card(tmp_path).split("---\n", 2)[2]
    html = MarkdownIt("commonmark").enable("table").render(body)
    assert "<script>" not in html and 'href="z"' not in html
    assert "&lt;script&gt;x|[y](z)" in html


def test_leaderboard_card_text__several_sets_of_test_images_stand_apart(study):
    small_study.write_run(study / "cells/other", 0.9, backbone="timm:vit")
    predictions = study / "cells/other/predictions/test.parquet"
    from hf_transfer.evaluation.predictions import Predictions

    found = Predictions.read(predictions)
    Predictions(
        [f"x{name}" for name in found.sample_ids], found.paths, found.labels, found.predicted, found.logits, found.class_names
    ).write(predictions)
    text = card(study)
    assert text.count("## On cats\n") == 2
    assert text.count("| Candidate |") == 2


@pytest.mark.parametrize(
    ("front", "problem"),
    [
        ("tags: one", "tags: "),
        ("license: apache", "license[0]: "),
        ("task_categories: 5", "task_categories: expected a list of texts, found 5"),
        ("configs: leaderboard.csv", 'configs: expected a list, found "leaderboard.csv"'),
        ("configs:\n- data_files: a.csv", 'configs[0]: expected an object with config_name, found {"data_files": "a.csv"}'),
        ("configs:\n- config_name: a\n  data_files: 5", "configs[0].data_files: expected a file or a list, found 5"),
    ],
)
def test_check_leaderboard_metadata__says_what_would_be_refused(front, problem):
    (found,) = check_leaderboard_metadata(f"---\n{front}\n---\n# Mine\n")
    assert found.startswith(problem)


def test_check_leaderboard_metadata__a_card_of_other_hands_that_is_fine():
    assert check_leaderboard_metadata("---\nlicense: mit\nconfigs:\n- config_name: a\n  data_files: a.csv\n---\n# Mine\n") == []
