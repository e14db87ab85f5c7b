"""SIGTERM, as batch schedulers send it before they take a machine away: a training writes a checkpoint first.

Elsewhere the signal ends a run at once; what it has finished so far is on disk, and `--resume` goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

STATUS = 128 + signal.SIGTERM
"""Exit status of a run that SIGTERM has ended, 143: what a scheduler can requeue on."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


_asked = threading.Event()
_installed = threading.Event()
_deferring = threading.Event()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, or let a training end in order; where nobody else has said what the signal does."""
    main = threading.current_thread() is threading.main_thread()  # only the main thread may say what a signal does
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _receive)
    _installed.set()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _installed.clear()
        _asked.clear()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let the first SIGTERM wait until the block looks (`asked`) or ends; a second one is not made to wait.

    Raises:
        Terminated: at the end of a block that was asked to stop.
    """
    _deferring.set()
    try:
        yield
    finally:
        _deferring.clear()
    if _asked.is_set():
        raise Terminated


def asked() -> bool:
    """Return whether SIGTERM has come and waits."""
    return _asked.is_set()


def may_be_asked() -> bool:
    """Return whether SIGTERM is waited for at all; the same in all processes of a run."""
    return _installed.is_set()


def _receive(number: int, frame: FrameType | None) -> None:
    first, waits = not _asked.is_set(), _deferring.is_set()
    _asked.set()
    if not (first and waits):
        raise Terminated
    if int(os.environ.get("RANK", "0")) == 0:
        os.write(sys.stderr.fileno(), b"\nSIGTERM: writing a checkpoint after this step\n")  # print is not safe in here
