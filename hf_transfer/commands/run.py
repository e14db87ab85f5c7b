"""`hf-transfer run`: carry out a recipe in this process."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..termination import terminable
from .printing import OVERRIDE_HELP, print_benchmark, print_result

if TYPE_CHECKING:
    from ..recipe import Benchmark, Recipe


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `run` to the command line."""
    parser = commands.add_parser("run", help="carry out a recipe", description="Carry out a recipe in this process.")
    add_run_arguments(parser)
    parser.set_defaults(function=run_recipe)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what one run takes: the recipe, its overrides, and how to treat a run that is there."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE_HELP)
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue an unfinished run")
    start.add_argument("--overwrite", action="store_true", help="remove the old run from output_dir and start anew")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")


def run_recipe(options: argparse.Namespace) -> int:
    """Carry out the recipe and print its figures."""
    from ..recipe import load_any

    return carry_out(load_any(options.recipe, options.overrides), options, resume=options.resume)


def carry_out(recipe: Recipe | Benchmark, options: argparse.Namespace, *, resume: bool) -> int:
    """Carry out one run, or every evaluation of a benchmark, and print the figures."""
    from ..recipe import Recipe

    if isinstance(recipe, Recipe):
        from .. import pipeline

        with terminable():
            result = pipeline.run(recipe, resume=resume, overwrite=options.overwrite)
        print_result(result, options.json)
        return 0 if result.unpublished is None else 1
    from ..benchmark import run_benchmark

    results = run_benchmark(recipe, resume=resume, overwrite=options.overwrite)
    print_benchmark(results, options.json)
    return 2 if results.failed else 0
