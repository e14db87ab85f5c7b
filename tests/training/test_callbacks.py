"""Small callbacks, without training."""

from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from hf_transfer.errors import UserError
from hf_transfer.strategies.phases import Phase, Schedule
from hf_transfer.training.callbacks import EarlyStoppingCallback, EpochCallback, FiniteLossCallback
from hf_transfer.training.checkpoints import mark_complete
from hf_transfer.training.freezing import FreezingCallback


def test_epoch_callback__tells_the_data_set():
    data = type("Data", (), {"epoch": 0})()
    callback = EpochCallback(data)
    for epoch in (0.0, 1.0, 2.0):
        callback.on_epoch_begin(None, TrainerState(epoch=epoch), TrainerControl())
        assert data.epoch == epoch
    callback.on_epoch_begin(None, TrainerState(epoch=None), TrainerControl())
    assert data.epoch == 0


def stops(values, patience=2, min_delta=0.0, greater=True, event="on_evaluate"):
    callback = EarlyStoppingCallback(FreezingCallback([], Schedule((Phase("full", ()),))), patience, min_delta)
    history = [{"epoch": epoch + 1.0, "eval_accuracy": value} for epoch, value in enumerate(values)]
    control = TrainerControl()
    getattr(callback, event)(SimpleNamespace(greater_is_better=greater), TrainerState(log_history=history), control)
    return control.should_training_stop


def test_early_stopping__after_patience_evaluations_without_improvement():
    assert not stops([0.5, 0.5])
    assert stops([0.5, 0.5, 0.5])
    assert not stops([0.5, 0.5, 0.6, 0.6])
    assert stops([0.5, 0.505, 0.51], min_delta=0.1)
    assert stops([0.5, 0.6, 0.7], greater=False)


def test_early_stopping__a_resumed_run_that_had_stopped_stays_stopped():
    assert stops([0.5, 0.5, 0.5], event="on_train_begin")
    assert not stops([0.5, 0.5], event="on_train_begin")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_finite_loss__stops_and_names_the_last_good_checkpoint(tmp_path, loss):
    args, state = SimpleNamespace(output_dir=str(tmp_path)), TrainerState(global_step=7)
    message = (
        f"training diverged: at step 7 the loss is {loss}. Lower training.learning_rate (hf-transfer find-lr suggests one), "
        "lengthen training.warmup_steps, or set training.bf16 and training.fp16 to false; "
    )
    with pytest.raises(UserError) as caught:
        FiniteLossCallback().on_log(args, state, TrainerControl(), logs={"loss": loss})
    assert str(caught.value) == message + "no checkpoint had been saved."
    (tmp_path / "checkpoint-5").mkdir()
    mark_complete(tmp_path / "checkpoint-5")
    with pytest.raises(UserError) as caught:
        FiniteLossCallback().on_log(args, state, TrainerControl(), logs={"loss": loss})
    assert str(caught.value) == message + f"{tmp_path / 'checkpoint-5'} is the last good checkpoint."


@pytest.mark.parametrize("logs", [None, {}, {"loss": 1e30}, {"eval_loss": float("nan")}])
def test_finite_loss__other_logs_pass(tmp_path, logs):
    FiniteLossCallback().on_log(SimpleNamespace(output_dir=str(tmp_path)), TrainerState(), TrainerControl(), logs=logs)
