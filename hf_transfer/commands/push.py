"""`hf-transfer push`: publish a finished run, or the leaderboard of a study, on the Hub."""

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
        help="publish a finished run or a study on the Hub",
        description="Publish the model of a finished run on the Hub, with its card, recipe, metrics and plots, in one commit; "
        "or the leaderboard of a study, as a dataset repository whose card links the models. What is there already is not sent "
        "again. Exit status 1 where the same command may succeed later.",
    )
    push.add_argument("run", metavar="RUN", help="the directory of a finished run; or the folder of a study, or of any runs")
    push.add_argument(
        "--repo-id", metavar="OWNER/NAME", help="by default the recipe's, or NAME-OF-THE-FOLDER under your own name"
    )
    push.add_argument(
        "--with-models",
        action="store_true",
        help="of a study: first push each model that is on the Hub nowhere yet, to OWNER/STUDY-RUN",
    )
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
    from ..deploy.hub import HubError
    from ..deploy.leaderboard_push import holds_runs

    try:
        return _push_study(run.root, options) if holds_runs(run.root) else _push_run(run, options)
    except HubError as error:
        if not error.temporary:
            raise
        print(f"error: {without_tokens(str(error))}", file=sys.stderr)
        return 1


def _push_run(run: RunDirectory, options: argparse.Namespace) -> int:
    from ..deploy.hub import check_publishable, destination_of, illustrate, push_run

    if options.with_models:
        raise UserError("push: --with-models publishes the models of a study; RUN is a run, whose model is published anyway")
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
    if destination.images:
        illustrate(run)
    published = push_run(run, destination)
    print(json.dumps(asdict(published), indent=2) if options.json else published_text(published))
    return 0


def _push_study(root: Path, options: argparse.Namespace) -> int:
    from ..deploy.hub import Destination
    from ..deploy.leaderboard_push import push_leaderboard

    destination = Destination(
        options.repo_id,
        private=not options.public,
        revision=options.revision,
        create_pr=options.create_pr,
        images=not options.without_images,
    )
    published, failed = push_leaderboard(root, destination, with_models=options.with_models)
    print(json.dumps(asdict(published) | {"failed": failed}, indent=2) if options.json else published_text(published))
    for run, reason in failed.items():
        print(f"error: {run}: {without_tokens(reason)}", file=sys.stderr)
    return 1 if failed else 0


def _hub_section(recipe: Path) -> Hub:
    """Return where the recipe of a run says that it is to be published."""
    from pydantic import ValidationError

    from ..recipe.schema import Hub

    try:
        return Hub.model_validate(json.loads(recipe.read_text(encoding="utf-8"))["hub"])
    except (OSError, ValueError, LookupError, TypeError, ValidationError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"push: {recipe} does not say where to push to, as the recipe of a run does: {said}") from None
