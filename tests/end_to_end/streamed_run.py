"""Carry out a recipe, as hf_transfer/run.py does, and note what each process is trained with.

`streamed_run.py FOLDER RECIPE ...`: FOLDER/RANK.jsonl gets a line for each batch: its epoch, and a digest of the pixels of each
of its images. With STOP_AFTER in the environment the process is killed after that many steps.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from hf_transfer.cli import run_main
from hf_transfer.training.trainer import TransferTrainer

FOLDER = Path(sys.argv[1])
STOP_AFTER = int(os.environ.get("STOP_AFTER", "-1"))
_training_step = TransferTrainer.training_step
_taken = 0


def noted(self, model, inputs, *args, **kwargs):
    global _taken
    if _taken == STOP_AFTER:
        os.kill(os.getpid(), signal.SIGKILL)
    _taken += 1
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    images = [hashlib.blake2b(image.contiguous().numpy().tobytes()).hexdigest() for image in inputs["pixel_values"].cpu()]
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{rank}.jsonl").open("a") as notes:
        notes.write(json.dumps({"epoch": self.train_dataset.epoch, "images": images}) + "\n")
    return _training_step(self, model, inputs, *args, **kwargs)


TransferTrainer.training_step = noted

if __name__ == "__main__":
    sys.exit(run_main(sys.argv[2:]))
