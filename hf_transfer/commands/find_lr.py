"""`hf-transfer find-lr`: a learning-rate range test."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .printing import OVERRIDE_HELP


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `find-lr` to the command line."""
    find_lr = commands.add_parser(
        "find-lr",
        help="suggest a learning rate",
        description="Let the learning rate grow over some steps of training, suggest one and draw the losses; nothing is kept.",
    )
    find_lr.add_argument("recipe", metavar="RECIPE")
    find_lr.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE_HELP)
    find_lr.add_argument("--low", type=float, default=1e-7, metavar="RATE", help="the first learning rate (default 1e-7)")
    find_lr.add_argument("--high", type=float, default=1.0, metavar="RATE", help="the last one (default 1)")
    find_lr.add_argument("--steps", type=int, default=100, metavar="N", help="how many steps (default 100)")
    find_lr.add_argument("--plot", metavar="FILE", help="the PNG to write; by default NAME-OF-THE-RECIPE.find-lr.png")
    find_lr.add_argument("--json", action="store_true", help="print rates and losses as JSON")
    find_lr.set_defaults(function=_find_lr)


def _find_lr(options: argparse.Namespace) -> int:
    from ..recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    plot = Path(options.plot or f"{Path(options.recipe).stem}.find-lr.png")
    from ..find_lr import find_learning_rate, plot_range_test

    found = find_learning_rate(recipe, low=options.low, high=options.high, steps=options.steps)
    plot_range_test(found, plot)
    if options.json:
        print(json.dumps(vars(found) | {"plot": str(plot)}, indent=2))
        return 0
    print(
        f"suggested learning rate {found.suggestion:.1e} (steepest fall of the loss); a tenth of the rate at its minimum: "
        f"{found.minimum / 10:.1e}; {len(found.losses)} steps, drawn in {plot}"
    )
    return 0
