"""Reference study R1: CIFAR-10 with ResNet-50, ViT-B/16 and EfficientNet-B0 of the Hub, and a LeNet from random weights."""

import json
import shutil

import pytest
import torch
from offline import CIFAR10, RECIPES, checkpoint, image_folder, offline
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, Trainer

from hf_transfer.cli import main
from hf_transfer.data.build import build_splits
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.pipeline import needs_features_only
from hf_transfer.recipe import load_recipe
from hf_transfer.training.arguments import build_arguments, training_defaults

RESNET, VIT = "microsoft/resnet-50", "google/vit-base-patch16-224-in21k"
# name: backbone, strategy, epochs, learning rate
TRAINED = {
    "resnet50_cifar10": (RESNET, "full", 3, 5e-5),
    "resnet50_cifar10_5k": (RESNET, "full", 3, 5e-5),
    "resnet50_cifar10_feature_extractor": (RESNET, "linear_probe", 3, 5e-5),
    "vit_cifar10": (VIT, "full", 6, 5e-5),
    "vit_cifar10_5k": (VIT, "full", 3, 5e-5),
    "vit_cifar10_two_phase": (VIT, "two_phase", 3, 2e-5),
    "efficientnet_b0_cifar10": ("google/efficientnet-b0", "full", 3, 5e-5),
}
HEAD = 10 * (2048 + 1)
RESNET_WHOLE, VIT_WHOLE, EFFICIENTNET_WHOLE, LENET_WHOLE = 23_508_032 + HEAD, 85_798_656 + 7_690, 4_007_548 + 12_810, 62_006


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two training and two test images of each class."""
    return image_folder(tmp_path_factory.mktemp("images") / "cifar10", CIFAR10, per_class=2)


@pytest.fixture
def carry_out(tmp_path, images, checkpoints):
    """Run a recipe in two steps; return its directory, which is gone after the test: ViT's checkpoints take a gigabyte."""
    root = tmp_path / "run"

    def start(name, *overrides):
        path = RECIPES / f"{name}.json"
        settings = [*offline(json.loads(path.read_text()), images, checkpoints), "data.max_test_samples=10", *overrides]
        assert main(["run", str(path), f"output_dir={root}", *settings]) == 0
        return root

    yield start
    shutil.rmtree(root, ignore_errors=True)


def read(path):
    return json.loads(path.read_text())


def trained(root):
    """Return the phases of a run with the number of parameters that trained in each."""
    return read(root / "metrics.json")["cost"]["trainable_parameters"]


def check_labels(root):
    """The saved model has the classes of the data set, by name and by number."""
    config = read(root / "model" / "config.json")
    assert config["id2label"] == {str(label): name for label, name in enumerate(CIFAR10)}
    assert config["label2id"] == {name: label for label, name in enumerate(CIFAR10)}
    assert [read(root / "metrics.json")[split]["n"] for split in ("train", "validation", "test")] == [10, 10, 10]


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", TRAINED)
def test_recipe__has_the_study_s_trainer_arguments(name, tmp_path):
    backbone, strategy, epochs, rate = TRAINED[name]
    recipe = load_recipe(RECIPES / f"{name}.json")
    assert (recipe.model.backbone, recipe.strategy.name, recipe.augment.preset) == (backbone, strategy, "none")
    assert (recipe.data.source, recipe.data.validation_fraction) == ("uoft-cs/cifar10", 0.2)
    assert recipe.data.max_train_samples == (5000 if name.endswith("5k") else None)
    assert not needs_features_only(recipe)
    arguments = build_arguments(training_defaults(recipe.training, recipe.strategy), tmp_path, recipe.seed)
    assert (arguments.num_train_epochs, arguments.learning_rate) == (epochs, rate)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (8, 4)
    assert (arguments.get_warmup_steps(3750), arguments.lr_scheduler_type) == (375, "linear")
    assert (arguments.optim, arguments.weight_decay) == ("adamw_torch_fused", 0.0)
    assert (arguments.eval_strategy, arguments.save_strategy) == ("epoch", "epoch")
    assert (arguments.load_best_model_at_end, arguments.metric_for_best_model) == (True, "accuracy")


@pytest.mark.parametrize("name", ["resnet50_cifar10_linear_probe", "resnet50_cifar10_quantized_probe"])
def test_companion_probes__read_features_that_are_computed_once(name):
    recipe = load_recipe(RECIPES / f"{name}.json")
    assert (recipe.model.backbone, recipe.training) == (RESNET, {})  # nothing is held: the grid of heads is searched
    assert needs_features_only(recipe)


def test_5k__is_stratified(cifar10):
    data = load_recipe(RECIPES / "vit_cifar10_5k.json", [f"data.source={cifar10}", "data.max_train_samples=20"]).data
    splits = build_splits(data, ["test"], training=True)
    assert splits.tables["train"].class_counts(10).tolist() == [2] * 10


def test_lenet_cifar10__sgd_with_momentum_and_accuracy_of_each_class(carry_out, tmp_path):
    recipe = load_recipe(RECIPES / "lenet_cifar10.json")
    arguments = build_arguments(training_defaults(recipe.training), tmp_path, recipe.seed)
    assert Trainer.get_optimizer_cls_and_kwargs(arguments) == (torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9})
    assert (arguments.per_device_train_batch_size, arguments.num_train_epochs) == (4, 2)
    assert (arguments.lr_scheduler_type, arguments.warmup_steps, arguments.max_grad_norm) == ("constant", 0, 0.0)

    root = carry_out("lenet_cifar10")
    check_labels(root)
    assert trained(root) == {"full": LENET_WHOLE}
    per_class = read(root / "metrics.json")["test"]["per_class"]
    predicted = Predictions.read(root / "predictions" / "test.parquet")
    assert list(per_class) == CIFAR10
    for label, scores in enumerate(per_class.values()):
        rows = predicted.labels == label
        assert (scores["n"], scores["recall"]) == (rows.sum(), (predicted.predicted[rows] == label).mean())


@pytest.mark.reference
def test_resnet50_cifar10__trains_whole_and_its_int8_copy(carry_out, checkpoints):
    root = carry_out("resnet50_cifar10")
    check_labels(root)
    assert trained(root) == {"full": RESNET_WHOLE}
    before, after = weights(checkpoint(RESNET, checkpoints)), weights(root / "model")
    assert after["classifier.1.weight"].shape == (10, 2048)
    assert all(
        not torch.equal(before[key], after[key]) for key in before if key.endswith((".convolution.weight", "running_mean"))
    )

    assert main(["quantize", str(root), "--calibration-images", "4", "--seconds", "0.1"]) == 0
    report = read(root / "quantized" / "quantize.json")
    assert (report["mode"], report["calibration"]["images"], report["accuracy"]["n"]) == ("static", 4, 10)
    assert report["size_mb"]["int8"] < 0.3 * report["size_mb"]["float"]
    assert report["accuracy"]["before"] == read(root / "metrics.json")["test"]["accuracy"]


@pytest.mark.reference
def test_resnet50_cifar10_5k__trains_on_the_subset(carry_out, cifar10):
    root = carry_out("resnet50_cifar10_5k", f"data.source={cifar10}", "data.max_train_samples=20")
    assert trained(root) == {"full": RESNET_WHOLE}
    assert read(root / "environment.json")["class_counts"]["train"] == dict.fromkeys(CIFAR10, 2)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["resnet50_cifar10_feature_extractor", "resnet50_cifar10_linear_probe"])
def test_frozen_resnet50__nothing_but_the_head_changes(carry_out, checkpoints, name):
    root = carry_out(name)
    check_labels(root)
    assert trained(root) == {"linear_probe": HEAD}
    before, after = weights(checkpoint(RESNET, checkpoints)), weights(root / "model")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}
    assert sum("running_" in key or "num_batches" in key for key in before) == 3 * 53
    fitted_on_features = {"resnet50_cifar10_feature_extractor": False, "resnet50_cifar10_linear_probe": True}
    assert (root / "probe.json").is_file() == fitted_on_features[name]


@pytest.mark.reference
def test_resnet50_cifar10_quantized_probe__a_float_head_on_an_int8_backbone(carry_out):
    root = carry_out("resnet50_cifar10_quantized_probe")
    check_labels(root)
    assert trained(root) == {"quantized_probe": HEAD}
    metrics, quantization = read(root / "metrics.json"), read(root / "probe.json")["quantization"]
    assert (metrics["cost"]["precision"], metrics["cost"]["parameters"]) == ("int8", RESNET_WHOLE)
    assert quantization["size_mb"]["int8"] < 0.3 * quantization["size_mb"]["float"]
    head = weights(root / "model")["network.head.weight"]
    assert (head.shape, head.dtype) == ((10, 2048), torch.float32)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("vit_cifar10", {"full": VIT_WHOLE}),
        ("vit_cifar10_5k", {"full": VIT_WHOLE}),
        ("vit_cifar10_two_phase", {"head": 7_690, "full": VIT_WHOLE}),
    ],
)
def test_vit__phases(carry_out, name, phases):
    root = carry_out(name)
    check_labels(root)
    assert trained(root) == phases
    model = AutoModelForImageClassification.from_pretrained(root / "model")
    assert (model.classifier.in_features, model.classifier.out_features) == (768, 10)


@pytest.mark.reference
def test_efficientnet_b0_cifar10__trains_whole(carry_out):
    root = carry_out("efficientnet_b0_cifar10")
    check_labels(root)
    assert trained(root) == {"full": EFFICIENTNET_WHOLE}
    assert weights(root / "model")["classifier.weight"].shape == (10, 1280)


@pytest.mark.reference
def test_efficientnet_b0_cifar10_evaluate__imagenet_s_classes_stand_for_cifar_s(carry_out):
    root = carry_out("efficientnet_b0_cifar10_evaluate", "evaluation.speed=false")
    scored = read(root / "metrics.json")["test"]
    assert (scored["n"], scored["unmapped_classes"], scored["per_class"]["deer"]["recall"]) == (10, ["deer"], 0.0)
    found = Predictions.read(root / "predictions" / "test.parquet")
    assert found.class_names == CIFAR10
    assert not (root / "model").exists()
