"""What a recipe may say, what it is told when it says something else, and how the command line changes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_transfer.errors import RecipeError
from hf_transfer.recipe import dump_recipe, load_any, load_recipe, parse_recipe
from hf_transfer.recipe.loading import apply_overrides

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.json") if not path.name.endswith("schema.json"))

MINIMAL = {"output_dir": "runs/x", "data": {"source": "package:digits"}, "model": {"backbone": "timm:resnet18"}}

# Every key of the format, with values that this version carries out.
FULL = {
    "$schema": "schema.json",
    "schema_version": 1,
    "description": "ViT-B/16 fine-tuned on CIFAR-10",
    "reference": {"test_accuracy": 0.9343, "source": "reference study R1"},
    "expected": {"test_accuracy": 0.9, "minutes": 3.5, "device": "cpu", "date": "2026-01-31"},
    "mode": "train",
    "seed": 7,
    "output_dir": "runs/vit_cifar10",
    "data": {
        "source": "uoft-cs/cifar10",
        "config_name": "plain_text",
        "revision": "main",
        "image_column": "img",
        "label_column": "label",
        "validation_fraction": 0.2,
        "test_fraction": 0.1,
        "split_seed": 3,
        "group_column": None,
        "max_train_samples": 5000,
        "max_validation_samples": 100,
        "max_test_samples": 200,
        "samples_per_class": None,
        "on_bad_image": "skip",
        "task": "single_label",
        "streaming": True,
        "shuffle_buffer": 500,
        "cache": "none",
        "decoding": "reduced",
        "sampling": {"cat": 1.0, "dog": 2.5},
    },
    "model": {
        "backbone": "google/vit-base-patch16-224-in21k",
        "revision": "v1",
        "pretrained": False,
        "crop_pct": 0.9,
        "head": {"replace": "last", "hidden": [{"size": 512, "activation": "gelu", "dropout": 0.5}]},
    },
    "strategy": {
        "name": "linear_probe",
        "layer_decay": None,
        "frozen_groups": None,
        "frozen_batch_norm": None,
        "stages": None,
        "head_epochs": None,
        "phase_epochs": None,
        "multipliers": None,
        "patience": None,
        "min_delta": 0.001,
        "phases": None,
        "scheduler": "phase",
        "reset_optimizer": False,
        "lora": None,
    },
    "augment": {"preset": "none", "mixup": 0.0, "cutmix": 0.0, "erasing": 0.0},
    "features": {"cache": False, "pooling": "default", "views": 1, "compile": "auto", "label_quality": False},
    "training": {"num_train_epochs": 6, "learning_rate": 5e-5, "per_device_train_batch_size": 64, "optim": "adam"},
    "loss": {"name": "cross_entropy", "class_weights": None, "gamma": 2.0},
    "ema": None,
    "early_stopping": {"patience": 3, "min_delta": 0.001},
    "evaluation": {
        "splits": ["validation", "test"],
        "monitor": [],
        "extra": {"winter": "more/photos"},
        "label_map": None,
        "calibrate": True,
        "tta": "none",
        "corruptions": [],
        "thresholds": "validation",
        "speed": False,
    },
    "hub": {
        "push": True,
        "repo_id": "me/model",
        "private": False,
        "strategy": "checkpoint",
        "revision": "next",
        "create_pr": False,
        "images": False,
    },
}


def recipe(**changes):
    return MINIMAL | changes


def problems_of(raw, overrides=()):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw, overrides)
    return [str(problem) for problem in caught.value.problems]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# Committed recipes and round trips


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_load_recipe__committed_recipes_are_valid(path):
    loaded = load_any(path)
    assert loaded.description
    assert loaded.output_dir == f"runs/{path.stem}" or "output_dir" in json.loads(path.read_text(encoding="utf-8"))


def test_load_recipe__there_are_committed_recipes():
    assert RECIPES


@pytest.mark.parametrize(
    "raw",
    [MINIMAL, FULL, recipe(mode="evaluate"), recipe(strategy="linear_probe")],
    ids=["minimal", "full", "evaluate", "shorthand"],
)
def test_dump_recipe__parsed_again_is_the_same(raw):
    parsed = parse_recipe(raw)
    dumped = json.loads(json.dumps(dump_recipe(parsed), allow_nan=False))
    again = parse_recipe(dumped)
    assert again == parsed
    assert dump_recipe(again) == dumped


def test_dump_recipe__keeps_every_value_of_a_full_recipe():
    assert dump_recipe(parse_recipe(FULL)) == FULL


def test_dump_recipe__fills_in_every_default():
    dumped = dump_recipe(parse_recipe(MINIMAL))
    assert dumped.keys() == FULL.keys()
    assert dumped["data"].keys() == FULL["data"].keys()
    assert dumped["evaluation"]["splits"] == ["train", "validation", "test"]
    assert dumped["strategy"] == {**FULL["strategy"], "name": "full"}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        (
            {"data": {"source": "photos", "sampling": "balanced"}, "loss": {"class_weights": "balanced"}},
            [
                "data.sampling: expected 'uniform', because loss.class_weights would weigh the classes a second time; "
                "found the text 'balanced'"
            ],
        ),
        (
            {"data": {"source": "photos", "sampling": "balanced"}, "strategy": "knn"},
            ["data.sampling: strategy 'knn' trains nothing; remove it"],
        ),
        (
            {"data": {"source": "photos", "sampling": {"cat": 0}}},
            ["data.sampling: expected weights above 0; found 0 for 'cat'"],
        ),
        (
            {"data": {"source": "photos", "streaming": True, "cache": "resized"}},
            ["data.cache: expected 'none' with data.streaming, which keeps no copy; found 'resized'"],
        ),
        (
            {"evaluation": {"thresholds": 0.5}},
            ["evaluation.thresholds: belongs to data.task 'multi_label'; remove it"],
        ),
    ],
    ids=["twice", "knn", "zero", "streaming", "thresholds"],
)
def test_parse_recipe__how_images_are_drawn_and_read_has_to_fit(changes, problems):
    assert problems_of(recipe(**changes)) == problems


def test_parse_recipe__leaves_the_dictionary_as_it_is():
    raw = recipe(strategy="full", training={"num_train_epochs": 1})
    before = json.dumps(raw)
    parse_recipe(raw, ["strategy.name=linear_probe", "training.num_train_epochs=5", "data.split_seed=4"])
    assert json.dumps(raw) == before


# All problems at once


def test_load_recipe__tells_all_problems_at_once(tmp_path):
    path = write(
        tmp_path / "many.json",
        json.dumps(
            {
                "seed": "0",
                "mode": "evaluat",
                "learning-rate": 0.1,
                "data": {"source": "package:digits", "validation_fracton": 0.2, "split_seed": 1.0, "test_fraction": 1.0},
                "model": {"head": {"hidden": [{"size": 8}, {"size": 0, "activatio": "relu"}]}},
                "strategy": "ful",
                "augment": {"mixup": 0.2, "preset": "strong"},
                "training": {"learning_rate": "1e-3", "num_train_epoch": 3, "seed": 1, "per_device_train_batch_size": 0},
                "early_stopping": {"patience": True},
                "evaluation": {"label_map": 3},
                "hub": {"push": 1},
            }
        ),
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ["nonsense", "data.source.deep=1"])
    strategies = (
        "'full', 'linear_probe', 'knn', 'partial', 'two_phase', 'gradual', 'discriminative', 'complete', 'norm_only', 'lora', "
        "'custom' or 'quantized_probe'"
    )
    assert str(caught.value) == "\n".join(
        [
            f"Found 19 problems in {path}:",
            "  - expected an override of the form key=value, found 'nonsense'",
            "  - data.source.deep: cannot be set: 'source' is the text 'package:digits'",
            "  - training.learning_rate: expected a number, found the text '1e-3'",
            "  - training.num_train_epoch: is not a field of transformers.TrainingArguments (did you mean 'num_train_epochs'?)",
            "  - training.seed: is reserved; use the recipe's own seed",
            "  - training.per_device_train_batch_size: expected at least 1, found 0",
            "  - mode: expected 'train' or 'evaluate'; found the text 'evaluat' (did you mean 'evaluate'?)",
            "  - seed: expected a whole number, found the text '0'",
            "  - data.test_fraction: expected less than 1, found 1.0",
            "  - data.split_seed: expected a whole number, found 1.0",
            "  - data.validation_fracton: is not a key of the recipe (did you mean 'validation_fraction'?)",
            "  - model.backbone: is required, and is missing",
            "  - model.head.hidden.1.size: expected 1 or more, found 0",
            "  - model.head.hidden.1.activatio: is not a key of the recipe (did you mean 'activation'?)",
            f"  - strategy.name: expected {strategies}; found the text 'ful' (did you mean 'full'?)",
            "  - early_stopping.patience: expected a whole number, found true",
            "  - evaluation.label_map: expected text or an object, found 3",
            "  - hub.push: expected true or false, found 1",
            "  - learning-rate: is not a key of the recipe",
        ]
    )


def test_load_recipe__tells_one_problem_in_the_singular(tmp_path):
    path = write(tmp_path / "one.json", json.dumps(recipe(seed=-1)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"Found 1 problem in {path}:\n  - seed: expected 0 or more, found -1"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": "0"}, ["seed: expected a whole number, found the text '0'"]),
        ({"seed": 1.0}, ["seed: expected a whole number, found 1.0"]),
        ({"seed": True}, ["seed: expected a whole number, found true"]),
        ({"schema_version": True}, ["schema_version: expected a whole number, found true"]),
        ({"schema_version": 1.0}, ["schema_version: expected a whole number, found 1.0"]),
        ({"schema_version": 2}, ["schema_version: expected 1; found 2"]),
        ({"description": None}, ["description: expected text, found null"]),
        ({"output_dir": ""}, ["output_dir: expected text that is not empty, found the text ''"]),
        ({"output_dir": 5}, ["output_dir: expected text, found 5"]),
        ({"json_schema": "x"}, ["json_schema: is not a key of the recipe (did you mean '$schema'?)"]),
        ({"data": "package:digits"}, ["data: expected an object, found the text 'package:digits'"]),
        (
            {"data": {"source": "x", "validation_fraction": "0.2"}},
            ["data.validation_fraction: expected a number, found the text '0.2'"],
        ),
        ({"data": {"source": "x", "validation_fraction": 0}}, ["data.validation_fraction: expected more than 0, found 0"]),
        ({"data": {"source": "x", "max_train_samples": 0}}, ["data.max_train_samples: expected 1 or more, found 0"]),
        (
            {"data": {"source": "x", "max_train_samples": 9, "samples_per_class": 3}},
            ["data: expected at most one of max_train_samples and samples_per_class; found both"],
        ),
        ({"model": {"backbone": "x", "pretrained": "yes"}}, ["model.pretrained: expected true or false, found the text 'yes'"]),
        ({"model": {"backbone": "x", "head": {"hidden": 512}}}, ["model.head.hidden: expected a list, found 512"]),
        ({"model": {"backbone": "x", "head": {"hidden": [512]}}}, ["model.head.hidden.0: expected an object, found 512"]),
        ({"strategy": 3}, ["strategy: expected an object, found 3"]),
        ({"strategy": None}, ["strategy: expected an object, found null"]),
        ({"training": None}, ["training: expected an object, found null"]),
        ({"training": [1]}, ["training: expected an object, found a list"]),
        ({"augment": {"mixup": float("nan")}}, ["augment.mixup: expected a finite number, found nan"]),
        (
            {"early_stopping": {"patience": 1, "min_delta": float("inf")}},
            ["early_stopping.min_delta: expected a finite number, found inf"],
        ),
        (
            {"reference": {"sourc": "R1"}},
            [
                "reference.source: is required, and is missing",
                "reference.sourc: is not a key of the recipe (did you mean 'source'?)",
            ],
        ),
        ({"evaluation": {"splits": "test"}}, ["evaluation.splits: expected a list, found the text 'test'"]),
        (
            {"evaluation": {"splits": []}},
            ["evaluation.splits: expected at least one of train, validation, test; found an empty list"],
        ),
        ({"evaluation": {"splits": ["test", "test"]}}, ["evaluation.splits: expected each split once"]),
        (
            {"evaluation": {"splits": ["test", "tset"]}},
            ["evaluation.splits.1: expected 'train', 'validation' or 'test'; found the text 'tset' (did you mean 'test'?)"],
        ),
        (
            {"evaluation": {"label_map": {"tabby cat": ["cat", 3]}}},
            ["evaluation.label_map.tabby cat.1: expected text, found 3"],
        ),
        (
            {"evaluation": {"label_map": {"tabby cat": "cat"}}},
            ["evaluation.label_map.tabby cat: expected a list, found the text 'cat'"],
        ),
        (
            {"loss": {"class_weights": "balance"}},
            ["loss.class_weights: expected 'balanced' or an object; found the text 'balance' (did you mean 'balanced'?)"],
        ),
        ({"loss": {"class_weights": {"a cat": "1"}}}, ["loss.class_weights.a cat: expected a number, found the text '1'"]),
        ({"mode": "evaluate", "evaluation": None}, ["evaluation: expected an object, found null"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_parse_recipe__says_what_is_wrong(changes, expected):
    assert problems_of(recipe(**changes)) == expected


def test_parse_recipe__required_keys():
    assert problems_of({}) == [
        "output_dir: is required, and is missing",
        "data: is required, and is missing",
        "model: is required, and is missing",
    ]


def test_parse_recipe__whole_numbers_are_numbers():
    assert parse_recipe(recipe(early_stopping={"patience": 1, "min_delta": 0})).early_stopping.min_delta == 0.0


# Files


def test_load_recipe__no_such_file(tmp_path):
    path = tmp_path / "absent.json"
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"Found 1 problem in {path}:\n  - no such file"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{\n  "seed": 0,\n  "mode" "train"\n}', "is not valid JSON: line 3, column 10: Expecting ':' delimiter"),
        ("", "is not valid JSON: line 1, column 1: Expecting value"),
        ('{"seed": 0, "seed": 1}', "the key 'seed' appears twice in one object"),
        ('{"data": {"source": "a", "source": "a"}}', "the key 'source' appears twice in one object"),
        ('["seed"]', "expected an object, found a list"),
        ('"full"', "expected an object, found the text 'full'"),
        ("null", "expected an object, found null"),
    ],
)
def test_load_recipe__is_no_recipe_file(tmp_path, text, problem):
    path = write(tmp_path / "broken.json", text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == f"Found 1 problem in {path}:\n  - {problem}"


def test_load_recipe__a_directory_and_other_encodings_cannot_be_read(tmp_path):
    (tmp_path / "latin.json").write_bytes('{"description": "caf\xe9"}'.encode("latin-1"))
    for path in (tmp_path, tmp_path / "latin.json"):
        with pytest.raises(RecipeError, match="cannot be read"):
            load_recipe(path)


def test_load_recipe__the_file_name_gives_the_run_directory(tmp_path):
    path = write(tmp_path / "mine.json", json.dumps({key: MINIMAL[key] for key in ("data", "model")}))
    assert load_recipe(path).output_dir == "runs/mine"
    assert load_recipe(path, ["output_dir=elsewhere"]).output_dir == "elsewhere"


# Overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.0", 3.0),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ('"3"', "3"),
        ('["test"]', ["test"]),
        ('{"a": 1}', {"a": 1}),
        ("linear_probe", "linear_probe"),
        ("True", "True"),
        ("a=b", "a=b"),
        ("", ""),
        ("runs/my run", "runs/my run"),
    ],
)
def test_apply_overrides__json_where_it_parses_and_text_otherwise(text, value):
    raw = {}
    assert apply_overrides(raw, [f"key={text}"]) == []
    assert raw == {"key": value}
    assert type(raw["key"]) is type(value)


def test_apply_overrides__makes_the_sections_on_the_way():
    raw = {"model": {"backbone": "x"}, "ema": None}
    assert apply_overrides(raw, ["model.head.replace=last", "training.learning_rate=0.1", "ema.decay=0.9"]) == []
    assert raw == {
        "model": {"backbone": "x", "head": {"replace": "last"}},
        "training": {"learning_rate": 0.1},
        "ema": {"decay": 0.9},
    }


def test_apply_overrides__the_last_one_counts():
    assert parse_recipe(MINIMAL, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("strategy", ["full", {"name": "full"}])
def test_apply_overrides__strategy_shorthand_is_refined(strategy):
    assert parse_recipe(recipe(strategy=strategy), ["strategy.name=linear_probe"]).strategy.name == "linear_probe"
    assert parse_recipe(recipe(strategy=strategy), ["strategy=linear_probe"]).strategy.name == "linear_probe"


def test_apply_overrides__strategy_shorthand_keeps_its_name():
    raw = recipe(strategy="linear_probe")
    assert apply_overrides(raw, ["strategy.layer_decay=null"]) == []
    assert raw["strategy"] == {"name": "linear_probe", "layer_decay": None}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("trainig.num_train_epochs=1", "trainig: is not a key of the recipe (did you mean 'training'?)"),
        ("data.max_train_sample=5", "data.max_train_sample: is not a key of the recipe (did you mean 'max_train_samples'?)"),
        (
            "training.num_train_epoch=1",
            "training.num_train_epoch: is not a field of transformers.TrainingArguments (did you mean 'num_train_epochs'?)",
        ),
        ("training.learning_rate=fast", "training.learning_rate: expected a number, found the text 'fast'"),
        ("training.learning_rate=NaN", "training.learning_rate: expected a number, found nan"),
        ("seed", "expected an override of the form key=value, found 'seed'"),
        ("=1", "expected an override of the form key=value, found '=1'"),
        ("data..source=1", "expected an override of the form key=value, found 'data..source=1'"),
        ("seed.deep=1", "seed: expected a whole number, found an object"),
        ("model.backbone.name=x", "model.backbone.name: cannot be set: 'backbone' is the text 'timm:resnet18'"),
    ],
)
def test_parse_recipe__wrong_overrides(override, problem):
    assert problems_of(MINIMAL, [override]) == [problem]


# Evaluate mode


def test_parse_recipe__an_evaluation_scores_test_where_nothing_is_said():
    assert parse_recipe(recipe(mode="evaluate")).evaluation.splits == ["test"]
    assert parse_recipe(recipe(mode="evaluate", evaluation={"label_map": "cifar10_imagenet"})).evaluation.splits == ["test"]
    assert parse_recipe(MINIMAL, ["mode=evaluate"]).evaluation.splits == ["test"]


def test_parse_recipe__an_evaluation_scores_what_is_said():
    assert parse_recipe(recipe(mode="evaluate", evaluation={"splits": ["validation"]})).evaluation.splits == ["validation"]
    assert parse_recipe(MINIMAL).evaluation.splits == ["train", "validation", "test"]


# Imports


def test_load_recipe__imports_neither_torch_nor_transformers():
    code = (
        "import sys\n"
        "import hf_transfer.recipe\n"
        "hf_transfer.recipe.load_recipe(sys.argv[1], ['training.learning_rate=0.1'])\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'huggingface_hub', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "recipes" / "quickstart.json")], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_parse_recipe__early_stopping_needs_evaluations():
    raw = {**MINIMAL, "early_stopping": {"patience": 1}, "training": {"eval_strategy": "no"}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw)
    assert str(caught.value) == (
        "Found 1 problem in the recipe:\n  - early_stopping: needs evaluations; found training.eval_strategy 'no'"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"features": {"views": 3}},
            "features.views: expected 1, except for strategy 'linear_probe' with an augment.preset; "
            "found 3 with 'full' and 'basic'",
        ),
        (
            {"strategy": "linear_probe", "features": {"views": 3}},
            "features.views: expected 1, except for strategy 'linear_probe' with an augment.preset; "
            "found 3 with 'linear_probe' and 'none'",
        ),
        (
            {"features": {"label_quality": True}},
            "features.label_quality: expected false except for 'linear_probe' and 'knn'; found 'full'",
        ),
        (
            {"strategy": "knn", "augment": {"preset": "basic"}},
            "augment.preset: expected 'none' for strategy 'knn'; found 'basic'",
        ),
        ({"strategy": "knn", "early_stopping": {"patience": 1}}, "early_stopping: strategy 'knn' trains nothing; remove it"),
        ({"strategy": "knn", "training": {"optim": "sgd"}}, "training.optim: strategy 'knn' trains nothing; remove it"),
        ({"strategy": "knn", "features": {"cache": False}}, "features.cache: expected true for strategy 'knn'; found false"),
        (
            {"strategy": "two_phase", "features": {"cache": False}},
            "features.cache: expected true for strategy 'two_phase'; found false",
        ),
        ({"strategy": "knn", "ema": {}}, "ema: strategy 'knn' trains nothing; remove it"),
        ({"strategy": "knn", "loss": {"name": "focal"}}, "loss: strategy 'knn' trains nothing; remove it"),
        ({"strategy": "knn", "augment": {"erasing": 0.1}}, "augment.erasing: strategy 'knn' trains nothing; remove it"),
        (
            {"strategy": {"name": "full", "frozen_groups": 2}},
            "strategy.frozen_groups: belongs to partial and two_phase, and the strategy is 'full'; remove it",
        ),
        (
            {"strategy": {"name": "two_phase", "lora": {"rank": 4}}},
            "strategy.lora: belongs to lora, and the strategy is 'two_phase'; remove it",
        ),
        (
            {"strategy": {"name": "linear_probe", "layer_decay": 0.5}},
            "strategy.layer_decay: strategy 'linear_probe' trains no layer below the head; remove it",
        ),
        ({"strategy": "partial"}, "strategy.frozen_groups: is required for strategy 'partial'; 0 freezes batch norm alone"),
        ({"strategy": "custom"}, "strategy.phases: is required for strategy 'custom'"),
        (
            {"strategy": {"name": "full", "scheduler": "global"}},
            "strategy.scheduler: expected 'phase' for strategy 'full', which has one phase",
        ),
        (
            {"strategy": {"name": "gradual", "phase_epochs": 1}, "training": {"max_steps": 9}},
            "training.max_steps: strategy 'gradual' counts epochs; use training.num_train_epochs",
        ),
        (
            {"strategy": {"name": "complete", "phase_epochs": 1}, "training": {"lr_scheduler_type": "greedy"}},
            "training.lr_scheduler_type: strategy 'complete' needs a function of the step",
        ),
        (
            {"strategy": {"name": "gradual", "phase_epochs": 1, "patience": 2}, "training": {"eval_strategy": "no"}},
            "strategy.patience: needs evaluations; found training.eval_strategy 'no'",
        ),
        ({"ema": {}, "training": {"eval_strategy": "no"}}, "ema: needs evaluations; found training.eval_strategy 'no'"),
        (
            {"strategy": {"name": "custom", "phases": [{"name": "a", "train": ["*"], "rates": {"head": 0}}]}},
            "strategy.phases.0.rates: expected multipliers above 0; freeze 'head' by leaving it out of train",
        ),
        (
            {"strategy": {"name": "discriminative", "multipliers": [1, 0]}},
            "strategy.multipliers: expected numbers above 0, one for each stage from head to stem",
        ),
    ],
)
def test_parse_recipe__what_does_not_go_together(changes, problem):
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**MINIMAL, **changes})
    assert [str(found) for found in caught.value.problems] == [problem]


@pytest.mark.parametrize(
    ("strategy", "preset"), [("linear_probe", "none"), ("knn", "none"), ("full", "basic"), ("two_phase", "basic")]
)
def test_parse_recipe__features_are_not_augmented_unless_asked(strategy, preset):
    assert parse_recipe({**MINIMAL, "strategy": strategy}).augment.preset == preset
    if strategy != "knn":
        assert parse_recipe({**MINIMAL, "strategy": strategy, "augment": {"preset": "basic"}}).augment.preset == "basic"


# What belongs to one mode


def test_parse_recipe__what_belongs_to_an_evaluation():
    section = {"tta": "flip", "corruptions": ["jpeg"], "speed": True, "label_map": "cifar10_imagenet"}
    where = "belongs to mode 'evaluate'; evaluate the run when it is done (hf-transfer evaluate)"
    assert problems_of(recipe(evaluation=section)) == [
        f"evaluation.tta: {where}",
        f"evaluation.corruptions: {where}",
        "evaluation.label_map: belongs to mode 'evaluate'; a new head has the data set's classes",
    ]
    assert problems_of(recipe(mode="evaluate", evaluation=section)) == [
        "evaluation.tta: corrupted images are scored in one view; score them in a run of their own"
    ]
    assert parse_recipe(recipe(mode="evaluate", evaluation={**section, "corruptions": []})).evaluation.tta == "flip"


def test_parse_recipe__own_networks_have_no_pretrained_weights():
    assert parse_recipe(recipe(model={"backbone": "scratch:lenet"})).model.pretrained is False
    assert problems_of(recipe(model={"backbone": "scratch:lenet", "pretrained": True})) == [
        "model: expected pretrained false, or nothing: scratch: networks have no weights to start from; found true"
    ]


def test_parse_recipe__what_belongs_to_training():
    assert problems_of(recipe(mode="evaluate", evaluation={"calibrate": True})) == [
        "evaluation.calibrate: changes a model that is trained; leave it out"
    ]
    assert problems_of(recipe(strategy="knn", evaluation={"calibrate": True, "speed": True})) == [
        "evaluation.calibrate: strategy 'knn' saves no model; leave it out",
        "evaluation.speed: strategy 'knn' saves no model; leave it out",
    ]


@pytest.mark.parametrize("name", ["test", "temperature", "a/b", "", "x" * 65])
def test_parse_recipe__names_of_further_test_sets(name):
    assert problems_of(recipe(evaluation={"extra": {name: "photos"}})) == [
        "evaluation.extra: expected names of up to 64 letters, digits, _ and -, other than train, validation, test, cost, "
        f"speed, temperature, attention_temperatures, monitored; found '{name}'"
    ]


def test_parse_recipe__what_cannot_be_pushed():
    overrides = [
        "strategy=lora",
        "hub.push=true",
        "hub.strategy=checkpoint",
        "hub.create_pr=true",
        "hub.revision=next",
        "training.save_strategy=no",
        "training.eval_strategy=no",
    ]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(MINIMAL, overrides)
    assert [str(problem) for problem in caught.value.problems] == [
        "hub.revision: a pull request starts from main; leave it out, or set hub.create_pr to false",
        "hub.strategy: expected 'end', because hub.create_pr is true, and each push would open another; found 'checkpoint'",
        "hub.strategy: expected 'end', because the checkpoints of strategy 'lora' hold no model that could be loaded; "
        "found 'checkpoint'",
        "hub.strategy: expected 'end', because training.save_strategy is 'no'; found 'checkpoint'",
    ]
    assert parse_recipe(MINIMAL, [*overrides, "hub.push=false"]).hub.strategy == "checkpoint"


@pytest.mark.parametrize(
    ("override", "what"),
    [("strategy=knn", "strategy 'knn'"), ("mode=evaluate", "an evaluation")],
)
def test_parse_recipe__what_has_no_model_is_not_pushed(override, what):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(MINIMAL, [override, "hub.push=true"])
    assert [str(problem) for problem in caught.value.problems] == [
        f"hub.push: expected false: {what} has no model of its own to publish"
    ]


@pytest.mark.parametrize("name", ["a/b/c", "-a/b", "a/b--c", "a/b..c", "a/b.git", "a b/c", "", "a/", f"a/{'b' * 97}", "a/b."])
def test_parse_recipe__what_is_no_repository_is_none_to_the_client_either(name):
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with pytest.raises(RecipeError, match=r"hub\.repo_id: expected OWNER/NAME of letters"):
        parse_recipe({**MINIMAL, "hub": {"repo_id": name}})
    with pytest.raises(HFValidationError):
        validate_repo_id(name)


@pytest.mark.parametrize("name", ["model", "ann/model", "ann-b/my_model.v2", "_a/b_"])
def test_parse_recipe__repositories(name):
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(name)
    assert parse_recipe({**MINIMAL, "hub": {"repo_id": name}}).hub.repo_id == name


def test_parse_recipe__a_token_is_refused_before_anything_repeats_it():
    token = "hf_" + "aB" * 17
    raw = {**MINIMAL, "description": f"mine ({token})", "sed": [1, token], token: 3}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw, [f"training.hub_token={token}", f"data.source=https://me:{token}@example.org/x"])
    assert token not in str(caught.value)
    words = "holds an access token, and a recipe is no place for one; log in with 'hf auth login', or set HF_TOKEN"
    assert [str(problem) for problem in caught.value.problems] == [
        f"{path}: {words}" for path in ("data.source", "description", "sed.1", "(removed)", "training.hub_token")
    ]


def test_parse_recipe__what_several_labels_an_image_rule_out():
    data = {"source": "photos", "task": "multi_label", "samples_per_class": 5}
    found = problems_of(recipe(data=data, strategy="linear_probe", features={"label_quality": True}))
    assert found == [
        "data.samples_per_class: data.task is 'multi_label', and this counts images of one class; use data.max_train_samples",
        "features.label_quality: data.task is 'multi_label', and this looks for wrong labels among one an image; remove it",
    ]
    parsed = parse_recipe(recipe(data={"source": "photos", "task": "multi_label"}, evaluation={"thresholds": 0.3}))
    assert (parsed.data.task, parsed.evaluation.thresholds) == ("multi_label", 0.3)
