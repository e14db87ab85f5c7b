"""A verdict in plain words: the sentences that a report shows beside its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .verdict import Verdict

_SAVED = {"latency_ms": "faster", "train_seconds": "faster to train", "total_seconds": "faster to run", "parameters": "smaller"}
"""How to say that a candidate has less of a cost; any other is said by its name."""
_NAMES = {
    "train_seconds": "training time",
    "total_seconds": "time of the whole run",
    "latency_ms": "latency",
    "peak_memory_mb": "peak memory",
}


def cost_words(cost: str) -> str:
    """Return what a cost such as "train_seconds" is called in a sentence."""
    return _NAMES.get(cost, cost.replace("_", " "))


def verdict_words(verdict: Verdict, costs: Mapping[str, float]) -> str:
    """Return the verdict in a few sentences.

    Args:
        verdict: all but its words.
        costs: of the tied candidates and the leader, what each costs in `verdict.cost`; NaN where it is not known.
    """
    words = [_main_sentence(verdict)]
    if len(verdict.tied) > 1:
        words += _cost_sentence(verdict, costs)
    if verdict.detectable is not None and verdict.winner is None:
        words.append(f"Differences below about {_points(verdict.detectable)} would probably have been missed.")
    return " ".join(words)


def _main_sentence(verdict: Verdict) -> str:
    what, leader = _evidence(verdict), verdict.leader
    better = [c for c in verdict.comparisons if c.outcome == "better"]
    worse = [c for c in verdict.comparisons if c.outcome == "worse"]
    networks = any(c.about == "networks" for c in verdict.comparisons)
    if not verdict.comparisons:
        only = verdict.standings[0]
        low, high = only.accuracy_ci95
        return (
            f"{leader} is the only candidate: {verdict.headline.name} {only.accuracy:.4f} [{low:.4f}, {high:.4f}] on {what}; "
            "there is nothing to compare it with."
        )
    if better:
        ahead = max(better, key=lambda c: c.difference)
        return (
            f"{leader} leads on validation, but {_list([c.name for c in better])} did better on {what} ({ahead.name} by "
            f"{_points(ahead.difference)} {_interval(ahead.difference_ci95)}): validation did not find the best one here. "
            f"Not worse than {leader}: {_list([name for name in verdict.tied if name != leader])}."
        )
    if verdict.winner:
        second = max(worse, key=lambda c: c.difference)
        subject = f"The network of {leader} is best" if networks else f"{leader} is best"
        low, high = second.difference_ci95
        return (
            f"{subject}: {what} show every other candidate to be worse; next is {second.name}, {_points(-second.difference)} "
            f"behind {_interval((-high, -low))}."
        )
    rest = f" {_list([c.name for c in worse])} {'is' if len(worse) == 1 else 'are'} worse." if worse else ""
    return f"{_list(verdict.tied)} are tied: no difference that {what} could show.{rest}"


def _cost_sentence(verdict: Verdict, costs: Mapping[str, float]) -> list[str]:
    if verdict.cost is None:
        return []
    if verdict.cheapest is None:
        return [f"Which of them is the cheapest is not known: none has a known {cost_words(verdict.cost)}."]
    cheap, leader = costs[verdict.cheapest], costs[verdict.leader]
    if verdict.cheapest == verdict.leader:
        return [f"{verdict.leader} leads on {verdict.chosen_on} and is the cheapest of them ({cost_words(verdict.cost)})."]
    if not (cheap > 0 and leader / cheap >= 1.05):
        return [f"{verdict.cheapest} is the cheapest ({cost_words(verdict.cost)})."]
    saved = _SAVED.get(verdict.cost, f"less {cost_words(verdict.cost)}")
    return [f"{verdict.cheapest} is the cheapest: {leader / cheap:.1f}x {saved} than {verdict.leader}."]


def verdict_notes(verdict: Verdict, costs: Mapping[str, float]) -> tuple[str, ...]:
    """Return what a reader has to know besides, a sentence each; `costs` as in `verdict_words`."""
    validation = {s.name: s.validation_accuracy for s in verdict.standings}
    notes, figure = [], verdict.headline.name
    if verdict.chosen_on == "test":
        notes.append(
            f"No candidate has a validation {figure}: the leader was chosen on the test images, so its {figure} is flattered."
        )
    elif verdict.chosen_on == "validation":
        without = [name for name, value in validation.items() if value is None]
        if without:
            notes.append(f"Without validation {figure}, so compared but not able to lead: {', '.join(without)}.")
        best = validation[verdict.leader]
        equal = [
            n
            for n, value in validation.items()
            if n != verdict.leader and value is not None and best is not None and value >= best - 1e-12
        ]
        if equal:
            notes.append(
                f"As good on validation as {verdict.leader}: {', '.join(equal)}; the cheapest leads, or the first named."
            )
    if any(c.outcome == "better" for c in verdict.comparisons):
        notes.append(
            f"To pick a candidate for its test {figure} is to choose on the test images: confirm it on images not used yet."
        )
    unpriced = [name for name in verdict.tied if math.isnan(costs.get(name, math.nan))]
    if verdict.cheapest is not None and verdict.cost is not None and unpriced:
        notes.append(f"Not known, so not counted among the cheapest: {cost_words(verdict.cost)} of {', '.join(unpriced)}.")
    single = [s.name for s in verdict.standings if s.seeds == 1]
    if single:
        notes.append(
            f"One seed only ({', '.join(single)}): what is said of {'it' if len(single) == 1 else 'them'} is about the trained "
            f"network{'' if len(single) == 1 else 's'}; what another seed would change is not in the intervals and tests."
        )
    return tuple(notes)


def _evidence(verdict: Verdict) -> str:
    """Return what the verdict rests on, such as "these 400 test images in 80 groups and 3 seeds"."""
    seeds = [s.seeds for s in verdict.standings]
    few, many = min(seeds), max(seeds)
    counted = f"{few} to {many} seeds" if few != many else "one seed each" if few == 1 else f"{few} seeds"
    grouped = f" in {verdict.groups} groups" if verdict.groups is not None else ""
    return f"these {verdict.images} test images{grouped} and {counted}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _interval(ends: tuple[float, float]) -> str:
    return f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
