"""The Trainer's overrides: weights really loaded, frozen really frozen, nothing secret saved."""

import copy
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import set_seed

import hf_transfer
from hf_transfer.backbones.build import build_backbone
from hf_transfer.errors import UserError
from hf_transfer.recipe.schema import Model
from hf_transfer.training import trainer as module
from hf_transfer.training.trainer import TransferTrainer, load_weights

hf_transfer.register()


def vit_backbone(checkpoint):
    return build_backbone(Model(backbone=str(checkpoint)), ["cat", "dog", "owl"], 0)


def saved_state(model, directory):
    """What anyone finds who loads a saved model."""
    return type(model).from_pretrained(directory).state_dict()


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.fixture
def scores(monkeypatch):
    """Let the accuracies of evaluations be these, whatever the model predicts; the training stays real."""

    def prescribe(*values):
        left = iter(values)
        monkeypatch.setattr(module, "quick_metrics", lambda logits, labels: {"accuracy": next(left), "macro_f1": 0.0})

    return prescribe


def checkpoints(trainer):
    return sorted(str(path) for path in Path(trainer.args.output_dir).glob("checkpoint-*"))


def test_train__best_model_is_reloaded_every_tensor_of_it(any_backbone, trainer_for, scores):
    scores(0.9, 0.1)
    trainer = trainer_for(any_backbone, count=4, learning_rate=1e-2, save_total_limit=2)
    trainer.train()
    first, second = checkpoints(trainer)
    assert trainer.state.best_model_checkpoint == first
    best, last = (saved_state(trainer.model, directory) for directory in (first, second))
    assert len(differing(best, last)) > len(best) / 2
    assert differing(trainer.model.state_dict(), best) == []

    trainer._load_from_checkpoint(second)  # what resuming does
    assert differing(trainer.model.state_dict(), last) == []


def test_train__linear_probe_changes_the_head_alone(any_backbone, trainer_for):
    model = any_backbone.model
    before = copy.deepcopy(model.state_dict())
    head = any_backbone.groups[-1].parameters
    trainer = trainer_for(any_backbone, "linear_probe", count=4, learning_rate=0.1, weight_decay=0.5, eval_strategy="no")
    trainer.train()
    assert set(differing(model.state_dict(), before)) == set(head)  # buffers are the same, too
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in head)


def test_train__best_linear_probe_stays_frozen(vit_checkpoint, trainer_for, scores):
    scores(0.9, 0.1)
    backbone = vit_backbone(vit_checkpoint)
    trainer = trainer_for(backbone, "linear_probe", save_total_limit=2)
    trainer.train()
    assert differing(backbone.model.state_dict(), saved_state(backbone.model, checkpoints(trainer)[0])) == []
    assert {n for n, p in backbone.model.named_parameters() if p.requires_grad} == set(backbone.groups[-1].parameters)


def test_stock_trainer__loses_weights_of_the_best_vit(vit_checkpoint, trainer_for, scores, random_images, tmp_path):
    """The trap that `load_weights` is for: should this test be skipped, the override may go."""
    scores(0.9, 0.1)
    backbone = vit_backbone(vit_checkpoint)
    ours = trainer_for(backbone, learning_rate=1e-2, save_total_limit=2)
    stock = Trainer(
        model=backbone.model,
        args=ours.args,
        train_dataset=ours.train_dataset,
        eval_dataset=ours.eval_dataset,
        data_collator=ours.data_collator,
        compute_metrics=module._compute_metrics,
    )
    stock.remove_callback(transformers.PrinterCallback)
    stock.train()
    best = saved_state(backbone.model, stock.state.best_model_checkpoint)
    lost = differing(backbone.model.state_dict(), best)
    if not lost:
        pytest.skip(f"transformers {importlib.metadata.version('transformers')} reloads the best ViT completely")
    assert len(lost) > 20  # most of the best model was left as the last epoch had it
    load_weights(backbone.model, stock.state.best_model_checkpoint)
    assert differing(backbone.model.state_dict(), best) == []


def test_load_weights__incomplete_checkpoint_is_an_error(vit_checkpoint, tmp_path):
    model = vit_backbone(vit_checkpoint).model
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "vit.layernorm.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(RuntimeError) as caught:
        load_weights(model, tmp_path)
    assert str(caught.value) == (
        f"the checkpoint {tmp_path} does not fit its model: 1 tensors differ, ['vit.layernorm.weight']"
    )


def test_load_weights__other_number_of_classes_is_an_error(vit_checkpoint):
    with pytest.raises(RuntimeError):
        load_weights(vit_backbone(vit_checkpoint).model, vit_checkpoint)  # 3 classes, 7 in the file


def test_load_weights__no_transformers_model_is_an_error(tmp_path):
    with pytest.raises(TypeError, match="expected a PreTrainedModel, found Linear"):
        load_weights(torch.nn.Linear(2, 2), tmp_path)


def test_load_weights__keeps_the_memory_layout(checkpoint_of, trainer_for, vit_checkpoint):
    backbone = build_backbone(Model(backbone="timm:test_resnet", pretrained=False), ["a", "b"], 0)
    trainer = trainer_for(backbone)
    weight = backbone.model.timm_model.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    trainer.save_model()
    load_weights(backbone.model, trainer.args.output_dir)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_save__no_arguments_and_no_token_in_any_file(vit_checkpoint, trainer_for, monkeypatch, tmp_path):
    token = "hf_" + "ThisIsTheTokenOfTheTest"
    monkeypatch.setenv("HF_TOKEN", token)
    trainer = trainer_for(vit_backbone(vit_checkpoint), hub_token=token, save_total_limit=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "by name"))
    trainer.save_model()
    trainer._save()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"} <= {
        f.name for f in files
    }
    assert not [file for file in files if file.name == "training_args.bin"]
    assert not [file for file in files if token.encode() in file.read_bytes()]


def test_compute_metrics__diverged_model_is_named():
    logits = np.array([[0.0, 1.0], [np.nan, 0.0]])
    with pytest.raises(UserError) as caught:
        module._compute_metrics(EvalPrediction(logits, np.array([0, 1])))
    assert str(caught.value).startswith("training diverged: the validation logits are not finite. Lower training.learning_rate")


def test_first_logits__of_a_distilled_network():
    logits = torch.rand(2, 3)
    assert module._first_logits((logits, torch.zeros(2, 3)), torch.zeros(2)) is logits
    assert module._first_logits(logits, torch.zeros(2)) is logits


def test_train__resumed_run_ends_with_the_same_weights(vit_checkpoint, trainer_for):
    arguments = {"num_train_epochs": 3, "save_total_limit": 3, "metric_for_best_model": "loss", "lr_scheduler_type": "constant"}
    whole = vit_backbone(vit_checkpoint)
    for dropout in (m for m in whole.model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.3
    trainer = trainer_for(whole, **arguments)
    trainer.train()
    expected, best = copy.deepcopy(whole.model.state_dict()), trainer.state.best_model_checkpoint

    resumed = vit_backbone(vit_checkpoint)
    for dropout in (m for m in resumed.model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.3
    set_seed(99)
    again = trainer_for(resumed, **arguments)
    again.train(resume_from_checkpoint=checkpoints(trainer)[0])
    assert again.state.best_model_checkpoint == best
    assert differing(resumed.model.state_dict(), expected) == []


def test_transfer_trainer__counts_no_tokens(vit_checkpoint, trainer_for):
    trainer = trainer_for(vit_backbone(vit_checkpoint))
    assert isinstance(trainer, TransferTrainer)
    assert trainer.floating_point_ops({"pixel_values": torch.zeros(1)}) == 0
