"""How long the command line takes to answer: whole-process seconds of `hf-transfer --help` and `hf-transfer check`.

Compared, each as a fresh process from exec to exit, output discarded:

- `hf-transfer --help` and `hf-transfer check recipes/quickstart.json`: what a user waits for (goal: at most 0.3 s);
- `python -c pass`: the floor, the interpreter alone;
- `python -c "import torch"` and `python -c "from transformers import Trainer"`: what they would wait for if the command line
  imported what it later needs.

Fair because every command runs with the same interpreter, environment and file cache: each is run once before anything is
measured (which also writes the .pyc files), and then all are run in turn, in an order that rotates with each repeat, so that a
busy moment of the machine meets every one of them. Nothing is asserted; the figures are the result.

Run from the repository root: python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from printing import machine_facts, print_facts, print_table, spread

ROOT = Path(__file__).resolve().parent.parent
GOAL_SECONDS = 0.3


def main() -> None:
    options = _parser().parse_args()
    commands = _commands(options.recipe)
    facts = machine_facts()
    print_facts(facts)
    for command in commands.values():
        whole_process_seconds(command)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    names = list(commands)
    for repeat in range(options.repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(whole_process_seconds(commands[name]))

    floor = statistics.median(seconds["python -c pass"])
    rows = []
    for name, sample in seconds.items():
        goal = f"<= {GOAL_SECONDS}" if name.startswith("hf-transfer") else ""
        rows.append((name, spread(sample, ".3f"), f"{statistics.median(sample) / floor:.1f}", goal))
    print(f"whole-process seconds, median (min..max) of {options.repeats}")
    print_table(("command", "seconds", "x interpreter", "goal"), rows)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts, "seconds": seconds}, indent=2) + "\n", encoding="utf-8")


def whole_process_seconds(command: list[str]) -> float:
    """Run a command in the repository root and return its wall-clock seconds; stop when it fails."""
    started = time.perf_counter()
    finished = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    seconds = time.perf_counter() - started
    if finished.returncode != 0:
        sys.exit(f"{' '.join(command)} returned {finished.returncode}:\n{finished.stderr.decode(errors='replace')}")
    return seconds


def _commands(recipe: str) -> dict[str, list[str]]:
    script = Path(sys.executable).with_name("hf-transfer")  # not resolved: in a virtual environment python is a link
    if not script.exists():
        sys.exit(f"expected the command {script}; install the package into this Python: pip install -e .")
    return {
        "hf-transfer --help": [str(script), "--help"],
        f"hf-transfer check {recipe}": [str(script), "check", recipe],
        "python -c pass": [sys.executable, "-c", "pass"],
        'python -c "import torch"': [sys.executable, "-c", "import torch"],
        'python -c "from transformers import Trainer"': [sys.executable, "-c", "from transformers import Trainer"],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="measured runs of each command (default 7)")
    parser.add_argument("--recipe", default="recipes/quickstart.json", help="recipe to check, relative to the repository root")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single figure")
    return parser


if __name__ == "__main__":
    main()
