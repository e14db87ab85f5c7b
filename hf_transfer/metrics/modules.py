"""The metrics as `evaluate.Metric` classes, for whoever composes them with `evaluate.combine`.

They work without a network, where `evaluate.load` would ask the Hub. Each belongs to one process and keeps its samples
in memory: under several processes the Trainer has gathered the predictions before it computes anything.

`Accuracy`, `BalancedAccuracy` and `MacroF1` take predicted classes and combine with each other; `TopKAccuracy`,
`NegativeLogLikelihood` and `ExpectedCalibrationError` take a row of scores per sample and combine with each other.
Scores travel through an Arrow table and Python lists, which takes seconds for 50,000 samples of 100 classes; `summary`
computes all its figures from the arrays in a fraction of that.

Example:
    >>> import evaluate
    >>> from hf_transfer.metrics.modules import Accuracy, MacroF1
    >>> evaluate.combine([Accuracy(), MacroF1()]).compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])["accuracy"]
    0.75
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

from .accuracy import accuracy, top_k_accuracy
from .arrays import label_array, predicted_classes, score_array
from .calibration import expected_calibration_error
from .intervals import wilson_interval
from .likelihood import negative_log_likelihood, top_probability
from .per_class import balanced_accuracy, macro_f1


class Accuracy(evaluate.Metric):
    """Share of right predictions, its 95 % Wilson interval and the number of samples."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return _class_info("Share of samples whose predicted class is the label, with Wilson's 95 % interval.")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, Any]:
        share = accuracy(predictions, references)
        n = len(references)
        return {"accuracy": share, "accuracy_ci95": list(wilson_interval(round(share * n), n)), "n": n}


class BalancedAccuracy(evaluate.Metric):
    """Mean recall of the classes that occur among the references."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return _class_info("Mean recall of the classes that occur among the references.")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"balanced_accuracy": balanced_accuracy(predictions, references)}


class MacroF1(evaluate.Metric):
    """Mean F1 of the classes that occur among the references or the predictions."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return _class_info("Mean F1 of the classes that occur among the references or the predictions.")

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {"macro_f1": macro_f1(predictions, references)}


class TopKAccuracy(evaluate.Metric):
    """Share of samples whose label is among the k highest scores, under the key `top{k}_accuracy`.

    Args:
        k: number of guesses, at least 1 and less than the number of classes.
    """

    def __init__(self, k: int = 5) -> None:
        super().__init__(keep_in_memory=True)
        self.k = k

    def _info(self) -> evaluate.MetricInfo:
        return _score_info("Share of samples whose label is among the k classes with the highest scores.")

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        return {f"top{self.k}_accuracy": top_k_accuracy(predictions, references, k=self.k)}


class NegativeLogLikelihood(evaluate.Metric):
    """Mean negative log likelihood of the labels under the softmax of the logits, in nats."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return _score_info("Mean of -log softmax(logits)[label], in nats.")

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        return {"nll": negative_log_likelihood(predictions, references)}


class ExpectedCalibrationError(evaluate.Metric):
    """Gap between confidence and accuracy over 15 equal-width bins of the softmax of the logits (Guo et al. 2017)."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return _score_info("Expected calibration error, 15 equal-width bins of the top probability.")

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        logits = score_array(predictions, name="logits", finite=True)
        correct = predicted_classes(logits) == label_array(references, n_classes=logits.shape[1], n=len(logits))
        return {"ece": expected_calibration_error(top_probability(logits), correct)}


def _class_info(description: str) -> evaluate.MetricInfo:
    """Return the description of a metric of predicted classes."""
    return _info(description, "predictions: one class index per sample.", datasets.Value("int64"))


def _score_info(description: str) -> evaluate.MetricInfo:
    """Return the description of a metric of class scores."""
    scores = datasets.Sequence(datasets.Value("float32"))
    return _info(description, "predictions: one row of class scores (logits) per sample.", scores)


def _info(description: str, inputs: str, predictions: Any) -> evaluate.MetricInfo:
    """Return what `evaluate` wants to know of a metric."""
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=f"{inputs}\nreferences: one class index per sample.",
        features=datasets.Features({"predictions": predictions, "references": datasets.Value("int64")}),
    )
