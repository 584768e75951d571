"""Time limit, retries and backoff around any retriever, so that no backend has to bring its own."""

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
    RetrievalError,
    RetrievalTimeoutError,
)
from search_env.retrieval.base import Retriever, retrieve
from search_env.types import Document

_PERMANENT = (InvalidRetrievalError, CassetteMissError, IndexFormatError)


class RetryingRetriever:
    """Waits for a retriever up to a limit and asks again after a failure that may pass.

    The pause before retry ``i`` (from 0) is ``backoff * 2**i`` seconds, at most ``max_backoff``;
    there is no random part, so that a run can be repeated. An answer that is no documents, a
    cassette's miss, a damaged index and a refused argument are not retried.

    Each attempt runs in a daemon thread of its own (0.1 ms). A hanging attempt is left behind: it
    keeps its thread until the backend returns, its result is dropped, and it does not keep the
    interpreter from exiting. The inner retriever must therefore bear a second call while the first
    still hangs.

    Args:
        inner: The retriever.
        timeout: Seconds for one attempt.
        retries: Further attempts after the first; 0 gives up at once.
        backoff: Seconds before the first retry.
        max_backoff: Longest pause in seconds.
        sleep: Called with the seconds to pause; replace it in tests.

    Raises:
        ConfigurationError: A number is out of range.

    Example:
        >>> from search_env.retrieval.base import FakeRetriever
        >>> pauses = []
        >>> busy = FakeRetriever(error=RetrievalError("busy"))
        >>> patient = RetryingRetriever(busy, retries=3, backoff=1.0, sleep=pauses.append)
        >>> patient.search(["Ulm"], k=1)
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
                f"{retries=}, {backoff=}, {max_backoff=}. Use retries=0 to ask once."
            )
        self.inner = inner
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.max_backoff = max_backoff
        self._sleep = sleep

    @property
    def name(self) -> str:
        """The inner retriever's: waiting does not change what is found."""
        name = getattr(self.inner, "name", None)
        return name if isinstance(name, str) else type(self.inner).__name__

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return the inner retriever's answer.

        Raises:
            RetrievalTimeoutError: The last attempt took longer than the limit.
            RetrievalError: The last attempt failed, or one failed for good.
        """
        for attempt in range(self.retries):
            try:
                return self._attempt(queries, k)
            except RetrievalError as error:
                if not _may_pass(error):
                    raise
            self._sleep(min(self.backoff * 2**attempt, self.max_backoff))
        return self._attempt(queries, k)

    def _attempt(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Ask once, in a thread that can be left behind."""
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
            if future.done():  # at the last moment, or with a TimeoutError of the backend's own
                return future.result()
            raise RetrievalTimeoutError(
                f"Expected {type(self.inner).__name__} to answer within {self.timeout:g} s, got "
                f"nothing for {len(queries)} queries. Raise timeout, or check the backend."
            ) from None


def _may_pass(error: RetrievalError) -> bool:
    """Whether asking again can help."""
    return not isinstance(error, _PERMANENT) and not isinstance(error.__cause__, ConfigurationError)
