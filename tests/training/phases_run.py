"""Carry out a recipe, as hf_transfer/run.py does, and note a digest of parameters and buffers after each epoch, each process in
a file of its own: `phases_run.py FOLDER RECIPE ...`.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from hf_transfer.cli import run_main
from hf_transfer.training.trainer import TransferTrainer

FOLDER = Path(sys.argv[1])
NOTES = []
_run_epoch = TransferTrainer._run_epoch


def digest(tensors):
    return hashlib.blake2b(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


def noted(self, *args, **kwargs):
    _run_epoch(self, *args, **kwargs)
    wrapper = self.model_wrapped
    NOTES.append(
        {
            "phase": self.freezing.phase.name,
            "parameters": digest(self.model.parameters()),
            "buffers": digest(self.model.buffers()),
            "wrapped": type(wrapper).__name__,
            "finds_unused": isinstance(wrapper, DistributedDataParallel) and wrapper.find_unused_parameters,
        }
    )
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{rank}.json").write_text(json.dumps(NOTES))


TransferTrainer._run_epoch = noted

if __name__ == "__main__":
    sys.exit(run_main(sys.argv[2:]))
