"""Publish a study: its leaderboard as a dataset repository of the Hub, with a card that links its models.

The repository holds results and no weights: the rows of the table, the card, and of each run its recipe and metrics. Models
have repositories of their own, to which `push_models` brings those that are on the Hub nowhere yet.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, listed
from ..report.card_seal import is_unedited
from ..report.leaderboard import Leaderboard, build_leaderboard, csv_lines
from ..report.leaderboard_card import ROWS, check_leaderboard_metadata, leaderboard_card_text, model_link
from ..report.redaction import public
from ..report.run_entries import study_of
from ..report.saved_run import read_object
from ..run_directory import RunDirectory, replacing
from .hub import (
    Content,
    Destination,
    Published,
    Repository,
    as_json,
    illustrate,
    note_published,
    push_run,
    reaching_the_hub,
    refuse_metadata,
    refuse_tokens,
    repository_id,
    repository_name,
)

CARD = "leaderboard_card.md"
"""The card in the folder of the runs; README.md in the repository."""

_RESULTS, _STUDY, _REPORT = "leaderboard.json", "study.json", "report.html"
_OF_A_RUN = ("recipe.json", "metrics.json", "tuning.json")
_WRITTEN = re.compile(rf"leaderboard\.(csv|json)|study\.json|report\.html|runs/.+/({'|'.join(map(re.escape, _OF_A_RUN))})")
_EMBEDDED = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")  # pictures, whose letters are no paths
_LONGEST_NAME = 96  # of a repository


def holds_runs(root: Path) -> bool:
    """Return whether a folder is no run and has runs below it."""
    if not root.is_dir() or (root / "recipe.json").is_file():
        return False
    return (root / _STUDY).is_file() or any(root.rglob("recipe.json"))


def finished_leaderboard(root: Path) -> Leaderboard:
    """Return the leaderboard of the runs below a folder.

    Raises:
        UserError: when none of them is finished and scored a test split.
    """
    board = build_leaderboard(root, cheapest_by=str(study_of(root).get("cheapest_by") or "train_seconds"))
    if not board.tables:
        found = [f"{name} (not finished)" for name in board.unfinished]
        found += [f"{name} ({why})" for name, why in board.left_out.items()]
        raise UserError(
            f"push: no run below {root} is finished and scored a test split, so there is no leaderboard to publish; found "
            f"{listed(found)}"
        )
    return board


def push_leaderboard(root: Path, destination: Destination, *, with_models: bool = False) -> tuple[Published, dict[str, str]]:
    """Publish the leaderboard of the runs below a folder, and note in its hub.json where it is.

    Args:
        root: a study's folder, or any folder of runs.
        destination: where to; without `images` the report, which shows images of the data set, stays at home.
        with_models: publish the models first that are on the Hub nowhere yet.

    Returns:
        Where it is; run to the reason why its model could not be published.

    Raises:
        UserError: when no run is finished, or something would be published that must not.
        HubError: when the Hub, the network or the token does not permit it.
    """
    board = finished_leaderboard(root)
    folder, more = RunDirectory(root), ["--with-models"] if with_models else []
    with reaching_the_hub(folder, destination, what="the study", more=more):
        repo_id = repository_id(root, destination)
        repository = Repository.open(repo_id, destination, "dataset")
        _refuse_other_data(repo_id, [file.rfilename for file in repository.look().siblings or ()])
    failed = push_models(root, board, repo_id, destination) if with_models else {}
    content: Content = leaderboard_content(root, board, repo_id, destination)
    refuse_tokens(root, content)
    candidates, runs = sum(len(table.rows) for table in board.tables), len(_places(board))
    message = f"{root.resolve().name}: {candidates} candidates, {runs} runs"
    with reaching_the_hub(folder, destination, what="the study", more=more):
        head = repository.look()
        content = _without_card_of_others(repository, repository.card(head), content)
        published = repository.commit(head, content, message, is_stale=_is_stale)
    note_published(folder, published)
    return published, failed


def push_models(root: Path, board: Leaderboard, repo_id: str, destination: Destination) -> dict[str, str]:
    """Publish every model of a leaderboard that is on the Hub nowhere yet, each in a repository of its own.

    Args:
        root: the folder of the runs.
        board: their leaderboard.
        repo_id: OWNER/NAME of the leaderboard's repository; the models' are OWNER/STUDY-RUN.
        destination: says whether they are private, and whether pictures with images of the data set go along.

    Returns:
        Run to the reason why its model could not be published; the others are not kept from it.
    """
    owner, _, own_name = repo_id.partition("/")
    study = repository_name(root) or own_name
    places = _places(board)
    runs = [run for run in places if (root / run / "model" / "config.json").is_file() and not model_link(root / run)]
    failed = {}
    for number, run in enumerate(runs, start=1):
        name = model_name(study, places[run].removeprefix("runs/"))
        print(f"model {number} of {len(runs)}: {run} -> {owner}/{name}", file=sys.stderr)
        images = destination.images and _may_show_images(root / run)
        of_it = Destination(f"{owner}/{name}", private=destination.private, images=images)
        try:
            if images:
                illustrate(RunDirectory(root / run))
            push_run(RunDirectory(root / run), of_it)
        except (UserError, OSError) as error:
            failed[run] = str(error)
    return failed


def model_name(study: str, run: str) -> str:
    """Return the name of the repository for a run of a study: the study's and the run's.

    Args:
        study: the study's name, as a repository may be called.
        run: the run's name in it, such as that of its cell.
    """
    of_run, digest = repository_name(Path(run.replace("/", "-"))), hashlib.sha256(run.encode()).hexdigest()[:8]
    name = f"{study}-{of_run or digest}"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9].rstrip('-._')}-{digest}"


def leaderboard_content(root: Path, board: Leaderboard, repo_id: str, destination: Destination) -> dict[str, Path | bytes]:
    """Return what is published of a leaderboard, under its name in the repository; texts as they may leave the machine.

    Args:
        root: the folder of the runs.
        board: their leaderboard.
        repo_id: OWNER/NAME.
        destination: where it is published.
    """
    places = _places(board)
    report = _report(root) if destination.images and all(_may_show_images(root / run) for run in places) else None
    content: dict[str, Path | bytes] = {
        "README.md": _card(root, board, repo_id, destination, places, report=report is not None).encode(),
        ROWS: _csv(root, board).encode(),
        _RESULTS: as_json(_results(root, board, places)),
    }
    if report is not None:
        content[_REPORT] = report
    if (root / _STUDY).is_file():
        # What the cells are follows from the rest, and a study file that is carried out does not hold them.
        study = {key: value for key, value in read_object(root / _STUDY).items() if key not in ("cells", "$schema")}
        content[_STUDY] = as_json(public(study))
    for run, place in places.items():
        files = (root / run / name for name in _OF_A_RUN)
        content |= {f"{place}/{file.name}": as_json(public(read_object(file))) for file in files if file.is_file()}
    return content


def _may_show_images(run: Path) -> bool:
    """Return whether the recipe of a run lets images of its data set be published."""
    hub = read_object(run / "recipe.json").get("hub")
    return not isinstance(hub, Mapping) or hub.get("images") is not False


def _places(board: Leaderboard) -> dict[str, str]:
    """Return each run that is compared with the folder that its files are published in."""
    runs = [run for table in board.tables for row in table.rows.values() for run in row.runs]
    names = {run: run.removeprefix("cells/") for run in runs}
    if len(set(names.values())) < len(runs):
        names = {run: run for run in runs}
    return {run: f"runs/{name}" for run, name in names.items()}


def _card(
    root: Path, board: Leaderboard, repo_id: str, destination: Destination, places: Mapping[str, str], *, report: bool
) -> str:
    """Return the card, written into the folder, too; one that somebody has edited stays as it is."""
    path = root / CARD
    there = path.read_text(encoding="utf-8") if path.is_file() else None
    text = leaderboard_card_text(root, board, repo_id=repo_id, revision=destination.revision, places=places, report=report)
    if there is not None and not is_unedited(there):
        print(
            f"{path} was edited: it is published as it is. To have it written anew, delete it and push again", file=sys.stderr
        )
        text = there
    refuse_metadata(path, check_leaderboard_metadata(text))
    if text != there:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return text


def _csv(root: Path, board: Leaderboard) -> str:
    lines = csv_lines(board)
    rows = [table.rows[standing.name] for table in board.tables for standing in table.verdict.standings]
    for line, row in zip(lines, rows, strict=True):
        links = [model_link(root / run) for run in row.runs]
        line["models"] = " ".join(link.repo_id for link in links if link is not None)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(public(lines))
    return file.getvalue()


def _results(root: Path, board: Leaderboard, places: Mapping[str, str]) -> Any:
    """Return the leaderboard as JSON, its runs named by where they are published, with the models that are on the Hub."""
    tables = tuple(
        replace(
            table, rows={name: replace(row, runs=tuple(places[run] for run in row.runs)) for name, row in table.rows.items()}
        )
        for table in board.tables
    )
    links = {place: model_link(root / run) for run, place in places.items()}
    models = {place: asdict(link) for place, link in links.items() if link is not None}
    return public(replace(board, tables=tables).to_json() | {"models": models})


def _report(root: Path) -> Path | None:
    """Return the page of the study, None where there is none, or it tells where on this machine it was made."""
    path = root / _REPORT
    if not path.is_file():
        return None
    text = _EMBEDDED.sub("", path.read_text(encoding="utf-8", errors="replace"))
    places = [str(place) for place in (root.resolve(), Path.cwd(), Path.home()) if place.parent != place]
    if any(place in text for place in places):
        print(f"{path} names folders of this machine: it is not published", file=sys.stderr)
        return None
    return path


def _refuse_other_data(repo_id: str, files: list[str]) -> None:
    """Stop where a repository holds a data set: its rows and those of a leaderboard do not mix."""
    other = [name for name in files if name not in (".gitattributes", "README.md")]
    if other and _RESULTS not in other:
        raise UserError(
            f"push: the dataset repository {repo_id} holds something else than a leaderboard ({listed(other, 3)}); nothing was "
            "pushed. Choose another --repo-id"
        )


def _without_card_of_others(repository: Repository, there: str | None, content: Content) -> Content:
    """Return the content without a card that this program wrote, where people wrote the one that is there."""
    ours = content["README.md"]
    if there is None or is_unedited(there) or not (isinstance(ours, bytes) and is_unedited(ours.decode())):
        return content
    print(
        f"the card of {repository.repo_id} was written or edited by hand; it stays as it is. {CARD} holds the one that was "
        "written now; to have that one there, delete README.md on the Hub and push again",
        file=sys.stderr,
    )
    return {name: source for name, source in content.items() if name != "README.md"}


def _is_stale(name: str, content: Content) -> bool:
    """Return whether a file of the repository is one of an earlier leaderboard, and not of this one."""
    return name not in content and _WRITTEN.fullmatch(name) is not None
