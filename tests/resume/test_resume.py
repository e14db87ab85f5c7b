"""A run that is killed anywhere and resumed ends with the bytes of one that was not: weights, predictions, metrics, history.

Every run is the real program in a process of its own. `pytest -m resume` goes through a set of combinations that covers every
pair of strategy, way to die, source of randomness and number of loader processes, and every family; the default run holds a
few.
"""

import itertools

import pytest

STRATEGIES = {
    "full": "full",
    "linear_probe": "linear_probe",
    "partial": {"name": "partial", "frozen_groups": 1},
    "two_phase": "two_phase",
    "gradual": {"name": "gradual", "stages": 3, "phase_epochs": 1, "reset_optimizer": True},
    "discriminative": {"name": "discriminative", "patience": 1},
    "complete": {"name": "complete", "stages": 3, "phase_epochs": 1, "patience": 1},
    "norm_only": {"name": "norm_only", "layer_decay": 0.5},
    "lora": "lora",
    "custom": {
        "name": "custom",
        "scheduler": "global",
        "phases": [
            {"name": "head", "train": ["head"], "epochs": 1},
            {"name": "top", "train": ["*[1-9]", "head"], "epochs": 1, "rates": {"head": 2.0}, "reset_optimizer": True},
            {"name": "all", "train": ["*"], "epochs": 1},
        ],
    },
}
# Between two checkpoints inside an epoch; at the boundary of an epoch, a phase, or the training; while saving. Rows take turns
# with the places of a kind.
PLACES = {
    "inside": ("step:10", "step:16", "step:5"),
    "boundary": ("epoch:2", "epoch:3", "finished:1"),
    "saving": ("saving:4", "marking:3", "rotating:4"),
}
RANDOMNESS = {
    "augmentation": {"augment": {"preset": "strong", "erasing": 0.5}},
    "dropout": {"augment": {"preset": "none"}, "early_stopping": {"patience": 50}},
    "mixing": {"augment": {"preset": "basic", "mixup": 0.4, "cutmix": 1.0}, "ema": {"decay": 0.9}},
}
WORKERS = (0, 2)
FAMILIES = (
    *("vit", "convnext", "swinv2", "resnet", "pvt_v2", "efficientnet", "dinov2", "regnet", "beit", "timm:test_resnet"),
    *("swin", "deit", "mobilenet_v2", "timm:test_vit", "torchvision:mobilenet_v3_small"),
)


def covering():
    """Return rows in which every pair of values of two columns stands together at least once; greedy, always the same."""
    columns = (tuple(STRATEGIES), tuple(PLACES), tuple(RANDOMNESS), WORKERS)
    pairs = {
        ((i, a), (j, b)) for i, j in itertools.combinations(range(len(columns)), 2) for a in columns[i] for b in columns[j]
    }
    rows = []
    candidates = list(itertools.product(*columns))
    while pairs:
        best = max(candidates, key=lambda row: len(pairs & set(itertools.combinations(enumerate(row), 2))))
        pairs -= set(itertools.combinations(enumerate(best), 2))
        rows.append(best)
    return [
        (strategy, PLACES[kind][number // 3 % 3], randomness, workers, FAMILIES[number % len(FAMILIES)])
        for number, (strategy, kind, randomness, workers) in enumerate(rows)
    ]


def sections(strategy, randomness, workers):
    training = {"dataloader_num_workers": workers}
    if workers:
        training["gradient_accumulation_steps"] = 2
    return {"strategy": STRATEGIES[strategy], "training_more": training, **RANDOMNESS[randomness]}


def written(recipe_of, strategy, randomness, workers, family):
    chosen = sections(strategy, randomness, workers)
    if family in ("convnext", "efficientnet") and randomness == "dropout":
        chosen["augment"] = {"preset": "none"}  # stochastic depth draws instead
    return recipe_of(family, training=chosen.pop("training_more"), **chosen)


ROWS = covering()


def test_covering__every_pair_stands_together():
    kinds = {place: kind for kind, places in PLACES.items() for place in places}
    rows = [(strategy, kinds[place], randomness, workers) for strategy, place, randomness, workers, _ in ROWS]
    seen = {pair for row in rows for pair in itertools.combinations(enumerate(row), 2)}
    columns = (tuple(STRATEGIES), tuple(PLACES), tuple(RANDOMNESS), WORKERS)
    for i, j in itertools.combinations(range(4), 2):
        assert {((i, a), (j, b)) for a in columns[i] for b in columns[j]} <= seen
    assert {row[4] for row in ROWS} == set(FAMILIES)
    assert {row[1] for row in ROWS} == set(kinds)


@pytest.mark.resume
@pytest.mark.parametrize(("strategy", "place", "randomness", "workers", "family"), ROWS)
def test_resume__is_exact(recipe_of, assert_resume_is_exact, strategy, place, randomness, workers, family):
    assert_resume_is_exact(written(recipe_of, strategy, randomness, workers, family), place)


@pytest.mark.parametrize(
    ("strategy", "place", "randomness", "workers", "family"),
    [
        ("full", "step:10", "mixing", 2, "vit"),
        ("gradual", "epoch:2", "augmentation", 0, "convnext"),
        ("lora", "saving:4", "dropout", 0, "dinov2"),
    ],
)
def test_resume__is_exact_a_few(recipe_of, assert_resume_is_exact, strategy, place, randomness, workers, family):
    resumed = assert_resume_is_exact(written(recipe_of, strategy, randomness, workers, family), place)
    incomplete = "checkpoint-8 is incomplete, as a run killed while saving leaves it; it is passed over"
    assert (incomplete in resumed.stderr) == (place == "saving:4"), resumed.stderr
