"""From the `strategy` section to a schedule of phases for a model with these layer groups.

Layer groups run from stem to head. `gradual`, `discriminative` and `complete` put them into fewer stages: head, three parts of
the body, stem (for a vision transformer with 12 blocks: head, blocks 8-11, 4-7, 0-3, embeddings; for a network of four stages:
head, stage 4, stage 3, stages 2 and 1, stem).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import Problem, RecipeError, nearest
from .phases import Phase, Schedule

if TYPE_CHECKING:
    from ..recipe.schema import CustomPhase, Strategy

DEFAULT_STAGES = 5
DEFAULT_MULTIPLIERS = (1.0, 0.4, 0.3, 0.2, 0.1)


def build_schedule(section: Strategy, groups: Sequence[str], epochs: float | None = None) -> Schedule:
    """Return the schedule of a strategy.

    - `full`: everything trains. `linear_probe`: the head alone; `quantized_probe`: the same on an int8 backbone.
    - `partial`: everything but the first `frozen_groups`, every batch norm frozen.
    - `two_phase`: as `partial` (with 0 frozen groups, `full`), batch norm as it comes; its first phase, the head on frozen
      features, is fitted before the Trainer starts (LP-FT, Kumar et al. 2022, arXiv 2202.10054).
    - `gradual`: the head, then one stage more in each phase, top down (Howard & Ruder 2018, arXiv 1801.06146).
    - `discriminative`: everything, at learning rates that fall from head to stem (the same source).
    - `complete`: both.
    - `norm_only`: normalisation layers and the head (Frankle et al. 2020, arXiv 2003.00152).
    - `lora`: adapters and the head; the rest of every layer group is frozen by the adapters themselves.
    - `custom`: the phases that the recipe spells out.

    Args:
        section: the recipe's `strategy` section.
        groups: names of the model's layer groups, stem ... head.
        epochs: `training.num_train_epochs`, None where the recipe leaves it out.

    Raises:
        RecipeError: when the section does not fit these groups or this number of epochs.
    """
    everything = tuple(groups)
    if section.name in ("full", "discriminative", "lora"):
        phases = [Phase(section.name, everything)]
    elif section.name in ("linear_probe", "quantized_probe"):
        phases = [Phase(section.name, ("head",))]
    elif section.name == "norm_only":
        phases = [Phase("norm_only", everything, parts="norms")]
    elif section.name in ("partial", "two_phase"):
        name = "partial" if section.frozen_groups else "full"
        phases = [Phase(name, _upper(groups, section.frozen_groups or 0))]
    elif section.name in ("gradual", "complete"):
        phases = _gradual(section, groups, epochs)
    elif section.name == "custom":
        phases = _custom(section.phases or [], groups, epochs)
    else:
        raise ValueError(f"strategy '{section.name}' has no phases")
    if section.name in ("discriminative", "complete"):
        rates = _stage_rates(section, groups)
        phases = [replace(phase, rates={name: rates[name] for name in phase.groups}) for phase in phases]
    if section.layer_decay is not None:
        decays = {name: section.layer_decay**distance for distance, name in enumerate(reversed(groups))}
        phases = [
            replace(phase, rates={name: phase.rates.get(name, 1.0) * decays[name] for name in phase.groups}) for phase in phases
        ]
    frozen_batch_norm = section.name == "partial" if section.frozen_batch_norm is None else section.frozen_batch_norm
    return Schedule(tuple(phases), section.scheduler == "phase", frozen_batch_norm)


def stages_of(groups: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Return layer groups (stem ... head) as `count` stages, head first: the head, equal parts of the body, the stem.

    Where the body does not divide evenly, the lower parts hold one layer group more. With two stages, the second is everything
    below the head.

    Args:
        groups: names of the layer groups, at least `count`.
        count: how many stages, at least 2.
    """
    *below, head = groups
    if count == 2:
        return [(head,), tuple(below)]
    stem, *body = below
    parts = count - 2
    stages: list[tuple[str, ...]] = [(head,)]
    stop = len(body)
    for left in range(parts, 0, -1):
        start = stop - stop // left  # the floor goes to the top, what is over to the bottom
        stages.append(tuple(body[start:stop]))
        stop = start
    return [*stages, (stem,)]


def _upper(groups: Sequence[str], frozen: int) -> tuple[str, ...]:
    if frozen >= len(groups):
        raise _wrong(
            "frozen_groups",
            f"expected at most {len(groups) - 1}, since the model has {len(groups)} layer groups; found {frozen}",
        )
    return tuple(groups[frozen:])


def _stages(section: Strategy, groups: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the stages the section asks for; by default five, or as many as there are layer groups."""
    if section.stages is not None and section.stages > len(groups):
        raise _wrong("stages", f"expected at most {len(groups)}, the number of layer groups; found {section.stages}")
    return stages_of(groups, section.stages or min(DEFAULT_STAGES, len(groups)))


def _stage_rates(section: Strategy, groups: Sequence[str]) -> dict[str, float]:
    stages = _stages(section, groups)
    multipliers = section.multipliers or list(DEFAULT_MULTIPLIERS[: len(stages)])
    if len(multipliers) != len(stages):
        raise _wrong(
            "multipliers", f"expected {len(stages)} numbers, one for each stage from head to stem; found {len(multipliers)}"
        )
    return {name: rate for rate, stage in zip(multipliers, stages, strict=True) for name in stage}


def _gradual(section: Strategy, groups: Sequence[str], epochs: float | None) -> list[Phase]:
    stages = _stages(section, groups)
    lengths = _gradual_lengths(section, len(stages), epochs)
    phases = []
    for number, length in enumerate(lengths):
        trained = {name for stage in stages[: number + 1] for name in stage}
        phases.append(
            Phase(
                "head" if number == 0 else f"{number + 1} stages",
                tuple(name for name in groups if name in trained),
                length,
                patience=section.patience,
                min_delta=section.min_delta,
                reset_optimizer=section.reset_optimizer and number > 0,
            )
        )
    return phases


def _gradual_lengths(section: Strategy, count: int, epochs: float | None) -> list[int]:
    given, head = section.phase_epochs, section.head_epochs
    if given is None and epochs is None:
        raise _wrong("phase_epochs", f"strategy '{section.name}' needs it, or training.num_train_epochs")
    if epochs is not None and epochs != int(epochs):
        raise _epochs_wrong(f"expected a whole number for strategy '{section.name}', found {epochs:g}")
    if given is not None:
        lengths = [given if head is None else head] + [given] * (count - 1)
        if epochs is not None and epochs != sum(lengths):
            words = f"{lengths[0]} for the head and {count - 1} x {given}"
            raise _epochs_wrong(f"expected {sum(lengths)} ({words}), or nothing; found {epochs:g}")
        return lengths
    left = int(epochs or 0) - (head or 0)
    phases = count if head is None else count - 1
    if left < phases:
        words = (
            f"an epoch for each of {phases} phases" if head is None else f"{head} for the head and one for each phase after it"
        )
        raise _epochs_wrong(f"expected at least {phases + (head or 0)}, {words}; found {epochs:g}")
    lengths = [left // phases] * (phases - 1) + [left - left // phases * (phases - 1)]
    return lengths if head is None else [head, *lengths]


def _custom(sections: Sequence[CustomPhase], groups: Sequence[str], epochs: float | None) -> list[Phase]:
    problems = []
    phases = []
    for number, section in enumerate(sections):
        path = f"strategy.phases.{number}"
        chosen: set[str] = set()
        for pattern in section.train:
            found = fnmatch.filter(groups, pattern)
            chosen.update(found)
            if not found:
                problems.append(Problem(f"{path}.train", _no_group(pattern, groups)))
        rates: dict[str, float] = {}
        for pattern, rate in section.rates.items():
            found = [name for name in fnmatch.filter(groups, pattern) if name in chosen]
            rates |= dict.fromkeys(found, rate)
            if not found:
                trained = [name for name in groups if name in chosen]
                problems.append(Problem(f"{path}.rates", _no_group(pattern, trained, "that trains in this phase")))
        phases.append(
            Phase(
                section.name,
                tuple(name for name in groups if name in chosen),
                section.epochs,
                rates,
                patience=section.patience,
                min_delta=section.min_delta,
                reset_optimizer=section.reset_optimizer,
            )
        )
    problems += _custom_length_problems(phases, epochs)
    if problems:
        raise RecipeError(problems)
    if epochs is None:
        return phases
    rest = epochs - sum(phase.epochs or 0 for phase in phases)
    last = len(phases) - 1
    # The last phase goes on to the end of the training, which num_train_epochs says.
    return [
        replace(phase, epochs=rest) if phase.epochs is None and number < last else phase for number, phase in enumerate(phases)
    ]


def _custom_length_problems(phases: Sequence[Phase], epochs: float | None) -> list[Problem]:
    names = [phase.name for phase in phases]
    problems = [
        Problem(f"strategy.phases.{number}.name", f"expected each name once; found '{name}' again")
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    known = sum(phase.epochs or 0 for phase in phases)
    open_ended = [number for number, phase in enumerate(phases) if phase.epochs is None]
    path, message = "training.num_train_epochs", ""
    if len(open_ended) > 1:
        path = f"strategy.phases.{open_ended[1]}.epochs"
        message = "is required: one phase at most may last the rest of the training"
    elif open_ended and epochs is None:
        message = f"is required, since phase '{names[open_ended[0]]}' has no epochs"
    elif open_ended and epochs is not None and epochs <= known:
        message = f"expected more than {known:g}, the other phases; found {epochs:g}"
    elif not open_ended and epochs is not None and epochs != known:
        message = f"expected {known:g}, the sum of the phases, or nothing; found {epochs:g}"
    return [*problems, Problem(path, message)] if message else problems


def _no_group(pattern: str, groups: Sequence[str], words: str = "") -> str:
    kind = f"layer group {words}".strip()
    return f"no {kind} fits '{pattern}'{nearest(pattern, groups)}; there are {', '.join(groups) or 'none'}"


def _wrong(key: str, message: str) -> RecipeError:
    return RecipeError([Problem(f"strategy.{key}", message)])


def _epochs_wrong(message: str) -> RecipeError:
    return RecipeError([Problem("training.num_train_epochs", message)])
