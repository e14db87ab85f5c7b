"""Carry out the cells of a study on a Ray cluster: each a task with its resources, tried on another node when its own dies."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError, UserError, require
from ..recipe.words import FROZEN
from .cell_life import Outcome, log_of, output_to, take, write_failure
from .execution import Executor, begin_work
from .interruption import interruptible
from .study import Cell

LOCAL = "local"
_RETRIES = 3
_ANSWERS_WITHIN = 5.0  # seconds
# What a worker must know of this process; tokens stay where they are, since Ray shows what a job was started with.
_PASSED_ON = ("HF_TRANSFER_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TORCH_HOME")


@contextlib.contextmanager
def on_ray(address: str = LOCAL, *, cpus: float | None = None, gpus: float | None = None) -> Iterator[Executor]:
    """Yield what carries out cells on a Ray cluster, which this process joins, or starts and ends.

    A cell whose process or node dies is tried up to three times more, on whichever node has room, and goes on where it stopped;
    then it is written down as failed. A cell that raises an error is not tried again. All nodes share the folder of the study;
    paths are those of this process's working directory.

    Args:
        address: "local" starts a cluster on this machine; "auto" or an address joins one.
        cpus: processors of a cell; by default those of the smallest node, divided by its GPUs where it has some.
        gpus: GPUs of a cell; by default 1 where the cluster has GPUs, else 0.

    Raises:
        UserError: when Ray is not installed, nothing answers at the address, or no node can have what a cell needs.
    """
    require("ray", "ray", "--ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of nodes that die
        _connect(address)
        try:
            with interruptible():  # Ray has just put a handler of its own in place
                yield _RayCluster(*resources_of_a_cell(ray.nodes(), cpus, gpus))
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class Place:
    """Where a study is, and how to tell whether a node sees it.

    Args:
        folder: working directory of the process that has begun it, absolute.
        root: the study's folder, from there.
        mark: a file that this process has just made in it.
    """

    folder: Path
    root: Path
    mark: Path


class NotSharedError(Exception):
    """A node does not see the study's folder."""


class _RayCluster:
    """Gives cells to Ray, and waits for what becomes of them."""

    def __init__(self, cpus: float, gpus: float) -> None:
        import ray

        # Ray would start a process for each task that has a GPU, and import everything again.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES, retry_exceptions=False, max_calls=0)
        self._begin, self._take = task(_begin), task(_take)

    def __call__(self, cells: Sequence[Cell], root: Path, *, retry_failed: bool) -> Generator[Outcome, None, None]:
        mark = root / "locks" / f"ray-{uuid.uuid4().hex}"
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
        place = Place(Path.cwd(), root, mark)
        tasks: dict[Any, Cell | list[Cell]] = {}

        def submit(submitted: Sequence[Cell]) -> None:
            tasks.update({self._take.remote(cell, place, retry_failed): cell for cell in submitted})

        try:
            for group in _groups(cells):
                if len(group) > 1:  # their features first, once; then each of them
                    tasks[self._begin.remote(group, place)] = group
                else:
                    submit(group)
            ended = 0
            while tasks:
                task = _wait_for_one(tasks)
                what = tasks.pop(task)
                if isinstance(what, list):
                    _result(task)
                    submit(what)
                    continue
                ended += 1
                outcome = _result(task) or write_failure(what.id, root, _died(what, root))
                print(f"{ended} of {len(cells)}: {what.id}: {_told(outcome)}", file=sys.stderr)
                yield outcome
        except NotSharedError as error:
            raise RunDirectoryError(str(error)) from None
        finally:
            _cancel(tasks)
            mark.unlink(missing_ok=True)


def _connect(address: str) -> None:
    import ray

    _check(address)
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": _environment()},
    }
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": 2**27}  # cells and outcomes are small
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"--ray {address}: expected a running Ray cluster, found none; Ray says: {reason}") from None


def _check(address: str) -> None:
    """Refuse an address at which nobody answers; Ray itself would try for minutes."""
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise UserError(f"--ray: expected local, auto, or HOST:PORT of the cluster's head node; found '{address}'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address}: expected a running Ray cluster there, but nobody answers ({error})") from None


def _environment() -> dict[str, str]:
    """Return the environment variables that the workers need to find this code, its caches and the same Hub."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    code = Path(__file__).resolve().parents[2]
    if code.name not in ("site-packages", "dist-packages"):  # a checkout, which the nodes share as they share the study
        passed["PYTHONPATH"] = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    return passed


def resources_of_a_cell(nodes: Sequence[dict[str, Any]], cpus: float | None, gpus: float | None) -> tuple[float, float]:
    """Return the processors and GPUs of a cell.

    Args:
        nodes: as `ray.nodes()` returns them.
        cpus: what was asked for; None for all those of the smallest node that has the GPUs, or their part of them.
        gpus: what was asked for; None for 1 where any node has one.

    Raises:
        UserError: when no node has as many.
    """
    there = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in nodes if node["Alive"]]
    if gpus is None:
        gpus = 1.0 if any(has for _, has in there) else 0.0
    able = [(has_cpus, has_gpus) for has_cpus, has_gpus in there if has_gpus >= gpus and has_cpus > 0]
    if not able:
        largest = max((has for _, has in there), default=0.0)
        raise UserError(f"--gpus-per-cell {gpus:g}: no node of the cluster has as many; the most that one has is {largest:g}")
    if cpus is None:
        cpus = min(max(1.0, has_cpus * gpus // has_gpus) if gpus else has_cpus for has_cpus, has_gpus in able)
    if all(has_cpus < cpus for has_cpus, _ in able):
        largest, kind = max(has for has, _ in able), "node with these GPUs" if gpus else "node"
        raise UserError(f"--cpus-per-cell {cpus:g}: no {kind} has as many; the most that one has is {largest:g}")
    return cpus, gpus


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return cells that read features of one backbone together, every other cell alone."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        reads_features = cell.recipe.strategy.name in (*FROZEN, "two_phase")
        groups.setdefault(cell.recipe.model.model_dump_json() if reads_features else cell.id, []).append(cell)
    return list(groups.values())


def _wait_for_one(tasks: Sequence[Any] | dict[Any, Any]) -> Any:
    import ray

    while True:
        ready, _ = ray.wait(list(tasks), num_returns=1, timeout=1.0)
        if ready:
            return ready[0]


def _result(task: Any) -> Outcome | None:
    """Return what a task returned, None where its process died every time it was tried.

    Raises:
        Exception: what the task raised.
    """
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, NotSharedError) else error) from None
    except ray.exceptions.RayError:
        return None


def _died(cell: Cell, root: Path) -> str:
    tried = f"its process or its node died, as often as it was tried ({1 + _RETRIES} times)"
    return f"{tried}. Its last words are in {log_of(cell, root)}"


def _told(outcome: Outcome) -> str:
    return f"failed: {outcome.error}" if outcome.state == "failed" else outcome.state.replace("_", " ")


def _cancel(tasks: Sequence[Any] | dict[Any, Any]) -> None:
    import ray

    for task in tasks:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(task, force=True)


def _begin(cells: list[Cell], place: Place) -> None:
    """Compute features of several cells. Runs on a node."""
    enter(place)
    with output_to(log_of(cells[0], place.root)):
        begin_work(cells)


def _take(cell: Cell, place: Place, retry_failed: bool) -> Outcome:
    """Carry out a cell. Runs on a node."""
    enter(place)
    with output_to(log_of(cell, place.root)):
        return take(cell, place.root, retry_failed=retry_failed)


def enter(place: Place, seen_within: float = 10.0) -> None:
    """Go to the working directory of the driver, and make sure that the study's folder is the one that it sees.

    Args:
        place: where the study is.
        seen_within: seconds that a network file system may take to show a new file.

    Raises:
        NotSharedError: when this node does not see it.
    """
    deadline = time.monotonic() + seen_within
    while True:
        with contextlib.suppress(OSError):
            os.chdir(place.folder)
            if place.mark.is_file():
                return
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    raise NotSharedError(
        f"output_dir: the node {os.uname().nodename} does not see {place.folder / place.root} of the machine where the study "
        "was started; expected a folder at the same path on a file system that all nodes share"
    )
