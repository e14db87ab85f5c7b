"""`hf-transfer recipes`: what recipes and studies there are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import RecipeError, UserError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `recipes` to the command line."""
    recipes = commands.add_parser(
        "recipes", help="list recipes and studies", description="List the recipes and studies of a folder."
    )
    recipes.add_argument("folder", nargs="?", default="recipes")
    recipes.add_argument("--json", action="store_true", help="print the list as JSON")
    recipes.set_defaults(function=_recipes)


def _recipes(options: argparse.Namespace) -> int:
    from ..recipe import load_any
    from ..studies.study import is_study, load_study

    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    paths = sorted(path for path in folder.rglob("*.json") if not path.name.endswith("schema.json"))
    rows = []
    for path in paths:
        try:
            rows.append((str(path), (load_study if is_study(path) else load_any)(path).description))
        except RecipeError as error:
            rows.append((str(path), f"not valid: {error.problems[0]}"))
    if options.json:
        print(json.dumps([{"recipe": path, "description": description} for path, description in rows], indent=2))
    else:
        width = max((len(path) for path, _ in rows), default=0)
        for name, description in rows:
            print(f"{name:<{width}}  {description}")
    return 0
