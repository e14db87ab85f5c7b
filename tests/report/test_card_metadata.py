import json

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from hf_transfer.report.card_metadata import check_metadata
from hf_transfer.report.model_card import model_card_text, training_card_text

HUB_DATA = {"data": {"source": "uoft-cs/cifar10", "config_name": "plain", "revision": None}}
HOSTILE = [
    "---",
    "\n---\ntags: x\n---\n",
    "<script>alert(1)</script>",
    "a: [b, *c]\t#d 'e' \"f\" %@`",
    "\ud800",
    "null",
    "1e3",
]
RESULT = {
    "task": {"type": "image-classification"},
    "dataset": {"type": "custom", "name": "leaves"},
    "metrics": [{"type": "accuracy", "value": 0.5}],
}


def card_of(**metadata):
    return f"---\n{yaml.safe_dump(metadata)}---\n\n# leaves\n"


def index_of(**changes):
    return card_of(**{"model-index": [{"name": "leaves", "results": [RESULT | changes]}]})


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def test_card_data__each_result_has_its_interval_its_images_and_the_seed(make_run):
    environment = {"data_source": "uoft-cs/cifar10", "data_revision": "f" * 40}
    run = make_run(recipe_changes=HUB_DATA, environment_changes=environment)
    test = metrics_of(run)["test"]
    results = {result.metric_name: result for result in ModelCard(model_card_text(run)).data.eval_results}
    assert {name: (result.metric_value, result.metric_args) for name, result in results.items()} == {
        "accuracy": (test["accuracy"], {"confidence_interval_95": test["accuracy_ci95"], "n": test["n"], "seed": 3}),
        "macro_f1": (test["macro_f1"], {"average": "macro", "n": test["n"], "seed": 3}),
    }
    assert {(r.dataset_split, r.dataset_config, r.dataset_revision) for r in results.values()} == {("test", "plain", "f" * 40)}


def test_card_data__an_evaluation_has_no_seed_and_is_no_finetune(make_run):
    run = make_run(splits=("test",), model_type=None, history=False, recipe_changes={"mode": "evaluate"})
    data = ModelCard(model_card_text(run)).data
    assert "seed" not in data.eval_results[0].metric_args
    assert data.base_model == "microsoft/resnet-18"
    assert "base_model_relation" not in data


@pytest.mark.parametrize(
    ("text", "expected", "said"),
    [
        ("apache-2.0", {"license": "apache-2.0"}, "Apache license 2.0 (`apache-2.0`)"),
        ("BSD 3-Clause License", {"license": "bsd-3-clause"}, "(`bsd-3-clause`)"),
        (
            "seer-license",
            {
                "license": "other",
                "license_name": "seer-license",
                "license_link": "https://huggingface.co/microsoft/resnet-18",
            },
            "licence: `seer-license`. Its terms: <https://huggingface.co/microsoft/resnet-18>.",
        ),
        (None, {}, "is not known. Look it up before publishing"),
        ("unknown", {}, "is not known. Look it up before publishing"),
    ],
)
def test_card_data__licence_of_the_backbone(make_run, text, expected, said):
    card = ModelCard(model_card_text(make_run(environment_changes={"backbone_license": text})))
    found = card.data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected
    assert said in card.text
    assert found["base_model"] == "microsoft/resnet-18"
    assert found["base_model_relation"] == "finetune"


def test_card_data__random_weights_have_no_base_model(make_run):
    model = {"backbone": "microsoft/resnet-18", "pretrained": False}
    card = ModelCard(model_card_text(make_run(recipe_changes={"model": model})))
    assert card.data.base_model is None
    assert card.data.license is None
    assert "no licence of a backbone applies" in card.text


@pytest.mark.parametrize("name", HOSTILE)
def test_card_data__hostile_text_breaks_nothing(make_run, name):
    changes = {"description": name, "strategy": name, "data": {"source": name, "config_name": name, "revision": name}}
    environment = {"backbone_license": name, "data_source": name, "data_hub_id": "me/leaves", "backbone": name}
    run = make_run(classes=[name, f"{name}2", "c"], recipe_changes=changes, environment_changes=environment)
    for text in (
        model_card_text(run, repo_id="me/leaves"),
        training_card_text(run, repo_id="me/leaves", step=1, steps=2, validation={name: 0.5}),
    ):
        assert check_metadata(text) == []
        card = ModelCard(text)
        assert card.text.startswith("\n# leaves\n")
        assert card.data.license in ("other", None)
        text.encode("utf-8")


@pytest.mark.parametrize("text", ["# leaves\n", "", "text\n---\nlicense: mit\n---\n"])
def test_check_metadata__none_there(text):
    assert check_metadata(text) == ["expected metadata between two lines of '---' at the top, found none"]


def test_check_metadata__what_the_client_writes_is_right():
    data = ModelCardData(
        license="mit", language="en", tags=["a"], datasets=["beans"], base_model=["a/b", "c"], metrics=["f1"], new_version="a/c"
    )
    assert check_metadata(f"---\n{data.to_yaml()}\n---\n") == []
    assert check_metadata(card_of(license=["mit", "gpl-3.0"], datasets="beans", license_link="LICENSE")) == []
    assert check_metadata(index_of(source={"url": "https://x.y", "name": "z"})) == []
    assert check_metadata(index_of(metrics=[{"type": "bleu", "value": "20 +- 1", "args": {"max_order": 4}}])) == []


@pytest.mark.parametrize(
    ("front_matter", "said"),
    [
        ("a: [", "the metadata are not YAML: while parsing a flow node"),
        ("a: !!python/object:os.system x", "the metadata are not YAML: could not determine a constructor"),
        ("date: 2026-13-45", "the metadata are not YAML: month must be in 1..12"),
        ("a: &a [*a]", "the metadata are not YAML: maximum recursion depth exceeded"),
        ("- a", 'expected keys and values, found ["a"]'),
        ("# nothing", "expected keys and values, found null"),
        ("license: mit\nlicense: gpl-3.0", "license: stands twice"),
        ("a:\n- b: 1\n  b: 2", "a.b: stands twice"),
        ("date: 2026-11-22", "date: expected what JSON can hold, found date 2026-11-22"),
        ("a: [.nan]", "a[0]: expected what JSON can hold, found float nan"),
    ],
)
def test_check_metadata__yaml_that_the_hub_cannot_read(front_matter, said):
    [problem] = check_metadata(f"---\n{front_matter}\n---\n")
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (
            {"license": "Apache 2.0"},
            'license[0]: expected an identifier of https://huggingface.co/docs/hub/repositories-licenses, found "Apache 2.0"',
        ),
        ({"license": None}, "license: input should be a valid list, found null"),
        ({"license_name": 3}, "license_name: input should be a valid string, found 3"),
        ({"license_link": "terms.txt"}, 'license_link: expected LICENSE, LICENSE.md or an address, found "terms.txt"'),
        ({"library_name": ["a"]}, 'library_name: input should be a valid string, found ["a"]'),
        ({"pipeline_tag": ""}, 'pipeline_tag: string should have at least 1 character, found ""'),
        ({"tags": "vision"}, 'tags: input should be a valid list, found "vision"'),
        ({"tags": ["a", 1]}, "tags[1]: input should be a valid string, found 1"),
        ({"datasets": [None]}, "datasets[0]: input should be a valid string, found null"),
        ({"datasets": ["my leaves"]}, 'datasets[0]: expected an id of the Hub, such as OWNER/NAME, found "my leaves"'),
        ({"base_model": "../x"}, 'base_model[0]: expected an id of the Hub, such as OWNER/NAME, found "../x"'),
        ({"model-index": "x"}, 'model-index: input should be a valid list, found "x"'),
        ({"model-index": [{"results": []}]}, "model-index[0].name: field required"),
    ],
)
def test_check_metadata__key_by_key(metadata, problem):
    assert check_metadata(card_of(**metadata)) == [problem]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task": {}}, "task.type: field required"),
        ({"dataset": {"name": "leaves"}}, "dataset.type: field required"),
        ({"dataset": {"type": "custom"}}, "dataset.name: field required"),
        (
            {"dataset": {"type": "a", "name": "b", "revision": 1234}},
            "dataset.revision: input should be a valid string, found 1234",
        ),
        ({"metrics": []}, "metrics: list should have at least 1 item after validation, not 0, found []"),
        ({"metrics": [{"value": 1}]}, "metrics[0].type: field required"),
        ({"metrics": [{"type": "f1"}]}, "metrics[0].value: field required"),
        ({"metrics": [{"type": "f1", "value": None}]}, "metrics[0].value: expected a number or a text, found null"),
        ({"source": {"name": "x"}}, "source.url: field required"),
    ],
)
def test_check_metadata__results(changes, problem):
    assert check_metadata(index_of(**changes)) == [f"model-index[0].results[0].{problem}"]


def test_check_metadata__every_problem_at_once():
    assert len(check_metadata(card_of(license="x", tags="y", base_model=1))) == 3
