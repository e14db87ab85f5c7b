"""`hf-transfer push`: publish a finished run on the Hub."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..access_tokens import without_tokens
from ..errors import UserError
from ..run_directory import RunDirectory
from .printing import published_text, tell_the_card


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add `push` to the command line."""
    push = commands.add_parser(
        "push",
        help="publish a finished run on the Hub",
        description="Publish the model of a finished run on the Hub, with its card, recipe, metrics and plots, in one commit. "
        "What is there already is not sent again. Exit status 1 where the same command may succeed later.",
    )
    push.add_argument("run", metavar="RUN", help="the directory of a finished run")
    push.add_argument("--repo-id", metavar="OWNER/NAME", help="by default the recipe's, or NAME-OF-THE-RUN under your own name")
    push.add_argument("--revision", metavar="BRANCH", help="branch to push to, made if need be (default main)")
    push.add_argument("--create-pr", action="store_true", help="open a pull request on main instead")
    push.add_argument("--public", action="store_true", help="make a new repository public (by default it is private)")
    push.add_argument("--without-images", action="store_true", help="leave out pictures that show images of the data set")
    push.add_argument("--json", action="store_true", help="print where it is as JSON")
    push.set_defaults(function=_push)


def _push(options: argparse.Namespace) -> int:
    from ..deploy.destination import expanded

    run = RunDirectory(expanded(options.run))
    from ..connection import go_offline_if_unreachable

    go_offline_if_unreachable()  # before anything imports the Hub's client
    from ..deploy.hub import Destination, HubError, check_publishable, draw_maps, push_run

    check_publishable(run)
    section = _hub_section(run.recipe)
    destination = Destination(
        repo_id=options.repo_id or section.get("repo_id"),
        private=not options.public and section.get("private", True),
        revision=None if options.create_pr else options.revision or section.get("revision"),
        create_pr=options.create_pr or (options.revision is None and section.get("create_pr", False)),
        images=not options.without_images and section.get("images", True),
    )
    if destination.images:
        if draw_maps(run):
            from ..report.html_report import write_report

            write_report(run.root)
        tell_the_card(run.root)
    try:
        published = push_run(run, destination)
    except HubError as error:
        if not error.temporary:
            raise
        print(f"error: {without_tokens(str(error))}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(asdict(published), indent=2))
    else:
        print(published_text(published))
    return 0


def _hub_section(recipe: Path) -> dict[str, Any]:
    try:
        section = json.loads(recipe.read_text(encoding="utf-8"))["hub"]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"push: {recipe} is no recipe of a run") from None
    return section if isinstance(section, dict) else {}
