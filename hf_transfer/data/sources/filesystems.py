"""The file system of an address, and what becomes of its failures: another try, or a message without credentials."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import DataError, UserError
from .addresses import is_web, shown

if TYPE_CHECKING:
    import fsspec

WAITS: Sequence[float] = (0.2, 0.6, 2.0, 6.0)
"""Seconds before each further try of something that failed for a passing reason."""

SILENCE = 60.0
"""Seconds after which a web server that sends nothing more counts as failed."""

_Result = TypeVar("_Result")


class TransferError(OSError):
    """A transfer that did not bring what was asked for."""

    def __init__(self, problem: str, *, passing: bool) -> None:
        super().__init__(problem)
        self.passing = passing


def filesystem(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of an address, one for each process, and the file's path in it.

    Raises:
        UserError: when it needs a package that is not installed, or is unknown.
    """
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0]
    try:
        system, path = url_to_fs(address, **(_web_options(protocol) if is_web(address) else {}))
    except ImportError as error:
        known = known_implementations.get(protocol, {})
        module = str(known.get("class", "")).partition(".")[0]
        extra = {"s3fs": "hf-transfer-learning[s3]", "gcsfs": "hf-transfer-learning[gs]"}.get(module, module)
        how = f"{module}: pip install '{extra}'" if module not in ("", "fsspec") else f"a package: {error}"
        raise UserError(f"data: {shown(address)} needs {how}") from None
    except ValueError as error:
        if "rotocol" not in str(error):
            raise
        raise DataError(f"data.source: no file system is known for {protocol}://, in {shown(address)}") from None
    return system, str(path)


def patiently(address: str, action: Callable[[], _Result]) -> _Result:
    """Do something with an address, and again a few times where it fails for a passing reason.

    Raises:
        OSError: naming the address and the reason.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except (UserError, AttributeError, NameError):  # the latter are mistakes of ours
            raise
        except Exception as error:  # file systems raise many kinds
            problem, passing = _problem(error)
        if wait is None or not passing:
            break
        time.sleep(wait)
    raise OSError(f"{shown(address)}: {problem}")


def _web_options(protocol: str) -> dict[str, Any]:
    """Return how to talk to a web server: proxies and ~/.netrc count, no transfer is unpacked, no silence is waited out."""
    import aiohttp
    import fsspec

    configured = fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})
    patience = aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, SILENCE), sock_read=SILENCE)
    plain = {"trust_env": True, "timeout": patience, "headers": {"Accept-Encoding": "identity"}}
    return {"client_kwargs": {**plain, **configured}}


def _problem(error: BaseException) -> tuple[str, bool]:
    """Return in words why a transfer failed, and whether it may succeed when it is tried again."""
    import aiohttp

    from ...hub_errors import hub_failure

    if isinstance(error, TransferError):
        return str(error), error.passing
    if (failure := hub_failure(error)) is not None:
        return failure.detail, failure.kind in ("unreachable", "server", "rate_limit")
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    for found in causes:
        if isinstance(found, aiohttp.ClientResponseError):
            return _answer(found.status, found.message)
        if isinstance(found, (TimeoutError, aiohttp.ServerTimeoutError)) or type(found).__name__ == "TimeoutError":
            return "no answer in time", True
        if isinstance(found, aiohttp.ClientPayloadError):
            return "the transfer was cut short", True
        if isinstance(found, (aiohttp.ClientConnectionError, ConnectionError)):
            return "the connection failed", True
    if isinstance(error, FileNotFoundError):
        return "there is no such file", False
    if isinstance(error, PermissionError):
        return "access is refused", False
    said = getattr(error, "strerror", None) or (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"\w+://\S+", lambda match: shown(match[0]), said), False


def _answer(status: int, message: str) -> tuple[str, bool]:
    if status == 412:
        return "its content has changed since it was first looked at; start again", False
    if status in (401, 403):
        return f"access is refused ({status} {message})", False
    if status in (404, 410):
        return "there is no such file", False
    return f"the server answers {status} {message}", status in (408, 425, 429) or status >= 500
