"""The tiny model families, and what the tests of this folder share."""

import hashlib
import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.trainer_callback import PrinterCallback

from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.build import Splits
from hf_transfer.data.dataset import Collate
from hf_transfer.data.table import ImageTable, StoredImages
from hf_transfer.recipe.schema import Augment, EarlyStopping, Ema, Head, Loss, Model, Strategy
from hf_transfer.strategies.schedules import build_schedule
from hf_transfer.training.arguments import build_arguments, training_defaults
from hf_transfer.training.freezing import FreezingCallback
from hf_transfer.training.loss import ClassificationLoss
from hf_transfer.training.train import build_trainer
from hf_transfer.training.trainer import TransferTrainer

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "backbones" / "tiny_models.py")
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

family, single_head_family = _tiny.family, _tiny.single_head_family
checkpoint_of, checkpoint, family_named = _tiny.checkpoint_of, _tiny.checkpoint, _tiny.family_named
vit_checkpoint, distilled_checkpoint = _tiny.vit_checkpoint, _tiny.distilled_checkpoint
logits_of, _small_and_quiet = _tiny.logits_of, _tiny._small_and_quiet

# Beside the transformers families: timm, torchvision, hidden heads on either; all small.
OTHERS = {
    "timm vit": ("timm:test_vit", []),
    "timm resnet": ("timm:test_resnet", []),
    "timm hidden": ("timm:test_efficientnet", [{"size": 8, "dropout": 0.5}]),
    "torchvision squeezenet": ("torchvision:squeezenet1_1", []),
    "torchvision mnasnet": ("torchvision:mnasnet0_5", []),
    "torchvision regnet hidden": ("torchvision:regnet_y_400mf", [{"size": 8, "dropout": 0.5}]),
    "vit hidden": ("vit", [{"size": 8, "dropout": 0.5}]),
    "swinv2 hidden": ("swinv2", [{"size": 8, "dropout": 0.5}]),
}


@pytest.fixture(params=[*(family.name for family in _tiny.FAMILIES), *OTHERS])
def any_backbone(request, checkpoint_of):
    """Give a backbone with a new head for 3 classes: each transformers family, timm, torchvision, hidden heads."""
    families = {family.name: family for family in _tiny.FAMILIES}
    name, hidden = OTHERS.get(request.param, (request.param, []))
    source = str(checkpoint_of(families[name])) if name in families else name
    head = Head(replace="last" if name.startswith("torchvision") else "classifier", hidden=hidden)
    backbone = build_backbone(Model(backbone=source, pretrained=name in families, head=head), ["cat", "dog", "owl"], 0)
    if name not in families:  # smaller images: time, not truth
        edge = 160 if name == "timm:test_vit" else 64
        backbone.__dict__["preprocessing"] = SimpleNamespace(size=(edge, edge))
    return backbone


# Small and the same on every machine.
QUICK = {
    "use_cpu": True,
    "bf16": False,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "disable_tqdm": True,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
}


@pytest.fixture
def random_images():
    """Make items of random inputs: `random_images(count, size, classes)`."""

    def make(count: int, size: tuple[int, int] = (32, 32), classes: int = 3) -> list[dict]:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.rand(count, 3, *size, generator=generator)
        return [{"pixel_values": image, "labels": number % classes} for number, image in enumerate(pixels)]

    return make


@pytest.fixture
def trainer_for(tmp_path, random_images):
    """Make a trainer of a backbone on random images, as `build_trainer` does from recipes."""

    def make(backbone, strategy="full", count=8, callbacks=(), seed=0, plain_adam=False, **training):
        training = training_defaults({**QUICK, **training})
        schedule = build_schedule(Strategy(name=strategy), [group.name for group in backbone.groups])
        freezing = FreezingCallback(backbone.groups, schedule)
        freezing.apply(backbone.model, schedule.phases[0])
        arguments = build_arguments(training, tmp_path / "checkpoints", seed)
        trainer = TransferTrainer(
            model=backbone.model,
            args=arguments,
            freezing=freezing,
            loss=ClassificationLoss(label_smoothing=arguments.label_smoothing_factor),
            plain_adam=plain_adam or training.get("optim") == "adam",
            channels_last=backbone.is_convolutional,
            train_dataset=random_images(count, backbone.preprocessing.size),
            eval_dataset=random_images(4, backbone.preprocessing.size),
            data_collator=Collate(backbone.is_convolutional),
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


@pytest.fixture
def splits():
    """Make splits of random PNG images: `splits(train, validation, test)`, three classes; no test split where it is 0.

    With `several` an image may show several of them, or none.
    """

    def make(train: int, validation: int, test: int = 0, several: bool = False) -> Splits:
        generator = np.random.default_rng(0)
        encoded = []
        for _ in range(train + validation + test):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (40, 48, 3), np.uint8)).save(buffer, "png")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        features = datasets.Features({"image": datasets.Image(decode=False)})
        images = datasets.Dataset.from_dict({"image": encoded}, features=features)

        def table(start: int, count: int) -> ImageTable:
            rows = np.arange(start, start + count)
            labels = np.stack([rows % 2 == 0, rows % 3 == 0, rows % 4 == 3], axis=1) if several else rows % 3
            return ImageTable(StoredImages(images, "image"), rows, labels, np.array([f"image/{row}" for row in rows]))

        tables = {"train": table(0, train), "validation": table(train, validation)}
        if test:
            tables["test"] = table(train + validation, test)
        return Splits(tables, ["cat", "dog", "owl"], "fingerprint")

    return make


def with_digests(table):
    """Return a table that knows its images' digests, as after a scan."""
    digests = [hashlib.blake2b(table.encoded(index), digest_size=16).digest() for index in range(len(table))]
    return replace(table, digests=np.array(digests, dtype="S16"))


@pytest.fixture
def build(vit_checkpoint, splits, tmp_path):
    """Make a backbone, its trainer and its freezing callback with `build_trainer`, as a run does."""

    def make(
        strategy="full",
        train=8,
        folder="run",
        early_stopping=None,
        augment="basic",
        seed=0,
        loss=None,
        ema=None,
        monitor=(),
        test=0,
        several=False,
        cache="none",
        checkpoint=vit_checkpoint,
        **training,
    ):
        section = Model(backbone=str(checkpoint))
        backbone = build_backbone(section, ["cat", "dog", "owl"], seed, multi_label=several)
        root = tmp_path / folder
        section = Strategy(name=strategy) if isinstance(strategy, str) else Strategy(**strategy)
        names = [group.name for group in backbone.groups]
        training = {**QUICK, **training}
        if section.name in ("gradual", "complete", "custom"):
            training.pop("num_train_epochs")
        schedule = build_schedule(section, names, training.get("num_train_epochs"))
        tables = splits(train, 4, test, several)
        if cache != "none":
            tables = replace(tables, tables={name: with_digests(table) for name, table in tables.tables.items()})
        trainer = build_trainer(
            backbone,
            tables,
            schedule,
            training=training_defaults(training, section, "multi_label" if several else "single_label"),
            augment=Augment(preset=augment) if isinstance(augment, str) else Augment(**augment),
            loss=Loss(**(loss or {})),
            seed=seed,
            checkpoints=root / "checkpoints",
            history=root / "history.csv",
            tensorboard=root / "tensorboard",
            ema=Ema(**ema) if ema else None,
            early_stopping=EarlyStopping(**early_stopping) if early_stopping else None,
            monitor=monitor,
            cache=cache,
        )
        root.mkdir(exist_ok=True)
        return backbone, trainer, root

    return make
