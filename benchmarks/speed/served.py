"""A search server in processes of its own, for measurements; and load on it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from search_env.retrieval.base import Retriever
from search_env.retrieval.bm25.retriever import BM25Retriever
from search_env.retrieval.http.search_r1 import documents, request
from search_env.retrieval.server.run import open_socket, serve
from search_env.retrieval.server.settings import ServerSettings
from search_env.types import Document


class Served(NamedTuple):
    """A running server; ``process`` is its parent where it has several workers."""

    url: str
    process: int


@contextmanager
def serving(
    load: Callable[[], Retriever], settings: ServerSettings, workers: int = 1
) -> Iterator[Served]:
    """Serve in another process; in the end wait until what is in flight is answered."""
    context = multiprocessing.get_context("spawn")
    listening = open_socket("127.0.0.1", 0)
    process = context.Process(target=_serve, args=(load, settings, listening, workers))
    process.start()
    port = listening.getsockname()[1]
    listening.close()  # it is the other process's now
    url = f"http://127.0.0.1:{port}"
    try:
        Client(url).search(["ready"], 1)
        yield Served(url, process.pid or 0)
    finally:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGTERM)
        process.join()


def _serve(
    load: Callable[[], Retriever], settings: ServerSettings, listening: socket.socket, workers: int
) -> None:
    serve(load, settings, listening, workers=workers)


def load_index(path: Path) -> Retriever:
    """Open an index in any process."""
    return BM25Retriever.load(path)


class Client:
    """Search-R1's requests over one kept connection, without the retries of HttpRetriever."""

    def __init__(self, url: str) -> None:
        import urllib3

        self._url, self._pool = url, urllib3.PoolManager(num_pools=1, maxsize=1, retries=60)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Send one request with all queries."""
        sent = request(queries, k, {})
        reply = self._pool.request("POST", self._url + sent.path, body=sent.body, timeout=60.0)
        if reply.status != 200:
            raise RuntimeError(f"Expected documents, got status {reply.status}: {reply.data!r}.")
        return documents(reply.data, len(queries))


class Load(NamedTuple):
    """What clients measured: queries a second of all, and the milliseconds of each request."""

    per_second: float
    milliseconds: np.ndarray

    def quantile(self, share: float) -> str:
        """Return a quantile of the requests' times."""
        return f"{np.quantile(self.milliseconds, share):.1f}"


def load_with(url: str, queries: Sequence[str], k: int, *, clients: int, size: int) -> Load:
    """Ask for all queries, each client for its share in requests of ``size``."""
    times: list[list[float]] = [[] for _ in range(clients)]
    sessions = [Client(url) for _ in range(clients)]
    begin = threading.Barrier(clients + 1)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        session, own = sessions[number], queries[number::clients]
        session.search(own[:1], k)  # opens the connection
        begin.wait()
        try:
            for start in range(0, len(own), size):
                asked = time.perf_counter()
                session.search(own[start : start + size], k)
                times[number].append(time.perf_counter() - asked)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if failures:
        raise failures[0]
    every = np.array([one for own in times for one in own])
    return Load(len(queries) / seconds, 1e3 * every)
