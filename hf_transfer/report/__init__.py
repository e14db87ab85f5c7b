"""Figures and the model card of one run, drawn from the files of its run directory alone.

No module here loads a model, reads an image or computes a metric: what the files lack, the report lacks.
"""

from hf_transfer.report.confusion import plot_confusion_matrix, read_predictions
from hf_transfer.report.curves import plot_curves
from hf_transfer.report.model_card import write_model_card
from hf_transfer.report.plots import write_plots

__all__ = ["plot_confusion_matrix", "plot_curves", "read_predictions", "write_model_card", "write_plots"]
