import pytest
import torch
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput

from hf_transfer.backbones.build import build_backbone
from hf_transfer.recipe.schema import Model
from hf_transfer.training.loss import CrossEntropy

LOGITS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy__is_torchs(smoothing):
    found = CrossEntropy(smoothing)(ImageClassifierOutput(logits=LOGITS), LABELS)
    assert torch.equal(found, functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [8, torch.tensor(8)])
def test_cross_entropy__parts_of_a_batch_add_up_to_its_mean(smoothing, count):
    loss = CrossEntropy(smoothing)
    parts = sum(
        loss(ImageClassifierOutput(logits=LOGITS[rows]), LABELS[rows], num_items_in_batch=count)
        for rows in (slice(0, 3), slice(3, 7), slice(7, 8))
    )
    assert parts.item() == pytest.approx(loss(ImageClassifierOutput(logits=LOGITS), LABELS).item(), rel=1e-6)


def test_cross_entropy__half_precision_logits_are_summed_in_float32():
    half = LOGITS.to(torch.bfloat16)
    found = CrossEntropy()({"logits": half}, LABELS)
    assert found.dtype == torch.float32
    assert torch.equal(found, functional.cross_entropy(half.float(), LABELS))


def test_cross_entropy__logits_of_the_class_token_where_there_are_no_others():
    found = CrossEntropy()({"cls_logits": LOGITS, "distillation_logits": torch.zeros_like(LOGITS)}, LABELS)
    assert torch.equal(found, functional.cross_entropy(LOGITS, LABELS))


def vit_without_dropout(checkpoint):
    backbone = build_backbone(Model(backbone=str(checkpoint)), ["cat", "dog", "owl"], 0)
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return backbone


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [16, 11])  # 11: the last step has 3 images, in accumulated batches of 2 and 1
def test_train__accumulated_batches_equal_one_large_batch(vit_checkpoint, trainer_for, tmp_path, smoothing, count):
    results = []
    for batch, accumulated in ((8, 1), (2, 4)):
        backbone = vit_without_dropout(vit_checkpoint)
        losses = []
        trainer = trainer_for(
            backbone,
            count=count,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            label_smoothing_factor=smoothing,
            optim="sgd",
            learning_rate=0.1,
            eval_strategy="no",
            logging_steps=1,
        )
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        results.append((backbone.model.state_dict(), losses, trainer.state.global_step))
    (one, one_losses, steps), (other, other_losses, other_steps) = results
    assert steps == other_steps == 4
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=1e-6), name
    assert other_losses == pytest.approx(one_losses, abs=1e-5)


def test_train__label_smoothing_reaches_the_loss(vit_checkpoint, trainer_for):
    backbone = vit_without_dropout(vit_checkpoint)
    trainer = trainer_for(backbone, count=4, label_smoothing_factor=0.4, logging_steps=1, num_train_epochs=1)
    items = trainer.train_dataset
    with torch.no_grad():
        logits = backbone.model.eval()(torch.stack([item["pixel_values"] for item in items])).logits
    labels = torch.tensor([item["labels"] for item in items])
    trainer.train()
    first = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    assert first == pytest.approx(functional.cross_entropy(logits, labels, label_smoothing=0.4).item(), abs=1e-5)
