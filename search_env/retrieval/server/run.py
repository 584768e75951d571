"""A server as processes: its socket, its workers, its end.

Worker processes share one listening socket. A worker that dies is replaced at once; the requests
that it held are cut off, and clients send them again. After SIGINT or SIGTERM nothing new is taken
and what was taken is answered, for at most :data:`GRACE` seconds.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from search_env.errors import ConfigurationError, RetrievalError
from search_env.retrieval.base import Retriever
from search_env.retrieval.server.app import create_app
from search_env.retrieval.server.metrics import shared_metrics
from search_env.retrieval.server.settings import NEEDS, ServerSettings

GRACE = 30
"""Seconds for the requests in flight when a server is told to stop."""

_KEEP_ALIVE = 75  # seconds that an idle connection is kept: steps of training lie between searches
_BACKLOG = 2048
_NOT_STARTED = 3  # exit code
_NO_START = (
    "Expected the server to start, got an error in loading its retriever: see above. Correct what "
    "it names."
)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises:
        ConfigurationError: There is no such address here, or it is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        # Connections inherit it. asyncio sets it where a socket says that its protocol is TCP, as
        # this one does not: replies in two pieces would wait 40 ms for an acknowledgement.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"Expected to listen on {host}, port {port}, got: {error}. Choose another --host or "
            "--port; 0 takes a free one."
        ) from error
    return opened


def serve(
    load: Callable[[], Retriever],
    settings: ServerSettings,
    listening: socket.socket,
    *,
    workers: int = 1,
) -> None:
    """Serve on a socket until SIGINT or SIGTERM.

    Args:
        load: Returns the retriever, called once in each process; with several ``workers`` it is
            sent to them, so it must be a function of a module, or a ``functools.partial`` of one.
        settings: Batches, queue, cache.
        listening: A socket of :func:`open_socket`.
        workers: Processes. With 1 it is this one.

    Raises:
        ConfigurationError: The ``serve`` extra is missing.
        RetrievalError: The retriever could not be loaded.
    """
    _uvicorn()  # says at once, in this process, that it is missing
    if workers > 1:
        with shared_metrics():
            _supervise(functools.partial(_work, load, settings, listening), workers)
    elif not _run(load, settings, listening):
        raise RetrievalError(_NO_START)


def _uvicorn() -> Any:
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise ConfigurationError(NEEDS) from error
    del starlette
    return uvicorn


def _run(load: Callable[[], Retriever], settings: ServerSettings, listening: socket.socket) -> bool:
    """Serve in this process; return whether it started."""
    uvicorn = _uvicorn()
    config = uvicorn.Config(
        create_app(load, settings),
        lifespan="on",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # it raises the signal again when all is answered
        return True
    return bool(server.started)


def _work(
    load: Callable[[], Retriever], settings: ServerSettings, listening: socket.socket
) -> None:
    """Serve in a worker process."""
    _end_with_parent()
    if not _run(load, settings, listening):
        sys.exit(_NOT_STARTED)


def _end_with_parent() -> None:
    """End this worker when the process that began it was killed: nobody would end it else."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="search-env parent", daemon=True).start()


def _supervise(work: Callable[[], None], count: int) -> None:
    """Keep worker processes alive until a signal says to stop; then let them finish."""
    context = multiprocessing.get_context("spawn")

    def begin() -> SpawnProcess:
        process = context.Process(target=work, name="search-env serve")
        process.start()
        return process

    with _signals() as stop:
        workers = [begin() for _ in range(count)]
        try:
            while not stop.is_set():
                connection.wait([worker.sentinel for worker in workers], timeout=0.5)
                dead = [worker for worker in workers if not worker.is_alive()]
                if any(worker.exitcode == _NOT_STARTED for worker in dead):
                    raise RetrievalError(_NO_START)
                if not stop.is_set():
                    workers = [begin() if worker in dead else worker for worker in workers]
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join(GRACE + 5)
                worker.kill()
                worker.join()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set during a block."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
