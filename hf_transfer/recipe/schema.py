"""The recipe: one strict section after another, every key named, every default written down.

This module knows names, types and ranges. It does not know files (`loading`) or HuggingFace's training arguments
(`training_arguments`), and it imports neither torch nor transformers.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

SCHEMA_VERSION: Literal[1] = 1
# What metrics.json holds besides further test sets.
_RESERVED = ("train", "validation", "test", "cost", "speed", "temperature", "attention_temperatures", "monitored")
_REPOSITORY = re.compile(r"(?:\w(?:[\w.-]{0,94}\w)?/)?\w(?:[\w.-]{0,94}\w)?", re.ASCII)

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Split = Literal["train", "validation", "test"]
StrategyName = Literal[
    "full",
    "linear_probe",
    "knn",
    "partial",
    "two_phase",
    "gradual",
    "discriminative",
    "complete",
    "norm_only",
    "lora",
    "custom",
    "quantized_probe",
]
TestTimeAugmentation = Literal["none", "flip", "five_crop", "dihedral"]
Corruption = Literal["gaussian_noise", "gaussian_blur", "brightness", "contrast", "jpeg"]
AugmentPreset = Literal["none", "basic", "strong", "randaugment", "trivial", "crop_pad_flip_rotate"]


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values are never converted from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Reference(Section):
    """A figure that others published for this experiment."""

    test_accuracy: Probability | None = Field(None, description="Published test accuracy, 0 to 1.")
    source: str = Field(description="Where the figure was published.")


class Expected(Section):
    """Figures measured with this very recipe."""

    test_accuracy: Probability = Field(description="Measured test accuracy, 0 to 1.")
    minutes: float = Field(gt=0, description="Wall-clock minutes of the whole run.")
    device: str = Field(description="The device it was measured on.")
    date: str = Field(description="Day of the measurement, YYYY-MM-DD.")


class Data(Section):
    """Which images, which labels, and who is in which split."""

    source: str = Field(
        min_length=1,
        description="A Hub dataset id; a folder: of class folders (with or without train/validation/test above them), of "
        "images with metadata.csv or metadata.jsonl, of Parquet, Arrow or IDX files, or written by save_to_disk; a .csv, .tsv, "
        ".jsonl, .parquet or .arrow file, or a pattern of the last two; package:textile or package:digits.",
    )
    config_name: str | None = Field(None, description="Configuration of a Hub dataset that has several.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub dataset.")
    image_column: str | None = Field(None, description="Column of the images; inferred when there is only one.")
    label_column: str | None = Field(None, description="Column of the labels; inferred when unambiguous.")
    validation_fraction: Fraction = Field(
        0.2,
        description="Share of the source's training split held out for selection, where it brings no validation split.",
    )
    test_fraction: Fraction | None = Field(
        None, description="Share of the source's training split held out as test, where it brings no test split."
    )
    split_seed: int = Field(0, ge=0, description="Alone decides who is in which split; the run's seed never does.")
    group_column: str | None = Field(
        None,
        min_length=1,
        description="Images that share this value stay on one side of every split, and are drawn together in intervals: a "
        "column of a Hub dataset; for folders 'folder', or 'path:' and a regular expression with one group.",
    )
    max_train_samples: Count | None = Field(None, description="Train on at most this many images (stratified).")
    max_validation_samples: Count | None = Field(None, description="Validate on at most this many images (stratified).")
    max_test_samples: Count | None = Field(None, description="Test on at most this many images (stratified).")
    samples_per_class: Count | None = Field(None, description="Few-shot: this many training images of each class.")
    on_bad_image: Literal["error", "skip"] = Field(
        "error",
        description="Stop at an unreadable image, or leave it out, list it and count it; never substitute another.",
    )
    task: Literal["single_label", "multi_label"] = Field("single_label", description="One label an image, or several.")
    streaming: bool = Field(
        False,
        description="Read the images of remote or local shards (tar, Parquet) while training, in a shuffled order that reads "
        "each shard in pieces; no copy of them is made.",
    )
    shuffle_buffer: Count = Field(2048, description="streaming: images among which the order is random at any time.")
    cache: Literal["none", "resized"] = Field(
        "none",
        description="'resized': keep each image once as 8-bit pixels, of the size that training needs, in a memory-mapped "
        "file from which later epochs crop.",
    )
    decoding: Literal["full", "reduced"] = Field(
        "full",
        description="Decoding of evaluation images: as anyone decodes them, or large JPEGs at a reduced size, faster and not "
        "bit-equal. Training crops are always decoded at the size that they need.",
    )
    sampling: Literal["uniform", "balanced"] | dict[str, float] = Field(
        "uniform",
        description="How an epoch's training images are drawn: each once; with replacement and all classes equally often; or "
        "by a weight for each class. The alternative to loss.class_weights.",
    )

    @model_validator(mode="after")
    def _one_way_to_subset(self) -> Data:
        if self.max_train_samples is not None and self.samples_per_class is not None:
            raise ValueError("expected at most one of max_train_samples and samples_per_class; found both")
        return self

    @field_validator("sampling")
    @classmethod
    def _sampling_weights_are_positive(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        if isinstance(value, dict) and (wrong := [name for name, weight in value.items() if weight <= 0]):
            raise ValueError(f"expected weights above 0; found {value[wrong[0]]:g} for '{wrong[0]}'")
        return value


class HiddenLayer(Section):
    """One hidden layer of a classification head: linear, activation, dropout."""

    size: Count = Field(description="Width of the layer.")
    activation: Literal["relu", "gelu", "silu", "tanh", "hardswish"] = Field("relu", description="Its activation.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout after the activation.")


class Head(Section):
    """The new classifier and what it replaces."""

    replace: Literal["classifier", "last"] = Field(
        "classifier", description="Replace the whole classifier, or only its last layer and keep what precedes it."
    )
    hidden: list[HiddenLayer] = Field(default_factory=list, description="Hidden layers before the output layer.")


class Model(Section):
    """The backbone and its head."""

    backbone: str = Field(
        min_length=1,
        description="A Hub id or local directory; timm:NAME; torchvision:NAME; package:efficientnet_lite0; scratch:NAME.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub checkpoint.")
    pretrained: bool = Field(True, description="Start from pretrained weights, or from random ones.")
    crop_pct: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Share of the resized image's shorter side that the centre crop keeps; the checkpoint's own by default. "
        "1.0 where what matters may be at the border.",
    )
    head: Head = Field(default_factory=lambda: Head())

    @model_validator(mode="before")
    @classmethod
    def _own_networks_start_random(cls, raw: Any) -> Any:
        """`scratch:` networks have no pretrained weights: where nothing is said they start from random ones."""
        if isinstance(raw, dict) and str(raw.get("backbone")).startswith("scratch:"):
            if raw.get("pretrained") is True:
                raise ValueError(
                    "expected pretrained false, or nothing: scratch: networks have no weights to start from; found true"
                )
            return {**raw, "pretrained": False}
        return raw


class CustomPhase(Section):
    """One phase of a strategy that the recipe spells out."""

    name: str = Field(min_length=1, description="What logs and reports call the phase.")
    train: list[str] = Field(
        min_length=1,
        description="Layer groups that train, by name or pattern ('encoder.layers.*', '*'); 'hf-transfer check --layers' "
        "prints them. All others are frozen.",
    )
    epochs: Count | None = Field(None, description="How long it lasts at most; what num_train_epochs leaves, by default.")
    rates: dict[str, float] = Field(
        default_factory=dict, description="Learning-rate multiplier for each layer group or pattern; 1 where none fits."
    )
    patience: Count | None = Field(None, description="Evaluations without improvement that end the phase sooner.")
    min_delta: float = Field(0.0, ge=0.0, description="The smallest change that counts as an improvement.")
    reset_optimizer: bool = Field(False, description="Forget the optimizer's moments when the phase begins.")

    @field_validator("rates")
    @classmethod
    def _rates_are_positive(cls, rates: dict[str, float]) -> dict[str, float]:
        if wrong := [name for name, rate in rates.items() if rate <= 0]:
            raise ValueError(f"expected multipliers above 0; freeze '{wrong[0]}' by leaving it out of train")
        return rates


class Lora(Section):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Count = Field(8, description="Rank of the update of each weight.")
    alpha: float = Field(16.0, gt=0.0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout before each adapter.")
    targets: list[str] | None = Field(
        None,
        description="Last names of the layers that get an adapter ('q_proj'); by default queries and values of attention, else "
        "every linear layer, else every ungrouped convolution: the first kind that the front half of the network has.",
    )


class Strategy(Section):
    """How the backbone is adapted."""

    name: StrategyName = Field("full", description="Which parts train, and when.")
    layer_decay: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Layer-wise learning-rate decay: each layer group's rate is this share of that of the group above it.",
    )
    frozen_groups: int | None = Field(
        None, ge=0, description="partial, two_phase: how many layer groups stay frozen, counted from the stem."
    )
    frozen_batch_norm: bool | None = Field(
        None, description="Keep the statistics and weights of every batch norm; true for partial, false elsewhere."
    )
    stages: int | None = Field(
        None,
        ge=2,
        description="gradual, discriminative, complete: parts that the layer groups are put into, stem and head included; 5, "
        "or as many as there are layer groups.",
    )
    head_epochs: Count | None = Field(None, description="gradual, complete: epochs of the first phase; as phase_epochs.")
    phase_epochs: Count | None = Field(
        None, description="gradual, complete: epochs of each phase at most; num_train_epochs in equal parts by default."
    )
    multipliers: list[float] | None = Field(
        None, description="discriminative, complete: learning-rate multipliers from head to stem; 1, 0.4, 0.3, 0.2, 0.1."
    )
    patience: Count | None = Field(
        None,
        description="gradual, complete: evaluations without improvement that end a phase sooner; discriminative: that cut "
        "the learning rates to a tenth (2).",
    )
    min_delta: float = Field(0.001, ge=0.0, description="With patience: the smallest change that counts as an improvement.")
    phases: list[CustomPhase] | None = Field(None, min_length=1, description="custom: the phases in their order.")
    scheduler: Literal["phase", "global"] = Field(
        "phase", description="Whether the schedule of learning rates (warmup included) restarts in each phase."
    )
    reset_optimizer: bool = Field(False, description="gradual, complete: forget the optimizer's moments at each phase.")
    lora: Lora | None = Field(None, description="lora: the adapters.")

    @field_validator("multipliers")
    @classmethod
    def _multipliers_are_positive(cls, values: list[float] | None) -> list[float] | None:
        if values is not None and (not values or min(values) <= 0):
            raise ValueError("expected numbers above 0, one for each stage from head to stem")
        return values


class Augment(Section):
    """What training images go through; evaluation images never do."""

    preset: AugmentPreset = Field(
        "basic", description="The augmentation preset; where nothing is said, linear_probe, knn and quantized_probe have none."
    )
    mixup: float = Field(0.0, ge=0.0, description="Beta parameter of mixup; 0 is off.")
    cutmix: float = Field(
        0.0, ge=0.0, description="Beta parameter of CutMix; 0 is off. With mixup, each batch is mixed one way or the other."
    )
    erasing: Probability = Field(0.0, description="Probability that a random rectangle of the image is erased.")


class Features(Section):
    """The fast path of everything frozen."""

    cache: bool = Field(True, description="Compute the features of a frozen backbone once.")
    pooling: Literal["default", "cls", "mean", "cls_mean"] = Field(
        "default",
        description="linear_probe, knn: the checkpoint's own way; or of the last hidden state the class token, the mean of all "
        "patches or cells, or both.",
    )
    views: Count = Field(
        1, description="With an augmentation, cache this many views of each training image; 1 augments anew in each epoch."
    )
    compile: Literal["auto", "always", "never"] = Field("auto", description="When the forward pass is compiled.")
    label_quality: bool = Field(
        False, description="Report likely wrong labels and near-duplicates across splits (extra labels: cleanlab)."
    )


class Loss(Section):
    """The training loss."""

    name: Literal["cross_entropy", "focal"] = Field("cross_entropy", description="The loss function.")
    class_weights: Literal["balanced"] | dict[str, float] | None = Field(
        None, description="'balanced', or a weight for each class by name."
    )
    gamma: float = Field(2.0, ge=0.0, description="focal: how much well-classified images are weighted down.")


class Ema(Section):
    """An exponential moving average of the weights."""

    decay: float = Field(
        0.9998, gt=0.0, lt=1.0, description="Decay of the average, per step; less at first: (1 + step) / (10 + step)."
    )


class EarlyStopping(Section):
    """Stop when the validation metric no longer improves."""

    patience: Count = Field(description="Evaluations without improvement before training stops.")
    min_delta: float = Field(0.0, ge=0.0, description="The smallest change that counts as an improvement.")


def _every_split() -> list[Split]:
    return ["train", "validation", "test"]


class Evaluation(Section):
    """What is measured when training is over."""

    splits: list[Split] = Field(
        default_factory=_every_split,
        description="Splits evaluated with the saved model; in evaluate mode only test, where nothing is said.",
    )
    monitor: list[str] = Field(
        default_factory=list,
        description="Scored beside validation at every evaluation of the training: train, test, the first N images of a split "
        "(train_200, validation_200, test_200), names of extra. The run is marked; nothing is selected by them.",
    )
    extra: dict[str, str] = Field(
        default_factory=dict,
        description="Further test sets (another camera, a later date): a name for each, and its source. Their classes are "
        "those of the data set or some of them; the shift in accuracy is reported.",
    )
    label_map: str | dict[str, list[str]] | None = Field(
        None,
        description="For each class of the data set the checkpoint's classes (their probabilities are summed); or the name "
        "of a map that is shipped, such as cifar10_imagenet.",
    )
    calibrate: bool = Field(
        False,
        description="Divide the saved model's logits by the temperature that fits the validation split best (Guo et al. 2017), "
        "so that its probabilities mean what they say; no prediction changes (of several labels: where thresholds are "
        "chosen on validation).",
    )
    tta: TestTimeAugmentation = Field(
        "none", description="evaluate mode: average the probabilities of several views of each test image."
    )
    corruptions: list[Corruption] = Field(
        default_factory=list,
        description="evaluate mode: also score these corruptions of the images at severities 1 to 5 "
        "(Hendrycks & Dietterich 2019).",
    )
    thresholds: Literal["validation"] | Fraction = Field(
        "validation",
        description="multi_label: the probability from which a class is predicted: of each class the one with the best F1 on "
        "validation, or one for all.",
    )
    speed: bool = Field(
        False, description="Measure latency and throughput of the saved model; true in evaluate mode, where nothing is said."
    )

    @field_validator("extra")
    @classmethod
    def _extra_names_are_free(cls, extra: dict[str, str]) -> dict[str, str]:
        for name in extra:
            if name in _RESERVED or not re.fullmatch(r"[\w-]{1,64}", name):
                raise ValueError(
                    f"expected names of up to 64 letters, digits, _ and -, other than {', '.join(_RESERVED)}; found '{name}'"
                )
        return extra

    @field_validator("splits")
    @classmethod
    def _splits_once(cls, splits: list[str]) -> list[str]:
        if not splits:
            raise ValueError("expected at least one of train, validation, test; found an empty list")
        if len(set(splits)) != len(splits):
            raise ValueError("expected each split once")
        return splits


class Hub(Section):
    """Publishing to the Hub."""

    push: bool = Field(False, description="Push the model, its card, recipe, metrics and plots when the run is done.")
    repo_id: str | None = Field(
        None, description="Repository, OWNER/NAME; by default the run directory's name, under your own."
    )
    private: bool = Field(True, description="Whether a new repository is private; one that is there stays as it is.")
    strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = Field(
        "end",
        description="When to push, as transformers names it: at the end; also the model of each checkpoint; also the newest "
        "checkpoint itself, as last-checkpoint/; also every checkpoint.",
    )
    revision: str | None = Field(None, min_length=1, description="Branch to push to, made if need be; by default main.")
    create_pr: bool = Field(False, description="Open a pull request instead of a commit to the branch.")
    images: bool = Field(True, description="Whether pictures are published that show images of the data set.")

    @field_validator("repo_id")
    @classmethod
    def _is_an_id(cls, value: str | None) -> str | None:
        if value is not None and (not _REPOSITORY.fullmatch(value) or re.search(r"--|\.\.|\.git$", value)):
            raise ValueError(f"expected OWNER/NAME of letters, digits and single '-', '_', '.'; found '{value}'")
        return value


class Recipe(Section):
    """One run: data, backbone, strategy, and everything needed to repeat it."""

    json_schema: str | None = Field(None, alias="$schema", description="Path of the JSON Schema, for editors.")
    schema_version: Literal[1] = Field(SCHEMA_VERSION, description="Version of the recipe format.")
    description: str = Field("", description="One sentence: what this run is.")
    reference: Reference | None = Field(None, description="What others published.")
    expected: Expected | None = Field(None, description="What was measured with this very recipe.")
    mode: Literal["train", "evaluate"] = Field("train", description="Train, or score a checkpoint as it is.")
    seed: int = Field(0, ge=0, description="Seed of initialisation, order and augmentation; never of the splits.")
    output_dir: str = Field(min_length=1, description="The run directory; by default runs/NAME-OF-THE-RECIPE.")
    data: Data
    model: Model
    strategy: Strategy = Field(default_factory=lambda: Strategy())
    augment: Augment = Field(default_factory=lambda: Augment())
    features: Features = Field(default_factory=lambda: Features())
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="Any field of transformers.TrainingArguments under its own name and type; optim also takes 'adam' "
        "(plain Adam, coupled weight decay).",
    )
    loss: Loss = Field(default_factory=lambda: Loss())
    ema: Ema | None = None
    early_stopping: EarlyStopping | None = None
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation())
    hub: Hub = Field(default_factory=lambda: Hub())

    @field_validator("schema_version", mode="before")
    @classmethod
    def _version_is_whole(cls, value: object) -> object:
        if type(value) is not int:  # true and 1.0 equal 1, but are not it
            raise PydanticCustomError("int_type", "expected a whole number")
        return value

    @model_validator(mode="before")
    @classmethod
    def _features_are_not_augmented(cls, value: object) -> object:
        """What only reads features needs no augmentation, unless it is asked for: each image is seen once."""
        if isinstance(value, dict):
            strategy, augment = value.get("strategy"), value.get("augment", {})
            name = strategy.get("name") if isinstance(strategy, dict) else strategy
            if name in ("linear_probe", "knn", "quantized_probe") and isinstance(augment, dict):
                return {**value, "augment": {"preset": "none", **augment}}
        return value

    @model_validator(mode="before")
    @classmethod
    def _an_evaluation_scores_test(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("mode") == "evaluate":
            section = value.get("evaluation", {})
            if isinstance(section, dict):
                return {**value, "evaluation": {"splits": ["test"], "speed": True, **section}}
        return value
