"""A server as processes: its socket, its workers, its end.

Worker processes share one listening socket. A worker that dies is replaced within a second; the
requests that it held are cut off, and clients send them again. After SIGINT or SIGTERM nothing new
is taken and what was taken is answered, for at most :data:`GRACE` seconds.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from search_env.errors import ConfigurationError
from search_env.retrieval.base import Retriever
from search_env.retrieval.server.app import create_app
from search_env.retrieval.server.metrics import shared_metrics
from search_env.retrieval.server.settings import NEEDS, ServerSettings

if TYPE_CHECKING:
    from starlette.applications import Starlette

GRACE = 30
"""Seconds for the requests in flight when a server is told to stop."""

_KEEP_ALIVE = 75  # seconds that an idle connection is kept: steps of training lie between searches
_BACKLOG = 2048
_HANGS_AFTER = 60  # seconds without a sign of life, after which a worker is replaced


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
    opened.set_inheritable(True)
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
    """
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess
    except ImportError as error:
        raise ConfigurationError(NEEDS) from error
    config: Any = uvicorn.Config(
        functools.partial(_app, load, settings, workers),
        factory=True,
        workers=workers,
        lifespan="on",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        timeout_worker_healthcheck=_HANGS_AFTER,
        backlog=_BACKLOG,
    )
    if workers == 1:
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # raised again when all is answered
            return
        return
    with shared_metrics():
        Multiprocess(config, [listening]).run()


def _app(load: Callable[[], Retriever], settings: ServerSettings, workers: int) -> Starlette:
    if workers > 1:
        _end_with_parent()
    return create_app(load, settings)


def _end_with_parent() -> None:
    """End this worker when the process that began it was killed: nobody would end it else."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="search-env parent", daemon=True).start()
