"""The one-method protocol of every search backend, checked calls of it, and a fake for tests.

A retriever takes queries and returns documents; it is called with several queries at once so that
a backend can batch them. Failures are exceptions of :mod:`search_env.errors`, never documents;
retries and time limits belong to the retriever (:mod:`search_env.retrieval.retrying`).
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from search_env.errors import InvalidRetrievalError, RetrievalError
from search_env.redaction import redacted
from search_env.types import Document
from search_env.validation import is_finite


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
    itself, so that one failing query does not fail the others.

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
        results = [error] if alone else [retrieve_each(retriever, [q], k)[0] for q in distinct]
    else:
        name = f"{type(retriever).__name__}.search"
        results = [
            _documents_or_error(name, *pair, k) for pair in zip(distinct, found, strict=True)
        ]
    by_query = dict(zip(distinct, results, strict=True))
    answers = [by_query[query] for query in queries]
    return [list(a) if isinstance(a, list) else a for a in answers]  # equal queries share no list


def checked_documents(
    source: str, query: str, documents: object, k: int | None = None
) -> list[Document]:
    """Return the documents of one query as a new list, with scores as plain numbers.

    Texts may hold lone surrogates, as JSON files do. ``source`` says for the error where the
    documents come from; ``k`` is their largest number, None for any.

    Raises:
        InvalidRetrievalError: Not a list of documents with strings and a finite score.
    """
    if not isinstance(documents, list):
        error = InvalidRetrievalError(
            f"Expected {source} to return lists of Document, got {_describe(documents)} for query "
            f"{shown(query)}. Build search_env.types.Document objects; return [] for a query "
            "without a hit."
        )
        error.query = query
        raise error
    documents = list(documents)
    if k is not None and len(documents) > k:
        error = InvalidRetrievalError(
            f"Expected at most k={k} documents from {source}, got {len(documents)} for query "
            f"{shown(query)}. Cut the list to k."
        )
        error.query, error.position = query, k
        raise error
    for position, document in enumerate(documents):
        if not (
            type(document) is Document
            and type(document.id) is type(document.title) is type(document.text) is str
            and type(document.score) is float
            and math.isfinite(document.score)
        ):
            documents[position] = _repaired(source, query, position, document)
    return documents


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
            f"{_describe(results)}. Return one list for each query."
        )
    return list(results)


def _documents_or_error(
    source: str, query: str, documents: object, k: int
) -> list[Document] | RetrievalError:
    try:
        return checked_documents(source, query, documents, k)
    except InvalidRetrievalError as error:
        return error


def _repaired(source: str, query: str, position: int, document: object) -> Document:
    """Return a document that needs a closer look, its score converted from NumPy's numbers."""
    if not isinstance(document, Document):
        raise _invalid(source, query, position, "", "a Document", document)
    for field, text in (("id", document.id), ("title", document.title), ("text", document.text)):
        if not isinstance(text, str):
            raise _invalid(source, query, position, field, "a string", text)
    score: object = document.score
    is_number = isinstance(score, int | float | np.integer | np.floating)
    if not is_number or isinstance(score, bool) or not is_finite(score):
        raise _invalid(source, query, position, "score", "a finite number", score)
    if isinstance(score, np.generic):
        return dataclasses.replace(document, score=float(score))
    return document


def _invalid(
    source: str, query: str, position: int, field: str, expected: str, got: object
) -> InvalidRetrievalError:
    place = f"documents[{position}]" + (f".{field}" if field else "")
    error = InvalidRetrievalError(
        f"Expected {place} from {source} for query {shown(query)} to be {expected}, got "
        f"{shown(got)} ({type(got).__name__}). Convert it where the documents are created."
    )
    error.query, error.position, error.field = query, position, field
    return error


def backend_name(retriever: Retriever) -> str:
    """Return a retriever's ``name``, or else the name of its class; never with credentials."""
    name = getattr(retriever, "name", None)
    return redacted(name) if isinstance(name, str) else type(retriever).__name__


def shown(value: object) -> str:
    """Return a value for an error, cut to about 80 characters: it may be huge."""
    text = repr(value[:80]) if isinstance(value, str | bytes) else reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _describe(value: object) -> str:
    """Return a value's type and length; the value itself may be huge."""
    size = f" of length {len(value)}" if isinstance(value, Sequence) else ""
    return f"{type(value).__name__}{size}"
