"""What the installed `transformers.TrainingArguments` accepts, read from its source without importing it.

HuggingFace's own parser does not check types ("1e-3" as text dies at the first step), and importing the class takes seconds.
Its source, parsed with `ast`, gives the same field list in a few milliseconds.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problem, nearest

# Fields that the recipe says elsewhere, or that the package must decide, each with what to use instead.
RESERVED: Mapping[str, str] = {
    "output_dir": "use the recipe's own output_dir",
    "seed": "use the recipe's own seed",
    "data_seed": "use the recipe's own seed",
    "full_determinism": "runs are already seeded; remove it",
    "push_to_hub": "use hub.push",
    "hub_token": "log in with 'hf auth login' or set HF_TOKEN; a recipe never holds a token",
    "hub_private_repo": "use hub.private",
    "hub_model_id": "use hub.repo_id",
    "hub_strategy": "use hub.strategy",
    "hub_always_push": "use hub.strategy",
    "hub_revision": "use hub.revision",
    "resume_from_checkpoint": "use the --resume option",
    "remove_unused_columns": "the package decides it (images would be dropped); remove it",
    "label_names": "use data.label_column",
    "load_best_model_at_end": "the best model on validation is always the one that is kept; remove it",
    "do_train": "use mode",
    "do_eval": "use mode and evaluation.splits",
    "do_predict": "use mode and evaluation.splits",
    "local_rank": "the launcher decides it; remove it",
    "dataloader_persistent_workers": "augmentation follows the epoch only in fresh workers; remove it",
}

# What heads on cached features honour; features/probe.py honours three more for some values. Any other needs the Trainer.
FEATURE_FIELDS = frozenset(
    (
        "num_train_epochs",
        "learning_rate",
        "weight_decay",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "metric_for_best_model",
        "greater_is_better",
        "bf16",
        "fp16",
        "use_cpu",
        "dataloader_num_workers",
        "disable_tqdm",
    )
)
# transformers' optimisers and, beside them, ours.
EXTRA_OPTIMIZERS = ("adam",)
SELECTION_METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "macro_f1", "loss"),
    "multi_label": ("mean_average_precision", "macro_f1", "loss"),
}
"""What may select, for each `data.task`; the first one does where nothing is said."""

_AT_LEAST_ONE = (lambda v: v >= 1, "at least 1")
_NOT_NEGATIVE = (lambda v: v >= 0, "0 or more")
_POSITIVE = (lambda v: v > 0, "more than 0")
_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "per_device_train_batch_size": _AT_LEAST_ONE,
    "per_device_eval_batch_size": _AT_LEAST_ONE,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "num_train_epochs": _POSITIVE,
    "max_steps": (lambda v: v == -1 or v >= 1, "at least 1, or -1 to count epochs"),
    "learning_rate": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "adam_beta1": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "adam_beta2": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "adam_epsilon": _POSITIVE,
    "label_smoothing_factor": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "dataloader_num_workers": _NOT_NEGATIVE,
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "save_total_limit": _AT_LEAST_ONE,
}

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "dict": "an object"}
_KINDS |= {"list": "a list", "None": "null", "False": "false"}


@dataclass(frozen=True)
class TrainingField:
    """One field of `TrainingArguments`: the JSON kinds it takes, and its permitted values where it is an enumeration."""

    kinds: frozenset[str]
    choices: tuple[str, ...] | None


def _parse(module: str) -> ast.Module:
    # find_spec of a top-level package finds it without importing it.
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("transformers is not installed", name="transformers")
    path = Path(spec.submodule_search_locations[0]) / f"{module}.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _enumeration(node: ast.ClassDef) -> tuple[str, ...]:
    values = (item.value for item in node.body if isinstance(item, ast.Assign))
    return tuple(value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str))


def _alternatives(annotation: ast.expr) -> list[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _alternatives(annotation.left) + _alternatives(annotation.right)
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        inner = annotation.slice
        if annotation.value.id == "Optional":
            return [*_alternatives(inner), ast.Constant(None)]
        if annotation.value.id == "Union":
            return [leaf for part in getattr(inner, "elts", [inner]) for leaf in _alternatives(part)]
        if annotation.value.id == "Literal":
            return list(getattr(inner, "elts", [inner]))
        return [ast.Name(annotation.value.id)]
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _alternatives(ast.parse(annotation.value, mode="eval").body)
    return [annotation]


@functools.cache
def training_fields() -> Mapping[str, TrainingField]:
    """Return every field of the installed `TrainingArguments` by name, in source order (4 files parsed once, about 60 ms)."""
    arguments = _classes(_parse("training_args"))
    enumerations = {**arguments, **_classes(_parse("trainer_utils"))}
    fields = {}
    for node in arguments["TrainingArguments"].body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        if name.startswith("_") or "ClassVar" in ast.unparse(node.annotation):
            continue
        kinds: set[str] = set()
        choices: tuple[str, ...] = ()
        for leaf in _alternatives(node.annotation):
            word = ast.unparse(leaf)
            if word in enumerations:
                kinds.add("str")
                choices += _enumeration(enumerations[word])
            elif word in _KINDS or word in ("List", "Dict"):
                kinds.add(word.lower() if word in ("List", "Dict") else word)
        fields[name] = TrainingField(frozenset(kinds), choices or None)
    return fields


def _is_kind(value: object, kind: str) -> bool:
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "None":
        return value is None
    if kind == "False":
        return value is False
    return isinstance(value, {"bool": bool, "str": str, "dict": dict, "list": list}[kind])


def _check_value(name: str, value: object, field: TrainingField, task: str) -> str | None:
    if not field.kinds:
        return "cannot be set from a recipe; remove it"
    if not any(_is_kind(value, kind) for kind in field.kinds):
        expected = " or ".join(_KINDS[kind] for kind in sorted(field.kinds, key=list(_KINDS).index))
        return f"expected {expected}, found {described(value)}"
    choices = field.choices
    if choices is not None and isinstance(value, str):
        if name == "optim":
            choices += EXTRA_OPTIMIZERS
        if value not in choices:
            return f"expected one of {', '.join(choices)}; found '{value}'{nearest(value, choices)}"
    if name == "metric_for_best_model" and value is not None and value not in SELECTION_METRICS[task]:
        where = "" if task == "single_label" else f" with data.task '{task}'"
        return f"expected one of {', '.join(SELECTION_METRICS[task])}{where}, found {described(value)}"
    if name in _RANGES and value is not None:
        permitted, words = _RANGES[name]
        if not permitted(value):
            return f"expected {words}, found {described(value)}"
    return None


def described(value: object) -> str:
    """Return a short description of a JSON value for an error message, its kind included where that is the point."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text '{value}'"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return str(value)


def check_training(training: Mapping[str, object], task: str = "single_label") -> list[Problem]:
    """Return everything wrong with a recipe's `training` section, one `Problem` a key.

    Args:
        training: the section.
        task: the recipe's `data.task`.
    """
    fields = training_fields()
    problems = []
    for name, value in training.items():
        path = f"training.{name}"
        if name in RESERVED:
            problems.append(Problem(path, f"is reserved; {RESERVED[name]}"))
        elif name not in fields:
            problems.append(Problem(path, f"is not a field of transformers.TrainingArguments{nearest(name, fields)}"))
        elif message := _check_value(name, value, fields[name], task):
            problems.append(Problem(path, message))
    if not problems:
        problems += _check_together(training, task)
    return problems


def _check_together(training: Mapping[str, object], task: str) -> list[Problem]:
    problems = []
    if training.get("bf16") and training.get("fp16"):
        problems.append(Problem("training.fp16", "expected at most one of bf16 and fp16; found both true"))
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        options = training.get(name)
        if isinstance(options, Mapping) and options.get("use_reentrant"):
            problems.append(
                Problem(f"training.{name}", "expected use_reentrant false: above frozen layers nothing would train; found true")
            )
    evaluates = str(training.get("eval_strategy", "epoch"))
    saves = str(training.get("save_strategy", evaluates))
    if evaluates != "no" and saves not in (evaluates, "best"):
        problems.append(
            Problem(
                "training.save_strategy",
                f"expected '{evaluates}', as eval_strategy, or 'best', so that the best model on validation can be kept; "
                f"found '{saves}'",
            )
        )
    metric = training.get("metric_for_best_model") or SELECTION_METRICS[task][0]
    if training.get("greater_is_better") is (metric == "loss"):
        grows = "false" if metric == "loss" else "true"
        problems.append(
            Problem(
                "training.greater_is_better",
                f"expected {grows} for metric_for_best_model '{metric}', found {described(metric == 'loss')}; remove it",
            )
        )
    if evaluates == "no" and training.get("lr_scheduler_type") == "reduce_lr_on_plateau":
        problems.append(
            Problem("training.lr_scheduler_type", "reduce_lr_on_plateau needs evaluations; found eval_strategy 'no'")
        )
    return problems
