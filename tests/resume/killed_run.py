"""Carry out a recipe, as hf_transfer/run.py does, and die by SIGKILL at a given place: `killed_run.py PLACE:N RECIPE ...`.

Places: `step` before the N-th optimizer step is taken; `epoch` when the N-th epoch begins; `saving` inside the N-th checkpoint,
between weights and optimizer; `marking` before the N-th mark of completeness; `rotating` after it, before old checkpoints go;
`finished` when training is over, before the model is saved.
"""

import os
import signal
import sys

from hf_transfer.cli import run_main
from hf_transfer.training import trainer as module
from hf_transfer.training.callbacks import EpochCallback


def kill_at(owner, name, count):
    """Let the `count`-th call of a function be the last thing this process does."""
    function = getattr(owner, name)
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, counted)


PLACES = {
    "step": (module.TransferTrainer, "training_step"),
    "epoch": (EpochCallback, "on_epoch_begin"),
    "saving": (module.TransferTrainer, "_save_optimizer_and_scheduler"),
    "marking": (module, "mark_complete"),
    "rotating": (module, "rotate"),
    "finished": (module.TransferTrainer, "_finalize_training"),
}

if __name__ == "__main__":
    place, _, count = sys.argv[1].partition(":")
    if place != "never":
        kill_at(*PLACES[place], int(count))
    sys.exit(run_main(sys.argv[2:]))
