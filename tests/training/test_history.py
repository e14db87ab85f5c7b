import csv

import pytest
from transformers import TrainerControl, TrainerState

from hf_transfer.backbones.layer_groups import LayerGroup
from hf_transfer.strategies.phases import Phase, Schedule
from hf_transfer.training.freezing import FreezingCallback
from hf_transfer.training.history import HistoryCallback
from hf_transfer.training.train import train

GROUPS = ("stem", "vit.layers.0", "vit.layers.1", "vit.layers.2", "head")
COLUMNS = ["step", "epoch", "phase", "split", "loss", "accuracy", "macro_f1"]
COLUMNS += [*(f"learning_rate/{name}" for name in GROUPS), "trainable_parameters", "phase_end"]


def rows_of(root):
    with (root / "history.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    return rows


def used_rates(trainer):
    """Note the learning rate of each group at each step that the optimizer really takes."""
    used = []
    optimizer = trainer.create_optimizer()

    def note(optimizer, args, kwargs):
        used.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    optimizer.register_step_pre_hook(note)
    return used


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "reduce_lr_on_plateau"])
def test_history__learning_rates_are_those_the_optimizer_used(build, scheduler):
    _, trainer, root = build(lr_scheduler_type=scheduler, warmup_steps=2, logging_steps=1, num_train_epochs=3)
    used = used_rates(trainer)
    train(trainer)
    rows = [row for row in rows_of(root) if row["split"] == "train"]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6] == list(range(1, len(used) + 1))
    for row, rates in zip(rows, used, strict=True):
        assert {name: float(row[f"learning_rate/{name}"]) for name in GROUPS} == rates
    assert len({rates["head"] for rates in used}) > 1 or scheduler == "reduce_lr_on_plateau"


def test_history__a_row_for_each_log_and_evaluation(build):
    backbone, trainer, root = build(logging_steps=1)
    train(trainer)
    *rows, end = rows_of(root)
    assert (end["step"], end["split"], end["phase_end"]) == ("4", "", "training")
    assert [(row["step"], row["split"]) for row in rows] == [
        ("1", "train"),
        ("2", "train"),
        ("2", "validation"),
        ("3", "train"),
        ("4", "train"),
        ("4", "validation"),
    ]
    assert [row["epoch"] for row in rows] == ["0.5", "1.0", "1.0", "1.5", "2.0", "2.0"]
    for row in rows:
        assert row["phase"] == "full"
        assert float(row["loss"]) > 0
        assert int(row["trainable_parameters"]) == sum(p.numel() for p in backbone.model.parameters())
        assert bool(row["accuracy"]) == bool(row["macro_f1"]) == (row["split"] == "validation")
    logged = [log for log in trainer.state.log_history if "loss" in log or "eval_loss" in log]
    assert [float(row["loss"]) for row in rows] == [log.get("loss", log.get("eval_loss")) for log in logged]


def test_history__frozen_groups_are_empty(build):
    _, trainer, root = build("linear_probe", logging_steps=1)
    train(trainer)
    *rows, end = rows_of(root)
    assert (end["trainable_parameters"], end["phase_end"]) == ("99", "training")
    for row in rows:
        assert [bool(row[f"learning_rate/{name}"]) for name in GROUPS] == [False] * 4 + [True]
        assert row["trainable_parameters"] == str(32 * 3 + 3)
        assert row["phase"] == "linear_probe"


def test_history__phases_change_with_their_epoch(build):
    phases = [
        {"name": "warm up", "train": ["head"], "epochs": 1},
        {"name": "last layer", "train": ["vit.layers.2", "head"], "epochs": 1},
        {"name": "all", "train": ["*"], "epochs": 1},
    ]
    _, trainer, root = build({"name": "custom", "phases": phases}, logging_steps=1)
    cost = train(trainer)
    rows = [row for row in rows_of(root) if row["split"] == "train"]
    assert [row["phase"] for row in rows] == ["warm up", "warm up", "last layer", "last layer", "all", "all"]
    assert [sum(bool(row[f"learning_rate/{name}"]) for name in GROUPS) for row in rows] == [1, 1, 2, 2, 5, 5]
    assert {row["phase"]: int(row["trainable_parameters"]) for row in rows} == cost.trainable_parameters
    assert list(cost.trainable_parameters) == ["warm up", "last layer", "all"]
    ends = [row for row in rows_of(root) if not row["split"]]
    assert [(row["step"], row["phase"], row["phase_end"]) for row in ends] == [
        ("2", "warm up", "epochs"),
        ("4", "last layer", "epochs"),
        ("6", "all", "epochs"),
    ]


@pytest.mark.parametrize("save", [{}, {"save_strategy": "best", "metric_for_best_model": "loss"}])
def test_history__resumed_run_has_the_rows_of_an_uninterrupted_one(build, save):
    arguments = {"logging_steps": 3, "num_train_epochs": 4, "save_total_limit": 4, "train": 16, **save}
    _, trainer, root = build(folder="whole", **arguments)
    train(trainer)
    whole = rows_of(root)
    checkpoint = min((root / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))

    _, trainer, other = build(folder="resumed", **arguments)
    # What a killed run leaves: rows after its last checkpoint, and half a line.
    (other / "history.csv").write_text((root / "history.csv").read_text() + "1")
    train(trainer, checkpoint)
    assert rows_of(other) == whole
    assert len({(row["step"], row["split"]) for row in whole}) == len(whole)


def test_history__new_run_starts_a_new_file(build):
    _, trainer, root = build()
    (root / "history.csv").write_text(",".join(COLUMNS) + "\n" + "7" + "," * (len(COLUMNS) - 1) + "\n")
    train(trainer)
    assert "7" not in {row["step"] for row in rows_of(root)}


def test_history__only_the_main_process_writes(tmp_path):
    group = LayerGroup("head", ("head.weight",))
    callback = HistoryCallback(
        tmp_path / "history.csv", [group], FreezingCallback([group], Schedule((Phase("full", ("head",)),)))
    )
    state = TrainerState(is_world_process_zero=False)
    callback.on_train_begin(None, state, TrainerControl())
    callback.on_log(None, state, TrainerControl(), logs={"loss": 1.0})
    assert not (tmp_path / "history.csv").exists()


@pytest.mark.parametrize("logs", [None, {}, {"train_runtime": 3.0}, {"learning_rate": 0.1}])
def test_history__other_logs_are_no_rows(tmp_path, logs):
    group = LayerGroup("head", ("head.weight",))
    callback = HistoryCallback(
        tmp_path / "history.csv", [group], FreezingCallback([group], Schedule((Phase("full", ("head",)),)))
    )
    state = TrainerState(is_world_process_zero=True)
    callback.on_train_begin(None, state, TrainerControl())
    callback.on_log(None, state, TrainerControl(), logs=logs)
    assert (tmp_path / "history.csv").read_text().splitlines() == [
        "step,epoch,phase,split,loss,accuracy,macro_f1,learning_rate/head,trainable_parameters,phase_end"
    ]
