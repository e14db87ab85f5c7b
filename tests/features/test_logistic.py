import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hf_transfer.features.logistic import INVERSE_PENALTIES, fit_independent_logistic, fit_logistic
from hf_transfer.features.scores import validation_scores


def blobs(classes, count=90, width=6, seed=0):
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return (centres[labels] + noise) * torch.linspace(0.1, 10, width) + 3, labels


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_logistic__each_penalty_is_near_its_optimum(classes):
    features, labels = blobs(classes)
    validation, validation_labels = blobs(classes, 40, seed=1)
    penalties = (1e-3, 1e-2, 1e-1)
    found = fit_logistic(features, labels, validation, validation_labels, inverse_penalties=penalties)
    scaler = StandardScaler().fit(features.double().numpy())
    for candidate, penalty in zip(found, penalties, strict=True):
        model = LogisticRegression(C=penalty, max_iter=1000, tol=1e-6)
        model.fit(scaler.transform(features.double().numpy()), labels.numpy())
        expected = model.predict_proba(scaler.transform(validation.double().numpy()))
        probabilities = candidate.logits(validation).softmax(1)
        assert candidate.weight.shape == (classes, 6)
        assert np.abs(probabilities.numpy() - expected).max() < 1e-2  # it stops at a tolerance of 1e-3
        assert candidate.settings["inverse_penalty"] == penalty
        assert candidate.method == "logistic_regression"


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_logistic__probabilities_are_those_of_sklearn(classes):
    features, labels = blobs(classes)
    validation, validation_labels = blobs(classes, 40, seed=1)
    found = fit_logistic(features, labels, validation, validation_labels, inverse_penalties=(0.1,))[0]
    scaler = StandardScaler().fit(features.double().numpy())
    model = LogisticRegression(C=0.1, max_iter=200, tol=1e-3).fit(scaler.transform(features.double().numpy()), labels.numpy())
    expected = model.predict_proba(scaler.transform(validation.double().numpy()))
    assert np.abs(found.logits(validation).softmax(1).numpy() - expected).max() < 1e-4


def test_fit_logistic__scores_are_those_of_its_logits():
    validation, labels = blobs(3, 40, seed=1)
    found = fit_logistic(*blobs(3), validation, labels)
    assert [candidate.settings["inverse_penalty"] for candidate in found] == list(INVERSE_PENALTIES)
    for candidate in found:
        assert candidate.scores == validation_scores(candidate.logits(validation), labels)
        assert candidate.curve == []
    assert found[-1].scores["accuracy"] > 0.6


def test_fit_logistic__half_precision_and_a_constant_column():
    features, labels = blobs(3)
    features[:, 1] = 4.0
    found = fit_logistic(features.bfloat16(), labels, features.bfloat16(), labels)
    for candidate in found:
        assert candidate.weight.isfinite().all()
        assert candidate.weight[:, 1].abs().max() < 1e-6


def test_fit_logistic__an_unfinished_fit_is_a_candidate_without_a_warning():
    features, labels = blobs(3)
    found = fit_logistic(features, labels, features, labels, max_iterations=1)
    assert [candidate.settings["iterations"] for candidate in found] == [1] * len(INVERSE_PENALTIES)


def several(count, seed):
    """Features, and labels of three classes that depend on them and occur together."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=generator) * torch.linspace(0.1, 10, 6) + 3
    directions = torch.randn(6, 3, generator=torch.Generator().manual_seed(99)) / torch.linspace(0.1, 10, 6)[:, None]
    return features, (features - 3) @ directions + torch.randn(count, 3, generator=generator) > torch.tensor([0.0, 1.0, 2.5])


def test_fit_independent_logistic__each_class_is_near_its_own_optimum():
    features, labels = several(150, 0)
    validation, validation_labels = several(60, 1)
    penalties = (1e-3, 1e-2, 1e-1)
    found = fit_independent_logistic(features, labels, validation, validation_labels, inverse_penalties=penalties)
    scaler = StandardScaler().fit(features.double().numpy())
    for candidate, penalty in zip(found, penalties, strict=True):
        for c in range(3):
            model = LogisticRegression(C=penalty, max_iter=1000, tol=1e-6)
            model.fit(scaler.transform(features.double().numpy()), labels[:, c].numpy())
            expected = model.predict_proba(scaler.transform(validation.double().numpy()))[:, 1]
            assert np.abs(candidate.logits(validation)[:, c].sigmoid().numpy() - expected).max() < 1e-2
        assert candidate.scores == validation_scores(candidate.logits(validation), validation_labels)
        assert list(candidate.scores) == ["mean_average_precision", "macro_f1", "loss"]
