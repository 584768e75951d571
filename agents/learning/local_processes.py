"""Processes of one machine's CPUs that train together, started by the one that asked for them.

The matrices of small models are too small for threads to share: on two cores, two processes of one
thread each train the bundled model in four fifths of the time of one process of two (measured in
``docs/agent.md``). The process that asks is rank 0; the others run the same function. Ctrl-C and
errors are the asking process's business: the others end with it, and what ended one of them is
raised here.
"""

from __future__ import annotations

import multiprocessing
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

_LAST_WORDS = 5.0
"""Seconds that a process has to say why it ended, or to end."""


class _Task(NamedTuple):
    """What another process is started with."""

    address: str
    rank: int
    size: int
    threads: int
    work: Callable[..., object]
    args: tuple[Any, ...]


class _Member(NamedTuple):
    """Another process, and the end of a pipe on which it says that it runs, or why it ended."""

    process: BaseProcess
    words: Connection


@contextmanager
def local_processes(size: int, work: Callable[..., object], *args: Any) -> Iterator[Ranks]:
    """Let ``size - 1`` more processes do the work that this one does in the block.

    Threads of torch are shared out for that time.

    Args:
        size: How many processes, this one included; 2 or more.
        work: Called in each of the others as ``work(ranks, *args)``; a function of a module, since
            processes are spawned. It must take part in whatever the block does over its ranks.
        args: What can be pickled.

    Raises:
        WorkerDiedError: A process could not start, or was killed.
        Exception: Whatever ``work`` raised in another process and made this one fail.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // size)
    address = f"tcp://127.0.0.1:{_free_port()}"
    members: list[_Member] = []
    torch.set_num_threads(share)
    try:
        members.extend(
            _start(_Task(address, rank, size, share, work, args)) for rank in range(1, size)
        )
        for rank, member in enumerate(members, 1):
            _await_start(rank, size, member)
        with init_process_group_at(address, 0, size) as ranks:
            yield ranks
        for member in members:
            member.process.join()
    except RuntimeError as error:
        if _is_lost(error):
            _raise_cause(members, size, error)
        raise
    finally:
        for member in members:
            _end(member.process)
        torch.set_num_threads(threads)


def _start(task: _Task) -> _Member:
    # Spawned: a fork would copy locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    words, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, task), daemon=True)
    process.start()
    theirs.close()  # so that the pipe ends when the process does
    return _Member(process, words)


def _run(words: Connection, task: _Task) -> None:
    """Be another process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all; rank 0 decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # tidily: what is left behind is warned of
    torch.set_num_threads(task.threads)
    words.send(None)
    try:
        with init_process_group_at(task.address, task.rank, task.size) as ranks:
            task.work(ranks, *task.args)
    except Exception as error:
        if not _is_lost(error):
            with suppress(OSError):  # nobody listens any more
                words.send(error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends anyway


def _end(process: BaseProcess) -> None:
    """End a process, if it has not ended by itself."""
    process.terminate()
    process.join(_LAST_WORDS)
    process.kill()
    process.join()


def _await_start(rank: int, size: int, member: _Member) -> None:
    try:
        member.words.recv()
    except EOFError:
        member.process.join()
        raise WorkerDiedError(
            f"Expected {size} processes, but number {rank} ended with exit code "
            f"{member.process.exitcode} before it began; its own words are above. A script that "
            "starts processes needs `if __name__ == '__main__':` around its work. Or pass "
            "processes=1."
        ) from None


def _raise_cause(members: list[_Member], size: int, error: RuntimeError) -> None:
    """Raise what ended another process, where it can be known."""
    for rank, member in enumerate(members, 1):
        if not member.words.poll(_LAST_WORDS):
            continue
        try:
            cause: Exception = member.words.recv()
        except EOFError:
            member.process.join()
            if member.process.exitcode == 0:
                continue
            cause = WorkerDiedError(
                f"Expected {size} processes to train together, but number {rank} ended with exit "
                f"code {member.process.exitcode} (below 0: a signal; -9 is what a machine out of "
                "memory sends). Lower processes or max_tokens_per_micro_batch; --resume goes on."
            )
        raise cause from error


def _is_lost(error: BaseException) -> bool:
    """Return whether an error says no more than that another process is gone."""
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
