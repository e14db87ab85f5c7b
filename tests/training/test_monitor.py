"""What is monitored is scored rightly, and changes nothing: not a weight, not a choice, not a random number."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_transfer.data.dataset import ImageDataset
from hf_transfer.errors import DataError
from hf_transfer.metrics import quick_metrics
from hf_transfer.metrics.likelihood import negative_log_likelihood
from hf_transfer.training import trainer as module
from hf_transfer.training.checkpoints import checkpoints, step_of
from hf_transfer.training.monitor import Monitor, check_monitored, one_sided
from hf_transfer.training.train import train

NAMES = ["test", "train_5", "test_3", "validation_2"]
STEPS = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "logging_steps": 3, "save_total_limit": 20}


def rows_of(root):
    with (root / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logits_of(model, table, preprocessing):
    """The logits of images, one at a time, as anyone would compute them."""
    data = ImageDataset(table, preprocessing)
    model.eval()
    with torch.no_grad():
        found = [model(pixel_values=data[place]["pixel_values"][None]).logits[0] for place in range(len(table))]
    return torch.stack(found).numpy()


# Nothing is moved.


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_train_epochs": 3, **STEPS},  # dropout draws from the generator that a loader of an evaluation draws from
        {"num_train_epochs": 3, "ema": {"decay": 0.5}, **STEPS},
        {"num_train_epochs": 8, "early_stopping": {"patience": 2}, "lr_scheduler_type": "reduce_lr_on_plateau"},
        {"strategy": {"name": "complete", "stages": 3, "phase_epochs": 3, "patience": 1}},
        {"num_train_epochs": 3, "metric_for_best_model": "loss", "save_strategy": "best"},
        {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "dataloader_num_workers": 1, "augment": "strong"},
    ],
    ids=["steps", "ema", "early stopping and plateau", "gradual's plateau", "best by loss", "workers"],
)
def test_monitor__run_is_the_same_with_and_without(build, arguments):
    def carried_out(folder, monitor):
        backbone, trainer, root = build(folder=folder, monitor=monitor, test=9, train=12, **arguments)
        train(trainer)
        states = {step_of(path): (path / "model.safetensors").read_bytes() for path in checkpoints(root / "checkpoints")}
        return backbone.model.state_dict(), states, trainer.state, rows_of(root)

    weights, states, state, rows = carried_out("without", [])
    others, other_states, other_state, other_rows = carried_out("with", [*NAMES, "train"])
    assert states and states == other_states
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert state.global_step == other_state.global_step
    assert (state.best_global_step, state.best_metric) == (other_state.best_global_step, other_state.best_metric)
    monitored = [*NAMES, "train_all"]
    assert [row for row in other_rows if row["split"] not in monitored] == rows
    evaluations = [row["step"] for row in rows if row["split"] == "validation"]
    for name in monitored:
        assert [row["step"] for row in other_rows if row["split"] == name] == evaluations


def test_monitor__selection_reads_validation_where_test_says_otherwise(build, monkeypatch):
    """Validation is best at step 2 and never again; what is monitored gets better and better."""
    validation = iter([0.9, 0.5, 0.4, 0.3])
    monkeypatch.setattr(module, "quick_metrics", lambda logits, labels: {"accuracy": next(validation), "macro_f1": 0.0})
    better = iter(np.linspace(0.1, 1.0, 8))
    figures = Monitor.figures
    monkeypatch.setattr(
        Monitor, "figures", lambda self, scored: {n: f | {"accuracy": next(better)} for n, f in figures(self, scored).items()}
    )
    _, trainer, _ = build(
        monitor=["test", "train_5"],
        test=6,
        num_train_epochs=9,
        early_stopping={"patience": 3},
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 1, "factor": 0.1},
        save_total_limit=9,
    )
    train(trainer)
    assert trainer.state.best_global_step == 2
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert trainer.state.epoch == 4.0
    assert trainer.lr_scheduler.get_last_lr()[-1] == pytest.approx(1e-4)  # cut once


def test_monitor__resumed_run_has_the_rows_of_an_uninterrupted_one(build):
    arguments = {"monitor": [*NAMES, "train"], "test": 9, "num_train_epochs": 4, "train": 16, **STEPS}
    whole_backbone, trainer, root = build(folder="whole", **arguments)
    train(trainer)
    whole = rows_of(root)
    checkpoint = checkpoints(root / "checkpoints")[2]
    assert step_of(checkpoint) < trainer.state.global_step

    backbone, trainer, other = build(folder="resumed", **arguments)
    # What a killed run leaves: rows after its last checkpoint, and half a line.
    (other / "history.csv").write_text((root / "history.csv").read_text() + "1")
    train(trainer, checkpoint)
    assert rows_of(other) == whole
    assert len({(row["step"], row["split"]) for row in whole}) == len(whole)
    state = backbone.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole_backbone.model.state_dict().items())


# The figures are right.


def test_monitor__figures_are_those_of_the_checkpoint_on_the_first_images_of_each_split(build, splits):
    backbone, trainer, root = build(monitor=[*NAMES, "train"], test=9, train=12, per_device_eval_batch_size=2, **STEPS)
    train(trainer)
    tables = splits(12, 4, 9).tables
    rows = rows_of(root)
    assert [row["split"] for row in rows if row["step"] == "2"] == ["train", "validation", *NAMES, "train_all"]
    for path in checkpoints(root / "checkpoints"):
        model = type(backbone.model).from_pretrained(path)
        logits = {split: logits_of(model, table, backbone.preprocessing) for split, table in tables.items()}
        for name, split, count in [
            *(("test", "test", 9), ("train_5", "train", 5), ("test_3", "test", 3)),
            *(("validation_2", "validation", 2), ("train_all", "train", 12)),
        ]:
            (row,) = [row for row in rows if row["split"] == name and row["step"] == str(step_of(path))]
            labels = tables[split].labels[:count]
            expected = quick_metrics(logits[split][:count], labels)
            assert float(row["accuracy"]) == expected["accuracy"]
            assert float(row["macro_f1"]) == expected["macro_f1"]
            assert float(row["loss"]) == pytest.approx(negative_log_likelihood(logits[split][:count], labels), abs=1e-5)
            assert row["phase"] == "full"


def test_monitor__images_are_transformed_as_in_evaluation_and_each_is_decoded_once(build):
    backbone, trainer, _ = build(monitor=["test_3", "test", "train_5", "train_2", "validation_2"], test=9, augment="strong")
    data = trainer.monitor.data
    assert {split: len(images) for split, images in data.items()} == {"test": 9, "train": 5}
    assert all(images.transform is backbone.preprocessing and images.seed is None for images in data.values())
    assert list(data["train"].table.sample_ids) == [f"image/{row}" for row in range(5)]


def test_monitor__tensorboard_names_are_those_of_transformers(build):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, trainer, root = build(monitor=["test", "train_5"], test=6, report_to=["tensorboard"])
    train(trainer)
    events = EventAccumulator(str(root / "tensorboard")).Reload()
    scalars = [name for name in events.Tags()["scalars"] if name.startswith(("eval/test", "eval/train"))]
    assert sorted(scalars) == [
        *("eval/test_accuracy", "eval/test_loss", "eval/test_macro_f1"),
        *("eval/train_5_accuracy", "eval/train_5_loss", "eval/train_5_macro_f1"),
    ]
    rows = [float(row["accuracy"]) for row in rows_of(root) if row["split"] == "test"]
    assert [event.value for event in events.Scalars("eval/test_accuracy")] == pytest.approx(rows)


def test_monitor__with_an_average_the_weights_that_validation_found_better(build, monkeypatch, splits):
    """At step 2 the average is better on validation, at step 4 the weights are; on test it may be the other way round."""
    values = iter([0.2, 0.8, 0.7, 0.6])
    monkeypatch.setattr(module, "quick_metrics", lambda logits, labels: {"accuracy": next(values), "macro_f1": 0.0})
    backbone, trainer, root = build(
        monitor=["test", "validation_4"], test=9, ema={"decay": 0.5}, learning_rate=0.05, save_total_limit=3
    )
    train(trainer)
    tables = splits(8, 4, 9).tables
    for step, averaged in ((2, True), (4, False)):
        path = root / "checkpoints" / f"checkpoint-{step}"
        model = type(backbone.model).from_pretrained(path)
        if averaged:
            from safetensors.torch import load_file

            model.load_state_dict(load_file(path / "average.safetensors"))
        for name, split in (("test", "test"), ("validation_4", "validation")):
            logits = logits_of(model, tables[split], backbone.preprocessing)
            (row,) = [row for row in rows_of(root) if (row["step"], row["split"]) == (str(step), name)]
            assert float(row["loss"]) == pytest.approx(negative_log_likelihood(logits, tables[split].labels), abs=1e-5)


def test_monitor__logits_that_are_not_finite_end_nothing(splits):
    monitor = Monitor(["test", "train_2"], splits(4, 4, 3), lambda image: image)
    fine = (np.eye(3, dtype=np.float32)[[0, 1, 2]], np.array([0, 1, 1]))
    broken = (np.full((3, 3), np.nan, dtype=np.float32), np.array([0, 1, 2]))
    found = monitor.figures({"test": broken, "train": fine})
    assert found["train_2"]["accuracy"] == 1.0
    assert list(found["test"]) == ["loss"] and np.isnan(found["test"]["loss"])


def test_monitor__progress_bar_of_validation_is_closed_before_the_next(build, capfd):
    _, trainer, _ = build(monitor=["test"], test=6, disable_tqdm=False)
    train(trainer)
    (bar,) = [callback for callback in trainer.callback_handler.callbacks if hasattr(callback, "prediction_bar")]
    assert bar.prediction_bar is None


def test_monitor__after_training_an_evaluation_is_of_validation_alone(build):
    _, trainer, root = build(monitor=["test"], test=6)
    train(trainer)
    before = len(rows_of(root))
    assert not [key for key in trainer.evaluate() if "test" in key]
    assert [row["split"] for row in rows_of(root)[before:]] == ["validation"]


def test_monitor__nothing_without_evaluations(build):
    """As a range test builds its trainer: the splits that are monitored may not even have been read."""
    _, trainer, _ = build(monitor=["winter"], eval_strategy="no")
    assert trainer.monitor is None


# What is not there.


def test_check_monitored__says_how_many_there_are(splits):
    found = splits(8, 4)
    check_monitored(["train", "train_8", "validation_4"], found)
    with pytest.raises(DataError) as caught:
        check_monitored(["train_9", "test", "validation_1000", "train_8"], found)
    assert str(caught.value) == (
        "evaluation.monitor: 'train_9': expected at most the 8 images that train has; 'test': there is no test split; "
        "data.test_fraction (0.2, say) holds one out; 'validation_1000': expected at most the 4 images that validation has"
    )


def test_check_monitored__further_test_sets(splits):
    found = splits(8, 4)
    both = SimpleNamespace(tables=found.tables, extra={"winter": found.tables["validation"]}, table=found.table)
    check_monitored(["winter"], both)
    with pytest.raises(DataError):
        check_monitored(["winter"], found)


def test_monitor__state_of_a_checkpoint_is_json(build):
    _, trainer, root = build(monitor=["test"], test=6)
    train(trainer)
    state = json.loads((checkpoints(root / "checkpoints")[-1] / "trainer_state.json").read_text())
    entries = [entry for entry in state["log_history"] if "eval_test_accuracy" in entry]
    assert [set(entry) for entry in entries] == [
        {"eval_test_accuracy", "eval_test_loss", "eval_test_macro_f1", "epoch", "step"} for _ in entries
    ]
    assert entries


def test_evaluation__scores_every_image_where_training_drops_some(build):
    arguments = {"num_train_epochs": 1, "dataloader_drop_last": True, "per_device_eval_batch_size": 4}
    backbone, trainer, root = build(monitor=["test"], test=9, train=12, **arguments)
    train(trainer)
    table = trainer.monitor.data["test"].table
    logits = logits_of(backbone.model, table, trainer.monitor.data["test"].transform)
    (row,) = [row for row in rows_of(root) if row["split"] == "test"]
    assert len(table) == 9 and float(row["loss"]) == pytest.approx(negative_log_likelihood(logits, table.labels), rel=1e-4)
    assert trainer.args.dataloader_drop_last


def test_one_sided__class_folders_come_one_by_one():
    tables = {
        "train": SimpleNamespace(labels=np.array([0, 0, 0, 1, 1, 2])),
        "test": SimpleNamespace(labels=np.array([2, 1, 0])),
    }
    splits = SimpleNamespace(table=tables.__getitem__, class_names=["ant", "bee", "cat"])
    assert one_sided(["train_4", "test_3", "test", "train"], splits) == [
        "evaluation.monitor: the first 4 images of train are of 2 of its 3 classes (ant, bee), in the split's own order; their "
        "figures say nothing of the others"
    ]


def test_one_sided__classes_of_several_labels():
    flags = np.array([[True, False], [True, False], [False, True], [False, False]])
    there = SimpleNamespace(labels=flags)
    splits = SimpleNamespace(class_names=["cat", "dog"], table=lambda name: there)
    assert one_sided(["test_3"], splits) == []
    assert "of test are of 1 of its 2 classes (cat)" in one_sided(["test_2"], splits)[0]
