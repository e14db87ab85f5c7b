"""Logistic regression on standardised features by L-BFGS: multinomial (scikit-learn), or one for each of several labels."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from ..metrics.multi_label import sigmoid
from .heads import Candidate, Standardization
from .scores import validation_scores

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_SMALL = 10_000_000  # numbers


@contextlib.contextmanager
def quiet_fit(inputs: np.ndarray) -> Iterator[None]:
    """Fit without warnings that an iteration limit was met, with one BLAS thread on small inputs.

    BLAS's threads and torch's, which wait actively for their next work, otherwise take the processors from one another: four
    times the seconds on 1,200 x 1,280 features and two cores.
    """
    with threadpool_limits(1 if inputs.size <= _SMALL else None, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def fit_logistic(
    features: torch.Tensor,
    labels: torch.Tensor,
    validation: torch.Tensor,
    validation_labels: torch.Tensor,
    *,
    inverse_penalties: Sequence[float] = INVERSE_PENALTIES,
    max_iterations: int = 200,
) -> list[Candidate]:
    """Fit one head for each inverse penalty (scikit-learn's C), each from the one before, scored on validation.

    The objective is C times the summed cross-entropy plus half the squared norm of the weights (on standardised features).

    Args:
        features: float [n, d].
        labels: int64 [n]; every class occurs.
        validation: float [m, d].
        validation_labels: int64 [m].
        inverse_penalties: ascending.
        max_iterations: of L-BFGS for each.
    """
    standardization = Standardization.fit(features)
    inputs, targets = standardization(features).numpy(), labels.numpy()
    model = LogisticRegression(warm_start=True, max_iter=max_iterations, tol=1e-3)
    candidates = []
    for penalty in inverse_penalties:
        model.set_params(C=penalty)
        with quiet_fit(inputs):  # an unfinished fit is a candidate like any other
            model.fit(inputs, targets)
        weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
        if len(model.classes_) == 2:  # one row: the log-odds of the second class
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        weight, bias = standardization.fold(weight, bias)
        candidate = Candidate(
            "logistic_regression", {"inverse_penalty": penalty, "iterations": int(model.n_iter_.max())}, weight, bias
        )
        candidate.scores = validation_scores(candidate.logits(validation), validation_labels)
        candidates.append(candidate)
    return candidates


def fit_independent_logistic(
    features: torch.Tensor,
    labels: torch.Tensor,
    validation: torch.Tensor,
    validation_labels: torch.Tensor,
    *,
    inverse_penalties: Sequence[float] = INVERSE_PENALTIES,
    max_iterations: int = 200,
) -> list[Candidate]:
    """Fit one head of independent sigmoids for each inverse penalty, each from the one before, scored on validation.

    Each class has the objective of `fit_logistic` for two classes. All classes are fitted at once: the sum of their objectives
    has its minimum where each of them has its own, and an iteration is two matrix products whatever their number.

    Args:
        features: float [n, d].
        labels: bool [n, C].
        validation: float [m, d].
        validation_labels: bool [m, C].
        inverse_penalties: ascending.
        max_iterations: of L-BFGS for each.
    """
    standardization = Standardization.fit(features)
    inputs, targets = standardization(features).numpy(), labels.numpy().astype(np.float32)
    (count, width), classes = inputs.shape, targets.shape[1]
    candidates, parameters = [], np.zeros((width + 1) * classes)
    for penalty in inverse_penalties:
        with quiet_fit(inputs):
            found = minimize(
                _penalised_loss,
                parameters,
                args=(inputs, targets, 1.0 / (penalty * count)),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": max_iterations, "gtol": 1e-3, "ftol": 64 * np.finfo(float).eps},
            )
        parameters = found.x
        both = torch.from_numpy(parameters.reshape(width + 1, classes)).float()
        weight, bias = standardization.fold(both[:-1].T, both[-1])
        settings = {"inverse_penalty": penalty, "iterations": int(found.nit)}
        candidate = Candidate("logistic_regression", settings, weight, bias)
        candidate.scores = validation_scores(candidate.logits(validation), validation_labels)
        candidates.append(candidate)
    return candidates


def _penalised_loss(
    parameters: np.ndarray, inputs: np.ndarray, targets: np.ndarray, penalty: float
) -> tuple[float, np.ndarray]:
    """Return the binary cross-entropy, a mean over images and a sum over classes, with its penalty; and its gradient.

    Args:
        parameters: float64 [(d + 1) C], the bias last.
        inputs: float32 [n, d].
        targets: float32 [n, C].
        penalty: of half the squared norm of the weights.
    """
    both = parameters.reshape(inputs.shape[1] + 1, targets.shape[1])
    weight = both[:-1].astype(np.float32)
    logits = (inputs @ weight).astype(np.float64) + both[-1]
    loss = np.logaddexp(0.0, np.where(targets > 0, -logits, logits)).sum() / len(inputs)
    error = ((sigmoid(logits) - targets) / len(inputs)).astype(np.float32)
    slope = np.vstack([inputs.T @ error + penalty * both[:-1], error.sum(axis=0, dtype=np.float64)])
    return float(loss + penalty / 2 * (both[:-1] ** 2).sum()), slope.ravel()
