"""Forward passes side by side on a CPU, while the caller prepares the next: no processor waits for another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 4  # each holds the activations of a batch


def stream_count(device: torch.device) -> int:
    """Return how many batches are to be computed at a time: one where a device queues its work itself, up to four on a CPU.

    Of the numbers up to four the one that leaves the fewest threads without work; of equals the largest.
    """
    threads = torch.get_num_threads()
    return (
        max(range(1, min(_MOST, threads) + 1), key=lambda streams: (-(threads % streams), streams))
        if device.type == "cpu"
        else 1
    )


def in_streams(function: Callable[[Item], Result], items: Iterable[Item], streams: int) -> Iterator[Result]:
    """Yield what a function makes of each item, in their order, several at a time, while the caller's thread makes the items.

    The processors are shared out among the streams for as long as this lasts. Threads that compute one layer together wait for
    one another at its end, actively: they would take the time of whatever prepares the next item. On two idle cores the forward
    passes take as long either way; decoding is what is won, and on a busy machine a multiple. Items are taken one ahead, so no
    more than `streams` + 2 are in memory.

    Where making an item fails, the results of those before come first, then the error.

    Args:
        function: called in threads of its own, which know nothing of the caller's `torch.no_grad` or autocast.
        items: made in the caller's thread.
        streams: how many at a time; one calls the function in the caller's thread.
    """
    if streams == 1:
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // streams))  # of this thread, and of those that it starts
    pending: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(streams) as pool:
            source, stopped = iter(items), None
            try:
                while stopped is None:
                    try:
                        pending.append(pool.submit(function, next(source)))
                    except BaseException as error:  # what was begun is not lost
                        stopped = error
                    while pending and (stopped or len(pending) > streams):
                        yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
            if not isinstance(stopped, StopIteration):
                raise stopped
    finally:
        torch.set_num_threads(threads)
