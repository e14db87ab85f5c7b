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
    """

    kind: Kind
    detail: str


def hub_failure(error: BaseException) -> HubFailure | None:
    """Return what an exception says of the exchange with the Hub; None for one that the Hub's client did not raise."""
    kind = _kind(error)
    return None if kind is None else HubFailure(kind, _detail(error))


def _kind(error: BaseException) -> Kind | None:
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # by __getattr__

    if isinstance(error, errors.HFValidationError):
        return "id"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no_token"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline"
    if isinstance(error, (errors.LocalEntryNotFoundError, httpx.TransportError)):
        return "unreachable"
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
    if isinstance(error, RuntimeError) and "Error while uploading" in str(error) and error.__cause__ is not None:
        return _kind(error.__cause__)  # the client wraps what stopped the upload of a large file
    return None


def _kind_of_answer(error: OSError) -> Kind:
    from huggingface_hub.errors import RepositoryNotFoundError

    response = error.response  # type: ignore[attr-defined]  # an HfHubHTTPError
    status, said = response.status_code, str(error)
    if isinstance(error, RepositoryNotFoundError):
        return "no_repository"
    if status == 401:
        return "token"
    if status in (402, 403, 413, 507):
        return "quota" if re.search(r"storage|quota|payment|plan", said, re.IGNORECASE) or status in (402, 507) else "forbidden"
    if status == 404:
        return "no_repository"
    if status == 429:
        return "rate_limit"
    return "server" if status >= 500 else "other"


def _detail(error: BaseException) -> str:
    """Return the telling line of an error; addresses lose what comes after their path, which may be a signature."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 and lines[0].endswith(".") and "Client Error" in lines[0] else lines[0]
    return without_tokens(re.sub(r"(https?://[^\s?#']+)[?#][^\s']*", r"\1", line)).rstrip(".")
