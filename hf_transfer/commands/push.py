"""`hf-transfer push`: publish a finished run on the Hub."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..access_tokens import without_tokens
from ..errors import UserError
from ..run_directory import RunDirectory
from .printing import published_text

if TYPE_CHECKING:
    from ..recipe.schema import Hub


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
    where = push.add_mutually_exclusive_group()
    where.add_argument("--revision", metavar="BRANCH", help="branch to push to, made if need be (default main)")
    where.add_argument("--create-pr", action="store_true", help="open a pull request on main instead")
    seen = push.add_mutually_exclusive_group()
    seen.add_argument("--public", action="store_true", help="push to a public repository, which a new one will be")
    seen.add_argument("--private", action="store_true", help="push to a private repository only (default)")
    push.add_argument("--without-images", action="store_true", help="leave out pictures that show images of the data set")
    push.add_argument("--json", action="store_true", help="print where it is as JSON")
    push.set_defaults(function=_push)


def _push(options: argparse.Namespace) -> int:
    from ..deploy.destination import expanded

    run = RunDirectory(expanded(options.run))
    from ..connection import go_offline_if_unreachable

    go_offline_if_unreachable()  # before anything imports the Hub's client
    from ..deploy.hub import HubError, check_publishable, destination_of, draw_maps, push_run

    check_publishable(run)
    chosen = destination_of(_hub_section(run.recipe))
    destination = replace(
        chosen,
        repo_id=options.repo_id or chosen.repo_id,
        private=options.private or (chosen.private and not options.public),
        revision=None if options.create_pr else options.revision or chosen.revision,
        create_pr=options.create_pr or (options.revision is None and chosen.create_pr),
        images=chosen.images and not options.without_images,
    )
    if destination.images and draw_maps(run):
        from ..report.html_report import write_report
        from ..report.model_card import refresh_model_card

        write_report(run.root)
        refresh_model_card(run.root)
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


def _hub_section(recipe: Path) -> Hub:
    """Return where the recipe of a run says that it is to be published."""
    from pydantic import ValidationError

    from ..recipe.schema import Hub

    try:
        return Hub.model_validate(json.loads(recipe.read_text(encoding="utf-8"))["hub"])
    except (OSError, ValueError, LookupError, TypeError, ValidationError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"push: {recipe} does not say where to push to, as the recipe of a run does: {said}") from None
