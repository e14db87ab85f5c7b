"""A value of a recipe in a word, and what a run is called among others by the values that it varies."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

SEED = "seed"
"""The axis that repeats a candidate instead of making another."""

Cost = Literal["train_seconds", "total_seconds", "latency_ms", "parameters", "trainable_parameters", "peak_memory_mb"]
"""What a candidate costs, in a leaderboard and where one of equals is recommended."""

FROZEN = ("linear_probe", "knn", "quantized_probe")
"""Strategies that only read what a frozen backbone computes: they search their own settings, and cost little."""


def in_a_word(value: Any) -> str:
    """Return a value in a word: the last part of a name, the name of an object."""
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("backbone") or value.get("source") or json.dumps(value, sort_keys=True)
    if isinstance(value, str):
        return re.split(r"[/:]", value.rstrip("/"))[-1] or value
    if value is None:
        return "null"
    return str(value) if isinstance(value, (int, float)) else json.dumps(value, sort_keys=True)


def candidate(values: Mapping[str, Any]) -> str:
    """Return what a run is called among its repetitions: what it varies, without the seed; empty where that is nothing."""
    return " ".join(in_a_word(value) for key, value in values.items() if key != SEED and value is not None)
