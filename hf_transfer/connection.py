"""Whether the Hub can be reached, asked once before the Hub's client is imported.

The client retries an unreachable Hub for half a minute on every file. One connection attempt tells the same in a second; if
it fails, the client is put into its own offline mode (`HF_HUB_OFFLINE`), where cached models and data sets still work.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import urllib.parse

from .errors import UserError

DEFAULT_ENDPOINT = "https://huggingface.co"


def go_offline_if_unreachable(timeout: float = 3.0) -> bool:
    """Set `HF_HUB_OFFLINE=1` when the Hub does not answer; return whether the client will work offline.

    Does nothing where the user has decided (`HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is set), where a proxy stands
    between, or where the Hub's client has been imported already and would not see the change.

    Args:
        timeout: seconds to wait for the connection.
    """
    decided = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE")
    if decided:
        return decided.upper() in ("1", "ON", "YES", "TRUE")
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    proxies = (f"{endpoint.scheme}_proxy", "all_proxy")
    if "huggingface_hub" in sys.modules or any(os.environ.get(name) or os.environ.get(name.upper()) for name in proxies):
        return False
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    except ValueError:
        raise UserError(f"HF_ENDPOINT: expected an address such as {DEFAULT_ENDPOINT}, found '{endpoint.geturl()}'") from None
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=timeout).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        return True
    return False


@functools.cache  # a second call would close the connections that are in use
def limit_waiting(seconds: float = 60.0) -> None:
    """Let no exchange with the Hub wait forever for an answer: its client sets no limit on what it sends.

    Args:
        seconds: longest silence, unless the user has set `HF_HUB_DOWNLOAD_TIMEOUT`.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # by __getattr__
    from huggingface_hub.utils._http import default_client_factory  # which also keeps HF_HUB_OFFLINE

    chosen = constants.HF_HUB_DOWNLOAD_TIMEOUT if os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") else seconds

    def client() -> httpx.Client:
        made = default_client_factory()
        made.timeout = httpx.Timeout(chosen, connect=10.0)
        return made

    set_client_factory(client)
