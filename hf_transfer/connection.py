"""Whether the Hub can be reached, asked once before the Hub's client is imported.

The client retries an unreachable Hub for half a minute on every file. One connection attempt tells the same in a second; if
it fails, the client is put into its own offline mode (`HF_HUB_OFFLINE`), where cached models and data sets still work.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.parse

DEFAULT_ENDPOINT = "https://huggingface.co"


def go_offline_if_unreachable(timeout: float = 3.0) -> bool:
    """Set `HF_HUB_OFFLINE=1` when the Hub does not answer; return whether the client will work offline.

    Does nothing where the user has decided (`HF_HUB_OFFLINE` is set), where a proxy stands between, or where the Hub's
    client has been imported already and would not see the change.

    Args:
        timeout: seconds to wait for the connection.
    """
    if "HF_HUB_OFFLINE" in os.environ:
        return os.environ["HF_HUB_OFFLINE"].upper() in ("1", "ON", "YES", "TRUE")
    if "huggingface_hub" in sys.modules or any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return False
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=timeout).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        return True
    return False
