"""Publish a run: model, preprocessor, card, recipe, metrics and plots, in one commit to a repository of the Hub.

A repository's root is the content of `model/` beside the card and what tells of the run, so that `from_pretrained`,
`pipeline` and timm load it by its name. One commit holds it all: a push that is cut off leaves the repository as it was, and
what it had uploaded by then is not sent again.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..access_tokens import holds_token, without_tokens
from ..connection import go_offline_if_unreachable, limit_waiting
from ..errors import UserError, listed
from ..hub_errors import HubFailure, Kind, hub_failure
from ..report.card_metadata import check_metadata
from ..report.card_seal import is_unedited
from ..report.model_card import model_card_text
from ..report.plots import EXPLANATIONS, SHOW_IMAGES
from ..report.redaction import public
from ..report.saved_run import SavedRun, read_object
from ..run_directory import RunDirectory, write_json

Content = Mapping[str, Path | bytes]
"""The files of a repository: path in it to a file here, or to what it holds."""

# What an earlier push, or one of the Trainer, left at the root, and what would be read instead of the new model's files.
_REPLACED = re.compile(
    r"(config|preprocessor_config|generation_config|adapter_config|metrics|environment)\.json|history\.csv|training_args\.bin"
    r"|[^/]+\.safetensors(\.index\.json)?|pytorch_model[^/]*\.bin(\.index\.json)?|plots/[^/]+\.png"
)
# Names of single images stay at home.
_NOT_PUBLISHED = ("skipped", "duplicates_across_splits", "seen_in_training")
_LATER: frozenset[Kind] = frozenset(("unreachable", "offline", "server", "rate_limit"))


@dataclass(frozen=True)
class Destination:
    """Where a run is published.

    Args:
        repo_id: OWNER/NAME; NAME alone, or None for the run directory's name, means one of the user who is logged in.
        private: whether a repository that has to be made is private.
        revision: the branch, made if need be; None means main.
        create_pr: open a pull request on main instead.
        images: whether pictures go along that show images of the data set.
    """

    repo_id: str | None = None
    private: bool = True
    revision: str | None = None
    create_pr: bool = False
    images: bool = True


@dataclass(frozen=True)
class Published:
    """Where a run is on the Hub.

    Args:
        repo_id: OWNER/NAME.
        revision: the branch, or `refs/pr/N`.
        commit: the commit that holds it.
        url: its page.
        private: whether only those may see it who have been given the right.
        changed: False when every file was there already.
    """

    repo_id: str
    revision: str
    commit: str
    url: str
    private: bool
    changed: bool


class HubError(UserError):
    """A run could not be published. Nothing of the run is lost.

    Args:
        message: what failed, and the command that pushes later.
        temporary: whether the same command may well succeed later, with nothing mended.
    """

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


def push_run(run: RunDirectory, destination: Destination) -> Published:
    """Publish a finished run and note in hub.json where it is.

    Raises:
        UserError: when the run is not finished, has no model, or would publish what it must not.
        HubError: when the Hub, the network or the token does not permit it.
    """
    check_publishable(run)
    with reaching_the_hub(run, destination):
        repository = Repository.open(run.root, destination)
    content = run_content(run, _card(run, repository, images=destination.images), images=destination.images)
    _refuse_tokens(run, content)
    saved = SavedRun.read(run.root)
    split = saved.headline_split
    figure = f": {split} accuracy {saved.splits[split]['accuracy']:.4f}, n {saved.splits[split]['n']}" if split else ""
    if destination.private and not repository.private:
        print(f"{repository.repo_id} is public: everybody can see what is pushed", file=sys.stderr)
    with reaching_the_hub(run, destination):
        warn_of_better(repository, saved)
        published = repository.commit(content, f"{run.root.resolve().name}{figure}")
    write_json(run.published, {name: value for name, value in asdict(published).items() if name != "changed"})
    return published


def check_publishable(run: RunDirectory) -> None:
    """Refuse what is no finished run, and a run that saved no model.

    Raises:
        UserError: saying which.
    """
    if not (run.is_finished and run.recipe.is_file()):
        raise UserError(f"push: expected the directory of a finished run, found none in {run.root}")
    if not (run.model / "config.json").is_file():
        raise UserError(f"push: {run.root} saved no model; there is nothing to publish")


def draw_maps(run: RunDirectory) -> bool:
    """Draw where the model looks, for the card, where that has not been done; return whether there is a new picture."""
    predictions = run.predictions / "test.parquet"
    if (run.root / EXPLANATIONS).exists() or not predictions.is_file():
        return False
    from ..evaluation.inference import prepare_model
    from ..evaluation.predictions import Predictions
    from ..explain.class_grid import explain_run
    from ..explain.explanations import ask
    from .predict import choose_device, load_model

    try:
        backbone = load_model(str(run.root))
        prepare_model(backbone.model, choose_device(None), channels_last=backbone.is_convolutional)
        explain_run(run, Predictions.read(predictions), backbone, ask(backbone, "gradcam"), run.plots)
    except UserError as error:  # such as images that are gone, or a network without gradients
        print(f"the card will not show where the model looks: {error}", file=sys.stderr)
        return False
    return True


def run_content(run: RunDirectory, card: str, *, images: bool = True) -> dict[str, Path | bytes]:
    """Return what a finished run publishes; texts as they may leave the machine.

    Args:
        run: the run.
        card: the text of its card.
        images: whether pictures go along that show images of the data set.
    """
    shows_images = {run.root / picture for picture in SHOW_IMAGES}
    content: dict[str, Path | bytes] = dict(model_files(run.model))
    content["README.md"] = card.encode()
    content["recipe.json"] = as_json(public(read_object(run.recipe)))
    content["metrics.json"] = as_json(public(read_object(run.metrics)))
    if run.environment.is_file():
        facts = {key: value for key, value in read_object(run.environment).items() if key not in _NOT_PUBLISHED}
        content["environment.json"] = as_json(public(facts))
    if run.history.is_file():
        content["history.csv"] = run.history
    plots = (path for path in sorted(run.plots.glob("*.png")) if images or path not in shows_images)
    return content | {f"plots/{path.name}": path for path in plots}


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files that `from_pretrained` reads: JSON, safetensors and text, never a pickle."""
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in (".json", ".safetensors", ".txt"))
    return {path.name: path for path in found}


def as_json(data: Any) -> bytes:
    """Return JSON as a run directory holds it."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _card(run: RunDirectory, repository: Repository, *, images: bool) -> str:
    """Return the card of the run, written for this repository; one that somebody has edited stays as it is."""
    there = run.card.read_text(encoding="utf-8")
    if not is_unedited(there):
        print(f"{run.card} was edited since it was written: it is published as it is", file=sys.stderr)
        card = there
    else:
        card = model_card_text(run.root, repo_id=repository.repo_id, revision=repository.revision, images=images)
    problems = check_metadata(card)
    if problems:
        raise UserError(
            f"push: the Hub would refuse the metadata of {run.card}; nothing was pushed:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    return card


def _refuse_tokens(run: RunDirectory, content: Content) -> None:
    """Stop where a text that is about to be published holds an access token."""
    found = []
    for name, source in content.items():
        if name.endswith((".md", ".json", ".csv", ".txt")):
            text = source if isinstance(source, bytes) else source.read_bytes()
            if holds_token(text.decode("utf-8", "replace")):
                found.append(name)
    if found:
        raise UserError(
            f"push: {listed(found)} of {run.root} would publish an access token; nothing was pushed. Remove it first."
        )


class Repository:
    """A repository of the Hub that may be written to; it is there when this object is.

    Args:
        repo_id: OWNER/NAME.
        private: whether it is private.
        revision: the branch; None for main.
        create_pr: whether commits open a pull request.
        head: the commit that the branch is at.
        files: the paths of its files at that commit.
    """

    def __init__(
        self, repo_id: str, *, private: bool, revision: str | None, create_pr: bool, head: str, files: tuple[str, ...]
    ) -> None:
        self.repo_id = repo_id
        self.private = private
        self.revision = revision
        self.create_pr = create_pr
        self.head = head
        self.files = files

    @classmethod
    def open(cls, run: Path, destination: Destination) -> Repository:
        """Make the repository and the branch if need be, and look at what is there."""
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import LocalTokenNotFoundError

        if get_token() is None:  # the Hub's own answer would be that it knows no such repository
            raise LocalTokenNotFoundError
        api = HfApi()
        name = destination.repo_id or repository_name(run)
        repo_id = name if "/" in name else f"{api.whoami(cache=True)['name']}/{name}"
        api.create_repo(repo_id, private=destination.private, exist_ok=True)
        if destination.revision is not None and not destination.revision.startswith("refs/"):
            api.create_branch(repo_id, branch=destination.revision, exist_ok=True)
        found = api.model_info(repo_id, revision=destination.revision)
        return cls(
            repo_id,
            private=bool(found.private),
            revision=destination.revision,
            create_pr=destination.create_pr,
            head=str(found.sha),
            files=tuple(file.rfilename for file in found.siblings or ()),
        )

    def commit(self, content: Content, message: str) -> Published:
        """Bring the repository to this content in one commit; files of other names that a push does not write stay."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        stale = [name for name in self.files if _REPLACED.fullmatch(name) and name not in content]
        added = [CommitOperationAdd(name, source) for name, source in content.items()]
        removed = [CommitOperationDelete(name) for name in stale]
        done = HfApi().create_commit(
            self.repo_id,
            [*added, *removed],
            commit_message=message,
            revision=self.revision,
            create_pr=self.create_pr,
        )
        changed = done.oid != self.head
        if changed and not self.create_pr:
            self.head, self.files = done.oid, tuple((set(self.files) - set(stale)) | set(content))
        return Published(
            self.repo_id,
            revision=done.pr_revision or self.revision or "main",
            commit=done.oid,
            url=done.pr_url or str(done.repo_url),
            private=self.private,
            changed=changed,
        )


def repository_name(run: Path) -> str:
    """Return the name of a run directory as a repository may be called."""
    name = re.sub(r"[^A-Za-z0-9._-]+|(?<=[-.])[-.]+", "-", run.resolve().name).strip("-._")
    return re.sub(r"-{2,}", "-", name)[:96].strip("-._") or "model"


def warn_of_better(repository: Repository, run: SavedRun) -> None:
    """Say so before a model is replaced that is more accurate, by the card that it has, than the one of this run."""
    split = run.headline_split
    there = None if split is None else accuracy_there(repository)
    if there is None or split is None or there[0] <= run.splits[split]["accuracy"]:
        return
    print(
        f"warning: {repository.repo_id} holds a model with accuracy {there[0]:.4f} on {there[1]}; the one that replaces it has "
        f"{run.splits[split]['accuracy']:.4f} on its {split} split. The other stays at revision {repository.head}",
        file=sys.stderr,
    )


def accuracy_there(repository: Repository) -> tuple[float, str] | None:
    """Return the accuracy that the card of a repository states, and on what; None where it states none."""
    if "README.md" not in repository.files:
        return None
    from huggingface_hub import ModelCard, hf_hub_download

    path = hf_hub_download(repository.repo_id, "README.md", revision=repository.head)
    try:
        card: Any = ModelCard(Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True)
        results = card.data.eval_results or []
    except Exception:  # a card that cannot be parsed says nothing of its model
        return None
    stated = [result for result in results if result.metric_type == "accuracy" and isinstance(result.metric_value, float)]
    if not stated:
        return None
    return stated[0].metric_value, f"the {stated[0].dataset_split or 'unnamed'} split of {stated[0].dataset_name}"


def check_access(destination: Destination) -> str | None:
    """Return why pushing would fail now, as far as one question to the Hub tells; None where it may well succeed."""
    from huggingface_hub import HfApi

    limit_waiting()
    try:
        HfApi().whoami(cache=True)
    except Exception as error:
        return _reason(_failure(error), destination)
    return None


@contextlib.contextmanager
def reaching_the_hub(run: RunDirectory, destination: Destination) -> Iterator[None]:
    """Turn whatever goes wrong with the Hub inside the block into a `HubError` that says what to do."""
    go_offline_if_unreachable()
    limit_waiting()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client raises many kinds, some of them those of libraries below it
        failure = _failure(error)
        raise HubError(
            f"{run.root} could not be pushed: {_reason(failure, destination)}. Nothing of the run is lost; push it later with: "
            f"{push_command(run, destination)}",
            temporary=failure.kind in _LATER,
        ) from error


def _failure(error: Exception) -> HubFailure:
    return hub_failure(error) or HubFailure("other", without_tokens(f"{type(error).__name__}: {error}"))


def push_command(run: RunDirectory, destination: Destination) -> str:
    """Return the command that pushes a run."""
    words = ["hf-transfer", "push", str(run.root)]
    words += ["--repo-id", destination.repo_id] if destination.repo_id else []
    words += ["--revision", destination.revision] if destination.revision else []
    words += ["--create-pr"] if destination.create_pr else []
    words += [] if destination.private else ["--public"]
    words += [] if destination.images else ["--without-images"]
    return shlex.join(words)


def _reason(failure: HubFailure, destination: Destination) -> str:
    from huggingface_hub import constants

    where = destination.repo_id or "the repository"
    reasons: dict[Kind, str] = {
        "id": f"'{destination.repo_id}' is no repository of the Hub (OWNER/NAME)",
        "no_repository": f"there is no {where} on the Hub that this token may write to",
        "no_token": "nobody is logged in to the Hub; run 'hf auth login', or set HF_TOKEN to a token with write permission",
        "token": "the Hub refused the access token; log in anew with 'hf auth login', or correct HF_TOKEN",
        "forbidden": f"this token may not write to {where} ({failure.detail}); use one with write permission, another "
        "--repo-id, or propose it with --create-pr",
        "quota": f"there is no storage left on the Hub ({failure.detail})",
        "rate_limit": "the Hub has had too many requests from here; wait some minutes",
        "offline": f"the Hub ({constants.ENDPOINT}) could not be reached when this process began, or HF_HUB_OFFLINE is set",
        "unreachable": f"the Hub ({constants.ENDPOINT}) does not answer ({failure.detail})",
        "server": f"the Hub has a problem of its own ({failure.detail})",
        "metadata": f"the Hub refused the metadata of its card ({failure.detail})",
    }
    return reasons.get(failure.kind, failure.detail)
