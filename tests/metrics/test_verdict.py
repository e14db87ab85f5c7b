import numpy as np
import pytest

from hf_transfer.metrics import wilson_interval
from hf_transfer.metrics.multiple import holm, holm_after_selection
from hf_transfer.metrics.paired import compare_paired
from hf_transfer.metrics.verdict import Candidate, reach_verdict


def rights(*counts, n=400):
    """Seeds that have so many of the first images right: booleans [S, n]."""
    return np.arange(n) < np.array(counts)[:, None]


A = Candidate("A", rights(388, 390, 389), (0.98, 0.97, 0.98), {"train_seconds": 41.0, "parameters": 4e6})
B = Candidate("B", rights(387, 389, 386), (0.97, 0.97, 0.97), {"train_seconds": 10.0, "parameters": 4e6})
C = Candidate("C", rights(389, 386, 388), (0.97, 0.96, 0.97), {"parameters": 1e6})
D = Candidate("D", rights(320, 318, 322), (0.80, 0.81, 0.80), {"train_seconds": 1.0})


def test_reach_verdict__tied_and_the_cheapest_of_them():
    verdict = reach_verdict([D, B, A, C], cost="train_seconds")
    assert (verdict.leader, verdict.chosen_on, verdict.winner) == ("A", "validation", None)
    assert verdict.tied == ("A", "C", "B")
    assert verdict.cheapest == "B"
    assert verdict.cost_front == {"train_seconds": ("D", "B", "A"), "parameters": ("C", "A")}
    assert [(c.name, c.outcome) for c in verdict.comparisons] == [("C", "tied"), ("B", "tied"), ("D", "worse")]
    assert verdict.words == (
        "A, C and B are tied: no difference that these 400 test images and 3 seeds could show. D is worse. B is the "
        "cheapest: 4.1x faster to train than A. Differences below about 2.0 points would probably have been missed."
    )
    assert verdict.notes == ("Not known, so not counted among the cheapest: training time of C.",)


@pytest.mark.parametrize(
    ("cost", "costs", "said"),
    [
        ("parameters", (4e6, 1e6), "B is the cheapest: 4.0x smaller than A."),
        ("latency_ms", (30.0, 9.0), "B is the cheapest: 3.3x faster than A."),
        ("kilowatt_hours", (3.0, 1.5), "B is the cheapest: 2.0x less kilowatt hours than A."),
        ("latency_ms", (9.2, 9.0), "B is the cheapest (latency)."),
        ("latency_ms", (None, 9.0), "B is the cheapest (latency)."),
        ("latency_ms", (9.0, 9.2), "A leads on validation and is the cheapest of them (latency)."),
        ("latency_ms", (None, float("nan")), "Which of them is the cheapest is not known: none has a known latency."),
    ],
)
def test_reach_verdict__cost_in_words(cost, costs, said):
    a, b = (Candidate(x.name, x.correct, x.validation_accuracy, {cost: c}) for x, c in zip((A, B), costs, strict=True))
    assert f"could show. {said} Differences" in reach_verdict([a, b], cost=cost).words


def test_reach_verdict__one_is_best():
    verdict = reach_verdict([A, D])
    assert (verdict.winner, verdict.tied, verdict.cheapest) == ("A", ("A",), None)
    assert verdict.words == (
        "A is best: these 400 test images and 3 seeds show every other candidate to be worse; next is D, 17.2 points behind "
        "[13.5, 21.0]."
    )
    (d,) = verdict.comparisons
    assert (d.about, d.outcome, d.p_value) == ("strategies", "worse", max(d.p_images, d.p_seeds))
    assert d.difference == pytest.approx(-0.1725)
    assert d.difference_ci95[0] < d.difference < d.difference_ci95[1] < 0


def test_reach_verdict__one_seed_is_about_networks():
    verdict = reach_verdict([Candidate("A", rights(390), (0.9,)), Candidate("D", rights(320), (0.8,))])
    assert verdict.words == (
        "The network of A is best: these 400 test images and one seed each show every other candidate to be worse; next is "
        "D, 17.5 points behind [14.1, 21.5]."
    )
    assert verdict.notes == (
        "One seed only (A, D): what is said of them is about the trained networks; what another seed would change is not in "
        "the intervals and tests.",
    )
    (found,) = verdict.comparisons
    paired = compare_paired(rights(390)[0], rights(320)[0])
    assert (found.p_images, found.p_seeds, found.about) == (paired.p_value, None, "networks")
    assert found.difference_ci95 == paired.difference_ci95
    assert verdict.standings[0].accuracy_ci95 == wilson_interval(390, 400)
    assert verdict.standings[0].seed_deviation is None


def test_reach_verdict__unequal_seeds():
    verdict = reach_verdict([A, Candidate("D", rights(320), (0.8,)), Candidate("E", rights(200, 210), (0.5, 0.5))])
    assert [(c.name, c.about) for c in verdict.comparisons] == [("D", "networks"), ("E", "strategies")]
    assert verdict.words.startswith("The network of A is best: these 400 test images and 1 to 3 seeds show")


def test_reach_verdict__validation_chose_badly():
    verdict = reach_verdict(
        [Candidate("A", rights(320, 318, 322), (0.99,) * 3), Candidate("B", rights(388, 389, 390), (0.9,) * 3), D]
    )
    assert (verdict.leader, verdict.winner, verdict.tied) == ("A", None, ("B", "A", "D"))
    assert verdict.words.startswith(
        "A leads on validation, but B did better on these 400 test images and 3 seeds (B by 17.2 points [13.4, 21.1]): "
        "validation did not find the best one here. Not worse than A: B and D."
    )
    assert verdict.notes[-1] == (
        "To pick a candidate for its test accuracy is to choose on the test images: confirm it on images not used yet."
    )


def test_reach_verdict__without_validation():
    blind = [Candidate(c.name, c.correct) for c in (D, A)]
    verdict = reach_verdict(blind)
    assert (verdict.leader, verdict.chosen_on) == ("A", "test")
    assert verdict.notes == (
        "No candidate has a validation accuracy: the leader was chosen on the test images, so its accuracy is flattered.",
    )
    verdict = reach_verdict([*blind, B])
    assert (verdict.leader, verdict.chosen_on) == ("B", "validation")
    assert verdict.notes == ("Without validation accuracy, so compared but not able to lead: A, D.",)


def test_reach_verdict__equal_on_validation():
    equals = [Candidate(x.name, x.correct, (0.9,) * 3, x.costs) for x in (A, B, C)]
    assert reach_verdict(equals).leader == "A"
    verdict = reach_verdict(equals, cost="train_seconds")
    assert verdict.leader == "B"
    assert verdict.notes[0] == "As good on validation as B: A, C; the cheapest leads, or the first named."


def test_reach_verdict__one_candidate():
    verdict = reach_verdict([D], cost="train_seconds")
    assert (verdict.leader, verdict.chosen_on, verdict.winner, verdict.comparisons) == ("D", "nothing", None, ())
    assert verdict.words == (
        "D is the only candidate: accuracy 0.8000 [0.7576, 0.8366] on these 400 test images and 3 seeds; there is nothing to "
        "compare it with."
    )


def test_reach_verdict__adjusts_each_test_by_itself(rng):
    candidates = [Candidate(f"c{k}", rng.random((3, 500)) < 0.9 - 0.02 * k, (0.9 - 0.02 * k,) * 3) for k in range(5)]
    comparisons = reach_verdict(candidates).comparisons
    expected = np.maximum(holm([c.p_images for c in comparisons]), holm_after_selection([c.p_seeds for c in comparisons]))
    assert [c.p_adjusted for c in comparisons] == pytest.approx(expected.tolist())
    blind = reach_verdict([Candidate(c.name, c.correct[:1]) for c in candidates]).comparisons
    assert [c.p_adjusted for c in blind] == pytest.approx(holm_after_selection([c.p_images for c in blind]).tolist())


def test_reach_verdict__groups():
    copies = [Candidate(name, np.repeat(rights(c, n=60), 10, axis=1), (c / 60,)) for name, c in (("A", 54), ("B", 50))]
    assert reach_verdict(copies).winner == "A"  # ten copies of each image pass for evidence
    verdict = reach_verdict(copies, groups=np.arange(600) // 10)
    assert (verdict.winner, verdict.images, verdict.groups) == (None, 600, 60)
    assert "these 600 test images in 60 groups and one seed each" in verdict.words


def test_reach_verdict__of_equal_candidates_on_groups_of_many_sizes(rng):
    """What a candidate finds hard it finds hard in the whole group; groups have one to forty images. 300 small studies."""
    winners, claims, blind = [], [], []
    for _ in range(300):
        sizes = rng.geometric(0.1, 60)
        groups = np.repeat(np.arange(60), sizes)
        difficulty = rng.normal(2.0, 1.5, len(groups))
        own = [np.repeat(rng.normal(0, 2, 60), sizes) for _ in range(4)]
        study = [
            Candidate(f"c{k}", rng.random((1, len(groups))) < 1 / (1 + np.exp(-difficulty - own[k])), (rng.random(),))
            for k in range(4)
        ]
        verdict = reach_verdict(study, groups=groups)
        winners.append(verdict.winner is not None)
        claims.append(any(found.outcome != "tied" for found in verdict.comparisons))
        blind.append(any(found.outcome != "tied" for found in reach_verdict(study).comparisons))
    assert np.mean(winners) <= 0.05
    assert np.mean(claims) <= 0.08  # 5 % and what 300 studies may be off by
    assert np.mean(blind) > 0.3


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([], "expected at least one candidate, found none"),
        ([A, B, A], "expected each name once, found twice: A"),
        ([A, Candidate("E", rights(3, n=10))], "candidates are compared on the same test images: A has 400 images, E has 10"),
        (
            [Candidate("A", rights(1, n=2), image_ids=["x", "y"]), Candidate("E", rights(1, n=2), image_ids=["x", "z"])],
            "candidates are compared on the same test images in the same order: those of E are not those of A",
        ),
        (
            [Candidate("A", rights(1, n=2), image_ids=["x", "y"]), Candidate("E", rights(1, n=2), image_ids=["y", "x"])],
            "those of E are in another order than those of A",
        ),
        ([Candidate("A", rights(1, n=2), image_ids=["x"])], "A: expected an id for each of 2 images, found 1"),
        (
            [Candidate("A", rights(1, 2), (0.9,))],
            "A: expected a validation accuracy between 0 and 1 for each of 2 seeds, found",
        ),
        ([Candidate("A", rights(1), (90.0,))], "A: expected a validation accuracy between 0 and 1 for each of 1 seeds, found"),
    ],
)
def test_reach_verdict__refused(candidates, message):
    with pytest.raises(ValueError, match=message):
        reach_verdict(candidates)


def simulated(rng, gains, seeds, n, seed_sd):
    """A study whose networks' accuracies vary by seed; images differ in difficulty. A hundredth of the images is 0.01."""

    def outcomes(level):
        hard = rng.beta(0.9, 0.1, size=n)
        return rng.random((seeds, n)) < np.clip(hard + level[:, None], 0, 1)

    candidates = []
    for k, gain in enumerate(gains):
        level = gain + seed_sd * rng.normal(size=seeds)
        candidates.append(Candidate(f"c{k}", outcomes(level), tuple(outcomes(level).mean(axis=1))))
    return candidates


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.02)])
def test_reach_verdict__identical_candidates_have_no_winner(rng, seeds, seed_sd):
    verdicts = [reach_verdict(simulated(rng, [0] * 4, seeds, 1000, seed_sd)) for _ in range(200)]
    assert np.mean([v.winner is not None for v in verdicts]) <= 0.05
    assert np.mean([any(c.outcome != "tied" for c in v.comparisons) for v in verdicts]) <= 0.05


def test_reach_verdict__images_alone_would_declare_winners_too_often(rng):
    verdicts = [reach_verdict(simulated(rng, [0] * 4, 3, 1000, 0.02)) for _ in range(100)]
    assert np.mean([(holm([c.p_images for c in v.comparisons]) < 0.05).any() for v in verdicts]) > 0.2


def test_reach_verdict__finds_a_real_difference(rng):
    verdicts = [reach_verdict(simulated(rng, [0, 0, 0, -0.1], 3, 1000, 0.005)) for _ in range(50)]
    assert np.mean(["c3" not in v.tied for v in verdicts]) > 0.9
