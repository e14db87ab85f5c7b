"""Figures and the model card of one run, drawn from the files of its run directory alone.

No module here loads a model, reads an image or computes a metric: what the files lack, the report lacks.
"""

from .confusion import plot_confusion_matrix
from .curves import plot_curves
from .model_card import write_model_card
from .plots import write_plots

__all__ = ["plot_confusion_matrix", "plot_curves", "write_model_card", "write_plots"]
