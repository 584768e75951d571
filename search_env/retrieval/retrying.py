"""Time limit, retries and backoff around any retriever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from search_env.errors import (
    CassetteMissError,
    ConfigurationError,
    IndexFormatError,
    InvalidRetrievalError,
    RetrievalConnectionError,
    RetrievalError,
    RetrievalRefusedError,
    RetrievalTimeoutError,
)
from search_env.retrieval.base import Retriever, backend_name, retrieve
from search_env.types import Document

_PERMANENT = (
    InvalidRetrievalError,
    CassetteMissError,
    IndexFormatError,
    RetrievalRefusedError,
)


class RetryingRetriever:
    """Limits the time of a retriever and retries after a failure that may be temporary.

    The pause before retry ``i`` (from 0) is ``backoff * 2**i`` seconds, at most ``max_backoff``;
    it has no random part, so that runs are reproducible. A server that asks for a longer pause gets
    it; one that asks for more than ``max_backoff`` is not asked again. An invalid answer, a
    cassette miss, a damaged index, a refused request and a rejected argument are not retried.

    Each attempt runs in its own daemon thread (0.1 ms). A hanging attempt is abandoned: it keeps
    its thread until the backend returns, its result is dropped, and it does not keep the
    interpreter from exiting. The inner retriever must therefore support a second call while the
    first still hangs.

    Args:
        timeout: Seconds for one attempt.
        retries: Attempts after the first; 0 does not retry.
        sleep: Called with the seconds to pause; replace it in tests.

    Raises:
        ConfigurationError: A number is out of range.

    Example:
        >>> from search_env.retrieval.base import FakeRetriever
        >>> pauses = []
        >>> busy = FakeRetriever(error=RetrievalError("busy"))
        >>> retrying = RetryingRetriever(busy, retries=3, backoff=1.0, sleep=pauses.append)
        >>> retrying.search(["Ulm"], k=1)
        Traceback (most recent call last):
        search_env.errors.RetrievalError: busy
        >>> pauses
        [1.0, 2.0, 4.0]
    """

    def __init__(
        self,
        inner: Retriever,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        backoff: float = 0.5,
        max_backoff: float = 30.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if not (timeout > 0 and retries >= 0 and backoff >= 0 and max_backoff >= 0):
            raise ConfigurationError(
                f"Expected timeout > 0 and retries, backoff, max_backoff >= 0, got {timeout=}, "
                f"{retries=}, {backoff=}, {max_backoff=}. Use retries=0 for one attempt."
            )
        self.inner = inner
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.max_backoff = max_backoff
        self._sleep = sleep

    @property
    def name(self) -> str:
        """Name of the inner retriever: retries do not change the results."""
        return backend_name(self.inner)

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the inner retriever's answer.

        Raises:
            RetrievalTimeoutError: The last attempt took longer than the limit.
            RetrievalError: The last attempt failed, or one failed permanently.
        """
        for attempt in range(self.retries):
            try:
                return self._attempt(queries, k)
            except RetrievalError as error:
                rejected = isinstance(error.__cause__, ConfigurationError)
                asked = _retry_after(error)
                if rejected or isinstance(error, _PERMANENT) or asked > self.max_backoff:
                    raise
            self._sleep(max(asked, min(self.backoff * 2**attempt, self.max_backoff)))
        return self._attempt(queries, k)

    def _attempt(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Search once, in a thread that can be abandoned."""
        future: Future[list[list[Document]]] = Future()

        def work() -> None:
            try:
                future.set_result(retrieve(self.inner, queries, k))
            except BaseException as error:
                future.set_exception(error)

        # Not an executor: its threads are joined at exit, so one that hangs would hang the exit.
        threading.Thread(target=work, name="RetryingRetriever", daemon=True).start()
        try:
            return future.result(self.timeout)
        except FutureTimeoutError:
            if future.done():  # at the last moment, or with the backend's own TimeoutError
                return future.result()
            raise RetrievalTimeoutError(
                f"Expected {self.name} to answer within {self.timeout:g} s, got "
                f"nothing for {len(queries)} queries. Raise timeout, or check the backend."
            ) from None


def _retry_after(error: RetrievalError) -> float:
    """Return the seconds that a server asks to wait, 0 where it asks for none."""
    return (error.retry_after or 0.0) if isinstance(error, RetrievalConnectionError) else 0.0
