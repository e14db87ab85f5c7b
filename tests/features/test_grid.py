import itertools
import math

import pytest
import torch

from hf_transfer.features.grid import LEARNING_RATES, NORMALIZATIONS, WEIGHT_DECAYS, HeadGrid, fit_grid
from hf_transfer.features.heads import Standardization
from hf_transfer.features.scores import validation_scores


def blobs(count=60, classes=3, width=5, seed=0, spread=0.3):
    """Return features around one centre for each class, far from zero and of unequal scales, and their labels."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99)) * 2
    labels = torch.arange(count) % classes
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return (centres[labels] + spread * noise) * torch.linspace(0.5, 2, width) + 1, labels


def fit(seed=0, views=None, **options):
    features, labels = blobs()
    options = {"learning_rates": (1e-3, 3e-2), "weight_decays": (0.0, 0.1), "epochs": 6, "batch_size": 16} | options
    return fit_grid(views or [features], labels, *blobs(30, seed=1), 3, seed=seed, **options)


def binary_cross_entropy(logits, flags):
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, flags.float())


def adamw_head(batches, rate, decay, steps, loss=torch.nn.functional.cross_entropy):
    """Return a head trained by torch's own AdamW with autograd, the bias without decay, and its losses."""
    head = torch.nn.Linear(5, 3)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    losses = []
    for features, labels in batches:
        found = loss(head(features), labels)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        schedule.step()
        losses.append(found.item())
    return head, losses


def test_head_grid__each_head_is_what_adamw_makes_of_it_alone():
    features, labels = blobs()
    generator = torch.Generator().manual_seed(3)
    batches = [(features[rows], labels[rows]) for _ in range(10) for rows in torch.randperm(60, generator=generator).split(16)]
    pairs = list(itertools.product((1e-3, 1e-2, 0.1), (0.0, 0.1, 1.0)))
    grid = HeadGrid(5, 3, pairs, len(batches))
    losses = torch.stack([grid.step(*batch) for batch in batches])
    heads = grid.heads()
    assert len(heads) == len(pairs)
    for number, (rate, decay) in enumerate(pairs):
        alone, expected = adamw_head(batches, rate, decay, len(batches))
        weight, bias = heads[number]
        assert torch.allclose(weight, alone.weight, rtol=1e-4, atol=1e-6)
        assert torch.allclose(bias, alone.bias, rtol=1e-4, atol=1e-6)
        assert losses[:, number].tolist() == pytest.approx(expected, rel=1e-4)
        assert torch.allclose(grid.logits(features)[:, number], alone(features), rtol=1e-4, atol=1e-5)
    assert len({tuple(weight.flatten().tolist()) for weight, _ in heads}) == len(pairs)


@pytest.mark.parametrize("shape", [lambda step, steps: 1.0, lambda step, steps: 1 - step / steps])
def test_head_grid__with_adam_each_head_is_what_torch_makes_of_it_step_for_step(shape):
    """Plain Adam: the decay is part of the gradient, that of the bias as well."""
    features, labels = blobs()
    batches = [(features[rows], labels[rows]) for _ in range(4) for rows in torch.arange(60).split(16)]
    pairs = list(itertools.product((1e-3, 0.1), (0.0, 1e-5, 0.3)))
    grid = HeadGrid(5, 3, pairs, len(batches), optimizer="adam", shape=shape)
    alone = []
    for rate, decay in pairs:
        head = torch.nn.Linear(5, 3)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        alone.append((head, torch.optim.Adam(head.parameters(), lr=rate, weight_decay=decay), rate))
    for number, (inputs, targets) in enumerate(batches):
        losses = grid.step(inputs, targets)
        for k, (head, optimizer, rate) in enumerate(alone):
            optimizer.param_groups[0]["lr"] = rate * shape(number, len(batches))
            loss = torch.nn.functional.cross_entropy(head(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            weight, bias = grid.heads()[k]
            assert losses[k].item() == pytest.approx(loss.item(), rel=1e-4)
            assert torch.allclose(weight, head.weight, rtol=1e-4, atol=1e-6)
            assert torch.allclose(bias, head.bias, rtol=1e-4, atol=1e-6)


def test_fit_grid__learns_what_a_line_separates():
    candidates = fit(epochs=40)
    best = max(candidates, key=lambda candidate: candidate.scores["accuracy"])
    assert best.scores["accuracy"] == best.scores["macro_f1"] == 1
    assert best.scores["loss"] < 0.1 < math.log(3) < best.curve[0]["train_loss"] * 3
    assert best.curve[-1]["train_loss"] < best.curve[0]["train_loss"]


def test_fit_grid__same_seed_same_heads_other_seed_other_order():
    first, second, other = fit(seed=0), fit(seed=0), fit(seed=1)
    assert all(torch.equal(one.weight, two.weight) for one, two in zip(first, second, strict=True))
    assert all(torch.equal(one.bias, two.bias) for one, two in zip(first, second, strict=True))
    assert [one.curve for one in first] == [two.curve for two in second]
    assert not any(torch.equal(one.weight, two.weight) for one, two in zip(first, other, strict=True))


def test_fit_grid__one_candidate_for_each_combination():
    candidates = fit(epochs=2)
    found = [
        (c.settings["normalization"], c.settings["learning_rate"], c.settings["weight_decay"], c.settings["epochs"])
        for c in candidates
    ]
    assert sorted(found) == sorted(itertools.product(("none", "standardize"), (1e-3, 3e-2), (0.0, 0.1), (2,)))
    assert {candidate.method for candidate in candidates} == {"adamw"}
    features, labels = blobs()
    everything = fit_grid([features], labels, features, labels, 3, epochs=1)
    assert len(everything) == len(LEARNING_RATES) * len(WEIGHT_DECAYS) * len(NORMALIZATIONS)


def test_fit_grid__logits_on_raw_features_reproduce_the_recorded_scores():
    validation, labels = blobs(30, seed=1)
    for candidate in fit():
        assert candidate.weight.shape == (3, 5)
        assert validation_scores(candidate.logits(validation), labels) == pytest.approx(candidate.scores, rel=1e-4)


def test_fit_grid__normalisation_is_that_of_the_training_features():
    validation, labels = blobs(30, seed=1)
    features, train_labels = blobs()
    options = {"learning_rates": (1e-2,), "weight_decays": (0.0,), "normalizations": ("standardize",), "epochs": 3}
    moved = fit_grid([features * 50 + 7], train_labels, validation * 50 + 7, labels, 3, **options)[0]
    plain = fit_grid([features], train_labels, validation, labels, 3, **options)[0]
    assert moved.scores == pytest.approx(plain.scores, rel=1e-3)


def test_fit_grid__epochs_take_turns_with_the_views():
    views = [blobs(seed=seed, spread=1.0)[0] for seed in (0, 5)]
    labels = blobs()[1]
    options = {"learning_rates": (1e-2,), "weight_decays": (0.1,), "normalizations": ("none",)}
    found = fit(seed=4, views=views, epochs=5, **options)[0]
    batches = []
    for epoch in range(5):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(4 + epoch))
        batches += [(views[epoch % 2][rows], labels[rows]) for rows in order.split(16)]
    alone, _ = adamw_head(batches, 1e-2, 0.1, len(batches))
    assert torch.allclose(found.weight, alone.weight, rtol=1e-4, atol=1e-6)


def test_fit_grid__several_views_are_standardised_together():
    (near, labels), far = blobs(), blobs(seed=5)[0] + 10
    options = {"learning_rates": (1e-2,), "weight_decays": (0.0,), "normalizations": ("standardize",)}
    found = fit(views=[near, far], epochs=1, batch_size=40, **options)[0]
    standardization = Standardization.fit(torch.cat([near, far]))
    grid = HeadGrid(5, 3, [(1e-2, 0.0)], 2)
    for part in torch.randperm(60, generator=torch.Generator().manual_seed(0)).split(40):
        grid.step(standardization(near)[part], labels[part])
    weight, bias = standardization.fold(*grid.heads()[0])
    assert torch.allclose(found.weight, weight, rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.bias, bias, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "points", "expected"),
    [(6, 3, [2, 4, 6]), (3, 20, [1, 2, 3]), (1, 20, [1]), (5, 1, [5])],
)
def test_fit_grid__curves_end_with_the_final_scores(epochs, points, expected):
    for candidate in fit(epochs=epochs, curve_points=points):
        assert [point["epoch"] for point in candidate.curve] == expected
        last = dict(candidate.curve[-1])
        assert math.isfinite(last.pop("train_loss"))
        assert last.pop("learning_rate") == pytest.approx(0, abs=1e-12)
        assert last == {"epoch": epochs, **candidate.scores}


def test_fit_grid__the_training_loss_is_the_mean_over_the_images():
    features, labels = blobs()
    found = fit(epochs=1, batch_size=25)[0]  # batches of 25, 25 and 10
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    grid = HeadGrid(5, 3, [(1e-3, 0.0)], 3)
    total = sum(grid.step(features[rows], labels[rows]).item() * len(rows) for rows in order.split(25))
    assert found.curve[0]["train_loss"] == pytest.approx(total / 60)


def test_fit_grid__the_optimizer_and_the_shape_of_the_rates_are_those_asked_for():
    options = {"learning_rates": (1e-2,), "weight_decays": (0.3,), "normalizations": ("none",), "epochs": 3}
    adam = fit(optimizer="adam", shape=lambda step, steps: step / steps, **options)[0]
    assert adam.method == "adam"
    assert [point["learning_rate"] for point in adam.curve] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    other = fit(**options)[0]
    assert other.method == "adamw"
    assert not torch.allclose(adam.weight, other.weight, rtol=0.01)


def test_fit_grid__half_precision_features():
    features, labels = blobs()
    options = {"learning_rates": (1e-2,), "weight_decays": (0.0,), "epochs": 2}
    half = fit_grid([features.bfloat16()], labels, features.bfloat16(), labels, 3, **options)
    full = fit_grid([features.bfloat16().float()], labels, features.bfloat16().float(), labels, 3, **options)
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(half, full, strict=True))


def test_head_grid__of_several_labels_is_what_adamw_makes_of_the_binary_cross_entropy():
    features, labels = blobs()
    flags = torch.nn.functional.one_hot(labels, 3).bool()
    flags[:, 0] |= labels == 2
    batches = [(features[rows], flags[rows]) for rows in torch.arange(60).split(20)] * 3
    pairs = [(1e-2, 0.0), (1e-3, 0.1)]
    grid = HeadGrid(5, 3, pairs, len(batches))
    losses = torch.stack([grid.step(*batch) for batch in batches])
    for number, ((rate, decay), (weight, bias)) in enumerate(zip(pairs, grid.heads(), strict=True)):
        head, expected = adamw_head(batches, rate, decay, len(batches), loss=binary_cross_entropy)
        torch.testing.assert_close(weight, head.weight.detach(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(bias, head.bias.detach(), rtol=1e-3, atol=1e-5)
        assert losses[:, number].tolist() == pytest.approx(expected, rel=1e-4)


def test_fit_grid__of_several_labels_is_scored_by_average_precision():
    features, labels = blobs()
    flags = torch.nn.functional.one_hot(labels, 3).bool()
    options = {"learning_rates": (3e-2,), "weight_decays": (0.0,), "epochs": 6, "batch_size": 16}
    for candidate in fit_grid([features], flags, features, flags, 3, **options):
        assert candidate.scores == pytest.approx(validation_scores(candidate.logits(features), flags), abs=1e-4)
        assert candidate.scores["mean_average_precision"] > 0.9
