import numpy as np
import pytest

from hf_transfer.metrics.multi_label import mean_average_precision, mean_average_precision_ci95
from hf_transfer.metrics.ranking_verdict import RankingCandidate, compare_rankings, reach_ranking_verdict

LABELS = np.random.default_rng(0).random((150, 4)) < 0.3


def scores(skill, seed):
    """Return the scores of a model that shares most of its noise with the others."""
    shared = np.random.default_rng(1).normal(size=LABELS.shape)
    return skill * LABELS + 0.8 * shared + 0.4 * np.random.default_rng(seed).normal(size=LABELS.shape)


def candidate(name, skill, seeds=(10,), validation=0.8, **costs):
    found = [scores(skill, seed) for seed in seeds]
    return RankingCandidate(name, found, [validation] * len(found), costs)


def test_reach_ranking_verdict__one_is_best():
    verdict = reach_ranking_verdict([candidate("good", 3.0, validation=0.9), candidate("bad", 0.5, seeds=(11,))], LABELS)
    assert (verdict.leader, verdict.winner, verdict.tied, verdict.chosen_on) == ("good", "good", ("good",), "validation")
    standing = verdict.standings[0]
    assert standing.accuracy == pytest.approx(mean_average_precision(scores(3.0, 10), LABELS), abs=1e-12)
    assert standing.accuracy_ci95 == mean_average_precision_ci95(scores(3.0, 10), LABELS)
    (beside,) = verdict.comparisons
    assert beside.outcome == "worse" and beside.about == "networks" and beside.p_seeds is None
    assert beside.difference_ci95[0] < beside.difference < beside.difference_ci95[1] < 0
    assert verdict.headline.key == "mean_average_precision"
    assert verdict.words.startswith("The network of good is best: these 150 test images and one seed each show")
    assert (verdict.images, verdict.groups) == (150, None)


def test_reach_ranking_verdict__equal_networks_are_tied_and_the_cheapest_is_named():
    same = [scores(2.0, 10)]
    verdict = reach_ranking_verdict(
        [RankingCandidate("a", same, [0.8], {"parameters": 9.0}), RankingCandidate("b", same, [0.7], {"parameters": 3.0})],
        LABELS,
        cost="parameters",
    )
    assert verdict.tied == ("a", "b") and verdict.cheapest == "b" and verdict.winner is None
    assert (verdict.comparisons[0].difference, verdict.comparisons[0].p_value) == (0.0, 1.0)
    assert verdict.comparisons[0].detectable > 0  # no agreement is certain


def test_reach_ranking_verdict__only_candidate_is_described_by_its_figure():
    verdict = reach_ranking_verdict([candidate("alone", 2.0)], LABELS)
    low, high = verdict.standings[0].accuracy_ci95
    assert verdict.words.startswith(f"alone is the only candidate: mean average precision {verdict.standings[0].accuracy:.4f} ")
    assert f"[{low:.4f}, {high:.4f}] on these 150 test images and one seed each" in verdict.words


def test_reach_ranking_verdict__without_validation_the_notes_name_the_figure():
    bare = [RankingCandidate(name, [scores(skill, 10)]) for name, skill in (("a", 2.0), ("b", 1.9))]
    notes = reach_ranking_verdict(bare, LABELS).notes
    assert notes[0] == (
        "No candidate has a validation mean average precision: the leader was chosen on the test images, so its mean average "
        "precision is flattered."
    )


def test_reach_ranking_verdict__seeds_that_differ_widen_the_interval_and_are_tested_too():
    few = [
        RankingCandidate(name, [scores(s, 20 + i) for i, s in enumerate(skills)])
        for name, skills in (
            ("a", (1.0, 3.0)),
            ("b", (0.9, 2.9)),
        )
    ]
    verdict = reach_ranking_verdict(few, LABELS)
    standing, (beside,) = verdict.standings[0], verdict.comparisons
    one = mean_average_precision_ci95(scores(2.0, 20), LABELS)
    assert standing.accuracy_ci95[1] - standing.accuracy_ci95[0] > 2 * (one[1] - one[0])
    assert standing.seed_deviation > 0.1
    assert beside.about == "strategies" and beside.p_seeds > beside.p_images and beside.outcome == "tied"


def test_reach_ranking_verdict__more_comparisons_need_a_larger_difference():
    pair = [candidate("a", 2.0, validation=0.9), candidate("b", 1.85, seeds=(11,))]
    alone = reach_ranking_verdict(pair, LABELS).comparisons[0]
    crowd = [candidate(f"c{i}", 1.85, seeds=(30 + i,)) for i in range(6)]
    among = next(c for c in reach_ranking_verdict([*pair, *crowd], LABELS).comparisons if c.name == "b")
    assert among.p_value == alone.p_value == alone.p_adjusted
    assert among.p_adjusted >= alone.p_adjusted and among.detectable > alone.detectable


def test_reach_ranking_verdict__groups_are_drawn_whole():
    twins = np.repeat(np.arange(150), 4)
    pair = [RankingCandidate("a", [scores(2.0, 10)[twins]], [0.9]), RankingCandidate("b", [scores(1.7, 11)[twins]], [0.8])]
    grouped = reach_ranking_verdict(pair, LABELS[twins], groups=twins)
    apart = reach_ranking_verdict(pair, LABELS[twins])
    assert grouped.groups == 150
    assert grouped.comparisons[0].p_value > apart.comparisons[0].p_value


def test_reach_ranking_verdict__what_cannot_be_compared():
    with pytest.raises(ValueError, match="expected each name once, found twice: a"):
        reach_ranking_verdict([candidate("a", 1.0), candidate("a", 2.0)], LABELS)
    with pytest.raises(ValueError, match="expected each name once, found none"):
        reach_ranking_verdict([], LABELS)
    with pytest.raises(ValueError, match="expected at least one label among the test images, found none"):
        reach_ranking_verdict([candidate("a", 1.0)], np.zeros_like(LABELS))


def test_compare_rankings__is_the_verdicts_comparison():
    found = compare_rankings(scores(2.0, 10), scores(1.7, 11), LABELS)
    (beside,) = reach_ranking_verdict(
        [RankingCandidate("before", [scores(2.0, 10)], [0.9]), RankingCandidate("after", [scores(1.7, 11)], [0.8])], LABELS
    ).comparisons
    assert (found.difference, found.difference_ci95, found.p_value) == (
        beside.difference,
        beside.difference_ci95,
        beside.p_images,
    )
    assert found.after - found.before == found.difference and found.n == 150


def test_compare_rankings__equal_models_differ_by_chance_only():
    wrong = sum(
        compare_rankings(scores(1.5, 100 + i), scores(1.5, 200 + i), LABELS, draws=200).p_value < 0.05 for i in range(60)
    )
    assert wrong <= 8  # 3 are expected; 9 or more would happen once in 500 times
