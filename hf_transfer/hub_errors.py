"""What went wrong between this machine and the Hub, in one word and one line, whatever the client raised."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .access_tokens import without_tokens

Kind = Literal[
    "id",  # no OWNER/NAME
    "no_repository",  # none of this name, or a private one that this token may not see
    "no_revision",
    "no_file",  # the repository lacks a file that was asked for
    "gated",  # its terms have not been accepted
    "no_token",  # nobody is logged in
    "token",  # the token is wrong or has expired
    "forbidden",  # the token may not do this
    "quota",  # no storage left
    "rate_limit",  # too many requests
    "offline",  # HF_HUB_OFFLINE is set
    "unreachable",  # no answer: no network, a dropped connection, a timeout
    "server",  # an answer that says that the Hub itself has a problem
    "metadata",  # the Hub refuses the front matter of the card
    "other",
]


@dataclass(frozen=True)
class HubFailure:
    """One failed exchange with the Hub.

    Args:
        kind: what went wrong.
        detail: what the Hub or its client said, in one line, without tokens and without signed addresses.
        status: of the Hub's answer; None where there was none.
    """

    kind: Kind
    detail: str
    status: int | None = None


@dataclass(frozen=True)
class Wanted:
    """What was to be read from the Hub, and the words to tell of it.

    Args:
        key: the recipe's key that names it, such as `model.backbone`; its section has a `revision` as well.
        name: the Hub id that was asked for.
        kind: "model" or "data set".
        local: what it could have been on this machine: "directory" or "folder".
        cache: where it is kept once it has been read.
        offline: how to do without a connection, as the end of a sentence.
        revision: branch, tag or commit; None is the main branch.
    """

    key: str
    name: str
    kind: str
    local: str
    cache: str
    offline: str
    revision: str | None = None


def wanted_model(name: str, revision: str | None) -> Wanted:
    """Return what `model.backbone` and `model.revision` ask for."""
    from huggingface_hub import constants

    option = f" --revision {revision}" if revision else ""
    return Wanted(
        key="model.backbone",
        name=name,
        kind="model",
        local="directory",
        cache=constants.HF_HUB_CACHE,
        offline=f"download it once with a connection ('hf download {name}{option}'); or give a local directory; or use "
        "package:efficientnet_lite0, whose weights a pip package carries",
        revision=revision,
    )


def hub_failure(error: BaseException) -> HubFailure | None:
    """Return what an exception, or the one it was raised from, says of the exchange with the Hub.

    None where the Hub's client has no part in it.
    """
    found: BaseException | None = error
    while found is not None:  # transformers and datasets wrap what the client raises, the client what its connection raises
        kind = _kind(found)
        if kind is not None:
            response = getattr(found, "response", None)
            return HubFailure(kind, _detail(found), getattr(response, "status_code", None))
        found = found.__cause__
    return None


def reading_problem(failure: HubFailure, wanted: Wanted) -> str:
    """Return what to tell the user whose model or data set could not be read: what was expected, found, and what to do.

    Args:
        failure: what went wrong.
        wanted: what was to be read.
    """
    from huggingface_hub import constants

    name, hub, said = wanted.name, f"the Hub ({constants.ENDPOINT})", f" ({failure.detail})"
    at = f" at revision '{wanted.revision}'" if wanted.revision else ""
    if failure.kind == "no_revision":
        return f"{wanted.key.partition('.')[0]}.revision: {name} has no revision '{wanted.revision}'"
    if failure.kind in ("offline", "unreachable"):
        why = " or HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else said
        return (
            f"{wanted.key}: {name} is neither a local {wanted.local} nor in the cache ({wanted.cache}){at}, and {hub} cannot "
            f"be reached{why}. To work offline: {wanted.offline}."
        )
    gate = "accept its terms on its Hub page, then log in with 'hf auth login'"
    if failure.status == 403:
        gate = (
            "this access token's owner has not been let in. Accept its terms on its Hub page, wait where they are to be "
            "approved, and see that the token may read gated repositories"
        )
    refused = (
        f"the Hub refuses access to {name}{said}; log in with 'hf auth login', or set HF_TOKEN to a token that may read it"
    )
    problems: dict[Kind, str] = {
        "id": f"'{name}' is neither a local {wanted.local} nor a Hub id (OWNER/NAME)",
        "no_repository": f"no {wanted.kind} '{name}' was found on the Hub, and no {wanted.local} of that name exists here. "
        "Check the spelling; for a private one log in with 'hf auth login'.",
        "gated": f"{name} is gated: {gate}",
        "token": f"the Hub refused the access token when asked for {name}; log in anew with 'hf auth login', or correct "
        "HF_TOKEN",
        "no_token": refused,
        "forbidden": refused,
        "quota": refused,
        "rate_limit": f"{name} could not be loaded: {hub} has had too many requests from here{said}; wait some minutes, and "
        "log in with 'hf auth login', which raises the limit",
        "server": f"{name} could not be loaded: {hub} has a problem of its own{said}; try again later",
    }
    return f"{wanted.key}: " + problems.get(failure.kind, f"{name} could not be loaded from the Hub: {failure.detail}")


def _kind(error: BaseException) -> Kind | None:
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # by __getattr__

    if isinstance(error, errors.HFValidationError):
        return "id"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no_token"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline"
    if isinstance(error, errors.LocalEntryNotFoundError):  # also where the Hub did answer, but not with the file
        return None if error.__cause__ is not None and hub_failure(error.__cause__) else "unreachable"
    if isinstance(error, httpx.TransportError):
        return "unreachable"
    if isinstance(error, errors.FileMetadataError):  # something else answers in the Hub's place
        return "server"
    if isinstance(error, errors.GatedRepoError):
        return "gated"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no_revision"
    if isinstance(error, errors.EntryNotFoundError):
        return "no_file"
    if isinstance(error, errors.HfHubHTTPError):
        return _kind_of_answer(error)
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return "metadata"
    return _kind_of_xet(error)


def _kind_of_xet(error: BaseException) -> Kind | None:
    """Return what hf_xet, which uploads large files where it is installed, says in words only."""
    if type(error).__name__ == "XetAuthenticationError":
        return "token"
    if type(error) is not ConnectionError or error.__cause__ is not None:
        return None
    found = re.search(r"\b(401|403|429|5\d\d)\b|rate limit", str(error), re.IGNORECASE)
    if found is None:
        return "unreachable"
    kinds: dict[str, Kind] = {"401": "token", "403": "forbidden", "429": "rate_limit"}
    return "rate_limit" if found[1] is None else kinds.get(found[1], "server")


def _kind_of_answer(error: OSError) -> Kind:
    from huggingface_hub.errors import RepositoryNotFoundError

    response = error.response  # type: ignore[attr-defined]  # an HfHubHTTPError
    status, said = response.status_code, str(getattr(error, "server_message", None) or "")
    if isinstance(error, RepositoryNotFoundError):
        return "no_repository"
    if status == 401:
        return "token"
    if status in (402, 403, 413, 507):
        full = re.search(r"\b(storage|quota|payment|plan)\b", said, re.IGNORECASE) or status in (402, 507)
        return "quota" if full else "forbidden"
    if status == 404:
        return "no_repository"
    if status == 429:
        return "rate_limit"
    return "server" if status >= 500 else "other"


def _detail(error: BaseException) -> str:
    """Return the telling line of an error; addresses lose what comes after their path, which may be a signature."""
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 and lines[0].endswith(".") and "Client Error" in lines[0] else lines[0]
    return without_tokens(re.sub(r"(https?://[^\s?#']+)[?#][^\s']*", r"\1", line)).rstrip(".")
