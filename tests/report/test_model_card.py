import json
import re

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hf_transfer.errors import RunDirectoryError
from hf_transfer.report import write_model_card, write_plots
from hf_transfer.report.card_metadata import check_metadata
from hf_transfer.report.formats import NOTHING
from hf_transfer.report.history import read_history
from hf_transfer.report.model_card import model_card_text, training_card_text

CLASSES = ["healthy", "<script>alert('x')</script> | rust", "`spot`_and_*more* $a$ [link](http://x.y)"]
HUB_DATA = {"data": {"source": "uoft-cs/cifar10", "revision": "abc"}}
TOKEN = "hf_" + "Ab1" * 11


def card_of(run_dir, **options):
    write_model_card(run_dir, **options)
    return ModelCard.load(run_dir / "README.md")


def metrics_of(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())


def tables(card):
    """The tables of the card as a Markdown reader sees them: {heading: [rows of cell texts]}."""
    found, heading, tokens = {}, "", MarkdownIt("gfm-like", {"linkify": False}).parse(card.text)
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[i + 1].content
        elif token.type == "table_open":
            rows = found.setdefault(heading, [])
        elif token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            children = tokens[i + 1].children or []
            rows[-1].append("".join(child.content for child in children))
    return found


def test_write_model_card__metadata(make_run):
    data = card_of(make_run(recipe_changes=HUB_DATA, environment_changes={"data_source": "uoft-cs/cifar10"})).data
    assert data.license == "apache-2.0"
    assert data.base_model == "microsoft/resnet-18"
    assert data.datasets == ["uoft-cs/cifar10"]
    assert data.pipeline_tag == "image-classification"
    assert data.library_name == "transformers"
    assert data.metrics == ["accuracy", "f1"]
    assert {"image-classification", "two-phase"} <= set(data.tags)


def test_write_model_card__results_are_those_of_metrics_json(make_run):
    run_dir = make_run(recipe_changes=HUB_DATA, environment_changes={"data_source": "uoft-cs/cifar10"})
    card = card_of(run_dir)
    test = metrics_of(run_dir)["test"]
    found = {result.metric_name: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        "accuracy": test["accuracy"],
        "macro_f1": test["macro_f1"],
    }
    assert {result.metric_type for result in found.values()} == {"accuracy", "f1"}
    for result in found.values():
        assert (result.task_type, result.dataset_split) == ("image-classification", "test")
        assert (result.dataset_type, result.dataset_name) == ("uoft-cs/cifar10", "uoft-cs/cifar10")
        assert result.dataset_revision == "abc"
    assert card.data.model_name == "leaves"
    # Once more through the library: nothing is lost.
    assert ModelCard(card.content).data.to_dict() == card.data.to_dict()


def test_write_model_card__local_data_is_no_hub_data_set(make_run):
    card = card_of(make_run())
    assert card.data.datasets is None
    assert {(result.dataset_type, result.dataset_name) for result in card.data.eval_results} == {("custom", "photos")}


@pytest.mark.parametrize(
    ("source", "known", "expected"),
    [
        ("uoft-cs/cifar10", {}, ["uoft-cs/cifar10"]),
        ("hf://datasets/me/leaves@main/train", {}, ["me/leaves"]),
        ("beans", {}, None),
        ("beans", {"data_hub_id": "beans"}, ["beans"]),
        ("me/leaves", {"data_hub_id": None}, None),
        ("me/leaves", {"data_source": "/home/alice/me/leaves"}, None),
        ("package:digits", {}, None),
        ("s3://bucket/leaves", {}, None),
        ("../me/leaves", {}, None),
    ],
)
def test_write_model_card__datasets(make_run, source, known, expected):
    environment = {"data_source": source} | known
    card = card_of(make_run(recipe_changes={"data": {"source": source}}, environment_changes=environment))
    assert card.data.datasets == expected


def test_write_model_card__folder_that_looks_like_a_hub_id(make_run, tmp_path, monkeypatch):
    (tmp_path / "me" / "leaves").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    run_dir = make_run(recipe_changes={"data": {"source": "me/leaves"}}, environment_changes={"data_source": "me/leaves"})
    assert card_of(run_dir).data.datasets is None


def test_write_model_card__falls_back_to_validation_and_says_so(make_run):
    run_dir = make_run(splits=("train", "validation"))
    card = card_of(run_dir)
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}
    assert card.data.eval_results[0].metric_value == metrics_of(run_dir)["validation"]["accuracy"]
    assert "evaluated no test split" in card.text
    assert "also used for selection" in card.text
    assert "Classes (validation split)" in tables(card)


def test_write_model_card__results_table(make_run):
    run_dir = make_run()
    metrics = metrics_of(run_dir)
    header, *rows = tables(card_of(run_dir))["Results"]
    assert header[:4] == ["Split", "Images", "Accuracy", "95 % interval"]
    assert "Top-5" not in header
    assert [row[0] for row in rows] == ["train", "validation", "test"]
    for row in rows:
        found = metrics[row[0]]
        low, high = found["accuracy_ci95"]
        keys = ("accuracy", "majority_baseline", "balanced_accuracy", "macro_f1", "nll", "ece")
        figures = [f"{found[key]:.4f}" for key in keys]
        assert row[1:] == [str(found["n"]), figures[0], f"{low:.4f} to {high:.4f}", *figures[1:]]


def test_write_model_card__class_table_shows_hostile_names_as_they_are(make_run):
    run_dir = make_run()
    header, *rows = tables(card_of(run_dir))["Classes (test split)"]
    assert header == ["Class", "Precision", "Recall", "F1", "Images"]
    assert [row[0] for row in rows] == CLASSES
    found = metrics_of(run_dir)["test"]["per_class"]
    assert [row[1:] for row in rows] == [
        [*(f"{found[name][key]:.4f}" for key in ("precision", "recall", "f1")), str(found[name]["n"])] for name in CLASSES
    ]


def test_write_model_card__no_foreign_tag(make_run):
    run_dir = make_run()
    text = card_of(run_dir).text
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    written = json.loads(re.search(r"```json\n(.*?)\n```", text, re.DOTALL)[1])
    assert "<b>bold</b>" in written["description"]
    html = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text)
    assert "<script" not in html
    assert "<b>" not in html


def test_write_model_card__undefined_scores_are_dashes(make_run):
    run_dir = make_run()
    metrics = metrics_of(run_dir)
    metrics["test"]["per_class"]["healthy"] = {"precision": None, "recall": None, "f1": None, "n": 0}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    assert tables(card_of(run_dir))["Classes (test split)"][1] == ["healthy", NOTHING, NOTHING, NOTHING, "0"]


def test_write_model_card__many_classes_list_the_worst(make_run):
    class_names = [f"{i:03d}.object-{i}" for i in range(257)]
    run_dir = make_run(classes=class_names)
    card = card_of(run_dir)
    rows = tables(card)["Classes (test split)"][1:]
    found = metrics_of(run_dir)["test"]["per_class"]
    lowest = sorted(scores["f1"] for scores in found.values() if scores["f1"] is not None)[:25]
    assert [row[3] for row in rows] == [f"{value:.4f}" for value in lowest]
    assert "of 257" in card.text
    assert "Top-5" in tables(card)["Results"][0]
    assert len(card.text.splitlines()) < 300


def test_write_model_card__pictures_only_if_there(make_run):
    run_dir = make_run()
    assert "![" not in card_of(run_dir).text
    write_plots(run_dir)
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", card_of(run_dir).text)
    assert sorted(links) == ["plots/confusion_matrix.png", "plots/curves.png", "plots/reliability.png"]
    assert all((run_dir / link).is_file() for link in links)


def test_write_model_card__no_path_of_the_machine_and_no_token(make_run):
    changes = {
        "description": f"as in /home/alice/notes/plan.md with {TOKEN}",
        "model": {"backbone": "/home/alice/checkpoints/resnet", "pretrained": True},
        "evaluation": {"extra": {"winter": "s3://key:secret@bucket/winter?Signature=x"}},
    }
    environment = {"backbone": "/home/alice/checkpoints/resnet", "backbone_hub_id": None, "device": TOKEN}
    run_dir = make_run(recipe_changes=changes, environment_changes=environment)
    write_plots(run_dir)
    write_model_card(run_dir)
    content = (run_dir / "README.md").read_text()
    for word in ("alice", "/home", TOKEN, "secret", "Signature", str(run_dir), 'abc"'):
        assert word not in content
    assert "`photos`" in content
    assert "`resnet`" in content
    card = ModelCard(content)
    assert card.data.base_model is None
    assert json.loads(re.search(r"```json\n(.*?)\n```", card.text, re.DOTALL)[1])["data"]["source"] == "photos"


def test_write_model_card__training_section(make_run):
    card = card_of(make_run())
    rows = tables(card)["Training procedure"]
    settings, arguments = rows.index(["Setting", "Value"]), rows.index(["Argument", "Value"])
    assert rows[:settings] == [
        ["Phase", "Trainable parameters", "Of all", "Steps", "Until epoch"],
        ["head", "1,539", "0.0138 %", "0 to 40", "2"],
        ["all", "11,178,051", "100 %", "40 to 80", "4"],
    ]
    assert ["Strategy", "name two_phase"] in rows[settings:arguments]
    assert rows[arguments + 1 : arguments + 3] == [["num_train_epochs", "4"], ["learning_rate", "5e-05"]]


def test_write_model_card__selection_and_skipped(make_run):
    text = card_of(make_run()).text
    assert "read the validation split only. The test split was not watched during training." in text
    assert "skipped: 3 (validation 1, test 2)" in text
    assert "Images that stand in more than one split, byte for byte: 1; environment.json lists them." in text


def test_write_model_card__monitored_splits_are_named(make_run):
    text = card_of(make_run(recipe_changes={"evaluation": {"monitor": ["test", "train_200"]}})).text
    assert "were watched as well, without a say in it: test, train_200." in text
    assert "not watched during training" not in text


def test_write_model_card__watched_test_images_are_told_beside_the_accuracy(make_run):
    run_dir = make_run(further={"monitored": {"test": 5, "train_200": 5}})
    said = "The test split was scored 5 times while training; it chose nothing, but whoever watched it may have."
    assert said in card_of(run_dir).text.partition("## ")[0]
    (run_dir / "metrics.json").write_text(json.dumps(metrics_of(run_dir) | {"monitored": {"train_200": 5}}))
    assert "may have." not in card_of(run_dir).text


def test_write_model_card__reference_beside_measured(make_run):
    run_dir = make_run()
    card = card_of(run_dir)
    measured = metrics_of(run_dir)["test"]["accuracy"]
    assert tables(card)["Reference and measured figures"][1] == [
        "test accuracy",
        "0.9000",
        f"{measured:.4f}",
        f"{measured - 0.9:+.4f}",
    ]
    assert "study R1 \\| table 2" in card.text


def test_write_model_card__no_reference(make_run):
    for_none = card_of(make_run(recipe_changes={"reference": None}))
    assert "Reference and measured" not in for_none.text


def test_write_model_card__cost_and_environment(make_run):
    rows = dict(tables(card_of(make_run()))["Cost and environment"])
    assert rows["Device"] == "NVIDIA H100"
    assert rows["Precision"] == "bf16"
    assert rows["Training time"] == "93.2 s"
    assert rows["Total time"] == "3.0 min"
    assert rows["Commit of hf-transfer-learning"] == "0123abc"
    assert rows["transformers"] == "5.23.0"


@pytest.mark.parametrize(
    ("model_type", "library", "timm_tag", "register"),
    [
        ("resnet", "transformers", False, False),
        ("timm_wrapper", "transformers", True, False),
        ("hf_transfer", "hf_transfer", False, True),
    ],
)
def test_write_model_card__how_to_load(make_run, model_type, library, timm_tag, register):
    card = card_of(make_run(model_type=model_type))
    assert card.data.library_name == library
    assert ("timm" in card.data.tags) is timm_tag
    snippet = re.search(r"```python\n(.*?)\n```", card.text, re.DOTALL)[1]
    compile(snippet, "snippet", "exec")
    assert 'pipeline("image-classification", model="model")' in snippet
    assert ("hf_transfer.register()" in snippet) is register
    if register:
        assert snippet.index("register()") < snippet.index("pipeline(")


def test_write_model_card__for_a_hub_repository(make_run):
    card = card_of(make_run(), repo_id="me/leaf-classifier")
    assert 'model="me/leaf-classifier"' in card.text
    assert card.text.lstrip().startswith("# leaf-classifier\n")
    assert card.data.model_name == "leaf-classifier"


def test_write_model_card__evaluate_mode(make_run):
    run_dir = make_run(splits=("test",), model_type=None, history=False, recipe_changes={"mode": "evaluate"} | HUB_DATA)
    write_plots(run_dir)
    card = card_of(run_dir)
    assert "nothing was trained" in card.text
    assert "## Training procedure" not in card.text
    assert "curves.png" not in card.text
    assert "plots/confusion_matrix.png" in card.text
    assert 'model="microsoft/resnet-18"' in card.text
    assert card.data.eval_results[0].metric_value == metrics_of(run_dir)["test"]["accuracy"]
    assert "evaluation" in card.data.tags


def test_write_model_card__label_map(make_run):
    changes = {"mode": "evaluate", "evaluation": {"label_map": "cifar10_imagenet"}}
    run_dir = make_run(splits=("test",), model_type=None, history=False, recipe_changes=changes)
    metrics = metrics_of(run_dir)
    metrics["test"]["unmapped_classes"] = ["deer", "a|b"]
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    assert "None stands for deer, a\\|b: images of these classes count as wrong." in card_of(run_dir).text


def test_write_model_card__run_without_a_model(make_run):
    card = card_of(make_run(model_type=None, recipe_changes={"strategy": "knn"}))
    assert "saved no model" in card.text
    assert "```python" not in card.text
    assert card.data.library_name is None
    assert "nearest neighbours" in card.text


def test_write_model_card__bare_run_invents_nothing(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"data": {"source": "x"}, "model": {"backbone": "y"}}))
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {"accuracy": 0.5, "macro_f1": float("nan")}}))
    card = card_of(tmp_path)
    assert [result.metric_value for result in card.data.eval_results] == [0.5]
    assert card.data.license is None
    assert card.data.base_model is None
    assert tables(card)["Results"][1] == [
        "test",
        NOTHING,
        "0.5000",
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING,
        NOTHING,
    ]
    assert "nan" not in card.text


def test_write_model_card__no_evaluated_split(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({"model": {"backbone": "y"}}))
    (tmp_path / "metrics.json").write_text("{}")
    card = card_of(tmp_path)
    assert card.data.eval_results is None
    assert "## Results" not in card.text


def test_write_model_card__text_that_no_file_can_hold(make_run):
    card = card_of(make_run(classes=["\ud800", "a\n---\nb"], recipe_changes={"description": "x\ud800\n---\n"}))
    assert [row[0] for row in tables(card)["Classes (test split)"][1:]] == ["\ufffd", "a --- b"]


@pytest.mark.parametrize("name", ["recipe.json", "metrics.json"])
def test_write_model_card__not_a_finished_run(make_run, name):
    run_dir = make_run()
    (run_dir / name).unlink()
    with pytest.raises(RunDirectoryError, match=f"found no {name}"):
        write_model_card(run_dir)
    (run_dir / name).write_text("{")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        write_model_card(run_dir)
    (run_dir / name).write_text("[]")
    with pytest.raises(RunDirectoryError, match="expected a JSON object, found list"):
        write_model_card(run_dir)
    assert not (run_dir / "README.md").exists()


def test_write_model_card__written_twice_is_the_same(make_run):
    run_dir = make_run()
    write_model_card(run_dir)
    first = (run_dir / "README.md").read_bytes()
    write_model_card(run_dir)
    assert (run_dir / "README.md").read_bytes() == first


def test_model_card_text__sections_in_their_order(make_run):
    run_dir = make_run()
    write_plots(run_dir)
    (run_dir / "plots" / "explanations.png").touch()
    headings = re.findall(r"^(##+ .*)$", model_card_text(run_dir), re.MULTILINE)
    assert headings == [
        "## How to use",
        "## Intended use",
        "## Results",
        "### Classes (test split)",
        "### Confusion matrix",
        "### Calibration",
        "### Where the model looks",
        "## Limits",
        "## Data",
        "### Images of each class",
        "## Training procedure",
        "## Reference and measured figures",
        "## Licence",
        "## Cost and environment",
        "## Recipe",
    ]


def test_model_card_text__intended_use_counts_the_mistakes(make_run):
    run_dir = make_run()
    test = metrics_of(run_dir)["test"]
    text = model_card_text(run_dir)
    wrong = round(test["n"] * (1 - test["accuracy"]))
    assert f"{wrong} of the {test['n']} images of the test split got a wrong one" in text
    assert "an image like those of `photos`, one of 3: `healthy`, " in text


def test_model_card_text__calibration_is_that_of_calibration_json(make_run):
    run_dir = make_run()
    write_plots(run_dir)
    found = json.loads((run_dir / "calibration.json").read_text())
    card = ModelCard(model_card_text(run_dir))
    assert f"Dividing the logits by a temperature of {found['temperature']:.3f} would fit the" in card.text
    keys = ("ece", "ece_scaled", "nll", "nll_scaled")
    assert tables(card)["Calibration"][1:] == [
        [split, *(f"{figures[key]:.4f}" for key in keys)] for split, figures in found["splits"].items()
    ]
    assert "divided already" not in card.text


def test_model_card_text__folded_temperature(make_run):
    run_dir = make_run()
    (run_dir / "metrics.json").write_text(json.dumps(metrics_of(run_dir) | {"temperature": 1.2345}))
    assert "The logits of this model are divided already by 1.234" in model_card_text(run_dir)


def test_model_card_text__pictures_of_the_data_set_can_be_left_out(make_run):
    run_dir = make_run()
    write_plots(run_dir)
    (run_dir / "plots" / "explanations.png").touch()
    assert "](plots/explanations.png)](plots/explanations.png)" in model_card_text(run_dir)
    without = model_card_text(run_dir, repo_id="me/leaves", images=False)
    assert "explanations.png" not in without
    assert "plots/confusion_matrix.png" in without


def test_model_card_text__hub_card_names_no_file_that_is_not_published(make_run):
    run_dir = make_run(classes=[f"leaf {i}" for i in range(60)], environment_changes={"skipped": {"test": [["x", "y"]]}})
    write_plots(run_dir)
    (run_dir / "plots" / "explanations.png").touch()
    (run_dir / "quantized").mkdir()
    (run_dir / "quantized" / "quantize.json").write_text(json.dumps({"mode": "static", "size_mb": {"float": 2.0, "int8": 1.0}}))
    assert "quantized/model.int8.onnx" in model_card_text(run_dir)
    text = ModelCard(model_card_text(run_dir, repo_id="me/leaves")).text
    outside_of_the_recipe = text[: text.index("## Recipe")]
    files = set(re.findall(r"[\w./]+\.(?:json|csv|png|parquet|onnx|pt2|html)\b", outside_of_the_recipe))
    assert files - {"ds.json"} == {  # that one is a training argument
        "config.json",
        "environment.json",
        "metrics.json",
        *(f"plots/{name}.png" for name in ("confusion_matrix", "curves", "explanations", "reliability")),
    }
    assert "more than one split, byte for byte: 1.\n" in text


def test_model_card_text__further_test_sets_and_corruptions(make_run):
    shift = {"accuracy": -0.25, "ci95": [-0.3, -0.2], "against": "test"}
    further = {
        "winter": {"accuracy": 0.5, "n": 100, "shift": shift},
        "test": {"robustness": {"gaussian_blur": {"3": {"accuracy": 0.25, "accuracy_ci95": [0.2, 0.3]}}}},
    }
    found = tables(card := ModelCard(model_card_text(make_run(further=further))))
    assert found["Further test sets"][1] == ["winter", "test", "-0.2500", "-0.3000 to -0.2000"]
    assert found["Under corruption (test)"][1][0] == "gaussian blur"
    assert "<br>0.20 to 0.30" in card.text
    assert "only these were measured: the further test sets winter and the corruptions of test" in card.text


def test_model_card_text__a_recipe_that_names_a_repository_says_nothing_of_where_this_is(make_run):
    run_dir = make_run(recipe_changes={"hub": {"push": True, "repo_id": "me/other"}})
    assert model_card_text(run_dir) == model_card_text(run_dir, repo_id=None)
    assert 'model="model"' in model_card_text(run_dir)


def test_training_card_text__says_that_training_goes_on(make_run):
    run_dir = make_run()
    write_plots(run_dir)  # of an earlier run, say: none of its pictures is published with this card
    for name in ("metrics.json", "history.csv", "model/config.json"):
        (run_dir / name).unlink()
    text = training_card_text(
        run_dir, repo_id="me/leaves", step=1200, steps=5000, validation={"accuracy": 0.98765, "macro_f1": 0.5, "loss": 0.25}
    )
    card = ModelCard(text)
    assert check_metadata(text) == []
    assert card.data.to_dict() == {
        "license": "apache-2.0",
        "base_model": "microsoft/resnet-18",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "vision", "transfer-learning", "hf-transfer-learning", "two-phase"],
    }
    assert "**Training is in progress: step 1,200 of 5,000.**" in text
    assert "Last figures on the validation split: accuracy 0.9877, macro F1 0.5000, loss 0.2500." in text
    assert "No test figure exists" in text
    assert 'pipeline("image-classification", model="me/leaves")' in text
    assert "## Results" not in text
    assert "![" not in text
    assert "alice" not in text


def test_training_card_text__before_the_first_evaluation(make_run):
    run_dir = make_run()
    text = training_card_text(run_dir, repo_id="me/leaves", step=10, steps=20, validation=None, revision="trial")
    assert "The validation split was not evaluated yet." in text
    assert 'model="me/leaves", revision="trial"' in text


def test_training_card_text__test_images_are_scored_while_training(make_run):
    run_dir = make_run(recipe_changes={"evaluation": {"monitor": ["train_200", "test_50"]}})
    text = training_card_text(run_dir, repo_id="me/leaves", step=10, steps=20, validation=None)
    said = "Test images are scored while training (test_50); the test figure is that of its end, and does not exist yet."
    assert said in text.replace("\\", "")
    assert "is read once" not in text


def test_model_card_text__settings_without_what_is_off(make_run):
    changes = {
        "strategy": {"name": "full", "min_delta": 0.001, "scheduler": "phase", "reset_optimizer": False, "layer_decay": 0.9},
        "augment": {"preset": "basic", "mixup": 0.0, "cutmix": 0.5, "erasing": 0.0},
        "loss": {"name": "cross_entropy", "class_weights": None, "gamma": 2.0},
        "training": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2},
    }
    run_dir = make_run(recipe_changes=changes, environment_changes={"processes": 3, "platform": "Linux-6.1-mine-x86_64-with-x"})
    card = ModelCard(model_card_text(run_dir))
    settings = dict(row for row in tables(card)["Training procedure"] if len(row) == 2)
    assert settings["Strategy"] == "name full, layer decay 0.9"
    assert settings["Augmentation"] == "preset basic, cutmix 0.5"
    assert settings["Loss"] == "name cross_entropy"
    assert settings["Images in a step"] == "96"
    rates = [rate for row in read_history(run_dir / "history.csv") for rate in row.learning_rates.values()]
    assert settings["Highest learning rate logged"] == f"{max(rates):.3g}"
    assert "| Platform | Linux x86_64 |" in card.text.replace("\\", "")


def test_model_card_text__how_the_splits_were_drawn(make_run):
    data = {
        "source": "ann/leaves",
        "validation_fraction": 0.2,
        "test_fraction": None,
        "split_seed": 3,
        "max_train_samples": 500,
    }
    assert (
        " Splits that the source does not have were drawn from its images, class by class, 20 % for validation (split seed 3). "
        "Of each split no more were used than: train 500."
    ) in model_card_text(make_run(recipe_changes={"data": data}))


def test_model_card_text__a_temperature_that_does_nothing_is_not_told(make_run):
    run_dir = make_run()
    write_plots(run_dir)
    path = run_dir / "calibration.json"
    found = json.loads(path.read_text())
    assert "by a temperature of" in model_card_text(run_dir)
    path.write_text(json.dumps(found | {"temperature": 1.004}))
    assert "by a temperature of" not in model_card_text(run_dir)
    for nll, word in ((0.1, "lowers"), (9.0, "raises")):
        splits = {split: figures | {"nll_scaled": nll} for split, figures in found["splits"].items()}
        path.write_text(json.dumps(found | {"splits": splits}))
        assert f"On the test split it {word} the NLL." in model_card_text(run_dir)


def test_training_card_text__no_command_that_needs_figures(make_run):
    run_dir = make_run()
    (run_dir / "metrics.json").unlink()
    text = training_card_text(run_dir, repo_id="ann/leaves", step=1, steps=2, validation=None)
    assert "hf-transfer predict ann/leaves" in text and "hf-transfer evaluate" not in text
