"""The `training` section against the `TrainingArguments` that are installed."""

import dataclasses
import enum

import pytest
from transformers import TrainingArguments

from hf_transfer.recipe.training_arguments import RESERVED, check_training, training_fields
from hf_transfer.training.arguments import training_defaults

REAL = {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init and not field.name.startswith("_")}


def problems_of(**training):
    return [str(problem) for problem in check_training(training)]


def default_of(field):
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        value = None
    return value.value if isinstance(value, enum.Enum) else value


def test_training_fields__are_those_of_the_real_class():
    assert list(training_fields()) == list(REAL)


@pytest.mark.parametrize("name", [name for name in REAL if name not in RESERVED])
def test_check_training__every_default_passes(name):
    # transformers does not evaluate by default, so it may save as it likes.
    assert problems_of(**{"eval_strategy": "no", name: default_of(REAL[name])}) == []


def test_check_training__all_defaults_together_pass():
    assert problems_of(**{name: default_of(field) for name, field in REAL.items() if name not in RESERVED}) == []


@pytest.mark.parametrize(
    "training", [{}, {"eval_strategy": "steps", "eval_steps": 5}, {"lr_scheduler_type": "reduce_lr_on_plateau"}, {"fp16": True}]
)
def test_check_training__a_resolved_section_can_be_run_again(training):
    assert problems_of(**training_defaults(training)) == []


def test_reserved__are_fields_and_cover_everything_about_the_hub():
    assert set(RESERVED) - set(REAL) <= {"local_rank"}
    assert {name for name in REAL if name.startswith("hub_") or "push_to_hub" in name} <= set(RESERVED)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_check_training__reserved_names_the_key_to_use(name):
    assert problems_of(**{name: None}) == [f"training.{name}: is reserved; {RESERVED[name]}"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("output_dir", "output_dir"),
        ("seed", "seed"),
        ("push_to_hub", "hub.push"),
        ("hub_model_id", "hub.repo_id"),
        ("hub_private_repo", "hub.private"),
        ("hub_strategy", "hub.strategy"),
        ("hub_revision", "hub.revision"),
        ("resume_from_checkpoint", "--resume"),
        ("label_names", "data.label_column"),
    ],
)
def test_reserved__says_which_key(name, key):
    assert key in RESERVED[name]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", "1e-3", "expected a number, found the text '1e-3'"),
        ("learning_rate", True, "expected a number, found true"),
        ("learning_rate", None, "expected a number, found null"),
        ("learning_rate", -1e-3, "expected more than 0, found -0.001"),
        ("learning_rate", 0, "expected more than 0, found 0"),
        ("learning_rate", float("nan"), "expected a number, found nan"),
        ("learning_rate", float("inf"), "expected a number, found inf"),
        ("learning_rate", 10**400, f"expected a number, found {10**400}"),
        ("per_device_train_batch_size", True, "expected a whole number, found true"),
        ("per_device_train_batch_size", 32.0, "expected a whole number, found 32.0"),
        ("per_device_train_batch_size", "32", "expected a whole number, found the text '32'"),
        ("per_device_train_batch_size", 0, "expected at least 1, found 0"),
        ("per_device_eval_batch_size", -8, "expected at least 1, found -8"),
        ("gradient_accumulation_steps", 0, "expected at least 1, found 0"),
        ("num_train_epochs", 0, "expected more than 0, found 0"),
        ("max_steps", 0, "expected at least 1, or -1 to count epochs, found 0"),
        ("max_steps", 1.0, "expected a whole number, found 1.0"),
        ("weight_decay", -0.1, "expected 0 or more, found -0.1"),
        ("warmup_steps", -1, "expected 0 or more, found -1"),
        ("adam_beta1", 1.0, "expected at least 0 and below 1, found 1.0"),
        ("label_smoothing_factor", 1, "expected at least 0 and below 1, found 1"),
        ("bf16", 1, "expected true or false, found 1"),
        ("bf16", "true", "expected true or false, found the text 'true'"),
        ("metric_for_best_model", "acuracy", "expected one of accuracy, macro_f1, loss, found the text 'acuracy'"),
        ("save_strategy", "epochs", "expected one of no, steps, epoch, best; found 'epochs' (did you mean 'epoch'?)"),
        ("lr_scheduler_type", 3, "expected text, found 3"),
        ("num_train_epoch", 3, "is not a field of transformers.TrainingArguments (did you mean 'num_train_epochs'?)"),
        ("evaluation_strategy", "epoch", "is not a field of transformers.TrainingArguments (did you mean 'eval_strategy'?)"),
        ("banana", 3, "is not a field of transformers.TrainingArguments"),
        ("learning-rate", 3, "is not a field of transformers.TrainingArguments (did you mean 'learning_rate'?)"),
    ],
)
def test_check_training__says_what_is_wrong(name, value, message):
    (found,) = problems_of(**{name: value})
    assert found.startswith(f"training.{name}: {message}")


def test_check_training__names_the_nearest_choice():
    (optim,) = problems_of(optim="adamm")
    assert optim.endswith("; found 'adamm' (did you mean 'adam'?)")
    (scheduler,) = problems_of(lr_scheduler_type="cosin")
    assert scheduler.endswith("; found 'cosin' (did you mean 'cosine'?)")


def test_check_training__every_choice_of_transformers_is_known():
    from transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    fields = training_fields()
    for name, choices in (
        ("optim", OptimizerNames),
        ("lr_scheduler_type", SchedulerType),
        ("eval_strategy", IntervalStrategy),
        ("save_strategy", SaveStrategy),
    ):
        assert fields[name].choices == tuple(choice.value for choice in choices)


def test_check_training__permits_what_is_right():
    assert (
        problems_of(
            num_train_epochs=1,
            learning_rate=1,
            warmup_steps=0.1,
            optim="adam",
            optim_args="a=1",
            lr_scheduler_kwargs={"num_cycles": 2},
            report_to=["tensorboard"],
            fsdp_config={"min_num_params": 1},
            bf16=True,
            max_steps=-1,
            metric_for_best_model="macro_f1",
        )
        == []
    )


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"bf16": True, "fp16": True}, "training.fp16: expected at most one of bf16 and fp16; found both true"),
        (
            {"save_strategy": "steps"},
            "training.save_strategy: expected 'epoch', as eval_strategy, or 'best', so that the best model on validation can "
            "be kept; found 'steps'",
        ),
        (
            {"eval_strategy": "no", "lr_scheduler_type": "reduce_lr_on_plateau"},
            "training.lr_scheduler_type: reduce_lr_on_plateau needs evaluations; found eval_strategy 'no'",
        ),
        (
            {"greater_is_better": False},
            "training.greater_is_better: expected true for metric_for_best_model 'accuracy', found false; remove it",
        ),
        (
            {"metric_for_best_model": "loss", "greater_is_better": True},
            "training.greater_is_better: expected false for metric_for_best_model 'loss', found true; remove it",
        ),
    ],
)
def test_check_training__values_that_do_not_go_together(training, message):
    assert problems_of(**training) == [message]


@pytest.mark.parametrize(
    "training",
    [
        {"eval_strategy": "steps"},
        {"eval_strategy": "steps", "save_strategy": "steps"},
        {"save_strategy": "best"},
        {"eval_strategy": "no", "save_strategy": "steps"},
    ],
)
def test_check_training__values_that_go_together(training):
    assert problems_of(**training) == []


def test_check_training__what_selects_depends_on_the_task():
    assert check_training({"metric_for_best_model": "mean_average_precision"}, "multi_label") == []
    assert [str(problem) for problem in check_training({"metric_for_best_model": "accuracy"}, "multi_label")] == [
        "training.metric_for_best_model: expected one of mean_average_precision, macro_f1, loss with data.task 'multi_label', "
        "found the text 'accuracy'"
    ]
    assert problems_of(metric_for_best_model="mean_average_precision") == [
        "training.metric_for_best_model: expected one of accuracy, macro_f1, loss, found the text 'mean_average_precision'"
    ]
    assert training_defaults({})["metric_for_best_model"] == "accuracy"
    assert training_defaults({}, task="multi_label")["metric_for_best_model"] == "mean_average_precision"
