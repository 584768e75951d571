"""The one-method protocol of every search backend, checked calls of it, and a fake for tests.

A retriever takes queries and returns documents; it is called with several queries at once so that
a backend can batch them. Failures are exceptions of :mod:`search_env.errors`, never documents;
retries and time limits belong to the retriever (:mod:`search_env.retrieval.retrying`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from search_env.errors import InvalidRetrievalError, RetrievalConnectionError, RetrievalError
from search_env.redaction import redacted
from search_env.types import Document
from search_env.validation import checked_documents, describe


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds documents."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Return up to ``k`` documents for each query, best first.

        Queries are plain text as the policy wrote it, ``k`` is at least 1. The same queries must
        return the same documents, ties included. A query without a hit (such as an empty one)
        returns an empty list, not unrelated documents.

        Raises:
            RetrievalError: The backend could not answer.
        """
        ...


class FakeRetriever:
    """Answers from documents by exact query; other queries return none.

    Args:
        error: Raised by every search, to simulate failures.
        remember: Whether ``calls`` keeps every call; it grows without limit.

    Example:
        >>> fake = FakeRetriever({"capital of France": [Document("1", "Paris", "Paris is ...")]})
        >>> [d.title for d in fake.search(["capital of France"], k=3)[0]]
        ['Paris']
    """

    def __init__(
        self,
        documents: Mapping[str, Sequence[Document]] | None = None,
        *,
        error: Exception | None = None,
        remember: bool = True,
    ) -> None:
        self.documents = {query: list(results) for query, results in (documents or {}).items()}
        self.error = error
        self.remember = remember
        self.calls: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Look up each query; note the call in ``calls``."""
        if self.remember:
            self.calls.append(list(queries))
        if self.error is not None:
            raise self.error
        return [self.documents.get(query, [])[:k] for query in queries]


def retrieve(retriever: Retriever, queries: Sequence[str], k: int) -> list[list[Document]]:
    """Call a retriever and check that it returned documents.

    Both lists are copies: neither side can alter a list of the other.

    Raises:
        RetrievalError: Raised by the retriever; its other exceptions are wrapped in one.
        InvalidRetrievalError: The answer has the wrong length or is not made of documents.
    """
    name = f"{type(retriever).__name__}.search"
    results = _search(retriever, queries, k)
    return [checked_documents(name, q, r, k) for q, r in zip(queries, results, strict=True)]


def retrieve_each(
    retriever: Retriever, queries: Sequence[str], k: int
) -> list[list[Document] | RetrievalError]:
    """Return the documents of each query, or the error that it raised.

    Equal queries are searched once. Where a call with several queries fails, each is searched by
    itself, so that one failing query does not fail the others; where the server is gone, none is.

    Example:
        >>> fake = FakeRetriever({"Ulm": [Document("1", "Ulm", "A city.")]})
        >>> [len(documents) for documents in retrieve_each(fake, ["Ulm", "Bonn", "Ulm"], k=3)]
        [1, 0, 1]
        >>> fake.calls
        [['Ulm', 'Bonn']]
    """
    distinct = list(dict.fromkeys(queries))
    results: Sequence[list[Document] | RetrievalError]
    try:
        found = _search(retriever, distinct, k)
    except RetrievalError as error:
        alone = len(distinct) == 1
        if isinstance(error, RetrievalConnectionError):
            return [error] * len(queries)
        results = [error] if alone else [retrieve_each(retriever, [q], k)[0] for q in distinct]
    else:
        name = f"{type(retriever).__name__}.search"
        results = [
            _documents_or_error(name, *pair, k) for pair in zip(distinct, found, strict=True)
        ]
    by_query = dict(zip(distinct, results, strict=True))
    answers = [by_query[query] for query in queries]
    return [list(a) if isinstance(a, list) else a for a in answers]  # equal queries share no list


def _search(retriever: Retriever, queries: Sequence[str], k: int) -> list[object]:
    """Return what a retriever returned for each query, unchecked."""
    name = type(retriever).__name__
    try:
        results: object = retriever.search(list(queries), k)
    except RetrievalError:
        raise
    except Exception as error:
        raise RetrievalError(
            f"Expected {name}.search to return documents, it raised {error!r}. See the cause "
            "above; RetryingRetriever retries, on_retrieval_error='truncate' ends the episode."
        ) from error
    if not isinstance(results, list) or len(results) != len(queries):
        raise InvalidRetrievalError(
            f"Expected {name}.search to return a list of {len(queries)} lists, got "
            f"{describe(results)}. Return one list for each query."
        )
    return list(results)


def _documents_or_error(
    source: str, query: str, documents: object, k: int
) -> list[Document] | RetrievalError:
    try:
        return checked_documents(source, query, documents, k)
    except InvalidRetrievalError as error:
        return error


def backend_name(retriever: Retriever) -> str:
    """Return a retriever's ``name``, or else the name of its class; never with credentials."""
    name = getattr(retriever, "name", None)
    return redacted(name) if isinstance(name, str) else type(retriever).__name__
