"""Worker processes on one machine's CPUs that train together with the process that starts them.

The matrices of small models are too small to split over threads: on two cores, two processes of one
thread each train the bundled model in four fifths of the time of one process with two threads
(measured in ``docs/agent.md``). The starting process is rank 0; the workers run the same function.
Rank 0 handles Ctrl-C and errors: the workers end with it, and an error that ended one of them is
raised there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch

from search_env.agents.learning.distributed import Ranks, init_process_group_at
from search_env.errors import WorkerDiedError

_EXIT_SECONDS = 5.0
"""Seconds for a worker to report its error, or to exit."""


class _Task(NamedTuple):
    """Arguments of a worker."""

    address: str
    rank: int
    size: int
    threads: int
    work: Callable[..., object]
    args: tuple[Any, ...]


class _Worker(NamedTuple):
    """A worker, and the pipe on which it reports None when it has started, and its error."""

    process: BaseProcess
    reports: Connection


@contextmanager
def local_processes(size: int, work: Callable[..., object], *args: Any) -> Iterator[Ranks]:
    """Run ``work`` in ``size - 1`` workers while this process runs the block.

    Torch's threads are divided among the ``size`` processes, 2 or more, for that time. Each worker
    calls ``work(ranks, *args)``: a function of a module, with picklable arguments, since processes
    are spawned. It must take part in every collective operation of the block.

    Raises:
        WorkerDiedError: A worker could not start, or was killed.
        Exception: An error of ``work`` that made this process fail.
    """
    threads = torch.get_num_threads()
    threads_each = max(1, threads // size)
    address = f"tcp://127.0.0.1:{_free_port()}"
    workers: list[_Worker] = []
    torch.set_num_threads(threads_each)
    try:
        workers.extend(
            _start(_Task(address, rank, size, threads_each, work, args)) for rank in range(1, size)
        )
        for rank, worker in enumerate(workers, 1):
            _await_start(rank, size, worker)
        with init_process_group_at(address, 0, size) as ranks:
            yield ranks
        for worker in workers:
            worker.process.join()
    except RuntimeError as error:
        if _is_disconnection(error):
            _raise_cause(workers, size, error)
        raise
    finally:
        for worker in workers:
            _end(worker.process)
        torch.set_num_threads(threads)


def _start(task: _Task) -> _Worker:
    # Spawned: a fork would copy locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(writer, task), daemon=True)
    process.start()
    writer.close()  # so that the pipe ends when the process does
    return _Worker(process, reader)


def _run(reports: Connection, task: _Task) -> None:
    # Ctrl-C and a SIGTERM to the group reach all processes; rank 0 decides when to end them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # At once: SystemExit would be printed, and lost, where it interrupts a finalizer.
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
    torch.set_num_threads(task.threads)
    reports.send(None)
    try:
        with init_process_group_at(task.address, task.rank, task.size) as ranks:
            task.work(ranks, *task.args)
    except Exception as error:
        if not _is_disconnection(error):
            with suppress(OSError):  # rank 0 has closed the pipe
                reports.send(error)
    finally:
        if sys.platform != "win32":
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it is exiting anyway


def _end(process: BaseProcess) -> None:
    """Ask a process to exit, and kill it if it does not."""
    if sys.platform == "win32":
        process.terminate()
    elif process.is_alive() and process.pid is not None:
        os.kill(process.pid, signal.SIGUSR1)
    process.join(_EXIT_SECONDS)
    process.kill()
    process.join()


def _await_start(rank: int, size: int, worker: _Worker) -> None:
    try:
        worker.reports.recv()
    except EOFError:
        worker.process.join()
        raise WorkerDiedError(
            f"Expected {size} processes, but number {rank} ended with exit code "
            f"{worker.process.exitcode} before it began; its error is printed above. Put the work "
            "of a script under `if __name__ == '__main__':`, or pass processes=1."
        ) from None


def _raise_cause(workers: list[_Worker], size: int, error: RuntimeError) -> None:
    """Raise the error that ended a worker, if there is one."""
    for rank, worker in enumerate(workers, 1):
        if not worker.reports.poll(_EXIT_SECONDS):
            continue
        try:
            cause: Exception = worker.reports.recv()
        except EOFError:
            worker.process.join()
            if worker.process.exitcode == 0:
                continue
            cause = WorkerDiedError(
                f"Expected {size} processes to train together, but number {rank} ended with exit "
                f"code {worker.process.exitcode} (negative: a signal; -9 usually means out of "
                "memory). Lower processes or max_tokens_per_micro_batch, then continue with "
                "--resume."
            )
        raise cause from error


def _is_disconnection(error: BaseException) -> bool:
    """Return whether an error only says that another process is gone."""
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
