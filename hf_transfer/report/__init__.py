"""Pictures, HTML report and model card of one run, drawn from the files of its run directory alone.

No module here loads a model or scores an image: what the files lack, the report lacks. Reading order: `saved_run` (the files),
`scores` (what predictions say about each image), `findings` (what is shown of them); then `plots`, `html_report` and
`model_card`, which put everything together. `label_scores`, `label_findings` and the other `label_` modules stand for those
where an image may have several labels.
"""

from .confusion import plot_confusion_matrix
from .curves import plot_curves
from .html_report import write_report
from .model_card import write_model_card
from .plots import write_plots

__all__ = ["plot_confusion_matrix", "plot_curves", "write_model_card", "write_plots", "write_report"]
