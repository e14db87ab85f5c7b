"""A leaderboard of runs: candidates over their seeds on the same test images, what they cost, and the verdict."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

import numpy as np

from ..backbones.shortlist import Listed, shortlist
from ..metrics.headline import ACCURACY, Headline
from ..metrics.ranking_verdict import RankingCandidate, reach_ranking_verdict
from ..metrics.verdict import Candidate, Standing, Verdict, reach_verdict
from ..recipe.words import FROZEN, Cost, candidate, in_a_word
from ..run_directory import replacing, write_json
from .formats import finite
from .run_entries import RunEntry, read_entries
from .saved_run import read_object
from .selection import Scored, Selection, judge_selectors
from .watched import watched_test

COSTS: tuple[str, ...] = get_args(Cost)
_TOP = 3  # how many backbones a funnel takes, where it does not say


@dataclass(frozen=True)
class Row:
    """One candidate: what varies, over its seeds.

    Args:
        name: how it is called: its values in a word each.
        values: what the runs vary, as key to value.
        backbone: as the recipe names it.
        strategy: the name of its strategy.
        seeds: of its runs.
        runs: their directories, from the leaderboard's folder.
        costs: each the largest over the runs; None where it is not known. `train_seconds` includes what the features of a
            frozen backbone cost, also where another run had computed them.
        majority_baseline: accuracy of always answering the most frequent class; where images may have several labels, mean
            average precision of ranking them at random.
        input_size: pixels of the images' shorter side as the network sees them; None where the run does not say.
        pretraining: what the backbone was pretrained on, from the shortlist; None for backbones that it does not have.
        imagenet_top1: its published ImageNet accuracy, 0 to 1, likewise.
        trials: how many settings each run was chosen from, on validation; None where there was no search. Strategies on frozen
            features search a grid of their own, which is not counted here.
        tuned: what the searches chose, as key to the value of each run.
        logme: of the training features, the mean over the runs that computed it.
        published: the figure that others published for this experiment, as its recipe says; None where there is none.
        published_source: where it was published.
    """

    name: str
    values: dict[str, Any]
    backbone: str
    strategy: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    costs: dict[str, float | None]
    majority_baseline: float | None
    input_size: int | None
    pretraining: str | None
    imagenet_top1: float | None
    trials: int | None
    tuned: dict[str, tuple[Any, ...]]
    logme: float | None
    published: float | None
    published_source: str | None


@dataclass(frozen=True)
class Table:
    """Candidates that were tested on the same images.

    Args:
        data: the source of the images.
        rows: name to row.
        verdict: what can be said of them.
        warnings: what makes them less comparable than they look.
        selection: how well cheap figures pick the backbone to fine-tune; None where fewer than two were fine-tuned.
    """

    data: str
    rows: dict[str, Row]
    verdict: Verdict
    warnings: tuple[str, ...]
    selection: Selection | None


@dataclass(frozen=True)
class Leaderboard:
    """Every table below a folder.

    Args:
        tables: one for each set of test images, the largest first.
        unfinished: directories of runs that have not come to their end.
        left_out: directory to the reason why a finished run is in no table.
    """

    tables: tuple[Table, ...]
    unfinished: tuple[str, ...]
    left_out: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON-ready data; figures that are no accuracies have their own names."""
        found = json.loads(json.dumps(asdict(self)))
        for table, content in zip(self.tables, found["tables"], strict=True):
            for part in (*content["verdict"]["standings"], *content["rows"].values()):
                named = _renamed(part, table.verdict.headline)
                part.clear()
                part.update(named)
        return found


def _renamed(values: Mapping[str, Any], headline: Headline) -> dict[str, Any]:
    """Return values with what is called accuracy, and its baseline, called what they are; published ones stay."""
    if headline == ACCURACY:
        return dict(values)
    names = {ACCURACY.baseline: headline.baseline}
    names |= {key: key.replace(ACCURACY.key, headline.key) for key in values if re.match(r"(validation_)?accuracy", key)}
    return {names.get(key, key): value for key, value in values.items()}


def build_leaderboard(root: Path, *, cheapest_by: str = "train_seconds") -> Leaderboard:
    """Compare the runs below a folder.

    Args:
        root: a study's folder, or any folder of runs.
        cheapest_by: the cost, one of `COSTS`, by which one of the tied is recommended.

    Raises:
        UserError: there is no run at all.
    """
    entries = read_entries(root)
    sets: dict[str, list[RunEntry]] = {}
    for entry in entries.runs:
        sets.setdefault(entry.images, []).append(entry)
    funnel = read_object(root / "funnel.json") if (root / "funnel.json").is_file() else {}
    top = int(funnel.get("finetune_top", _TOP))
    tables = [_table(found, root, cheapest_by, top) for found in sorted(sets.values(), key=len, reverse=True)]

    def named(path: Path) -> str:
        return path.relative_to(root).as_posix()

    return Leaderboard(
        tuple(tables), tuple(map(named, entries.unfinished)), {named(path): why for path, why in entries.left_out.items()}
    )


def write_leaderboard(root: Path, board: Leaderboard, text: str) -> None:
    """Write leaderboard.json, leaderboard.csv (a line for each candidate) and leaderboard.md into a folder."""
    write_json(root / "leaderboard.json", board.to_json())
    with replacing(root / "leaderboard.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lines = csv_lines(board)
        writer = csv.DictWriter(file, fieldnames=list(lines[0]) if lines else [])
        if lines:
            writer.writeheader()
        writer.writerows(lines)
    with replacing(root / "leaderboard.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


def csv_lines(board: Leaderboard) -> list[dict[str, Any]]:
    """Return one flat line for each candidate, the same columns in all."""
    keys = dict.fromkeys(key for table in board.tables for row in table.rows.values() for key in row.values)
    lines = []
    for table in board.tables:
        comparisons = {comparison.name: comparison for comparison in table.verdict.comparisons}
        for standing in table.verdict.standings:
            row, beside = table.rows[standing.name], comparisons.get(standing.name)
            lines.append(
                _renamed(
                    {
                        "data": table.data,
                        "name": standing.name,
                        **{key: row.values.get(key) for key in keys},
                        "seeds": standing.seeds,
                        "n": table.verdict.images,
                        "groups": table.verdict.groups,
                        "accuracy": standing.accuracy,
                        "accuracy_low": standing.accuracy_ci95[0],
                        "accuracy_high": standing.accuracy_ci95[1],
                        "seed_deviation": standing.seed_deviation,
                        "validation_accuracy": standing.validation_accuracy,
                        "leader": standing.name == table.verdict.leader,
                        "tied": standing.tied,
                        "difference": beside and beside.difference,
                        "difference_low": beside and beside.difference_ci95[0],
                        "difference_high": beside and beside.difference_ci95[1],
                        "p_adjusted": beside and beside.p_adjusted,
                        **row.costs,
                        "majority_baseline": row.majority_baseline,
                        "input_size": row.input_size,
                        "pretraining": row.pretraining,
                        "imagenet_top1": row.imagenet_top1,
                        "trials": row.trials,
                        "logme": row.logme,
                        "published": row.published,
                        "published_source": row.published_source,
                    },
                    table.verdict.headline,
                )
            )
    titles = dict.fromkeys(title for line in lines for title in line)
    return [{title: line.get(title) for title in titles} for line in lines]


def _table(entries: Sequence[RunEntry], root: Path, cheapest_by: str, top: int) -> Table:
    groups: dict[str, list[RunEntry]] = {}
    for entry in entries:
        groups.setdefault(json.dumps(entry.values, sort_keys=True), []).append(entry)
    rows: dict[str, Row] = {}
    candidates: list[tuple[Row, list[RunEntry], list[float] | None]] = []
    latencies = _latencies(entries)
    for found in groups.values():
        found.sort(key=lambda entry: (entry.seed, entry.path))
        row = _row(found, root, latencies, taken=rows)
        rows[row.name] = row
        validation = [entry.validation_accuracy for entry in found]
        known = [value for value in validation if value is not None]
        candidates.append((row, found, known if len(known) == len(found) else None))
    together, unclear = _images_together(entries)
    verdict = _verdict(candidates, together, cheapest_by)
    source = entries[0].run.section("data").get("source")
    return Table(str(source), rows, verdict, (*unclear, *_warnings(entries, rows)), _selection(rows, verdict, top))


def _verdict(
    candidates: Sequence[tuple[Row, list[RunEntry], list[float] | None]], groups: np.ndarray | None, cost: str
) -> Verdict:
    """Return the verdict on candidates, each with its runs and what they reached on validation."""
    first = candidates[0][1][0].ranking
    if first is None:
        one_label = [
            Candidate(row.name, [run.correct for run in runs], validation_accuracy=validation, costs=row.costs)
            for row, runs, validation in candidates
        ]
        return reach_verdict(one_label, groups=groups, cost=cost)
    several = [
        RankingCandidate(
            row.name,
            [run.ranking.scores for run in runs if run.ranking is not None],
            validation,
            row.costs,
            _stated_interval(runs, grouped=groups is not None),
        )
        for row, runs, validation in candidates
    ]
    return reach_ranking_verdict(several, first.labels, groups=groups, cost=cost)


def _stated_interval(runs: Sequence[RunEntry], *, grouped: bool) -> tuple[float, float] | None:
    """Return the interval that a single run states of its figure, where it drew images as they are drawn here."""
    test = runs[0].run.splits.get("test", {})
    stated = test.get(runs[0].run.headline.interval)
    if len(runs) > 1 or not isinstance(stated, list) or len(stated) != 2 or ("groups" in test) != grouped:
        return None
    return float(stated[0]), float(stated[1])


def _images_together(entries: Sequence[RunEntry]) -> tuple[np.ndarray | None, list[str]]:
    """Return the number of each test image's group [n], None without groups, and what a reader has to know of it.

    Groups belong to the images, so what one run was told holds for all. Where runs were told different ones, those of which
    there are fewest are taken: groups that are too large cost power, those that are too small make winners of chance.
    """
    told: dict[bytes, np.ndarray] = {}
    for entry in entries:
        if entry.groups is not None:
            _, first, index = np.unique(entry.groups, return_index=True, return_inverse=True)
            numbers = np.argsort(np.argsort(first))[index]  # in the order of the images, whatever the groups are called
            told[numbers.tobytes()] = numbers
    if not told:
        return None, []
    several = [numbers for numbers in told.values() if numbers.max() > 0]  # one group tells nothing of others
    if not several:
        return None, ["All test images are of one group: what is said here holds for that group alone."]
    fewest = min(several, key=lambda numbers: int(numbers.max()))
    count = int(fewest.max()) + 1
    if len(told) > 1:
        return fewest, [f"The runs were told different groups of test images; the {count} of which there are fewest are taken."]
    return fewest, []


def _row(found: Sequence[RunEntry], root: Path, latencies: Mapping[str, float], taken: Mapping[str, Row]) -> Row:
    first = found[0]
    name = candidate(first.values) or first.path.name
    if name in taken:
        name = f"{name} ({first.path.name})"
    listed = _listed(str(first.run.section("model").get("backbone")))
    return Row(
        name=name,
        values=first.values,
        backbone=str(first.run.section("model").get("backbone")),
        strategy=first.strategy,
        seeds=tuple(entry.seed for entry in found),
        runs=tuple(entry.path.relative_to(root).as_posix() for entry in found),
        costs={cost: _largest([_cost(entry, cost) for entry in found]) for cost in COSTS}
        | {"latency_ms": None if first.strategy == "knn" else latencies.get(_network(first))},
        majority_baseline=_largest([finite(entry.run.splits["test"].get(first.run.headline.baseline)) for entry in found]),
        input_size=_input_size(first),
        pretraining=listed.pretraining if listed else None,
        imagenet_top1=listed.imagenet_top1 / 100 if listed and listed.imagenet_top1 is not None else None,
        trials=min((len(entry.tuning["trials"]) for entry in found if entry.tuning is not None), default=None),
        tuned=_tuned(found),
        logme=None if not (scores := [entry.logme for entry in found if entry.logme is not None]) else fmean(scores),
        published=first.published,
        published_source=first.published_source,
    )


def _tuned(found: Sequence[RunEntry]) -> dict[str, tuple[Any, ...]]:
    """Return what the searches chose, as key to the value of each run; empty where not every run had one."""
    chosen = [entry.tuning["chosen"] for entry in found if entry.tuning is not None]
    if len(chosen) < len(found):
        return {}
    return {key: tuple(one[key] for one in chosen) for key in chosen[0]}


def _network(entry: RunEntry) -> str:
    """Return what decides how fast a model is: its network, and whether it was quantized; not how it was trained."""
    quantized = entry.strategy == "quantized_probe"
    return json.dumps([entry.run.section("model"), quantized, entry.run.cost.get("device")], sort_keys=True)


def _latencies(entries: Sequence[RunEntry]) -> dict[str, float]:
    """Return the milliseconds of one image for each network that one of the runs has timed."""
    found: dict[str, list[float]] = {}
    for entry in entries:
        if (latency := finite(entry.run.speed.get("latency_ms"))) is not None and entry.strategy != "knn":
            found.setdefault(_network(entry), []).append(latency)
    return {network: median(times) for network, times in found.items()}


def _cost(entry: RunEntry, cost: str) -> float | None:
    value = entry.run.cost.get(cost)
    if cost == "train_seconds":
        return _alone(entry)
    if isinstance(value, Mapping):  # parameters by phase: as many as ever trained at once
        known = [figure for part in value.values() if (figure := finite(part)) is not None]
        return max(known, default=None)
    return finite(value)


def _alone(entry: RunEntry) -> float | None:
    """Return the training seconds of a run as if it were the only one: features from the store cost what they had cost."""
    found, spent, alone = (
        finite(entry.run.cost.get(key)) for key in ("train_seconds", "extraction_spent_seconds", "extraction_seconds")
    )
    if found is None or spent is None or alone is None:
        return found
    return found - spent + alone


def _input_size(entry: RunEntry) -> int | None:
    config = entry.run.model_config or {}
    pretrained = config.get("pretrained_cfg")
    size = pretrained.get("input_size") if isinstance(pretrained, Mapping) else config.get("image_size")
    size = size[-1] if isinstance(size, list) and size else size
    return size if isinstance(size, int) else None


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _listed(backbone: str) -> Listed | None:
    return next((entry for entry in shortlist() if entry.name == backbone), None)


def _warnings(entries: Sequence[RunEntry], rows: Mapping[str, Row]) -> list[str]:
    """Return what makes the candidates less comparable than a table makes them look."""
    warnings = []
    counts = {row.name: len(row.seeds) for row in rows.values() if row.strategy != "knn"}  # nothing random in that
    if len(set(counts.values())) > 1:
        few = ", ".join(name for name, count in counts.items() if count < max(counts.values()))
        warnings.append(f"Not all candidates have the same number of seeds; fewer have: {few}.")
    devices = {str(entry.run.cost.get("device")) for entry in entries}
    if len(devices) > 1:
        warnings.append(f"The times come from different machines ({'; '.join(sorted(devices))}) and cannot be compared.")
    sizes = {row.input_size for row in rows.values()}
    if len(sizes) > 1:
        warnings.append("The networks see images of different sizes: part of a difference may be the resolution.")
    trained = {str(entry.run.environment.get("class_counts", {}).get("train")) for entry in entries}
    if len(trained) > 1:
        warnings.append("The candidates were trained on different numbers of images.")
    if watched := sum(bool(watched_test(entry.run.metrics)) for entry in entries):
        warnings.append(
            f"Test images were scored while {watched} of the {len(entries)} runs trained: they chose nothing, but whoever "
            "watched them may have."
        )
    fine_tuned = [entry for entry in entries if entry.strategy not in FROZEN]
    searches = {_search(entry) for entry in fine_tuned}
    if len(searches) > 1:
        warnings.append(
            "The fine-tuned candidates were not given the same search: part of a difference may be how well each was tuned."
        )
    if len(rows) > 1 and searches == {""}:
        one = len({_rate(entry) for entry in fine_tuned}) == 1
        how = "Every fine-tuned candidate had the same learning rate (untuned)" if one else "No fine-tuned candidate was tuned"
        warnings.append(f"{how}: part of a difference may be whom {'that rate' if one else 'its learning rate'} suits.")
    return warnings


def _search(entry: RunEntry) -> str:
    """Return what search a run was given, as text; empty where there was none."""
    tuning = entry.tuning
    return "" if tuning is None else json.dumps([len(tuning["trials"]), tuning.get("space")], sort_keys=True)


def _selection(rows: Mapping[str, Row], verdict: Verdict, top: int) -> Selection | None:
    """Return how well cheap figures pick the backbone to fine-tune, on the training set where most were fine-tuned."""
    standings = {standing.name: standing for standing in verdict.standings}
    sets: dict[str, dict[str, list[Row]]] = {}
    for row in rows.values():
        model = json.dumps({key: value for key, value in row.values.items() if key.startswith("model.")}, sort_keys=True)
        data = json.dumps({key: value for key, value in row.values.items() if key.startswith("data.")}, sort_keys=True)
        sets.setdefault(data, {}).setdefault(model, []).append(row)
    best: Selection | None = None
    for models in sets.values():
        found = [scored for of_one in models.values() if (scored := _scored(of_one, standings)) is not None]
        selection = judge_selectors(found, known=len(models), top=top)
        if selection is not None and (best is None or selection.fine_tuned > best.fine_tuned):
            best = selection
    return best


def _scored(rows: Sequence[Row], standings: Mapping[str, Standing]) -> Scored | None:
    """Return a backbone's cheap figures and what it reached when it was fine-tuned; None where it was not."""

    def validation(row: Row) -> float:
        found = standings[row.name].validation_accuracy
        return -1.0 if found is None else found

    tuned = [row for row in rows if row.strategy not in FROZEN]
    if not tuned:
        return None
    chosen = max(tuned, key=validation)
    scores = {f"{row.strategy} on validation": validation(row) for row in rows if row.strategy in ("linear_probe", "knn")}
    if logme := [row.logme for row in rows if row.logme is not None]:
        scores["LogME"] = logme[0]
    if chosen.imagenet_top1 is not None:
        scores["ImageNet accuracy"] = chosen.imagenet_top1
    if (parameters := chosen.costs["parameters"]) is not None:
        scores["parameters (more)"] = parameters
    return Scored(in_a_word(chosen.backbone), standings[chosen.name].accuracy, scores)


def _rate(entry: RunEntry) -> Any:
    return entry.run.section("training").get("learning_rate")
