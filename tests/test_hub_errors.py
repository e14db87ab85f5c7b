"""What an exception says of the exchange with the Hub, and what the user is told of it."""

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import hf_raise_for_status, httpx

from hf_transfer.hub_errors import HubFailure, Wanted, hub_failure, reading_problem

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"


def refused(status, message="", code="", path="/ann/plants/resolve/main/x.bin?X-Signature=abc"):
    """Return what the client raises for this answer."""
    headers = {name: value for name, value in (("X-Error-Message", message), ("X-Error-Code", code)) if value}
    request = httpx.Request("GET", f"https://huggingface.co{path}")
    with pytest.raises(errors.HfHubHTTPError) as raised:
        hf_raise_for_status(httpx.Response(status, headers=headers, request=request))
    return raised.value


def wrapped(error, *wrappers):
    """Return the last of these exceptions, each raised from the one before."""
    for wrapper in wrappers:
        wrapper.__cause__ = error
        error = wrapper
    return error


@pytest.mark.parametrize(
    ("status", "message", "code", "kind"),
    [
        (401, "Access to ann/plants is restricted", "GatedRepo", "gated"),
        (403, "Access to ann/plants is restricted", "GatedRepo", "gated"),
        (404, "Repository not found", "RepoNotFound", "no_repository"),
        (401, "Repository not found", "RepoNotFound", "no_repository"),
        (404, "Invalid rev id: v2", "RevisionNotFound", "no_revision"),
        (404, "Entry not found", "EntryNotFound", "no_file"),
        (404, "", "", "no_repository"),
        (401, "Invalid credentials in Authorization header", "", "token"),
        (403, "Access to this resource is disabled.", "", "forbidden"),
        (403, "You have no write rights", "", "forbidden"),
        (403, "Private repository storage limit reached", "", "quota"),
        (402, "Payment required", "", "quota"),
        (507, "", "", "quota"),
        (429, "Too many requests", "", "rate_limit"),
        (500, "", "", "server"),
        (503, "", "", "server"),
        (400, "Bad", "", "other"),
    ],
)
def test_hub_failure__of_an_answer(status, message, code, kind):
    failure = hub_failure(refused(status, message, code))
    assert (failure.kind, failure.status) == (kind, status)
    assert "abc" not in failure.detail


def test_hub_failure__a_repository_named_after_plans_is_no_question_of_money():
    assert hub_failure(refused(403, path="/api/models/ann/storage-plan")).kind == "forbidden"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.HFValidationError("no id"), "id"),
        (errors.LocalTokenNotFoundError("no token"), "no_token"),
        (errors.OfflineModeIsEnabled("offline"), "offline"),
        (errors.LocalEntryNotFoundError("not in the cache"), "unreachable"),
        (httpx.ConnectError("refused"), "unreachable"),
        (httpx.ReadTimeout("too slow"), "unreachable"),
        (httpx.RemoteProtocolError("cut"), "unreachable"),
        (errors.FileMetadataError("no ETag"), "server"),
    ],
)
def test_hub_failure__without_an_answer(error, kind):
    assert hub_failure(error) == HubFailure(kind, str(error))


def test_hub_failure__is_found_below_what_was_raised_from_it():
    """As the client, transformers and datasets wrap one another."""
    missing = errors.LocalEntryNotFoundError("check your connection")
    assert hub_failure(wrapped(refused(500), missing)).kind == "server"
    assert hub_failure(wrapped(refused(403), missing, OSError("Can't load"))).status == 403
    assert hub_failure(wrapped(errors.OfflineModeIsEnabled("offline"), missing, ConnectionError())).kind == "offline"
    assert hub_failure(wrapped(KeyError("x"), errors.LocalEntryNotFoundError("gone"))) == HubFailure("unreachable", "gone")
    assert hub_failure(wrapped(refused(507), RuntimeError("Error while uploading 'a' to the Hub."))).kind == "quota"


def test_hub_failure__of_anything_else_is_none():
    for error in (OSError("disk full"), ValueError("x"), wrapped(KeyError("a"), RuntimeError("b"))):
        assert hub_failure(error) is None


def test_hub_failure__a_detail_has_neither_tokens_nor_signatures():
    failure = hub_failure(refused(400, f"{TOKEN} asked for https://cdn.hf.co/x?Signature=abc&Key=d, no"))
    assert failure.detail == "(removed) asked for https://cdn.hf.co/x no"


WANTED = Wanted("data.source", "ann/cats", "data set", "folder", "/cache", "connect once", "v1")


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (
            HubFailure("rate_limit", "slow down", 429),
            "data.source: ann/cats could not be loaded: the Hub (https://huggingface.co) has had too many requests from here "
            "(slow down); wait some minutes, and log in with 'hf auth login', which raises the limit",
        ),
        (
            HubFailure("server", "no ETag"),
            "data.source: ann/cats could not be loaded: the Hub (https://huggingface.co) has a problem of its own (no ETag); "
            "try again later",
        ),
        (
            HubFailure("unreachable", "timed out"),
            "data.source: ann/cats is neither a local folder nor in the cache (/cache) at revision 'v1', and the Hub "
            "(https://huggingface.co) cannot be reached (timed out). To work offline: connect once.",
        ),
        (
            HubFailure("gated", "restricted", 401),
            "data.source: ann/cats is gated: accept its terms on its Hub page, then log in with 'hf auth login'",
        ),
        (HubFailure("no_revision", "Invalid rev id", 404), "data.revision: ann/cats has no revision 'v1'"),
        (HubFailure("other", "odd"), "data.source: ann/cats could not be loaded from the Hub: odd"),
    ],
)
def test_reading_problem__says_what_to_do(failure, problem, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert reading_problem(failure, WANTED) == problem


class XetAuthenticationError(Exception):
    """As hf_xet has one."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            ConnectionError("Server error: Request error: HTTP status server error (503 Service Unavailable), domain: x"),
            "server",
        ),
        (ConnectionError("Network error: Rate limited"), "rate_limit"),
        (ConnectionError("Network error: HTTP status client error (429 Too Many Requests)"), "rate_limit"),
        (ConnectionError("Network error: error sending request"), "unreachable"),
        (XetAuthenticationError("Unauthorized"), "token"),
        (BrokenPipeError("broken"), None),
    ],
)
def test_hub_failure__of_the_upload_of_large_files(error, kind):
    found = hub_failure(error)
    assert (found and found.kind) == kind
