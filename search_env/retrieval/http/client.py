"""The retriever of a search server: pooled connections, batches, retries, typed failures."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any, NamedTuple

from search_env.errors import (
    ConfigurationError,
    InvalidRetrievalError,
    RetrievalConnectionError,
    RetrievalError,
    RetrievalRefusedError,
    RetrievalTimeoutError,
)
from search_env.redaction import without
from search_env.retrieval.http.address import Address, parse_address
from search_env.retrieval.http.fields import WrongReplyError
from search_env.retrieval.retrying import RetryingRetriever
from search_env.types import Document

_LARGEST = 1 << 28  # bytes of a reply
_CONNECT_WITHIN = 5.0  # seconds
_BUSY = (408, 425, 429, 503)


class HttpRetriever:
    """Documents of a search server, by a name such as ``http://host:8000?dialect=search-r1``.

    Queries go in requests of ``batch`` at most, or one by one where the dialect has no batches;
    ``connections`` requests run at once, over connections that are kept. Each request has its own
    time limit and retries, with the rules of
    :class:`~search_env.retrieval.retrying.RetryingRetriever`, so that what was answered is not
    asked again. An empty query is answered here, with no documents. Nothing is sent before the
    first search. Forked processes get connections of their own.

    Args:
        name: See :func:`~search_env.retrieval.http.address.parse_address`.
        sleep: Called with the seconds to pause before a retry; replace it in tests.

    Raises:
        ConfigurationError: The name is wrong, a key is missing, or so is the ``http`` extra.
    """

    def __init__(self, name: str, *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._name = name
        self.address = parse_address(name)
        self._exchange = _Exchange(self.address)
        self._retrying = RetryingRetriever(
            self._exchange,
            timeout=self.address.timeout,
            retries=self.address.retries,
            sleep=sleep,
        )

    def __reduce__(self) -> tuple[type[HttpRetriever], tuple[str]]:
        return HttpRetriever, (self._name,)

    @property
    def name(self) -> str:
        """The dialect and the server, as recordings name it."""
        return f"{self.address.dialect.name} {self.address.url}"

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Ask the server.

        Raises:
            RetrievalConnectionError: It was not reached, went away, or is busy.
            RetrievalTimeoutError: A request took longer than the limit.
            RetrievalRefusedError: It refuses the request.
            InvalidRetrievalError: The reply is not what the dialect says.
            RetrievalError: It failed.
        """
        asked = list(dict.fromkeys(query for query in queries if query.strip()))
        size = self.address.batch if self.address.dialect.batched else 1
        batches = [asked[start : start + size] for start in range(0, len(asked), size)]
        found = _spread(
            lambda batch: self._retrying.search(batch, k), batches, self.address.connections
        )
        results = dict(zip(asked, (one for batch in found for one in batch), strict=True))
        return [list(results.get(query, [])) for query in queries]


def _spread(
    search: Callable[[list[str]], list[list[Document]]], batches: list[list[str]], threads: int
) -> list[list[list[Document]]]:
    """Return the results of all batches, in order; after a failure no further one begins."""
    if len(batches) < 2:
        return [search(batch) for batch in batches]
    results: list[list[list[Document]]] = [[] for _ in batches]
    failures: list[tuple[int, Exception]] = []
    waiting = iter(range(len(batches)))
    turn = threading.Lock()

    def work() -> None:
        while not failures:
            with turn:
                number = next(waiting, None)
            if number is None:
                return
            try:
                results[number] = search(batches[number])
            except Exception as error:
                failures.append((number, error))

    workers = [
        threading.Thread(target=work, name="HttpRetriever", daemon=True)
        for _ in range(min(threads, len(batches)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
    return results


class _Reply(NamedTuple):
    """A reply's body, and whether a cut would have been noticed.

    http.client takes the end of a connection for the end of the headers, so a reply that is cut
    there looks like one of an old server, which ends where its connection does.
    """

    body: bytes
    says_its_end: bool


class _Exchange:
    """One request and its reply: a retriever without retries, for as many queries as it takes."""

    def __init__(self, address: Address) -> None:
        try:
            import urllib3
        except ImportError as error:
            raise ConfigurationError(
                "Expected the urllib3 package for a search server over HTTP, got none. Run "
                '`pip install "search-env[http]"`.'
            ) from error
        self._urllib3, self._address = urllib3, address
        self._headers = address.key()
        self._secrets = frozenset(os.environ.get(address.dialect.key.variable, "").split()) - {""}
        self._pool = os.getpid(), self._new_pool()

    @property
    def name(self) -> str:
        return self._address.url

    def _new_pool(self) -> Any:
        count = self._address.connections
        return self._urllib3.PoolManager(num_pools=1, maxsize=count, retries=False)

    def _connections(self) -> Any:
        """Return the pool; in a forked process a new one, for two must not share a connection.

        Without a lock, which a fork could copy while it is held; at worst two threads make a pool.
        """
        process, pool = self._pool
        if process != os.getpid():
            pool = self._new_pool()
            self._pool = os.getpid(), pool
        return pool

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Ask once."""
        dialect = self._address.dialect
        reply = self._post(queries, k)
        try:
            found = dialect.documents(reply.body, len(queries))
        except WrongReplyError as error:
            if not reply.says_its_end:
                raise RetrievalConnectionError(
                    f"Expected {error.expected} from {self._address.url}, got "
                    f"{self._told(error.got)}, in a reply that may be cut off: it states no "
                    "length. Check the server and what stands in front of it."
                ) from None
            raise self._invalid(error.expected, error.got) from None
        if dialect.cuts:
            return [documents[:k] for documents in found]
        for query, documents in zip(queries, found, strict=True):
            if len(documents) > k:
                got = f"{len(documents)} for the query {query[:80]!r}"
                raise self._invalid(f"at most {k} documents", got)
        return found

    def _post(self, queries: Sequence[str], k: int) -> _Reply:
        """Send the queries and return the reply."""
        address, errors = self._address, self._urllib3.exceptions
        sent = address.dialect.request(queries, k, address.options)
        deadline = time.monotonic() + address.timeout
        try:
            reply = self._connections().request(
                sent.method,
                address.url + sent.path,
                body=sent.body,
                headers={
                    "Accept": sent.content_type,
                    "Accept-Encoding": "gzip",
                    **({"Content-Type": sent.content_type} if sent.body is not None else {}),
                    **self._headers,
                },
                timeout=self._urllib3.Timeout(
                    connect=min(_CONNECT_WITHIN, address.timeout), read=address.timeout
                ),
                preload_content=False,
                redirect=False,
            )
            body = self._read(reply, deadline)
        except RetrievalError:  # ours, of which one is an OSError
            raise
        except errors.ReadTimeoutError:
            raise self._late() from None
        except (errors.HTTPError, OSError) as error:
            raise RetrievalConnectionError(
                f"Expected {address.url} to answer, got {self._told(str(error))}. Start the "
                "server, or correct the address."
            ) from None
        self._check_status(reply, body)
        length = reply.headers.get("Content-Length", "")  # the cut can be inside this header too
        return _Reply(body, length.isdecimal() or "Transfer-Encoding" in reply.headers)

    def _read(self, reply: Any, deadline: float) -> bytes:
        """Return the whole body; a server that sends it byte by byte does not hold the thread."""
        pieces, size = [], 0
        while piece := reply.read1(1 << 20):
            pieces.append(piece)
            size += len(piece)
            if time.monotonic() > deadline or size > _LARGEST:
                reply.close()
                raise (
                    self._late()
                    if size <= _LARGEST
                    else self._invalid(f"a reply of at most {_LARGEST} bytes", "a longer one")
                )
        reply.release_conn()
        return b"".join(pieces)

    def _check_status(self, reply: Any, body: bytes) -> None:
        """Raise the error of a status that is no success."""
        status, address = reply.status, self._address
        if 200 <= status < 300:
            return
        said = self._told(shorten(body[:2000].decode("utf-8", "replace"), 200))
        message = f"Expected {address.url} to return documents, got status {status}: {said}. "
        if status in _BUSY:
            busy = RetrievalConnectionError(message + "Send it less at a time, or try again later.")
            busy.retry_after = _seconds(reply.headers.get("Retry-After", ""))
            raise busy
        if status in (502, 504):
            raise RetrievalConnectionError(message + "See what stands in front of the server.")
        if status >= 500:
            raise RetrievalError(message + "See the server's log.")
        raise RetrievalRefusedError(message + self._remedy(status))

    def _remedy(self, status: int) -> str:
        key, dialect = self._address.dialect.key, self._address.dialect.name
        if status in (401, 403):
            hint = " (searxng: allow json in search.formats)" if dialect == "searxng" else ""
            return f"Check the key in ${key.variable}{hint}."
        if status == 404:
            return f"Check the address, and that its server speaks {dialect!r}."
        if 300 <= status < 400:
            return "Write the address that it leads to: a key is not sent on."
        return f"Check that the server speaks {dialect!r}."

    def _late(self) -> RetrievalTimeoutError:
        address = self._address
        return RetrievalTimeoutError(
            f"Expected {address.url} to answer within {address.timeout:g} s, got no whole reply. "
            "Raise timeout= in the address, or check the server."
        )

    def _invalid(self, expected: str, got: str) -> InvalidRetrievalError:
        return InvalidRetrievalError(
            f"Expected {expected} from {self._address.url}, got {self._told(got)}. Check that "
            f"the server speaks {self._address.dialect.name!r}."
        )

    def _told(self, text: str) -> str:
        return without(" ".join(text.split()), self._secrets)


def _seconds(text: str) -> float | None:
    """Return the seconds of a Retry-After header; a date, or nothing, is None."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e6 else None
