"""A study for those who have images and a time limit, and no JSON: which backbones, how many seeds, how much fine-tuning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .backbone_cost import BackboneCost

# From what is asked for first to the least that is a comparison: backbones that are fine-tuned, seeds, epochs. Never two seeds:
# what they tell of a third is next to nothing, and their intervals are wider than those of one network.
_LADDER = (
    *((3, 3, 8), (3, 3, 5), (3, 3, 3), (2, 3, 3), (2, 3, 2), (1, 3, 3), (1, 3, 2)),
    *((3, 1, 3), (2, 1, 3), (2, 1, 2), (1, 1, 2), (0, 3, 0), (0, 1, 0)),
)
_FOR_PROBES = 0.5  # share of the time that the probes may take where there is fine-tuning as well
_TRAINING = 3.3  # forward and backward pass and step, in forward passes
# Seconds of a cell besides what its images cost: heads, checks, plots.
_PROBE_BESIDE, _SEED_BESIDE, _TRAINING_BESIDE = 6.0, 4.0, 12.0
_RATES = {True: 1e-3, False: 1e-4}  # learning rates of fine-tuning with AdamW: convolutional networks, transformers
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class Plan:
    """What a comparison will do.

    Args:
        probed: the backbones whose frozen features are scored, in order of preference.
        transformers: those of them that are no convolutional networks.
        left_out: those that the time is too short for.
        finetune_top: how many of them are fine-tuned; 0 for none.
        seeds: how often everything is repeated.
        epochs: of fine-tuning.
        seconds: about how long it takes; the dearest backbones are taken to be those that go on.
    """

    probed: tuple[str, ...]
    transformers: tuple[str, ...]
    left_out: tuple[str, ...]
    finetune_top: int
    seeds: int
    epochs: int
    seconds: float


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as "90s", "20m" or "1h30m".

    Raises:
        UserError: it is none, or 0.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise UserError(f"--budget: expected a time such as 90s, 20m or 1h30m; found '{text}'")
    return total


def milliseconds_of(text: str) -> float:
    """Return the milliseconds of a latency such as "20ms" or "0.5s"; a bare number is milliseconds.

    Raises:
        UserError: it is none, or 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)?", text.strip().lower())
    value = float(found[1]) * (1000 if found[2] == "s" else 1) if found else 0.0
    if value <= 0:
        raise UserError(f"--max-latency: expected a time such as 20ms; found '{text}'")
    return value


def make_plan(costs: Sequence[BackboneCost], sizes: Mapping[str, int], budget: float, *, trials: int = 1) -> Plan:
    """Return the best comparison that fits into a time.

    As many backbones are probed as fit into half of the time, the first ones first, two at least. With what is left as many
    of them are fine-tuned, with as many seeds and epochs, as fit if the dearest ones go on: what a funnel will let through is
    not known yet. Where nothing fits, the probes alone are carried out.

    Args:
        costs: of the backbones that are asked for, in order of preference; at least one.
        sizes: split ("train", "validation", "test") to its number of images.
        budget: seconds.
        trials: runs of each fine-tuning, with a search one more than its trials.
    """
    count, spent = 0, 0.0
    for cost in costs:
        spent += probe_seconds(cost, sizes, seeds=1)
        if spent > _FOR_PROBES * budget and count >= 2:
            break
        count += 1
    probed = list(costs[:count])
    for top, seeds, epochs in _LADDER:
        probing = sum(probe_seconds(cost, sizes, seeds) for cost in probed)
        training = sorted((seeds * trials * training_seconds(cost, sizes, epochs) for cost in probed), reverse=True)
        total = probing + sum(training[:top])
        if total <= budget:
            break
    return Plan(
        probed=tuple(cost.name for cost in probed),
        transformers=tuple(cost.name for cost in probed if not cost.convolutional),
        left_out=tuple(cost.name for cost in costs[count:]),
        finetune_top=min(top, count),
        seeds=seeds,
        epochs=epochs,
        seconds=total,
    )


def probe_seconds(cost: BackboneCost, sizes: Mapping[str, int], seeds: int) -> float:
    """Return about how long it takes to extract the features of all splits once and to score heads and neighbours."""
    fast, exact = sizes["train"] + sizes["validation"], sizes["test"]
    features = fast * cost.fast_seconds + exact * cost.exact_seconds + (fast + exact) * cost.decode_seconds
    return features + _PROBE_BESIDE + seeds * _SEED_BESIDE


def training_seconds(cost: BackboneCost, sizes: Mapping[str, int], epochs: int) -> float:
    """Return about how long one fine-tuning takes, with the scoring of what was saved."""
    passes = sizes["train"] * _TRAINING + sizes["validation"]
    images = sizes["train"] + sizes["validation"]
    epoch = passes * cost.fast_seconds + images * cost.decode_seconds
    scored = (sizes["validation"] + sizes["test"]) * (cost.exact_seconds + cost.decode_seconds)
    return epochs * epoch + scored + _TRAINING_BESIDE


def study_of(plan: Plan, data: Mapping[str, Any], output_dir: str, description: str, *, trials: int = 0) -> dict[str, Any]:
    """Return the study that carries out a plan, as a study file holds it.

    Every backbone is scored frozen, by a linear probe and by nearest neighbours; the best go on to `full`. One seed's
    probe also times the network. What is fine-tuned has a learning rate that is usual for its kind, and is not scored on its
    training images, which would take time.

    Args:
        plan: what to do.
        data: the recipes' `data` section.
        output_dir: the study's folder.
        description: one sentence.
        trials: of a search over the learning rate that every fine-tuning is given; 0 for none.
    """
    strategies = ["linear_probe", "knn"] + (["full"] if plan.finetune_top else [])
    fine_tuning = {
        "training.num_train_epochs": plan.epochs,
        "training.learning_rate": _RATES[True],
        "training.lr_scheduler_type": "cosine",
        "evaluation.splits": ["validation", "test"],
    }
    overrides: list[dict[str, Any]] = [{"when": {"strategy": "linear_probe", "seed": 0}, "set": {"evaluation.speed": True}}]
    if plan.finetune_top:
        overrides.append({"when": {"strategy": "full"}, "set": fine_tuning})
    if plan.finetune_top and plan.transformers:
        alike = {"model.backbone": list(plan.transformers), "strategy": "full"}
        overrides.append({"when": alike, "set": {"training.learning_rate": _RATES[False]}})
    study: dict[str, Any] = {
        "schema_version": 1,
        "description": description,
        "output_dir": output_dir,
        "base": {"data": dict(data), "model": {"backbone": plan.probed[0]}},
        "axes": {"model.backbone": list(plan.probed), "strategy": strategies, "seed": list(range(plan.seeds))},
        "overrides": overrides,
        "exclude": [{"strategy": "knn", "seed": seed} for seed in range(1, plan.seeds)],
    }
    if plan.finetune_top:
        study["funnel"] = {"finetune_top": plan.finetune_top}
        if trials:
            study["tune"] = {
                "trials": trials,
                "space": {"training.learning_rate": {"low": 3e-5, "high": 3e-3, "log": True}},
            }
    return study
