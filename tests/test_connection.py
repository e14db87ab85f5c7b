"""Whether the Hub can be reached is asked in a fresh process, as the command line does."""

import os
import socket
import subprocess
import sys

import pytest

ASK = (
    "import os, sys, time\n"
    "{before}\n"
    "from hf_transfer.connection import go_offline_if_unreachable\n"
    "started = time.perf_counter()\n"
    "answer = go_offline_if_unreachable(timeout=2.0)\n"
    "assert time.perf_counter() - started < 5\n"
    "client = 'huggingface_hub' in sys.modules\n"
    "print(answer, os.environ.get('HF_HUB_OFFLINE'), client)\n"
)
DECIDING = ("HF_", "TRANSFORMERS_OFFLINE", "HTTP", "ALL_PROXY", "NO_PROXY")


def ask(before="", **environment):
    """Return (the answer, HF_HUB_OFFLINE afterwards, whether the Hub's client was imported)."""
    inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith(DECIDING)}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(before=before)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, variable, client = done.stdout.split()
    return answer == "True", None if variable == "None" else variable, client == "True"


@pytest.fixture
def closed():
    """Return the address of a loopback port where nobody listens."""
    with socket.socket() as bound:  # bound and not listening: refused, and nobody else can take it
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def listening():
    """Return a loopback socket that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def test_go_offline_if_unreachable__nobody_answers(closed):
    assert ask(HF_ENDPOINT=closed) == (True, "1", False)


def test_go_offline_if_unreachable__somebody_answers(listening):
    assert ask(HF_ENDPOINT=f"http://127.0.0.1:{listening.getsockname()[1]}") == (False, None, False)
    listening.accept()[0].close()  # it was asked,
    with pytest.raises(BlockingIOError):  # once
        listening.accept()


@pytest.mark.parametrize(
    ("variable", "value", "offline"),
    [
        ("HF_HUB_OFFLINE", "1", True),
        ("HF_HUB_OFFLINE", "yes", True),
        ("HF_HUB_OFFLINE", "0", False),
        ("TRANSFORMERS_OFFLINE", "1", True),
        ("TRANSFORMERS_OFFLINE", "0", False),
    ],
)
def test_go_offline_if_unreachable__the_user_has_decided(closed, variable, value, offline):
    expected = value if variable == "HF_HUB_OFFLINE" else None
    assert ask(HF_ENDPOINT=closed, **{variable: value}) == (offline, expected, False)


def test_go_offline_if_unreachable__an_empty_decision_is_none(closed):
    assert ask(HF_ENDPOINT=closed, HF_HUB_OFFLINE="") == (True, "1", False)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_go_offline_if_unreachable__a_proxy_may_reach_what_we_cannot(closed, variable):
    assert ask(HF_ENDPOINT=closed, **{variable: "http://127.0.0.1:9"}) == (False, None, False)


def test_go_offline_if_unreachable__too_late_once_the_client_is_imported(closed):
    assert ask(before="import huggingface_hub", HF_ENDPOINT=closed) == (False, None, True)


def test_go_offline_if_unreachable__a_malformed_address_is_the_users_mistake():
    before = (
        "import hf_transfer.connection as c, hf_transfer.errors as e\n"
        "try:\n    c.go_offline_if_unreachable()\n"
        "except e.UserError as error:\n"
        "    assert str(error) == \"HF_ENDPOINT: expected an address such as https://huggingface.co, found 'http://hub:port'\"\n"
        "    print('True None False'); sys.exit()\n"
    )
    assert ask(before=before, HF_ENDPOINT="http://hub:port") == (True, None, False)


def test_pipeline__does_not_import_the_client_before_asking(closed):
    """The client reads the variable when it is imported: whatever asks first must not have imported it."""
    assert ask(before="import hf_transfer.cli, hf_transfer.pipeline, hf_transfer.data.build", HF_ENDPOINT=closed) == (
        True,
        "1",
        False,
    )
