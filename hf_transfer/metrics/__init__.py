"""Metrics of a classifier: arrays in, plain numbers out.

Reading order: `summary` (what a run reports) rests on `accuracy`, `per_class`, `likelihood`, `calibration` and
`intervals`, each a few pure functions on NumPy arrays whose shapes and types `arrays` checks. `modules` wraps them as
`evaluate.Metric` classes; it is not imported here, because `import evaluate` takes seconds (it loads transformers).
`multi_label` has what a run of several labels an image reports, and rests on `ranking`.
`verdict` (what a study shows) rests on `crossed`, `permutation`, `multiple` and `pareto`; `logme` scores features alone.

Nothing in this package knows about recipes, models, files or processes: whoever calls it has gathered the samples.
"""

from .intervals import wilson_interval
from .multi_label import multi_label_metrics, quick_multi_label_metrics
from .summary import (
    classification_metrics,
    classification_metrics_from_probabilities,
    quick_metrics,
)

__all__ = [
    "classification_metrics",
    "classification_metrics_from_probabilities",
    "multi_label_metrics",
    "quick_metrics",
    "quick_multi_label_metrics",
    "wilson_interval",
]
