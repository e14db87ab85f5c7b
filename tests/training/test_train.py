import pytest
import torch

from hf_transfer.training.train import train


def test_train__says_what_it_took(build):
    backbone, trainer, freezing, _ = build("linear_probe", train=10)
    cost = train(trainer, freezing)
    assert cost.trainable_parameters == {"linear_probe": 99}
    assert cost.seconds > 0
    assert cost.images_per_second * cost.seconds == pytest.approx(20)  # 2 epochs of 10, the last batch being short
    assert cost.precision == "fp32"
    assert cost.peak_memory_mb > 50
    assert next(backbone.model.parameters()).requires_grad is False


def test_train__resumed_run_counts_its_own_images(build):
    _, trainer, freezing, root = build(save_total_limit=2)
    train(trainer, freezing)
    first = min((root / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    _, trainer, freezing, _ = build(folder="again", save_total_limit=2)
    cost = train(trainer, freezing, first)
    assert cost.images_per_second * cost.seconds == pytest.approx(8)


def test_train__same_seed_same_weights_other_seed_other_weights(build):
    def trained(folder, seed):
        backbone, trainer, freezing, _ = build(folder=folder, seed=seed)
        train(trainer, freezing)
        return backbone.model.state_dict()

    one, other, third = trained("one", 0), trained("other", 0), trained("third", 1)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], third[name]) for name in one)


def test_train__early_stopping_ends_it(build):
    _, trainer, freezing, _ = build(early_stopping=(1, 0.0), learning_rate=1e-12, num_train_epochs=20)
    train(trainer, freezing)
    assert trainer.state.epoch == 2.0  # nothing improves


@pytest.mark.parametrize("wanted", [True, False])
def test_build_trainer__tensorboard_in_its_folder_only(build, wanted):
    _, trainer, freezing, root = build(report_to=["tensorboard"] if wanted else "none")
    train(trainer, freezing)
    events = list(root.rglob("events.out.tfevents.*"))
    assert {path.parent for path in events} == ({root / "tensorboard"} if wanted else set())


def test_build_trainer__frozen_before_the_first_step(build):
    backbone, _, freezing, _ = build("linear_probe")
    assert {n for n, p in backbone.model.named_parameters() if p.requires_grad} == {"classifier.weight", "classifier.bias"}
    assert freezing.phase.name == "linear_probe"


def test_build_trainer__evaluation_images_are_not_augmented(build):
    backbone, trainer, _, _ = build(augment="basic")
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
    _, trainer, freezing, root = build(report_to=["tensorboard"], hub_token=token, save_total_limit=2)
    train(trainer, freezing)
    files = [file for file in root.rglob("*") if file.is_file()]
    assert len(files) > 8
    assert not [file for file in files if token.encode() in file.read_bytes()]
    assert not [file for file in files if file.name == "training_args.bin"]


def test_train__best_step_is_reloaded(build):
    """Evaluations each step, of which any may be the best: each has its checkpoint."""
    _, trainer, freezing, _ = build(eval_strategy="steps", eval_steps=1, learning_rate=0.05, num_train_epochs=3)
    train(trainer, freezing)
    scores = {log["step"]: log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert len(scores) == 6
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_accuracy"] == scores[best]


def test_train__evaluation_in_parts(build):
    _, trainer, freezing, _ = build(eval_accumulation_steps=1, per_device_eval_batch_size=2)
    train(trainer, freezing)
    assert trainer.state.global_step == 4
