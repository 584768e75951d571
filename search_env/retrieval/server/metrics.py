"""Prometheus metrics of a search server, over all of its worker processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search_env.errors import ConfigurationError
from search_env.retrieval.server.settings import NEEDS

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counts what a server does.

    ========================================  =====================================================
    ``search_env_requests_total``             requests by ``dialect`` and ``status``
    ``search_env_queries_total``              queries by ``outcome``: ``searched``, ``cached``, or
                                              ``shared`` with an equal one
    ``search_env_queue_queries``              queries that wait
    ``search_env_batch_queries``              histogram of the queries in a call of the retriever
    ``search_env_search_seconds``             histogram of its time
    ``search_env_request_seconds``            histogram of a request's, from its body to its reply
    ========================================  =====================================================
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ConfigurationError(NEEDS) from error
        self._prometheus = prometheus
        own = self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "search_env_requests", "Requests.", ["dialect", "status"], registry=own
        )
        self._queries = prometheus.Counter(
            "search_env_queries", "Queries.", ["outcome"], registry=own
        )
        self._queue = prometheus.Gauge(
            "search_env_queue_queries",
            "Queries that wait.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self._batch = prometheus.Histogram(
            "search_env_batch_queries",
            "Queries in a call of the retriever.",
            registry=own,
            buckets=_SIZES,
        )
        self._search = prometheus.Histogram(
            "search_env_search_seconds",
            "Time of a call of the retriever.",
            registry=own,
            buckets=_SECONDS,
        )
        self._request = prometheus.Histogram(
            "search_env_request_seconds",
            "Time from a request's body to its reply.",
            registry=own,
            buckets=_SECONDS,
        )

    def request(self, dialect: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(dialect, str(status)).inc()
        self._request.observe(seconds)

    def queries(self, count: int, *, cached: int, searched: int) -> None:
        """Count the queries of a request."""
        for outcome, number in (
            ("cached", cached),
            ("searched", searched),
            ("shared", count - cached - searched),
        ):
            self._queries.labels(outcome).inc(number)

    def queue(self, count: int) -> None:
        """Note how many queries wait."""
        self._queue.set(count)

    def batch(self, count: int, seconds: float) -> None:
        """Count a call of the retriever."""
        self._batch.observe(count)
        self._search.observe(seconds)

    def page(self) -> bytes:
        """Return what ``/metrics`` tells, of all worker processes."""
        folder = os.environ.get(_FOLDER)
        if folder is None:
            return bytes(self._prometheus.generate_latest(self._registry))
        from prometheus_client import multiprocess

        _forget_dead(Path(folder))
        every = self._prometheus.CollectorRegistry()
        multiprocess.MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return bytes(self._prometheus.generate_latest(every))


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Let the worker processes that begin in a block write their metrics into one folder.

    prometheus_client reads the variable when it is imported, which the workers do.
    """
    before = os.environ.get(_FOLDER)
    with tempfile.TemporaryDirectory(prefix="search-env-metrics-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[_FOLDER]
            else:
                os.environ[_FOLDER] = before


def _forget_dead(folder: Path) -> None:
    """Leave out what was true of a killed worker at one moment; its counts stay."""
    from prometheus_client import multiprocess

    for file in folder.glob("gauge_live*_*.db"):
        process = int(file.stem.rpartition("_")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            continue
