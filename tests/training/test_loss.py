import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput

from hf_transfer.backbones.build import build_backbone
from hf_transfer.errors import RecipeError
from hf_transfer.recipe.schema import Model
from hf_transfer.training.loss import (
    ClassificationLoss,
    MultiLabelLoss,
    answer_weights,
    balanced_answers,
    balanced_weights,
    mixed_targets,
    named_weights,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(8, 5, generator=GENERATOR)
HARD = torch.arange(8) % 5
SOFT = torch.rand(8, 5, generator=GENERATOR)
SOFT /= SOFT.sum(dim=1, keepdim=True)
LABELS = {"hard": HARD, "soft": SOFT}
WEIGHTS = torch.tensor([0.2, 3.0, 1.0, 0.5, 1.7])
COMBINATIONS = list(itertools.product(LABELS, [0.0, 0.1], [None, WEIGHTS]))
combinations = pytest.mark.parametrize(
    ("kind", "smoothing", "weights"),
    COMBINATIONS,
    ids=[f"{k}-{s}-{'plain' if w is None else 'weighted'}" for k, s, w in COMBINATIONS],
)


def written_out(logits, labels, smoothing, weights, gamma):
    """The sum over samples, class by class in Python's float64."""
    total = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        log_sum = max(row) + math.log(sum(math.exp(value - max(row)) for value in row))
        for number, value in enumerate(row):
            target = label[number] if isinstance(label, list) else float(label == number)
            target = (1 - smoothing) * target + smoothing / len(row)
            weight = 1.0 if weights is None else weights[number].item()
            p = math.exp(value - log_sum)
            total -= target * weight * (1 - p) ** gamma * (value - log_sum)
    return total


@combinations
@pytest.mark.parametrize("count", [None, 8, 20, torch.tensor(20)], ids=["mean", "own count", "step count", "tensor count"])
def test_classification_loss__cross_entropy_is_torchs_sum_over_the_count(kind, smoothing, weights, count):
    found = ClassificationLoss("cross_entropy", smoothing, weights)({"logits": LOGITS}, LABELS[kind], count)
    total = functional.cross_entropy(LOGITS, LABELS[kind], weights, label_smoothing=smoothing, reduction="sum")
    assert torch.equal(found, total / (8 if count is None else count))
    assert found.item() * (8 if count is None else float(count)) == pytest.approx(
        written_out(LOGITS, LABELS[kind], smoothing, weights, 0.0), rel=1e-5
    )


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_loss__without_weights_and_count_is_torchs_mean(kind, smoothing):
    found = ClassificationLoss(label_smoothing=smoothing)(ImageClassifierOutput(logits=LOGITS), LABELS[kind])
    expected = functional.cross_entropy(LOGITS, LABELS[kind], label_smoothing=smoothing)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@combinations
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_classification_loss__focal_is_its_formula(kind, smoothing, weights, gamma):
    found = ClassificationLoss("focal", smoothing, weights, gamma)({"logits": LOGITS}, LABELS[kind])
    assert found.item() == pytest.approx(written_out(LOGITS, LABELS[kind], smoothing, weights, gamma) / 8, rel=1e-5)


@combinations
def test_classification_loss__focal_with_gamma_0_is_cross_entropy(kind, smoothing, weights):
    found = ClassificationLoss("focal", smoothing, weights, gamma=0.0)({"logits": LOGITS}, LABELS[kind])
    assert torch.equal(found, ClassificationLoss("cross_entropy", smoothing, weights)({"logits": LOGITS}, LABELS[kind]))
    nearly = ClassificationLoss("focal", smoothing, weights, gamma=1e-7)({"logits": LOGITS}, LABELS[kind])
    assert nearly.item() == pytest.approx(found.item(), rel=1e-5)


def test_classification_loss__gamma_belongs_to_the_focal_loss_alone():
    found = ClassificationLoss("cross_entropy", gamma=5.0)({"logits": LOGITS}, HARD)
    assert torch.equal(found, ClassificationLoss()({"logits": LOGITS}, HARD))


def test_classification_loss__focal_weights_easy_images_down_and_keeps_hard_ones():
    easy, hard = torch.tensor([[4.0, 0.0]]), torch.tensor([[-4.0, 0.0]])
    label = torch.tensor([0])
    ratios = [
        (ClassificationLoss("focal", gamma=2.0)({"logits": x}, label) / ClassificationLoss()({"logits": x}, label)).item()
        for x in (easy, hard)
    ]
    p = torch.sigmoid(torch.tensor(4.0)).item()
    assert ratios == pytest.approx([(1 - p) ** 2, p**2], rel=1e-4)


@combinations
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_classification_loss__focal_gradient_is_the_formulas(kind, smoothing, weights, gamma):
    loss = ClassificationLoss("focal", smoothing, weights, gamma)
    logits = LOGITS.clone().requires_grad_()
    loss({"logits": logits}, LABELS[kind], 1).backward()
    step = 1e-5
    for row, column in ((0, 0), (3, 1), (7, 4)):
        change = torch.zeros_like(LOGITS, dtype=torch.float64)
        change[row, column] = step
        above, below = (
            written_out(LOGITS.double() + sign * change, LABELS[kind], smoothing, weights, gamma) for sign in (1, -1)
        )
        assert logits.grad[row, column].item() == pytest.approx((above - below) / (2 * step), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS[:3]], ids=["plain", "weighted"])
def test_classification_loss__extreme_logits_have_finite_gradients(gamma, smoothing, weights):
    rows = [[scale, 0.0, 0.0] for scale in (1e-8, 1.0, 10.0, 15.0, 16.6, 17.0, 20.0, 80.0, 104.0, 1e3, 1e6)]
    rows += [[-value for value in row] for row in rows] + [[1e4, 1e4, -1e4], [0.0, 0.0, 0.0]]
    for labels in (
        torch.zeros(len(rows), dtype=torch.int64),
        torch.eye(3)[:1].repeat(len(rows), 1),
        torch.full((len(rows), 3), 1 / 3),
    ):
        logits = torch.tensor(rows, requires_grad=True)
        found = ClassificationLoss("focal", smoothing, weights, gamma)({"logits": logits}, labels)
        found.backward()
        assert torch.isfinite(found)
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_classification_loss__focal_ends_where_the_image_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    found = ClassificationLoss("focal", gamma=gamma)({"logits": logits}, torch.tensor([0]))
    found.backward()
    assert found.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_classification_loss__a_samples_loss_is_multiplied_by_the_weight_of_its_class(name):
    for number in range(5):
        label = torch.tensor([number])
        weighted = ClassificationLoss(name, class_weights=WEIGHTS)({"logits": LOGITS[:1]}, label)
        plain = ClassificationLoss(name)({"logits": LOGITS[:1]}, label)
        assert weighted.item() == pytest.approx(WEIGHTS[number].item() * plain.item(), rel=1e-6)


@combinations
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
@pytest.mark.parametrize("count", [8, torch.tensor(8)], ids=["number", "tensor"])
def test_classification_loss__parts_of_a_batch_add_up_to_its_mean(name, kind, smoothing, weights, count):
    loss = ClassificationLoss(name, smoothing, weights)
    gradients, totals = [], []
    for parts in ([slice(0, 8)], [slice(0, 4), slice(4, 8)], [slice(0, 3), slice(3, 7), slice(7, 8)]):
        logits = LOGITS.clone().requires_grad_()
        values = [loss({"logits": logits[rows]}, LABELS[kind][rows], num_items_in_batch=count) for rows in parts]
        sum(values).backward()
        totals.append(sum(values).item())
        gradients.append(logits.grad)
    assert totals == pytest.approx([loss({"logits": LOGITS}, LABELS[kind]).item()] * 3, rel=1e-6)
    assert all(torch.allclose(gradient, gradients[0], rtol=1e-6, atol=1e-8) for gradient in gradients)


@combinations
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_classification_loss__half_precision_logits_are_summed_in_float32(name, kind, smoothing, weights):
    loss = ClassificationLoss(name, smoothing, weights)
    half = LOGITS.to(torch.bfloat16)
    found = loss({"logits": half}, LABELS[kind])
    assert found.dtype == torch.float32
    assert torch.equal(found, loss({"logits": half.float()}, LABELS[kind]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss({"logits": half}, LABELS[kind]), found)


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_classification_loss__half_precision_targets_are_smoothed_in_float32(name):
    loss = ClassificationLoss(name, label_smoothing=0.1)
    half = SOFT.to(torch.bfloat16)
    found = loss({"logits": LOGITS}, half)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss({"logits": LOGITS}, half.float()))


def test_classification_loss__logits_of_the_class_token_where_there_are_no_others():
    outputs = {"cls_logits": LOGITS, "distillation_logits": torch.zeros_like(LOGITS)}
    assert torch.equal(ClassificationLoss()(outputs, HARD), ClassificationLoss()({"logits": LOGITS}, HARD))


def test_balanced_weights__is_scikit_learns():
    counts = [50, 3, 17, 1]
    found = balanced_weights(counts)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=np.repeat(np.arange(4), counts))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert (found @ torch.tensor(counts).float()).item() / sum(counts) == pytest.approx(1.0, rel=1e-6)
    assert balanced_weights([7, 7, 7]).tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(balanced_weights(np.array(counts)), found)


def test_balanced_weights__names_the_classes_without_a_training_image():
    with pytest.raises(RecipeError) as caught:
        balanced_weights([4, 0, 2, 0], ["cat", "dog", "owl", "fox"])
    assert str(caught.value) == (
        "Found 1 problem in the recipe:\n"
        "  - loss.class_weights: 'balanced' needs training images of every class; found none of 'dog', 'fox'"
    )
    with pytest.raises(RecipeError, match=r"found none of '1'$"):
        balanced_weights([4, 0, 2])


def test_named_weights__orders_by_class_and_keeps_a_mean_of_1_over_the_training_images():
    found = named_weights({"owl": 4, "cat": 1.0, "dog": 2.0}, ["cat", "dog", "owl"], [10, 5, 1])
    assert found.dtype == torch.float32
    assert (found / found[0]).tolist() == pytest.approx([1.0, 2.0, 4.0], rel=1e-6)
    assert (found @ torch.tensor([10.0, 5.0, 1.0])).item() / 16 == pytest.approx(1.0, rel=1e-6)
    scaled = named_weights({"owl": 400.0, "cat": 100.0, "dog": 200.0}, ["cat", "dog", "owl"], [10, 5, 1])
    assert torch.allclose(scaled, found, rtol=1e-6)


def test_named_weights__balanced_ones_are_the_balanced_weights():
    counts = [10, 5, 1]
    found = named_weights({"cat": 1 / 10, "dog": 1 / 5, "owl": 1.0}, ["cat", "dog", "owl"], counts)
    assert torch.allclose(found, balanced_weights(counts), rtol=1e-6)


def test_named_weights__tells_all_problems_at_once():
    weights = {"cat": 0.0, "dgo": 2.0, "zebra": -1.5, "owl": math.inf, "fox": math.nan}
    with pytest.raises(RecipeError) as caught:
        named_weights(weights, ["cat", "dog", "owl", "fox", "hen"], [1, 1, 1, 1, 1])
    assert str(caught.value) == (
        "Found 7 problems in the recipe:\n"
        "  - loss.class_weights: 'dgo' is not a class of the data set (did you mean 'dog'?)\n"
        "  - loss.class_weights: 'zebra' is not a class of the data set\n"
        "  - loss.class_weights: expected a weight for every class; found none for 'dog', 'hen'\n"
        "  - loss.class_weights: expected a number above 0 for 'cat', found 0\n"
        "  - loss.class_weights: expected a number above 0 for 'zebra', found -1.5\n"
        "  - loss.class_weights: expected a number above 0 for 'owl', found inf\n"
        "  - loss.class_weights: expected a number above 0 for 'fox', found nan"
    )
    assert {problem.path for problem in caught.value.problems} == {"loss.class_weights"}


def test_mixed_targets__shares_an_image_between_its_own_class_and_its_partners():
    labels, partner = torch.tensor([2, 0, 0]), torch.tensor([1, 2, 0])
    found = mixed_targets(labels, partner, torch.tensor([0.75, 0.5, 1.0]), 4)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor([[0.25, 0.0, 0.75, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]))


def test_mixed_targets__their_loss_is_the_mixture_of_the_losses():
    partner, share = torch.tensor([3, 0, 1, 7, 6, 5, 2, 4]), torch.linspace(0, 1, 8)
    found = ClassificationLoss(label_smoothing=0.1)({"logits": LOGITS}, mixed_targets(HARD, partner, share, 5))
    own, other = (
        functional.cross_entropy(LOGITS, labels, label_smoothing=0.1, reduction="none") for labels in (HARD, HARD[partner])
    )
    assert found.item() == pytest.approx((share * own + (1 - share) * other).mean().item(), rel=1e-6)


def test_mixed_targets__unmixed_images_have_the_loss_of_their_labels():
    targets = mixed_targets(HARD, torch.arange(7, -1, -1), torch.ones(8), 5)
    assert torch.equal(targets, functional.one_hot(HARD, 5).float())
    for name in ("cross_entropy", "focal"):
        loss = ClassificationLoss(name, 0.1, WEIGHTS)
        assert loss({"logits": LOGITS}, targets).item() == pytest.approx(loss({"logits": LOGITS}, HARD).item(), rel=1e-6)


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


def test_call__auxiliary_logits_are_further_losses():
    """As GoogLeNet and ViT-aux train: the sum over the heads (R5)."""
    auxiliary = (LOGITS.flip(0), -LOGITS)
    loss = ClassificationLoss()
    outputs = {"logits": LOGITS, "auxiliary_logits": auxiliary}
    expected = sum(loss({"logits": logits}, HARD) for logits in (LOGITS, *auxiliary))
    assert torch.allclose(loss(outputs, HARD), expected)


# Several labels an image

SHOWN = torch.rand(8, 5, generator=GENERATOR) < 0.4
SEVERAL = {"hard": SHOWN.float(), "mixed": mixed_targets(SHOWN.float(), torch.arange(8).roll(1), torch.full((8,), 0.3), 5)}


def several_written_out(logits, labels, smoothing, weights, gamma):
    """The mean over classes, summed over samples, answer by answer in Python's float64."""
    total = 0.0
    for row, targets in zip(logits.double().tolist(), labels.tolist(), strict=True):
        for c, (z, t) in enumerate(zip(row, targets, strict=True)):
            p = 1 / (1 + math.exp(-z))
            t = (1 - smoothing) * t + smoothing / 2
            a, b = (1.0, 1.0) if weights is None else (weights[0][c].item(), weights[1][c].item())
            total -= a * t * (1 - p) ** gamma * math.log(p) + b * (1 - t) * p**gamma * math.log(1 - p)
    return total / len(logits[0])


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.stack([WEIGHTS, 1 / WEIGHTS])], ids=["plain", "weighted"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_multi_label_loss__is_the_formula(kind, smoothing, weights, gamma):
    name = "focal" if gamma else "cross_entropy"
    loss = MultiLabelLoss(name, smoothing, weights, gamma)
    expected = several_written_out(LOGITS, SEVERAL[kind], smoothing, weights, gamma)
    assert loss({"logits": LOGITS}, SEVERAL[kind]).item() == pytest.approx(expected / 8, rel=1e-5)
    # The Trainer counts label entries: 20 images of a step have 100.
    assert loss({"logits": LOGITS}, SEVERAL[kind], torch.tensor(100)).item() == pytest.approx(expected / 20, rel=1e-5)


def test_multi_label_loss__is_torchs_binary_cross_entropy():
    found = MultiLabelLoss()(ImageClassifierOutput(logits=LOGITS), SEVERAL["hard"])
    assert found.item() == pytest.approx(functional.binary_cross_entropy_with_logits(LOGITS, SEVERAL["hard"]).item())


def test_multi_label_loss__sums_over_auxiliary_heads():
    loss = MultiLabelLoss("focal")
    together = loss({"logits": LOGITS, "auxiliary_logits": (2 * LOGITS,)}, SEVERAL["hard"])
    apart = loss({"logits": LOGITS}, SEVERAL["hard"]) + loss({"logits": 2 * LOGITS}, SEVERAL["hard"])
    assert together.item() == pytest.approx(apart.item())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_multi_label_loss__gradients_of_certain_answers_are_finite(gamma):
    logits = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    MultiLabelLoss("focal", gamma=gamma)({"logits": logits}, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).backward()
    assert logits.grad.isfinite().all()
    assert torch.equal(logits.grad[0], torch.zeros(2))


def test_answer_weights__balanced_are_those_of_scikit_learn():
    counts, images = [10, 40, 100], 100
    weights = answer_weights(balanced_answers(counts, images), counts, images)
    for c, count in enumerate(counts[:2]):
        answers = np.arange(images) < count
        absent, shown = compute_class_weight("balanced", classes=np.array([False, True]), y=answers)
        assert weights[:, c].tolist() == pytest.approx([shown, absent])
    assert weights[:, 2].tolist() == [1.0, 1.0]  # every image shows it
    assert (weights[0] / weights[1]).tolist() == pytest.approx([9.0, 1.5, 1.0])  # torch's pos_weight


def test_answer_weights__have_a_mean_of_one_over_the_training_images():
    weights = answer_weights([3.0, 0.5], [10, 40], 100)
    assert (weights[0] / weights[1]).tolist() == pytest.approx([3.0, 0.5])
    assert (weights[0] * torch.tensor([0.1, 0.4]) + weights[1] * torch.tensor([0.9, 0.6])).tolist() == pytest.approx([1.0, 1.0])


def test_mixed_targets__of_several_labels():
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    found = mixed_targets(labels, torch.tensor([1, 0]), torch.tensor([0.75, 1.0]), 3)
    assert torch.equal(found, torch.tensor([[0.75, 1.0, 0.25], [0.0, 1.0, 1.0]]))
