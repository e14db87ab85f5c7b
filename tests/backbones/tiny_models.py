"""One row for each transformers family: a tiny checkpoint, and what its backbone must answer to the five questions.

Loaded by file from the conftest modules of several folders (tests are no packages). A new family is a new row; every test that
takes the fixture `family` then runs for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import PreTrainedModel

SIZE = {"height": 32, "width": 32}
TRANSFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
STAGES = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}


@dataclass(frozen=True)
class Family:
    """A settings row.

    Args:
        name: of the family.
        build: makes the tiny checkpoint's model, of 7 classes.
        base: the family's model without a classifier.
        processor: makes the checkpoint's image processor.
        feature_width: expected width of the features.
        groups: expected names of the layer groups.
        cam_layers: expected CAM layers.
        size: expected (height, width) of the input.
        heads: expected paths of the classifier's layers.
        is_convolutional: whether channels_last pays.
        random: whether a full fine-tuning's forward pass draws random numbers (dropout, stochastic depth).
        batch_norm: whether the network keeps running statistics.
        maps: what a CAM layer puts out: "tokens" [n, L, C] or maps "channels first" [n, C, H, W].
    """

    name: str
    build: Callable[[], PreTrainedModel]
    base: str
    processor: Callable[[], Any]
    feature_width: int
    groups: tuple[str, ...]
    cam_layers: tuple[str, ...]
    size: tuple[int, int] = (32, 32)
    heads: tuple[str, ...] = ("classifier",)
    is_convolutional: bool = False
    random: bool = True
    batch_norm: bool = False
    maps: str = "tokens"

    def in_wrapper(self) -> "Family":
        """Return what is expected of the same network in our wrapper."""

        def moved(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name if name in ("stem", "head") else f"network.{name}" for name in names)

        return replace(self, groups=moved(self.groups), cam_layers=moved(self.cam_layers), heads=moved(self.heads))


def _of(model_class: str, config_class: str, **arguments: Any) -> Callable[[], PreTrainedModel]:
    def build() -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return getattr(hf, model_class)(getattr(hf, config_class)(num_labels=7, **arguments))

    return build


def _numbered(prefix: str, count: int, suffix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}.{number}{suffix}" for number in range(count))


FAMILIES = (
    Family(
        "vit",
        _of("ViTForImageClassification", "ViTConfig", **TRANSFORMER),
        "ViTModel",
        lambda: hf.ViTImageProcessor(size=SIZE),
        32,
        ("stem", *_numbered("vit.layers", 3), "head"),
        _numbered("vit.layers", 3, ".layernorm_before"),
    ),
    Family(
        "deit",
        _of("DeiTForImageClassification", "DeiTConfig", **TRANSFORMER),
        "DeiTModel",
        lambda: hf.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size=SIZE),
        32,
        ("stem", *_numbered("deit.layers", 3), "head"),
        _numbered("deit.layers", 3, ".layernorm_before"),
    ),
    Family(
        "deit_with_teacher",
        _of("DeiTForImageClassificationWithTeacher", "DeiTConfig", **TRANSFORMER),
        "DeiTModel",
        lambda: hf.DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size=SIZE),
        32,
        ("stem", *_numbered("deit.layers", 3), "head"),
        _numbered("deit.layers", 3, ".layernorm_before"),
        heads=("cls_classifier", "distillation_classifier"),
    ),
    Family(
        "beit",
        _of("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, **TRANSFORMER),
        "BeitModel",
        lambda: hf.BeitImageProcessor(size=SIZE, do_center_crop=False),
        32,
        ("stem", *_numbered("beit.layers", 3), "head"),
        _numbered("beit.layers", 3, ".layernorm_before"),
    ),
    Family(
        "dinov2",
        _of("Dinov2ForImageClassification", "Dinov2Config", **TRANSFORMER),
        "Dinov2Model",
        lambda: hf.BitImageProcessor(size={"shortest_edge": 36}, crop_size=SIZE),
        64,  # class token and mean of the patch tokens
        ("stem", *_numbered("dinov2.encoder.layer", 3), "head"),
        _numbered("dinov2.encoder.layer", 3, ".norm1"),
    ),
    Family(
        "swin",
        _of("SwinForImageClassification", "SwinConfig", **WINDOWS),
        "SwinModel",
        lambda: hf.ViTImageProcessor(size=SIZE),
        32,
        ("stem", *_numbered("swin.encoder.layers", 2), "head"),
        ("swin.encoder.layers.0.blocks.0", "swin.layernorm"),
    ),
    Family(
        "swinv2",
        _of("Swinv2ForImageClassification", "Swinv2Config", **WINDOWS),
        "Swinv2Model",
        lambda: hf.ViTImageProcessor(size=SIZE),
        32,
        ("stem", *_numbered("swinv2.encoder.layers", 2), "head"),
        ("swinv2.encoder.layers.0.blocks.0", "swinv2.layernorm"),
    ),
    Family(
        "convnext",
        _of("ConvNextForImageClassification", "ConvNextConfig", image_size=32, drop_path_rate=0.2, **STAGES),
        "ConvNextModel",
        lambda: hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        64,
        ("stem", *_numbered("convnext.encoder.stages", 4), "head"),
        _numbered("convnext.encoder.stages", 4),
        is_convolutional=True,
        maps="channels first",
    ),
    Family(
        "resnet",
        _of("ResNetForImageClassification", "ResNetConfig", embedding_size=8, layer_type="basic", **STAGES),
        "ResNetModel",
        lambda: hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        64,
        ("stem", *_numbered("resnet.encoder.stages", 4), "head"),
        _numbered("resnet.encoder.stages", 4),
        heads=("classifier.1",),
        is_convolutional=True,
        maps="channels first",
        random=False,
        batch_norm=True,
    ),
    Family(
        "regnet",
        _of("RegNetForImageClassification", "RegNetConfig", embedding_size=8, groups_width=8, **STAGES),
        "RegNetModel",
        lambda: hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
        64,
        ("stem", *_numbered("regnet.encoder.stages", 4), "head"),
        _numbered("regnet.encoder.stages", 4),
        heads=("classifier.1",),
        is_convolutional=True,
        maps="channels first",
        random=False,
        batch_norm=True,
    ),
    Family(
        "mobilenet_v2",
        _of("MobileNetV2ForImageClassification", "MobileNetV2Config", image_size=32, depth_multiplier=0.35),
        "MobileNetV2Model",
        lambda: hf.MobileNetV2ImageProcessor(size={"shortest_edge": 36}, crop_size=SIZE),
        1280,
        ("stem", *_numbered("mobilenet_v2.layer", 16), "head"),
        (*_numbered("mobilenet_v2.layer", 15), "mobilenet_v2.conv_1x1"),
        is_convolutional=True,
        maps="channels first",
        batch_norm=True,
    ),
    Family(
        "efficientnet",
        _of(
            "EfficientNetForImageClassification",
            "EfficientNetConfig",
            image_size=32,
            width_coefficient=0.25,
            depth_coefficient=0.3,
            hidden_dim=320,
        ),
        "EfficientNetModel",
        lambda: hf.EfficientNetImageProcessor(size=SIZE),
        320,
        ("stem", *_numbered("efficientnet.encoder.blocks", 8), "head"),
        (*_numbered("efficientnet.encoder.blocks", 7), "efficientnet.encoder.top_activation"),
        is_convolutional=True,
        maps="channels first",
        batch_norm=True,
    ),
    Family(
        "pvt_v2",
        _of(
            "PvtV2ForImageClassification",
            "PvtV2Config",
            image_size=32,
            hidden_sizes=[8, 16, 32, 64],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 4, 8],
            hidden_dropout_prob=0.1,
            drop_path_rate=0.1,
        ),
        "PvtV2Model",
        lambda: hf.PvtImageProcessor(size=SIZE),
        64,
        (*_numbered("pvt_v2.encoder.layers", 4), "head"),  # each stage begins with its own patch embedding: no stem
        _numbered("pvt_v2.encoder.layers", 4),
        is_convolutional=True,
    ),
)


@pytest.fixture(params=FAMILIES, ids=[family.name for family in FAMILIES])
def family(request) -> Family:
    """Each transformers family in turn."""
    return request.param


SINGLE_HEAD = tuple(family for family in FAMILIES if len(family.heads) == 1)


@pytest.fixture(params=SINGLE_HEAD, ids=[family.name for family in SINGLE_HEAD])
def single_head_family(request) -> Family:
    """Each transformers family whose classifier is one linear layer."""
    return request.param


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory) -> Callable[[Family], Path]:
    """Give the directory of a family's tiny checkpoint; each is written once a session."""
    written: dict[str, Path] = {}

    def checkpoint(row: Family) -> Path:
        if row.name not in written:
            directory = tmp_path_factory.mktemp(row.name)
            row.build().save_pretrained(directory)
            row.processor().save_pretrained(directory)
            written[row.name] = directory
        return written[row.name]

    return checkpoint


@pytest.fixture
def checkpoint(family, checkpoint_of) -> Path:
    """The directory of the family's tiny checkpoint."""
    return checkpoint_of(family)


@pytest.fixture(scope="session")
def distilled_checkpoint(checkpoint_of) -> Path:
    """The directory of a tiny DeiT checkpoint with two classifiers."""
    return checkpoint_of(next(family for family in FAMILIES if len(family.heads) > 1))


@pytest.fixture(scope="session")
def vit_checkpoint(checkpoint_of) -> Path:
    """The directory of a tiny ViT checkpoint."""
    return checkpoint_of(FAMILIES[0])


@pytest.fixture
def logits_of() -> Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]:
    """Give a model's logits in eval mode, equal to the last bit for equal weights.

    Weights that were read lie at any address of the mapped file, and some kernels round by alignment (differences of 1e-16 were
    seen): they are copied to fresh memory first.
    """

    def logits(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        with torch.no_grad():
            return model.eval()(pixels).logits

    return logits


@pytest.fixture(scope="module", autouse=True)
def _small_and_quiet():
    """One thread: tiny tensors gain nothing from two, and on a busy machine each operation would wait for the other."""
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def family_named() -> Callable[..., Family]:
    """Give a family by name; with `dropout=0.0` one whose forward pass draws nothing."""

    def named(name: str, dropout: float | None = None) -> Family:
        row = next(family for family in FAMILIES if family.name == name)
        if dropout is None:
            return row

        def build() -> PreTrainedModel:
            model = row.build()
            for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
                if hasattr(model.config, key):
                    setattr(model.config, key, dropout)
            return model

        return replace(row, name=f"{name}, dropout {dropout}", build=build)

    return named
