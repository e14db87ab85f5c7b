"""How often the verdict of a study is wrong, and what it finds: simulated studies whose truth is known.

A simulated study: K candidates with S seeds each, n test images and as many validation images. The chance to have an image
right is beta distributed over images (most are easy, some hopeless); a candidate finds other images hard than the next one
(`disagreement`, normal on the logit scale); a seed shifts all of a network's chances by a normal amount whose standard
deviation is given in points of accuracy; a candidate's gain does so by a fixed one. Whether an image is right is then drawn.

- `false_winners`: all candidates are equal. How often is one declared best (`winner`), how often is any called worse or better
  than the leader (`any claim`)? Beside the verdict, the same with the permutation test of given networks alone (Holm), and
  with both tests where pairs are not counted.
- `power`: the first candidate is better than all others, which are equal. How often is it declared best, which share of the
  comparisons with it is found, how often is anything false claimed?
- `detectable`: the first candidate is better by what the verdict calls detectable with 80 % power; is it found so often?
- `coverage`: how often intervals of 95 % hold the truth over fresh images and seeds, and how long they are; `percentile` and
  `BCa` are bootstraps over images and seeds.

Brackets are Wilson intervals of 95 % for the simulated rates. Run from the repository root (one thread is enough):
    OMP_NUM_THREADS=1 python benchmarks/study_statistics.py            # 2,000 studies a row
    OMP_NUM_THREADS=1 python benchmarks/study_statistics.py --quick    # seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from printing import machine_facts, print_facts, print_table
from scipy.optimize import brentq
from scipy.special import expit, logit
from tqdm import tqdm

from hf_transfer.metrics import wilson_interval
from hf_transfer.metrics.bootstrap import bootstrap_accuracy, bootstrap_difference
from hf_transfer.metrics.crossed import accuracy_interval, difference, measure, typical_seed_variance
from hf_transfer.metrics.multiple import holm
from hf_transfer.metrics.verdict import ALPHA, Candidate, Verdict, reach_verdict

PARTS = ("false_winners", "power", "detectable", "coverage")


@dataclass(frozen=True)
class World:
    """What is true in a simulated study.

    Args:
        seeds: of each candidate [K].
        n: test images, and validation images.
        seed_sd: standard deviation of a seed's accuracy, for all or for each candidate [K].
        gain: what each candidate's accuracy is above the base [K]; all 0 if empty.
        accuracy: mean of the images' chances, before candidates disagree.
        disagreement: standard deviation on the logit scale of what a candidate makes of an image (of a group of images).
        group_size: images of a group, which a candidate finds equally hard.
        uneven: whether groups have that size on average only, geometrically distributed from 1 on.
        groups_told: whether the verdict is told of the groups.
        validated: whether the leader is chosen on validation, or else on test.
    """

    seeds: tuple[int, ...]
    n: int
    seed_sd: float | tuple[float, ...] = 0.0
    gain: tuple[float, ...] = ()
    accuracy: float = 0.9
    disagreement: float = 1.0
    group_size: int = 1
    uneven: bool = False
    groups_told: bool = True
    validated: bool = True

    @cached_property
    def _logits(self) -> np.ndarray:
        rng = np.random.default_rng(123)
        return self._difficulty(rng, 40_000) + self.disagreement * rng.normal(size=40_000)

    def _difficulty(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return logit(np.clip(rng.beta(self.accuracy, 1 - self.accuracy, size=n), 1e-12, 1 - 1e-12))

    def mean_accuracy(self, shift: float) -> float:
        """Return the accuracy over all images of a network shifted by so much on the logit scale."""
        return float(expit(self._logits + shift).mean())

    @cached_property
    def shifts(self) -> np.ndarray:
        """Shift of each candidate [K]."""
        base = self.mean_accuracy(0.0)
        gains = self.gain or (0.0,) * len(self.seeds)
        by_gain = {g: brentq(lambda s, g=g: self.mean_accuracy(s) - base - g, -1, 12) if g else 0.0 for g in set(gains)}
        return np.array([by_gain[g] for g in gains])

    @cached_property
    def seed_shifts(self) -> np.ndarray:
        """Standard deviation of each candidate's seeds on the logit scale [K]."""
        slope = [(self.mean_accuracy(s + 0.01) - self.mean_accuracy(s - 0.01)) / 0.02 for s in self.shifts]
        return np.broadcast_to(self.seed_sd, len(self.seeds)) / np.array(slope)

    def true_accuracy(self, k: int) -> float:
        """Return a candidate's accuracy over all images and seeds."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(15)
        means = [self.mean_accuracy(self.shifts[k] + self.seed_shifts[k] * x) for x in nodes]
        return float(np.average(means, weights=weights))

    @cached_property
    def _membership(self) -> np.ndarray:
        """The group of each image [n]."""
        if not self.uneven:
            return np.arange(self.n) // self.group_size
        sizes = np.random.default_rng(7).geometric(1 / self.group_size, self.n)
        return np.repeat(np.arange(self.n), sizes)[: self.n]

    @cached_property
    def groups(self) -> np.ndarray | None:
        """The group of each test image [n], or None where there are none or they are not told."""
        return None if self.group_size == 1 or not self.groups_told else self._membership

    def study(self, rng: np.random.Generator) -> list[Candidate]:
        """Return a study's candidates."""
        seed_shift = [
            s + d * rng.normal(size=count) for s, d, count in zip(self.shifts, self.seed_shifts, self.seeds, strict=True)
        ]
        test = self._outcomes(rng, seed_shift)
        if not self.validated:
            return [Candidate(f"c{k}", correct) for k, correct in enumerate(test)]
        validation = self._outcomes(rng, seed_shift)
        return [Candidate(f"c{k}", test[k], tuple(validation[k].mean(axis=1))) for k in range(len(test))]

    def _outcomes(self, rng: np.random.Generator, seed_shift: list[np.ndarray]) -> list[np.ndarray]:
        units = int(self._membership[-1]) + 1
        difficulty = self._difficulty(rng, self.n)
        outcomes = []
        for shift in seed_shift:
            own = (self.disagreement * rng.normal(size=units))[self._membership]
            outcomes.append(rng.random((len(shift), self.n)) < expit(difficulty + own + shift[:, None]))
        return outcomes


def verdicts(world: World, studies: int) -> list[Verdict]:
    rng = np.random.default_rng(0)
    return [reach_verdict(world.study(rng), groups=world.groups) for _ in range(studies)]


def by_images_alone(verdict: Verdict) -> list[bool]:
    """Return which comparisons the permutation test of given networks alone calls different."""
    return [bool(p < ALPHA) for p in holm([c.p_images for c in verdict.comparisons])]


def by_holm(verdict: Verdict) -> list[bool]:
    """Return which comparisons both tests call different if the pairs are not counted: Holm's K - 1 for either."""
    images, seeds = ([getattr(c, p) for c in verdict.comparisons] for p in ("p_images", "p_seeds"))
    return [bool(p < ALPHA) for p in np.maximum(holm(images), holm([1.0 if p is None else p for p in seeds]))]


def rate(hits: Sequence[bool]) -> str:
    low, high = wilson_interval(sum(map(bool, hits)), len(hits))
    return f"{100 * sum(map(bool, hits)) / len(hits):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def describe(world: World) -> list[str]:
    k, few, many = len(world.seeds), min(world.seeds), max(world.seeds)
    spread = world.seed_sd if isinstance(world.seed_sd, tuple) else (world.seed_sd,)
    return [str(k), str(few) if few == many else f"{few}-{many}", f"{world.n:,}", ", ".join(f"{100 * s:g}" for s in spread)]


def false_winners(studies: int, quick: bool) -> None:
    plain = [(World((3,) * k, n, sd), "") for sd in (0.0, 0.005, 0.01) for k in (3, 6, 12) for n in (400, 2000, 10_000)]
    six = World((3,) * 6, 2000)
    uneven = replace(six, group_size=10, uneven=True, disagreement=3.0)
    special = [
        (replace(six, disagreement=0.0), "sampling noise only"),
        (replace(six, seeds=(1,) * 6), "networks"),
        (replace(six, seeds=(1,) * 6, disagreement=0.0), "networks, sampling noise only"),
        (replace(six, seeds=(1,) * 6, seed_sd=0.01), "read as strategies: why one seed is about networks"),
        (replace(six, seeds=(2,) * 6, seed_sd=0.01), ""),
        (replace(six, seeds=(5,) * 6, seed_sd=0.01), ""),
        (replace(six, seeds=(2, 2, 3, 3, 5, 5), seed_sd=0.01), "unequal seeds"),
        (World((3, 3), 2000, 0.01), ""),
        (World((2, 2), 10_000, 0.01), ""),
        (replace(six, seed_sd=(0.0025, 0.005, 0.005, 0.01, 0.01, 0.02)), "unequal seed variance"),
        (replace(six, seed_sd=(0.003, 0.003, 0.003, 0.003, 0.02, 0.02)), "unequal seed variance"),
        (replace(six, seed_sd=(0.003,) * 5 + (0.05,)), "one unstable"),
        (replace(six, accuracy=0.985, seed_sd=0.005), "accuracy 0.98"),
        (replace(six, seed_sd=0.01, validated=False), "leader chosen on test"),
        (replace(six, seeds=(1,) * 6, validated=False), "networks, leader chosen on test"),
        (replace(six, group_size=10, disagreement=3.0), "groups of 10"),
        (replace(six, seeds=(1,) * 6, group_size=10, disagreement=3.0), "networks, groups of 10"),
        (replace(six, seeds=(1,) * 6, group_size=10, disagreement=3.0, groups_told=False), "the same, groups not told"),
        (replace(uneven, n=400), "uneven groups of 10"),
        (uneven, "uneven groups of 10"),
        (replace(uneven, n=400, seeds=(1,) * 6), "networks, uneven groups of 10"),
        (replace(uneven, seeds=(1,) * 6), "networks, uneven groups of 10"),
        (replace(uneven, seeds=(1,) * 6, groups_told=False), "the same, groups not told"),
    ]
    rows = []
    for world, what in tqdm(plain[3:4] + special[:2] if quick else plain + special, leave=False):
        found = verdicts(world, studies)
        alone = [by_images_alone(v) for v in found]
        best = [all(c.difference < 0 for c in v.comparisons) for v in found]
        rows.append(
            [
                *describe(world),
                rate([all(a) and b for a, b in zip(alone, best, strict=True)]),
                rate([any(a) for a in alone]),
                rate([any(by_holm(v)) for v in found]) if min(world.seeds) > 1 else "-",
                rate([v.winner is not None for v in found]),
                rate([any(c.outcome != "tied" for c in v.comparisons) for v in found]),
                what,
            ]
        )
    show(
        f"Equal candidates, {studies} studies a row, in %",
        ["images alone: winner", "any claim", "both tests, Holm: any claim", "verdict: winner", "any claim", ""],
        rows,
    )


def power(studies: int, quick: bool) -> None:
    worlds = [
        World((3,) * k, n, 0.005, (gain,) + (0.0,) * (k - 1))
        for gain in (0.01, 0.02, 0.05)
        for k, n in ((3, 400), (3, 2000), (6, 400), (6, 2000), (6, 10_000), (12, 2000))
    ]
    worlds += [
        World((s,) * 6, 2000, sd, (0.02,) + (0.0,) * 5) for s, sd in ((2, 0.005), (5, 0.005), (3, 0.01), (5, 0.01), (1, 0.0))
    ]
    worlds += [World((3,) * 6, 2000, 0.005, (0.02,) * 3 + (0.0,) * 3)]
    rows = []
    for world in tqdm(worlds[1:2] if quick else worlds, leave=False):
        found = verdicts(world, studies)
        gains = {f"c{k}": gain for k, gain in enumerate(world.gain)}
        top = max(world.gain)
        rows.append(
            [
                *describe(world),
                f"{100 * top:g} x{world.gain.count(top)}",
                rate([v.winner == "c0" for v in found]),
                rate([c.outcome != "tied" for v in found for c in v.comparisons if gains[c.name] != gains[v.leader]]),
                rate([false_claim(v, gains) for v in found]),
                rate([any(gains[name] == top for name in v.tied) for v in found]),
            ]
        )
    heads = ["gain", "winner declared", "differences found", "false claim", "a best one among the tied"]
    show(f"Some are better, {studies} studies a row, in %", heads, rows)


def false_claim(verdict: Verdict, gains: dict[str, float]) -> bool:
    """Return whether a comparison's outcome is not the truth's, ties aside."""
    by_sign = {-1: "worse", 0: "tied", 1: "better"}
    truth = {c.name: by_sign[int(np.sign(gains[c.name] - gains[verdict.leader]))] for c in verdict.comparisons}
    return any(c.outcome not in ("tied", truth[c.name]) for c in verdict.comparisons)


def detectable(studies: int, quick: bool) -> None:
    worlds = [
        World((s,) * k, n, sd)
        for k, s, n, sd in (
            (2, 1, 400, 0.0),
            (2, 1, 2000, 0.0),
            (2, 3, 2000, 0.005),
            (3, 3, 400, 0.005),
            (6, 3, 2000, 0.005),
            (6, 5, 10_000, 0.005),
        )
    ]
    rows = []
    for world in tqdm(worlds[1:2] if quick else worlds, leave=False):
        equal = verdicts(world, max(100, studies // 10))
        gain = float(np.median([v.detectable for v in equal]))
        better = replace(world, gain=(gain,) + (0.0,) * (len(world.seeds) - 1))
        found = [c for v in verdicts(better, studies) for c in v.comparisons if "c0" in (v.leader, c.name)]
        rows.append([*describe(world), f"{100 * gain:.2f}", rate([c.outcome != "tied" for c in found])])
    show(f"A difference called detectable with 80 % power, {studies} studies a row", ["detectable, points", "found, %"], rows)


def coverage(studies: int, quick: bool) -> None:
    """The leaderboard's interval beside others, for a candidate of a study of six."""
    rows = []
    size = [
        (0.9, 400, 0.0),
        (0.9, 400, 0.005),
        (0.9, 2000, 0.0),
        (0.9, 2000, 0.005),
        (0.9, 10_000, 0.005),
        (0.985, 2000, 0.005),
    ]
    cases = [(*given, seeds, 1) for given in size for seeds in (1, 2, 3, 5)]
    cases += [(0.9, 2000, 0.0, 1, 10), (0.9, 2000, 0.005, 3, 10)]
    for accuracy, n, sd, seeds, group_size in tqdm(cases[13:14] if quick else cases, leave=False):
        world = World(
            (seeds,) * 6,
            n,
            sd,
            accuracy=accuracy,
            group_size=group_size,
            disagreement=1.0 if group_size == 1 else 3.0,
            validated=False,
        )
        truth, rng = world.true_accuracy(0), np.random.default_rng(0)
        held: dict[str, list[bool]] = {}
        lengths: dict[str, list[float]] = {}
        for _ in range(studies):
            study = world.study(rng)
            for name, value, (low, high) in intervals(study, world.groups, truth, rng):
                held.setdefault(name, []).append(low <= value <= high)
                lengths.setdefault(name, []).append(high - low)
        cells = [f"{rate(held[name])} {100 * np.mean(lengths[name]):.2f}" for name in held]
        rows.append([*describe(world), f"{truth:.3f}" + (" groups" if group_size > 1 else ""), *cells])
    heads = ["accuracy", "leaderboard", "own seeds only", "percentile", "BCa", "difference: verdict", "percentile"]
    show(f"Intervals of 95 %: coverage in % and mean length in points, {studies} studies a row", heads, rows)


def intervals(study: list[Candidate], groups: np.ndarray | None, truth: float, rng: np.random.Generator):
    """Yield name, true value and interval for the first candidate, and for the difference of the first two."""
    measured = [measure(c.correct, groups) for c in study]
    typical = typical_seed_variance(measured)
    a, b, seed = study[0].correct, study[1].correct, int(rng.integers(2**31))
    yield "leaderboard", truth, accuracy_interval(measured[0], typical)
    yield "own seeds only", truth, accuracy_interval(measured[0])
    yield "percentile", truth, bootstrap_accuracy(a, groups, draws=1000, seed=seed)
    yield "BCa", truth, bootstrap_accuracy(a, groups, draws=1000, seed=seed, bca=True)
    yield "difference", 0.0, difference(measured[0], measured[1], typical).ci95
    yield "difference: percentile", 0.0, bootstrap_difference(a, b, groups, draws=1000, seed=seed)


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(title)
    print_table(["K", "seeds", "n", "seed sd", *heads], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a row")
    parser.add_argument("--quick", action="store_true", help="a few rows of 100 studies: does it work?")
    args = parser.parse_args()
    print_facts(machine_facts())
    run: dict[str, Callable[[int, bool], None]] = {
        "false_winners": false_winners,
        "power": power,
        "detectable": detectable,
        "coverage": coverage,
    }
    for part in args.parts:
        run[part](100 if args.quick else args.studies, args.quick)


if __name__ == "__main__":
    main()
