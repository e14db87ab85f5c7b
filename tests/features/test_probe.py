import json
import math

import pytest
import torch
from transformers import TrainingArguments, get_scheduler

from hf_transfer.errors import UserError
from hf_transfer.features import probe as probe_module
from hf_transfer.features.grid import LEARNING_RATES, WEIGHT_DECAYS, fit_grid
from hf_transfer.features.heads import Candidate
from hf_transfer.features.logistic import INVERSE_PENALTIES
from hf_transfer.features.probe import Probe, fit_probe, live_reason, probe_batch_size, probe_epochs
from hf_transfer.features.scores import validation_scores
from hf_transfer.recipe.training_arguments import FEATURE_FIELDS
from hf_transfer.report.history import read_history


def blobs(count=60, width=5, seed=0):
    centres = torch.randn(3, width, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % 3
    return centres[labels] + torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), labels


def fit(views=None, seed=0, **training):
    features, labels = blobs()
    return fit_probe(views or [features], labels, *blobs(31, seed=1), 3, training={"num_train_epochs": 3} | training, seed=seed)


def settings(probe, name):
    return {candidate.settings[name] for candidate in probe.candidates if name in candidate.settings}


QUIET = {"cache": True, "augment_preset": "none", "views": 1, "hidden_head": False, "for_trainer": {"ema": False}}


@pytest.mark.parametrize(
    ("training", "changed", "said"),
    [
        ({}, {}, None),
        ({"learning_rate": 1e-3, "bf16": True, "num_train_epochs": 5}, {}, None),
        (dict.fromkeys(FEATURE_FIELDS), {}, None),
        ({}, {"augment_preset": "basic", "views": 3}, None),
        ({"optim": "adam", "lr_scheduler_type": "constant", "weight_decay": 1e-5}, {}, None),
        ({"optim": "adamw_torch", "lr_scheduler_type": "linear", "warmup_steps": 0.1}, {}, None),
        ({"optim": "sgd"}, {}, "training.optim is for the Trainer"),
        ({"optim": "adam", "adam_beta1": 0.8}, {}, "training.adam_beta1 is for the Trainer"),
        ({"lr_scheduler_type": "polynomial"}, {}, "training.lr_scheduler_type is for the Trainer"),
        ({}, {"cache": False}, "features.cache"),
        ({}, {"augment_preset": "basic"}, "augment.preset is 'basic'"),
        ({}, {"hidden_head": True}, "model.head.hidden"),
        ({}, {"for_trainer": {"ema": False, "early_stopping": True}}, "early_stopping is for the Trainer"),
        ({"learning_rate": 1e-3, "warmup_steps": 5, "label_smoothing_factor": 0.1}, {}, "training.label_smoothing_factor"),
    ],
)
def test_live_reason__what_features_do_not_give(training, changed, said):
    found = live_reason(training, **QUIET | changed)
    assert (found is None) if said is None else (said in found)


def test_fit_probe__searches_what_the_recipe_leaves_open():
    probe = fit()
    assert settings(probe, "learning_rate") == set(LEARNING_RATES)
    assert settings(probe, "weight_decay") == set(WEIGHT_DECAYS)
    assert settings(probe, "normalization") == {"none", "standardize"}
    assert settings(probe, "inverse_penalty") == set(INVERSE_PENALTIES)
    assert len(probe.candidates) == len(LEARNING_RATES) * len(WEIGHT_DECAYS) * 2 + len(INVERSE_PENALTIES)
    assert probe.metric == "accuracy"
    assert probe.head is probe.candidates[probe.chosen]
    assert probe.head.scores["accuracy"] == max(candidate.scores["accuracy"] for candidate in probe.candidates)
    assert probe.seconds > 0


@pytest.mark.parametrize(
    ("name", "value", "other", "searched"),
    [("learning_rate", 0.02, "weight_decay", WEIGHT_DECAYS), ("weight_decay", 0.0, "learning_rate", LEARNING_RATES)],
)
def test_fit_probe__holds_what_the_recipe_names(name, value, other, searched):
    probe = fit(**{name: value})
    assert settings(probe, name) == {value}
    assert settings(probe, other) == set(searched)
    assert {candidate.method for candidate in probe.candidates} == {"adamw"}  # a logistic regression has neither


def test_fit_probe__holds_epochs_and_batch_size():
    features, labels = blobs()
    held = {"num_train_epochs": 2.5, "per_device_train_batch_size": 7, "learning_rate": 1e-2, "weight_decay": 0.1}
    probe = fit(seed=5, **held)
    expected = fit_grid(
        [features], labels, *blobs(31, seed=1), 3, learning_rates=[1e-2], weight_decays=[0.1], epochs=3, batch_size=7, seed=5
    )
    assert [candidate.settings for candidate in probe.candidates] == [candidate.settings for candidate in expected]
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(probe.candidates, expected, strict=True))


def test_fit_probe__an_optimizer_that_is_named_gets_the_features_as_they_are():
    features, labels = blobs()
    held = {"optim": "adam", "learning_rate": 1e-2, "weight_decay": 1e-5, "lr_scheduler_type": "constant"}
    (found,) = fit(seed=2, per_device_train_batch_size=25, **held).candidates
    assert (found.method, found.settings["normalization"]) == ("adam", "none")
    weight, bias = torch.zeros(3, 5, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=1e-2, weight_decay=1e-5)
    for epoch in range(3):
        for rows in torch.randperm(60, generator=torch.Generator().manual_seed(2 + epoch)).split(25):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(features[rows] @ weight.T + bias, labels[rows]).backward()
            optimizer.step()
    assert torch.allclose(found.weight, weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.bias, bias, rtol=1e-4, atol=1e-6)
    searched = fit(optim="adamw_torch").candidates
    assert {(one.method, one.settings["normalization"]) for one in searched} == {("adamw", "none")}
    assert len(searched) == len(LEARNING_RATES) * len(WEIGHT_DECAYS)


@pytest.mark.parametrize("warmup", [0, 0.25, 7, 100])
@pytest.mark.parametrize("kind", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_fit_probe__rates_are_those_of_transformers_schedules(kind, warmup):
    training = {"lr_scheduler_type": kind, "warmup_steps": warmup, "num_train_epochs": 4, "per_device_train_batch_size": 7}
    steps = 4 * math.ceil(60 / 7)
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, **training)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    shape = get_scheduler(kind, optimizer, arguments.get_warmup_steps(steps), steps).lr_lambdas[0]
    probe = fit(learning_rate=1e-2, weight_decay=0.0, **training)
    for candidate in probe.candidates:
        rates = [point["learning_rate"] for point in candidate.curve]
        assert rates == pytest.approx([1e-2 * shape(epoch * steps // 4) for epoch in range(1, 5)], abs=1e-12)


@pytest.mark.parametrize("training", [{}, {"num_train_epochs": None, "per_device_train_batch_size": None}])
def test_fit_probe__defaults_of_epochs_and_batch_size(training):
    assert probe_epochs(training) == 100
    assert probe_batch_size(training) == 256
    assert probe_epochs({"num_train_epochs": 0.1}) == 1


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_fit_probe__chooses_by_the_recipes_metric(metric):
    probe = fit(metric_for_best_model=metric)
    best = (min if metric == "loss" else max)(candidate.scores[metric] for candidate in probe.candidates)
    assert probe.metric == metric
    assert probe.head.scores[metric] == best


def test_fit_probe__every_candidate_scores_what_it_says_on_raw_features():
    validation, labels = blobs(31, seed=1)
    for candidate in fit().candidates:
        assert validation_scores(candidate.logits(validation), labels) == pytest.approx(candidate.scores, rel=1e-3)


def test_fit_probe__several_views(monkeypatch):
    views = [blobs(seed=seed)[0].bfloat16() for seed in (0, 2)]
    probe = fit(views=views)
    assert len(probe.candidates) == len(LEARNING_RATES) * len(WEIGHT_DECAYS) * 2 + len(INVERSE_PENALTIES)
    first = fit(views=views[:1])
    assert not torch.equal(probe.candidates[-1].weight, first.candidates[-1].weight)  # the regression sees both views
    monkeypatch.setattr(probe_module, "_LOGISTIC_LIMIT", 60 * 2 * 5 * 3 - 1)
    assert {candidate.method for candidate in fit(views=views).candidates} == {"adamw"}
    assert "logistic_regression" in {candidate.method for candidate in fit(views=views[:1]).candidates}


def test_report__is_json_with_one_chosen():
    probe = fit()
    report = json.loads(json.dumps(probe.report(), allow_nan=False))
    assert len(report) == len(probe.candidates)
    assert [number for number, entry in enumerate(report) if entry["chosen"]] == [probe.chosen]
    for entry, candidate in zip(report, probe.candidates, strict=True):
        assert entry["method"] == candidate.method
        assert entry["validation"] == candidate.scores
        assert candidate.settings.items() <= entry.items()


def chosen(candidate):
    return Probe([candidate], 0, "accuracy", 0.1)


def test_write_history__of_a_grid_head(tmp_path):
    validation, labels = blobs(31, seed=1)
    head = fit_grid([blobs()[0]], blobs()[1], validation, labels, 3, learning_rates=[0.01], epochs=40, batch_size=16)[0]
    chosen(head).write_history(tmp_path / "history.csv", "linear_probe", train_size=60, batch_size=16)
    rows = read_history(tmp_path / "history.csv")
    train, held_out = ([row for row in rows if row.split == split] for split in ("train", "validation"))
    assert len(rows) == len(train) + len(held_out) == 40
    assert [row.epoch for row in held_out] == list(range(2, 41, 2))
    assert [row.step for row in train] == [row.step for row in held_out] == [4 * epoch for epoch in range(2, 41, 2)]
    assert {row.phase for row in rows} == {"linear_probe"}
    assert {row.trainable_parameters for row in rows} == {3 * 5 + 3}
    assert [row.loss for row in train] == [point["train_loss"] for point in head.curve]
    assert [row.loss for row in held_out] == [point["loss"] for point in head.curve]
    last = held_out[-1]
    assert {"loss": last.loss, "accuracy": last.accuracy, "macro_f1": last.macro_f1} == head.scores
    rates = [row.learning_rates["head"] for row in train]
    assert rates == pytest.approx([0.01 * 0.5 * (1 + math.cos(math.pi * epoch / 40)) for epoch in range(2, 41, 2)])
    assert all(row.learning_rates == {} for row in held_out)


def test_write_history__of_a_logistic_regression(tmp_path):
    scores = {"accuracy": 0.5, "macro_f1": 0.25, "loss": 1.5}
    head = Candidate(
        "logistic_regression", {"inverse_penalty": 0.1, "iterations": 7}, torch.zeros(3, 5), torch.zeros(3), scores
    )
    chosen(head).write_history(tmp_path / "history.csv", "head", train_size=60, batch_size=16)
    (row,) = read_history(tmp_path / "history.csv")
    assert (row.step, row.epoch, row.phase, row.split) == (0, 0, "head", "validation")
    assert {"loss": row.loss, "accuracy": row.accuracy, "macro_f1": row.macro_f1} == scores
    assert row.trainable_parameters == 18
    assert row.learning_rates == {}


def test_report__of_heads_that_diverged_is_still_json():
    good = Candidate("adamw", {}, torch.ones(2, 2), torch.ones(2), {"accuracy": 0.5, "loss": 0.7})
    bad = Candidate("adamw", {}, torch.ones(2, 2), torch.ones(2), {"accuracy": 0.5, "loss": math.nan})
    report = json.loads(json.dumps(Probe([bad, good], 1, "accuracy", 0.1).report(), allow_nan=False))
    assert [row["validation"]["loss"] for row in report] == [None, 0.7]


def test_fit_probe__features_that_are_not_finite():
    features, _ = blobs()
    features[3, 1] = math.inf
    with pytest.raises(UserError) as caught:
        fit([features])
    assert str(caught.value) == (
        "the features are not finite: the backbone overflows in this precision. Set training.bf16 and training.fp16 to false."
    )


def test_fit_probe__every_head_diverges():
    with pytest.raises(UserError) as caught:
        fit(learning_rate=1e30, weight_decay=0.1, num_train_epochs=20)
    assert str(caught.value) == ("training.learning_rate: every head diverged; lower it, or leave it out to have it searched")


def test_fit_probe__of_several_labels_is_chosen_by_mean_average_precision(tmp_path):
    features, labels = blobs()
    validation, validation_labels = blobs(31, seed=1)
    flags, validation_flags = (torch.nn.functional.one_hot(found, 3).bool() for found in (labels, validation_labels))
    training = {"num_train_epochs": 3}
    found = fit_probe([features, features], flags, validation, validation_flags, 3, training=training, seed=0)
    assert found.metric == "mean_average_precision"
    assert found.head.scores["mean_average_precision"] == max(c.scores["mean_average_precision"] for c in found.candidates)
    assert len(settings(found, "inverse_penalty")) == len(INVERSE_PENALTIES)
    found.write_history(tmp_path / "history.csv", "linear_probe", 60, 16)
    header = (tmp_path / "history.csv").read_text().splitlines()[0]
    assert header.startswith("step,epoch,phase,split,loss,mean_average_precision,macro_f1,learning_rate/head")
