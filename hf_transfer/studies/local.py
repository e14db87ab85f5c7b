"""Carry out the cells of a study on several devices of this machine: one process for each, which keeps what it has imported."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from .. import pipeline
from ..connection import go_offline_if_unreachable
from ..errors import UserError
from .cell_life import Outcome, log_of, output_to, take, write_failure
from .execution import Executor, begin_work
from .interruption import interruptible
from .study import Cell

_STOPPED = 128 + signal.SIGTERM  # exit status of a worker that was asked to stop
_GRACE = 10.0  # seconds that it has for that


@contextlib.contextmanager
def on_devices(count: int | None) -> Iterator[Executor]:
    """Yield what carries out cells on several devices, each by a process of its own that lives as long as this context.

    A GPU is seen by its process alone; without GPUs the processes share the processors. Cells of one backbone go to one process
    as long as another has other work. A process that dies costs the cell it was at: that is written down as failed, and another
    process takes its place. The processes end with this one, however it ends.

    Args:
        count: how many; None for one on each GPU, or a single one where there is none.

    Raises:
        UserError: when there are GPUs, but fewer.
    """
    gpus = _gpus()
    if gpus and count is not None and count > len(gpus):
        raise UserError(f"--devices {count}: expected at most {len(gpus)}, the number of GPUs here")
    count = count or len(gpus) or 1
    devices = _Devices([_Seat(place, count, gpus[place] if gpus else None) for place in range(count)])
    try:
        yield devices
    finally:
        devices.stop()


@dataclass(frozen=True)
class _Seat:
    """Where a worker works: its number, how many there are, and what its CUDA_VISIBLE_DEVICES is (None: as it is)."""

    place: int
    count: int
    gpu: str | None

    def __str__(self) -> str:
        return f"process {self.place + 1}" if self.gpu is None else f"GPU {self.gpu}"


@dataclass(frozen=True)
class _Task:
    """A cell, and the cells that are begun with it: their features are computed together."""

    cell: Cell
    begun_with: list[Cell]
    root: Path
    retry_failed: bool


class _Worker:
    """A process, and the cell it is at."""

    def __init__(self, seat: _Seat) -> None:
        self.seat = seat
        self.ready = False
        self.cell: Cell | None = None
        self.backbone = ""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, seat))
        # Ctrl-C in a terminal reaches every process: the first one decides what it means, the others never see it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def give(self, task: _Task) -> None:
        """Let it carry out a cell."""
        self.cell, self.backbone = task.cell, _backbone(task.cell)
        with contextlib.suppress(OSError):  # it is dead, as `answer` will find
            self.connection.send(task)

    def answer(self) -> Outcome | None:
        """Return what became of its cell; None while that is not known.

        Raises:
            EOFError: when it has died.
        """
        alive = self.process.is_alive()
        try:
            if self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, Outcome):
                    self.cell = None
                    return message
                self.ready = True
                return None
        except OSError:
            raise EOFError from None
        if not alive:
            raise EOFError
        return None


class _Devices:
    """The workers, and who gets which cell."""

    def __init__(self, seats: Sequence[_Seat]) -> None:
        self.seats = seats
        self.workers: dict[int, _Worker] = {}

    def __call__(self, cells: Sequence[Cell], root: Path, *, retry_failed: bool) -> Generator[Outcome, None, None]:
        if any(pipeline.needs_hub(cell.recipe) for cell in cells):
            go_offline_if_unreachable()  # the workers inherit the answer
        waiting, begun, opened = list(cells), 0, set[str]()
        while waiting or self._busy():
            for seat in self.seats:
                if waiting and (seat.place not in self.workers or self.workers[seat.place].cell is None):
                    worker = self._worker(seat)
                    cell = self._choose(waiting, worker.backbone)
                    group = [] if _backbone(cell) in opened else [one for one in waiting if _backbone(one) == _backbone(cell)]
                    opened.add(_backbone(cell))
                    waiting.remove(cell)
                    begun += 1
                    print(f"{begun} of {len(cells)}: {cell.id} ({seat})", file=sys.stderr)
                    worker.give(_Task(cell, group, root, retry_failed))
            wait([worker.connection for worker, _ in self._busy()], timeout=1.0)
            for worker, cell in self._busy():
                outcome = self._answer(worker, cell, root)
                if outcome is not None:
                    yield outcome

    def stop(self) -> None:
        """End the workers; one that does not listen is killed."""
        for worker in self.workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + _GRACE
        for worker in self.workers.values():
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers.clear()

    def _busy(self) -> list[tuple[_Worker, Cell]]:
        return [(worker, worker.cell) for worker in self.workers.values() if worker.cell is not None]

    def _worker(self, seat: _Seat) -> _Worker:
        """Return the worker of a seat, a new one where it has none that lives."""
        if seat.place not in self.workers or not self.workers[seat.place].process.is_alive():
            self.workers[seat.place] = _Worker(seat)
        return self.workers[seat.place]

    def _choose(self, waiting: Sequence[Cell], backbone: str) -> Cell:
        """Return the next cell: of the backbone the worker was at, or of one that no worker is at, or any."""
        elsewhere = {worker.backbone for worker, _ in self._busy()}
        same = (cell for cell in waiting if _backbone(cell) == backbone)
        new = (cell for cell in waiting if _backbone(cell) not in elsewhere)
        return next(same, None) or next(new, waiting[0])

    def _answer(self, worker: _Worker, cell: Cell, root: Path) -> Outcome | None:
        """Return what became of a worker's cell, also where the worker has died at it; None while that is not known."""
        try:
            outcome = worker.answer()
        except EOFError:
            outcome = self._bury(worker, cell, root)
        if outcome is not None and outcome.state == "failed":
            print(f"failed: {outcome.cell}: {outcome.error}", file=sys.stderr)
        return outcome

    def _bury(self, worker: _Worker, cell: Cell, root: Path) -> Outcome:
        del self.workers[worker.seat.place]
        worker.process.join(_GRACE)
        if worker.process.is_alive():  # it has let go of its connection, and not of its device
            worker.process.kill()
            worker.process.join()
        status = worker.process.exitcode
        if status in (_STOPPED, -signal.SIGTERM):
            time.sleep(1.0)  # who stops all processes of a job has told this one, too
        how = f"signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"exit status {status}"
        if not worker.ready:
            raise UserError(f"--devices: a worker ended with {how} before its first cell; what it said stands above")
        hint = "; the memory may not have sufficed" if status == -signal.SIGKILL else ""
        said = f"its process ended with {how}{hint}. Its last words are in {log_of(cell, root)}"
        return write_failure(cell.id, root, said)


def _work(connection: Connection, seat: _Seat) -> None:
    """Carry out one cell after another, until told to stop. Runs in a process of its own, before torch is imported."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if seat.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = seat.gpu
    _keep_to_share(seat)
    try:
        with interruptible():
            connection.send("ready")
            while True:
                task = connection.recv()
                with output_to(log_of(task.cell, task.root)):
                    if task.begun_with:
                        begin_work(task.begun_with)
                    outcome = take(task.cell, task.root, retry_failed=task.retry_failed)
                connection.send(outcome)
    except KeyboardInterrupt:
        sys.exit(_STOPPED)


def _end_with_parent() -> None:
    """End this process at once when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _keep_to_share(seat: _Seat) -> None:
    """Give this process its share of the processors: of what it computes with, and of loader processes."""
    if hasattr(os, "sched_setaffinity"):
        there = sorted(os.sched_getaffinity(0))
        share = there[seat.place * len(there) // seat.count : (seat.place + 1) * len(there) // seat.count]
        os.sched_setaffinity(0, share or [there[seat.place % len(there)]])
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // seat.count)))


def _gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls each GPU that this process may use."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def _backbone(cell: Cell) -> str:
    return cell.recipe.model.model_dump_json()
