"""Publish a run: model, preprocessor, card, recipe, metrics and plots, in one commit to a repository of the Hub.

A repository's root is the content of `model/` beside the card and what tells of the run, so that `from_pretrained`,
`pipeline` and timm load it by its name. One commit holds it all: a push that is cut off leaves the repository as it was, and
what it had uploaded by then is not sent again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..access_tokens import holds_token, without_tokens
from ..connection import go_offline_if_unreachable, limit_waiting
from ..errors import UserError, listed
from ..hub_errors import HubFailure, Kind, hub_failure
from ..metrics.headline import ACCURACY, MEAN_AVERAGE_PRECISION, Headline
from ..report.card_metadata import check_metadata
from ..report.card_seal import is_unedited
from ..report.formats import finite
from ..report.model_card import model_card_text
from ..report.plots import EXPLANATIONS, PICTURES, SHOW_IMAGES
from ..report.redaction import public
from ..report.saved_run import SavedRun, read_object
from ..run_directory import RunDirectory, write_json

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo, ModelInfo

    from ..recipe.schema import Hub

Content = Mapping[str, Path | bytes]
"""The files of a repository: path in it to a file here, or to what it holds."""

RepoType = Literal["model", "dataset"]

LAST_CHECKPOINT = "last-checkpoint"
"""Where the Trainer looks for what to resume from."""

# What an earlier push, or one of the Trainer, left at the root, and what would be read instead of the new model's files.
_REPLACED = re.compile(
    r"(config|preprocessor_config|processor_config|generation_config|adapter_config|metrics|environment)\.json|history\.csv"
    r"|training_args\.bin|(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
    r"|pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?|adapter_model\.bin|tf_model\.h5|flax_model\.msgpack"
)
# Names of single images and of groups (patients) stay at home.
_NOT_PUBLISHED = ("skipped", "duplicates_across_splits", "groups_across_splits", "seen_in_training")
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


def destination_of(section: Hub) -> Destination:
    """Return where a recipe's `hub` section says that its run is to be published."""
    return Destination(
        section.repo_id,
        private=section.private,
        revision=section.revision,
        create_pr=section.create_pr,
        images=section.images,
    )


def push_run(run: RunDirectory, destination: Destination, *, replaced: Stated | None = None) -> Published:
    """Publish a finished run and note in hub.json where it is.

    Args:
        run: the run.
        destination: where to.
        replaced: what was there before this run's own pushes, where it has pushed while it trained.

    Raises:
        UserError: when the run is not finished, has no model, or would publish what it must not.
        HubError: when the Hub, the network or the token does not permit it.
    """
    check_publishable(run)
    with reaching_the_hub(run, destination):
        repo_id = repository_id(run.root, destination)
    content = run_content(run, _card(run, repo_id, destination), images=destination.images)
    refuse_tokens(run.root, content)
    saved = SavedRun.read(run.root)
    split = saved.headline_split
    scores = {} if split is None else saved.splits[split]
    headline = saved.headline
    reached = finite(scores.get(headline.key))
    figure = "" if reached is None else f": {split} {headline.name} {reached:.4f}, n {scores.get('n')}"
    with reaching_the_hub(run, destination):
        repository = Repository.open(repo_id, destination)
        head = repository.look()
        there = replaced or repository.stated(head)
        if there is not None and there.headline == headline and reached is not None and there.value > reached:
            print(
                f"warning: {repo_id} holds a model with {headline.name} {there.value:.4f} on {there.where}; the one that "
                f"replaces it has {reached:.4f} on its {split} split. The other stays at revision {there.commit}",
                file=sys.stderr,
            )
        published = repository.commit(head, content, f"{run.root.resolve().name}{figure}")
    note_published(run, published)
    return published


def note_published(run: RunDirectory, published: Published) -> None:
    """Write down in hub.json where something is on the Hub."""
    write_json(run.published, {name: value for name, value in asdict(published).items() if name != "changed"})


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
    except Exception as error:  # images that are gone, no gradients, no memory left: a picture is not worth a run
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        print(f"the card will not show where the model looks: {said}", file=sys.stderr)
        return False
    return True


def illustrate(run: RunDirectory) -> None:
    """Have card and report of a finished run show where the model looks, where that has not been drawn."""
    if draw_maps(run):
        from ..report.html_report import write_report
        from ..report.model_card import refresh_model_card

        write_report(run.root)
        refresh_model_card(run.root)


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
        content["environment.json"] = environment_content(run)
    if run.history.is_file():
        content["history.csv"] = run.history
    plots = (path for path in sorted(run.plots.glob("*.png")) if images or path not in shows_images)
    return content | {f"plots/{path.name}": path for path in plots}


def environment_content(run: RunDirectory) -> bytes:
    """Return environment.json as it may leave the machine."""
    facts = {key: value for key, value in read_object(run.environment).items() if key not in _NOT_PUBLISHED}
    return as_json(public(facts))


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files that `from_pretrained` reads: JSON, safetensors and text, never a pickle."""
    found = (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in (".json", ".safetensors", ".txt"))
    return {path.name: path for path in found}


def as_json(data: Any) -> bytes:
    """Return JSON as a run directory holds it."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _card(run: RunDirectory, repo_id: str, destination: Destination) -> str:
    """Return the card of the run, written for this repository; one that somebody has edited stays as it is."""
    there = run.card.read_text(encoding="utf-8")
    if is_unedited(there):
        card = model_card_text(run.root, repo_id=repo_id, revision=destination.revision, images=destination.images)
    else:
        print(
            f"{run.card} was edited, or written by an earlier version: it is published as it is. To have it written anew, "
            f"delete it and run: {shlex.join(['hf-transfer', 'report', str(run.root)])}",
            file=sys.stderr,
        )
        if '"model"' in there:
            print("its instructions load the run's folder 'model', not the repository", file=sys.stderr)
        card = there
    refuse_metadata(run.card, check_metadata(card))
    return card


def refuse_metadata(card: Path, problems: Sequence[str]) -> None:
    """Stop where there are problems with the metadata of a card.

    Raises:
        UserError: listing them.
    """
    if problems:
        raise UserError(
            f"push: the Hub would refuse the metadata of {card}; nothing was pushed:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )


def refuse_tokens(root: Path, content: Content) -> None:
    """Stop where a text that is about to be published holds an access token.

    Raises:
        UserError: naming the files.
    """
    found = []
    for name, source in content.items():
        if name.endswith((".md", ".json", ".csv", ".txt", ".html")):
            text = source if isinstance(source, bytes) else source.read_bytes()
            if holds_token(text.decode("utf-8", "replace")):
                found.append(name)
    if found:
        raise UserError(f"push: {listed(found)} of {root} would publish an access token; nothing was pushed. Remove it first.")


@dataclass(frozen=True)
class Stated:
    """What the card of a repository says of its model.

    Args:
        value: the first accuracy or mean average precision of its results.
        where: on what.
        commit: the commit that holds it.
        headline: which of the two it is.
    """

    value: float
    where: str
    commit: str
    headline: Headline = ACCURACY


class Repository:
    """A repository of the Hub that may be written to; it is there when this object is.

    Args:
        repo_id: OWNER/NAME.
        destination: branch and manner of its commits.
        repo_type: what it holds.
    """

    def __init__(self, repo_id: str, destination: Destination, repo_type: RepoType = "model") -> None:
        self.repo_id = repo_id
        self.destination = destination
        self.repo_type = repo_type

    @classmethod
    def open(cls, repo_id: str, destination: Destination, repo_type: RepoType = "model") -> Repository:
        """Make the repository and the branch if need be, and look at what is there.

        Raises:
            UserError: when it is public, and a private one was asked for.
        """
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo_id, private=destination.private, exist_ok=True, repo_type=repo_type)
        if destination.private and not api.repo_info(repo_id, repo_type=repo_type).private:
            raise UserError(_is_public(repo_id, repo_type))
        if destination.revision is not None and not destination.revision.startswith("refs/"):
            api.create_branch(repo_id, branch=destination.revision, exist_ok=True, repo_type=repo_type)
        return cls(repo_id, destination, repo_type)

    def look(self) -> ModelInfo | DatasetInfo:
        """Return what the branch is at."""
        from huggingface_hub import HfApi

        api, branch = HfApi(), self.destination.revision
        if self.repo_type == "dataset":
            return api.dataset_info(self.repo_id, revision=branch)
        return api.model_info(self.repo_id, revision=branch)

    def card(self, head: ModelInfo | DatasetInfo) -> str | None:
        """Return the card that is there, None where there is none."""
        from huggingface_hub import hf_hub_download

        if not any(file.rfilename == "README.md" for file in head.siblings or ()):
            return None
        found = hf_hub_download(self.repo_id, "README.md", revision=head.sha, repo_type=self.repo_type)
        return Path(found).read_text(encoding="utf-8", errors="replace")

    def stated(self, head: ModelInfo | DatasetInfo) -> Stated | None:
        """Return what its card says of the model that is there, None where it says nothing; tell of a card of other hands."""
        from huggingface_hub import ModelCard

        text = self.card(head)
        if text is None:
            return None
        if not is_unedited(text):
            print(f"the card of {self.repo_id} was written by other hands; it stays at revision {head.sha}", file=sys.stderr)
        try:
            card: Any = ModelCard(text, ignore_metadata_errors=True)
            results = card.data.eval_results or []
        except Exception:  # a card that cannot be parsed says nothing of its model
            return None
        known = {headline.key: headline for headline in (ACCURACY, MEAN_AVERAGE_PRECISION)}
        stated = [result for result in results if result.metric_type in known and isinstance(result.metric_value, float)]
        if not stated:
            return None
        where = f"the {stated[0].dataset_split or 'unnamed'} split of {stated[0].dataset_name}"
        return Stated(stated[0].metric_value, where, str(head.sha), known[stated[0].metric_type])

    def commit(
        self,
        head: ModelInfo | DatasetInfo,
        content: Content,
        message: str,
        *,
        is_stale: Callable[[str, Content], bool] | None = None,
    ) -> Published:
        """Bring the branch from where it was seen to this content in one commit; files that no push writes stay.

        Args:
            head: what the branch was at.
            content: what is published.
            message: the commit's.
            is_stale: whether a file that is there would be taken for a part of this content, and is none; by default, of a
                model's.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api, branch = HfApi(), self.destination.revision
        stale = [file.rfilename for file in head.siblings or () if (is_stale or _is_stale)(file.rfilename, content)]
        manner: dict[str, Any] = {
            "repo_type": self.repo_type,
            "revision": branch,
            "create_pr": self.destination.create_pr,
            "num_threads": 1,
        }
        with contextlib.ExitStack() as files:
            # Open files go by HTTP, whose waiting has an end. By their paths they would go by xet, which waits for ever for an
            # answer that does not come (hf_xet 1.8, more than ten minutes).
            added = {
                name: CommitOperationAdd(name, files.enter_context(source.open("rb")) if isinstance(source, Path) else source)
                for name, source in content.items()
            }
            files.enter_context(_without_word_of_xet())
            # One after the other, and each file once, under however many names: threads would share an open file.
            once = {source: added[name] for name, source in content.items() if isinstance(source, Path)}
            api.preupload_lfs_files(self.repo_id, once.values(), free_memory=False, **manner)
            done = api.create_commit(
                self.repo_id,
                [*added.values(), *map(CommitOperationDelete, stale)],
                commit_message=message,
                parent_commit=head.sha,  # what was looked at is what is replaced
                **manner,
            )
        return Published(
            self.repo_id,
            revision=done.pr_revision or branch or "main",
            commit=done.oid,
            url=done.pr_url or str(done.repo_url),
            private=bool(head.private),
            changed=done.oid != head.sha,
        )


@contextlib.contextmanager
def _without_word_of_xet() -> Iterator[None]:
    """Let the client not say of every push that it does not use xet."""
    from huggingface_hub.utils import logging as hub_logging

    logger = hub_logging.get_logger("huggingface_hub._commit_api")

    def tells(record: logging.LogRecord) -> bool:
        return "not supported by Xet" not in record.getMessage()

    logger.addFilter(tells)
    try:
        yield
    finally:
        logger.removeFilter(tells)


def _is_stale(name: str, content: Content) -> bool:
    """Return whether a file of the repository would be taken for a part of this content, and is none."""
    if name in content:
        return False
    folder, slash, _ = name.partition("/")
    if slash and folder == LAST_CHECKPOINT:
        return any(other.startswith(f"{LAST_CHECKPOINT}/") for other in content)
    return _REPLACED.fullmatch(name) is not None or Path(name) in PICTURES


def repository_id(run: Path, destination: Destination) -> str:
    """Return OWNER/NAME of the repository for a run; a name alone is one of the user who is logged in.

    Raises:
        UserError: when the name of the run's directory is none that a repository may have.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import LocalTokenNotFoundError

    name = destination.repo_id or repository_name(run)
    if not name:
        raise UserError(f"push: '{run.resolve().name}' is no name for a repository; choose one with --repo-id (hub.repo_id)")
    if get_token() is None:  # the Hub's own answer would be that it knows no such repository
        raise LocalTokenNotFoundError
    return name if "/" in name else f"{HfApi().whoami(cache=True)['name']}/{name}"


def repository_name(run: Path) -> str:
    """Return the name of a run directory as a repository may be called: ASCII letters, digits, single `-`, `_` and `.`.

    Letters lose their accents; where nothing is left, or not enough to tell it from others, the name is empty.
    """
    plain = unicodedata.normalize("NFKD", run.resolve().name)
    ascii_only = "".join(letter for letter in plain if not unicodedata.combining(letter))
    if not ascii_only.isascii():
        return ""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_only)
    name = re.sub(r"-{2,}", "-", re.sub(r"\.{2,}", ".", name))[:96]
    return name.removesuffix(".git").strip("-._")


def _is_public(repo_id: str, repo_type: RepoType = "model") -> str:
    key = " (hub.private: false)" if repo_type == "model" else ""
    return (
        f"push: {repo_id} is public, and a private repository was asked for; nothing was pushed. To publish there say "
        f"--public{key}, else choose another --repo-id"
    )


def check_access(run: Path, destination: Destination) -> str | None:
    """Return why pushing would fail now, as far as two questions to the Hub tell; None where it may well succeed."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    limit_waiting()
    try:
        HfApi().whoami(cache=True)
        repo_id = repository_id(run, destination)
        with contextlib.suppress(RepositoryNotFoundError):  # it will be made
            if destination.private and not HfApi().model_info(repo_id).private:
                return _is_public(repo_id)
    except UserError as error:
        return str(error)
    except Exception as error:
        return _reason(_failure(error), destination)
    return None


@contextlib.contextmanager
def reaching_the_hub(
    run: RunDirectory, destination: Destination, *, what: str = "the run", more: Sequence[str] = ()
) -> Iterator[None]:
    """Turn whatever goes wrong with the Hub inside the block into a `HubError` that says what to do.

    Args:
        run: what is pushed.
        destination: where to.
        what: what nothing is lost of.
        more: further options of the command that pushes later.
    """
    go_offline_if_unreachable()
    limit_waiting()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client raises many kinds, some of them those of libraries below it
        failure = _failure(error)
        raise HubError(
            f"{run.root} could not be pushed: {_reason(failure, destination)}. Nothing of {what} is lost; push it later with: "
            f"{push_command(run, destination, more)}",
            temporary=failure.kind in _LATER,
        ) from error


def _failure(error: Exception) -> HubFailure:
    return hub_failure(error) or HubFailure("other", without_tokens(f"{type(error).__name__}: {error}"))


def push_command(run: RunDirectory, destination: Destination, more: Sequence[str] = ()) -> str:
    """Return the command that pushes a run; `more` are further options of it."""
    words = ["hf-transfer", "push", str(run.root)]
    words += ["--repo-id", destination.repo_id] if destination.repo_id else []
    words += ["--revision", destination.revision] if destination.revision else []
    words += ["--create-pr"] if destination.create_pr else []
    words += [] if destination.private else ["--public"]
    words += [] if destination.images else ["--without-images"]
    return shlex.join([*words, *more])


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
