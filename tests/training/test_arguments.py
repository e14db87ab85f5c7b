import pytest
import torch
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hf_transfer.errors import RecipeError
from hf_transfer.training import arguments as module
from hf_transfer.training.arguments import build_arguments, training_defaults

CPU = {"use_cpu": True, "bf16": False}


def built(tmp_path, **training):
    return build_arguments(training_defaults({**CPU, **training}), tmp_path, 3)


def test_training_defaults__what_a_practitioner_would_choose():
    chosen = training_defaults({})
    assert chosen["per_device_train_batch_size"] == 32
    assert chosen["eval_strategy"] == chosen["save_strategy"] == "epoch"
    assert chosen["warmup_steps"] == 0.1
    assert chosen["save_total_limit"] == 1
    assert chosen["metric_for_best_model"] == "accuracy"
    assert chosen["report_to"] == ["tensorboard"]
    assert chosen["logging_nan_inf_filter"] is False


def test_training_defaults__the_users_values_win_and_are_not_changed():
    given = {
        "bf16": True,
        "per_device_train_batch_size": 7,
        "per_device_eval_batch_size": 9,
        "warmup_steps": 0,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_strategy": "best",
        "save_total_limit": None,
        "logging_steps": 3,
        "logging_nan_inf_filter": True,
        "metric_for_best_model": "macro_f1",
        "report_to": [],
        "dataloader_num_workers": 2,
        "ddp_find_unused_parameters": True,
    }
    before = dict(given)
    assert training_defaults(given) == given == before


@pytest.mark.parametrize("pays", [True, False])
def test_training_defaults__bf16_where_it_pays(monkeypatch, pays):
    monkeypatch.setattr(module, "bf16_pays", lambda use_cpu: pays)
    assert training_defaults({})["bf16"] is pays
    assert training_defaults({"bf16": not pays})["bf16"] is not pays
    assert "bf16" not in training_defaults({"fp16": True})


@pytest.mark.parametrize(
    ("given", "kwargs"),
    [
        ({}, {"mode": "max"}),
        ({"metric_for_best_model": "macro_f1"}, {"mode": "max"}),
        ({"metric_for_best_model": "loss"}, {"mode": "min"}),
        ({"lr_scheduler_kwargs": {"factor": 0.5}}, {"mode": "max", "factor": 0.5}),
        ({"lr_scheduler_kwargs": {"mode": "min"}}, {"mode": "min"}),
    ],
)
def test_training_defaults__plateau_follows_the_direction_of_the_metric(tmp_path, given, kwargs):
    chosen = training_defaults({**CPU, "lr_scheduler_type": "reduce_lr_on_plateau", **given})
    assert chosen["lr_scheduler_kwargs"] == kwargs
    assert build_arguments(chosen, tmp_path, 0).lr_scheduler_kwargs == kwargs


def test_training_defaults__no_scheduler_arguments_elsewhere():
    assert "lr_scheduler_kwargs" not in training_defaults({"lr_scheduler_type": "cosine"})


def test_build_arguments__decisions_of_the_package(tmp_path):
    arguments = built(tmp_path)
    assert arguments.output_dir == str(tmp_path)
    assert arguments.seed == arguments.data_seed == 3
    assert arguments.remove_unused_columns is False
    assert arguments.load_best_model_at_end is True
    assert arguments.greater_is_better is True
    assert arguments.dataloader_persistent_workers is False
    assert arguments.report_to == []  # TensorBoard is our own callback, into the run directory
    assert arguments.push_to_hub is False


@pytest.mark.parametrize(
    ("given", "metric", "greater"),
    [
        ({}, "accuracy", True),
        ({"metric_for_best_model": "loss"}, "loss", False),
        ({"metric_for_best_model": "macro_f1"}, "macro_f1", True),
        ({"metric_for_best_model": None}, "accuracy", True),
        ({"greater_is_better": None}, "accuracy", True),
        ({"metric_for_best_model": "loss", "greater_is_better": None}, "loss", False),
    ],
)
def test_build_arguments__direction_of_the_selection(tmp_path, given, metric, greater):
    arguments = built(tmp_path, **given)
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == (metric, greater)


def test_build_arguments__every_evaluation_has_its_checkpoint(tmp_path):
    arguments = built(tmp_path, eval_strategy="steps", eval_steps=7)
    assert (arguments.eval_steps, arguments.save_steps, arguments.save_strategy) == (7, 7, SaveStrategy.STEPS)
    arguments = built(tmp_path, eval_strategy="steps", logging_steps=4)
    assert (arguments.eval_steps, arguments.save_steps) == (4, 4)
    arguments = built(tmp_path, eval_strategy="steps", save_strategy="best")
    assert (arguments.eval_steps, arguments.save_strategy) == (10, SaveStrategy.BEST)


def test_build_arguments__checkpoints_that_would_miss_evaluations_are_refused(tmp_path):
    with pytest.raises(RecipeError) as caught:
        built(tmp_path, eval_strategy="steps", eval_steps=10, save_steps=30)
    assert str(caught.value) == (
        "Found 1 problem in the recipe:\n"
        "  - training.save_steps: expected 10, as eval_steps, so that the best model on validation can be kept; found 30"
    )


def test_build_arguments__without_evaluation_nothing_is_selected(tmp_path):
    arguments = built(tmp_path, eval_strategy="no")
    assert arguments.load_best_model_at_end is False
    assert arguments.save_strategy == SaveStrategy.NO
    assert arguments.eval_strategy == IntervalStrategy.NO


@pytest.mark.parametrize("report_to", ["wandb", ["tensorboard", "wandb"]])
def test_build_arguments__other_reporters_are_transformers_own(tmp_path, report_to):
    assert built(tmp_path, report_to=report_to).report_to == ["wandb"]


@pytest.mark.parametrize("report_to", ["none", None, [], "tensorboard"])
def test_build_arguments__no_other_reporter(tmp_path, report_to):
    assert built(tmp_path, report_to=report_to).report_to == []


def test_build_arguments__plain_adam_reads_the_same_fields(tmp_path):
    arguments = built(tmp_path, optim="adam", adam_beta2=0.9)
    assert arguments.optim == "adamw_torch"
    assert arguments.adam_beta2 == 0.9


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"bf16": True, "fp16": True}, "At most one of fp16 and bf16 can be True"),
        ({"eval_strategy": "epoch", "save_strategy": "steps"}, "requires the save and eval strategy to match"),
        ({"optim": "adamm"}, "adamm is not a valid OptimizerNames"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
def test_build_arguments__refusals_of_transformers_are_the_users_to_mend(tmp_path, training, said):
    with pytest.raises(RecipeError) as caught:
        built(tmp_path, **training)
    assert said in str(caught.value)
    assert str(caught.value).startswith("Found 1 problem in the recipe:\n  - training: ")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "needed"), [("prediction_loss_only", False), ("batch_eval_metrics", False), ("eval_do_concat_batches", True)]
)
def test_build_arguments__validation_accuracy_is_always_computed(tmp_path, name, needed):
    assert getattr(built(tmp_path, **{name: needed}), name) is needed
    with pytest.raises(RecipeError) as caught:
        built(tmp_path, **{name: not needed})
    assert str(caught.value) == (
        f"Found 1 problem in the recipe:\n  - training.{name}: expected {str(needed).lower()}, "
        "so that the validation accuracy can be computed; remove it"
    )


def test_build_arguments__trains_on_the_cpu_where_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert build_arguments(training_defaults({}), tmp_path, 0).use_cpu is True
