import csv

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_transfer.errors import UserError
from hf_transfer.training import trainer as module
from hf_transfer.training.train import train
from hf_transfer.training.trainer import TransferTrainer


def test_train__says_what_it_took(build):
    backbone, trainer, _ = build("linear_probe", train=10)
    cost = train(trainer)
    assert cost.trainable_parameters == {"linear_probe": 99}
    assert cost.seconds > 0
    assert cost.images_per_second * cost.seconds == pytest.approx(20)  # 2 epochs of 10, the last batch being short
    assert cost.precision == "fp32"
    assert cost.peak_memory_mb > 50
    assert next(backbone.model.parameters()).requires_grad is False


def test_train__resumed_run_counts_its_own_images(build):
    _, trainer, root = build(save_total_limit=2)
    train(trainer)
    first = min((root / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    _, trainer, _ = build(folder="again", save_total_limit=2)
    cost = train(trainer, first)
    assert cost.images_per_second * cost.seconds == pytest.approx(8)


def test_train__same_seed_same_weights_other_seed_other_weights(build):
    def trained(folder, seed):
        backbone, trainer, _ = build(folder=folder, seed=seed)
        train(trainer)
        return backbone.model.state_dict()

    one, other, third = trained("one", 0), trained("other", 0), trained("third", 1)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


def test_train__early_stopping_ends_it(build):
    _, trainer, _ = build(early_stopping={"patience": 1}, learning_rate=1e-12, num_train_epochs=20)
    train(trainer)
    assert trainer.state.epoch == 2.0  # nothing improves


@pytest.mark.parametrize("wanted", [True, False])
def test_build_trainer__tensorboard_in_its_folder_only(build, wanted):
    _, trainer, root = build(report_to=["tensorboard"] if wanted else "none")
    train(trainer)
    events = list(root.rglob("events.out.tfevents.*"))
    assert {path.parent for path in events} == ({root / "tensorboard"} if wanted else set())


def test_build_trainer__frozen_before_the_first_step(build):
    backbone, trainer, _ = build("linear_probe")
    assert {n for n, p in backbone.model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    assert trainer.freezing.phase.name == "linear_probe"


def test_build_trainer__evaluation_images_are_not_augmented(build):
    backbone, trainer, _ = build(augment="basic")
    first, again = trainer.eval_dataset[0]["pixel_values"], trainer.eval_dataset[0]["pixel_values"]
    assert torch.equal(first, again)
    assert trainer.eval_dataset.transform is backbone.preprocessing
    trainer.train_dataset.epoch = 1
    one = trainer.train_dataset[0]["pixel_values"]
    trainer.train_dataset.epoch = 2
    assert not torch.equal(one, trainer.train_dataset[0]["pixel_values"])


def test_train__no_token_in_any_file_of_the_run(build, monkeypatch):
    token = "hf_" + "ThisIsTheTokenOfTheTest"
    monkeypatch.setenv("HF_TOKEN", token)
    _, trainer, root = build(report_to=["tensorboard"], hub_token=token, save_total_limit=2)
    train(trainer)
    files = [file for file in root.rglob("*") if file.is_file()]
    assert len(files) > 8
    assert not [file for file in files if token.encode() in file.read_bytes()]
    assert not [file for file in files if file.name == "training_args.bin"]


def test_train__best_step_is_reloaded(build):
    """Evaluations each step, of which any may be the best: each has its checkpoint."""
    _, trainer, _ = build(eval_strategy="steps", eval_steps=1, learning_rate=0.05, num_train_epochs=3)
    train(trainer)
    scores = {log["step"]: log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert len(scores) == 6
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_accuracy"] == scores[best]


def test_train__evaluation_in_parts(build):
    _, trainer, _ = build(eval_accumulation_steps=1, per_device_eval_batch_size=2)
    train(trainer)
    assert trainer.state.global_step == 4


# Averaged weights


def log_of(trainer, step):
    return next(entry for entry in trainer.state.log_history if entry["step"] == step and "eval_loss" in entry)


def test_train__average_is_evaluated_beside_the_weights_and_the_better_is_kept(build, monkeypatch):
    """Accuracies as prescribed: at step 2 weights 0.2 and average 0.8, at step 4 weights 0.7 and average 0.6."""
    values = iter([0.2, 0.8, 0.7, 0.6])
    monkeypatch.setattr(module, "quick_metrics", lambda logits, labels: {"accuracy": next(values), "macro_f1": 0.0})
    backbone, trainer, root = build(ema={"decay": 0.5}, learning_rate=0.05, save_total_limit=3)
    train(trainer)
    assert (log_of(trainer, 2)["eval_accuracy"], log_of(trainer, 2)["eval_ema"]) == (0.8, 1.0)
    assert (log_of(trainer, 4)["eval_accuracy"], log_of(trainer, 4)["eval_ema"]) == (0.7, 0.0)
    best = root / "checkpoints" / "checkpoint-2"
    averages, weights = load_file(best / "average.safetensors"), load_file(best / "model.safetensors")
    assert any(not torch.equal(averages[name], weights[name]) for name in averages if name in weights)
    state = backbone.model.state_dict()
    assert all(torch.equal(state[name], averages[name]) for name in averages)


def test_train__weights_are_kept_where_they_are_better_than_their_average(build, monkeypatch):
    values = iter([0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(module, "quick_metrics", lambda logits, labels: {"accuracy": next(values), "macro_f1": 0.0})
    backbone, trainer, root = build(ema={"decay": 0.5}, learning_rate=0.05, save_total_limit=3)
    train(trainer)
    saved = type(backbone.model).from_pretrained(root / "checkpoints" / "checkpoint-2").state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in backbone.model.state_dict().items())


# Losses and mixing


@pytest.mark.parametrize("augment", ["none", "basic", "crop_pad_flip_rotate"])
def test_build_trainer__resized_images_train_the_same_model(build, tmp_path, monkeypatch, augment):
    """The images are smaller than what is kept of larger ones, so nothing may change; and nothing is decoded in an epoch."""
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    _, plain, _ = build(augment={"preset": augment, "erasing": 0.3, "mixup": 0.2}, folder="plain", num_train_epochs=2)
    train(plain)
    _, trainer, _ = build(
        augment={"preset": augment, "erasing": 0.3, "mixup": 0.2}, folder="kept", num_train_epochs=2, cache="resized"
    )
    monkeypatch.setattr(type(trainer.train_dataset.table), "encoded", lambda *_: pytest.fail("an image was read"))
    train(trainer)
    expected, found = plain.model.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_build_trainer__mixed_images_meet_mixed_labels(build):
    """The loss of a mixed batch, as the trainer computes it, by hand."""
    _, trainer, _ = build(augment={"preset": "none", "mixup": 1.0}, loss={"class_weights": "balanced"})
    batch = trainer.finish(next(iter(trainer.get_train_dataloader())))
    assert set(batch) == {"pixel_values", "labels", "partner", "share"} and 0 < batch["share"][0] < 1
    trainer.model.eval().training = True  # the loss of training, without dropout
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch))
        logs = trainer.model(pixel_values=batch["pixel_values"]).logits.log_softmax(-1)
    own, other = (
        logs.gather(1, batch["labels"][:, None])[:, 0],
        logs.gather(1, batch["labels"][batch["partner"]][:, None])[:, 0],
    )
    counts = torch.bincount(torch.from_numpy(trainer.train_dataset.table.labels), minlength=3)
    weights = counts.sum() / (3 * counts)
    weighted = batch["share"] * own * weights[batch["labels"]]
    weighted += (1 - batch["share"]) * other * weights[batch["labels"][batch["partner"]]]
    assert float(loss) == pytest.approx(-float(weighted.mean()), rel=1e-5)


def test_build_trainer__evaluation_measures_plain_cross_entropy(build):
    _, trainer, _ = build(loss={"name": "focal", "gamma": 5.0}, label_smoothing_factor=0.3, augment={"mixup": 1.0})
    found = trainer.evaluate()["eval_loss"]
    images = [trainer.eval_dataset[position] for position in range(4)]
    pixels, labels = torch.stack([i["pixel_values"] for i in images]), torch.tensor([i["labels"] for i in images])
    with torch.no_grad():
        logits = trainer.model.eval()(pixel_values=pixels).logits
    assert found == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)


# Numbers that are not finite


def test_train__diverging_keeps_the_last_good_checkpoint(build):
    _, trainer, root = build(num_train_epochs=4, logging_steps=1, save_total_limit=4)
    weight = trainer.model.classifier.weight
    trainer.add_callback(Spoil(weight, at=5))
    with pytest.raises(UserError) as caught:
        train(trainer)
    good = root / "checkpoints" / "checkpoint-4"
    assert str(caught.value).startswith("training diverged: at step 6 the loss is nan. Lower training.learning_rate")
    assert str(caught.value).endswith(f"{good} is the last good checkpoint.")
    assert sorted(path.name for path in (root / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert all(torch.isfinite(tensor).all() for tensor in load_file(good / "model.safetensors").values())


def test_train__weights_that_are_not_finite_are_not_saved(build):
    """No evaluation and no log sees them: they went wrong in the step before the checkpoint."""
    _, trainer, root = build(num_train_epochs=2, eval_strategy="no", save_strategy="steps", save_steps=3, logging_steps=100)
    trainer.add_callback(Spoil(trainer.model.classifier.weight, at=3))
    with pytest.raises(UserError, match="after step 3 the weights are not finite"):
        train(trainer)
    assert not list((root / "checkpoints").glob("checkpoint-*"))


class Spoil(TrainerCallback):
    def __init__(self, weight, at):
        self.weight, self.at = weight, at

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            self.weight.data[0, 0] = float("nan")


# A batch that does not fit into memory


def test_train__auto_find_batch_size_begins_again_with_half_the_batch(build, monkeypatch):
    """Memory runs out in the second epoch, when weights have moved: the result is that of half the batch from the start."""
    arguments = {"train": 16, "num_train_epochs": 2, "save_total_limit": 9, "ema": {"decay": 0.5}}
    expected, trainer, _ = build(folder="half", per_device_train_batch_size=4, **arguments)
    train(trainer)
    backbone, trainer, root = build(per_device_train_batch_size=8, auto_find_batch_size=True, **arguments)
    step = TransferTrainer.training_step

    def scarce(self, model, inputs, *rest):
        if len(inputs["labels"]) > 4 and self.state.global_step >= 2:
            raise RuntimeError("CUDA out of memory.")
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(TransferTrainer, "training_step", scarce)
    cost = train(trainer)
    assert trainer.state.train_batch_size == 4 and trainer.state.global_step == 8
    assert cost.images_per_second * cost.seconds == pytest.approx(32)
    state, other = backbone.model.state_dict(), expected.model.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in other)
    assert sorted(path.name for path in (root / "checkpoints").iterdir()) == ["checkpoint-4", "checkpoint-8"]
    with (root / "history.csv").open(newline="") as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["split"] == "validation"]
    assert steps == ["4", "8"]


# Which parameters train in each phase


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"name": "partial", "frozen_groups": 2}, [{"vit.layers.1", "vit.layers.2", "head"}] * 2),
        (
            {"name": "gradual", "stages": 4, "phase_epochs": 1},
            [
                {"head"},
                {"vit.layers.2", "head"},
                {"vit.layers.0", "vit.layers.1", "vit.layers.2", "head"},
                {"stem", "vit.layers.0", "vit.layers.1", "vit.layers.2", "head"},
            ],
        ),
    ],
)
def test_train__exactly_the_groups_of_each_phase_move(build, strategy, expected):
    backbone, trainer, _ = build(strategy, lr_scheduler_type="constant", learning_rate=0.01)
    moved = []
    trainer.add_callback(Moves(backbone, moved))
    train(trainer)
    assert moved == expected


class Moves(TrainerCallback):
    """Note which layer groups an epoch moved."""

    def __init__(self, backbone, moved):
        self.backbone, self.moved = backbone, moved

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.before = {name: p.detach().clone() for name, p in self.backbone.model.named_parameters()}

    def on_epoch_end(self, args, state, control, **kwargs):
        now = dict(self.backbone.model.named_parameters())
        same = {name for name, tensor in self.before.items() if torch.equal(tensor, now[name])}
        groups = {group.name: set(group.parameters) for group in self.backbone.groups}
        assert all(names <= same or not names & same for names in groups.values()), "a group moved in part"
        self.moved.append({name for name, names in groups.items() if not names & same})


# Several labels an image


def history(root):
    with (root / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("loss", [{}, {"name": "focal", "class_weights": "balanced"}], ids=["plain", "focal"])
def test_train__several_labels_accumulated_batches_are_one_large_batch(build, loss):
    """The ragged last step has 4 of 12 images: parts of it weigh as much as they hold."""

    def trained(folder, batch, accumulated):
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        backbone, trainer, _ = build(folder=folder, train=12, several=True, loss=loss, optim="sgd", **sizes)
        for part in backbone.model.modules():  # each batch would draw its own
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
            elif hasattr(part, "attention_dropout"):
                part.attention_dropout = 0.0
        train(trainer)
        return backbone.model.state_dict()

    whole, parts = trained("whole", 8, 1), trained("parts", 2, 4)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_train__several_labels_history_names_what_selects(build):
    _, trainer, root = build(several=True, test=6, monitor=["test"], ema={"decay": 0.5}, augment={"mixup": 0.2, "cutmix": 1.0})
    assert trainer.args.metric_for_best_model == "mean_average_precision"
    train(trainer)
    rows = history(root)
    assert list(rows[0])[4:7] == ["loss", "mean_average_precision", "macro_f1"]
    assert {row["split"] for row in rows} == {"train", "validation", "test", ""}
    assert float(rows[0]["loss"]) == pytest.approx(0.693, abs=0.02)  # a mean over the classes, of a head that says a half
    watched = [row for row in rows if row["split"] in ("validation", "test")]
    assert len(watched) == 4
    assert all(0 < float(row["mean_average_precision"]) <= 1 and 0 <= float(row["macro_f1"]) <= 1 for row in watched)
    best = max(float(row["mean_average_precision"]) for row in watched if row["split"] == "validation")
    assert trainer.state.best_metric == pytest.approx(best)
