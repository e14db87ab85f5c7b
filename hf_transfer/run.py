"""The launch target: `accelerate launch hf_transfer/run.py RECIPE.json [key=value ...]`."""

import sys
from pathlib import Path

if not __package__:
    # Run as a script, this file's own folder comes first on the path, and its modules would shadow others. The repository
    # root belongs there instead.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from hf_transfer.cli import run_main

if __name__ == "__main__":
    sys.exit(run_main())
