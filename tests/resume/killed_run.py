"""Carry out a recipe, as hf_transfer/run.py does, and get a signal at a place: `killed_run.py PLACE:N[:SIGNAL] RECIPE ...`.

SIGNAL is KILL where nothing is said. Of several processes the one of the highest rank gets it.

Places: `step` before the N-th optimizer step is taken; `epoch` when the N-th epoch begins; `saving` inside the N-th checkpoint,
between weights and optimizer; `marking` before the N-th mark of completeness; `rotating` after it, before old checkpoints go;
`finished` when training is over, before the model is saved; `reading` while images are read; `scoring` before the saved model
is scored.
"""

import os
import signal
import sys

from hf_transfer import adaptation
from hf_transfer.cli import run_main
from hf_transfer.data import build
from hf_transfer.training import trainer as module
from hf_transfer.training.callbacks import EpochCallback


def signal_at(owner, name, count, number):
    """Let this process get a signal before the `count`-th call of a function."""
    function = getattr(owner, name)
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count and int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    setattr(owner, name, counted)


PLACES = {
    "step": (module.TransferTrainer, "training_step"),
    "epoch": (EpochCallback, "on_epoch_begin"),
    "saving": (module.TransferTrainer, "_save_optimizer_and_scheduler"),
    "marking": (module, "mark_complete"),
    "rotating": (module, "rotate"),
    "finished": (module.TransferTrainer, "_finalize_training"),
    "reading": (build, "scan"),
    "scoring": (adaptation, "_evaluate_saved"),
}

if __name__ == "__main__":
    place, *rest = sys.argv[1].split(":")
    if place != "never":
        count, name = [*rest, "KILL"][:2]
        signal_at(*PLACES[place], int(count), signal.Signals[f"SIG{name}"])
    sys.exit(run_main(sys.argv[2:]))
