"""Check of the contract of :class:`search_env.retrieval.base.Retriever`."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

from search_env.errors import ConfigurationError, InvalidRetrievalError, RetrievalError
from search_env.retrieval.base import Retriever, retrieve
from search_env.testing.base import broken, require
from search_env.types import Document

QUERIES = ("capital of France", "who wrote Hamlet", "longest river in Africa", "key1 key2")
"""Default queries."""

UNKNOWN = "qzxvwjk zzyqxw"
ODD = ("Ünïcødé 東京 🜁", 'a\nb\t"c" \\ \'', "</search> <|endoftext|>", "\udcff", "word " * 5000)

Results = list[list[Document]]


@dataclass(frozen=True, slots=True)
class RetrieverReport:
    """Statistics of a retriever that passed the check.

    Attributes:
        queries: Number of queries compared.
        documents: Number of distinct documents retrieved.
        scored: Whether documents have scores.
        picklable: Whether the retriever can be sent to a worker process. Not a rule: the
            environments send names, see :func:`search_env.register_retriever`.
    """

    queries: int
    documents: int
    scored: bool
    picklable: bool


def check_retriever(
    retriever: Retriever,
    queries: Sequence[str] | None = None,
    k: int = 3,
    *,
    unknown: str | None = UNKNOWN,
) -> RetrieverReport:
    """Check that a retriever keeps its contract.

    Rules, by the name that an error begins with: ``result`` (one list of at most k documents per
    query), ``errors`` (only RetrievalError is raised), ``fields`` (types, finite scores),
    ``unique`` (no document twice in a result), ``order`` (scores do not rise), ``score-0`` (no
    zero beside other scores), ``empty-query`` and ``unknown-query`` (no documents),
    ``repeatable``, ``batch`` (a query's documents do not depend on its neighbours),
    ``duplicates``, ``prefix`` (a smaller k returns the first documents) and ``odd-query``.

    Args:
        retriever: Searched about twenty times.
        queries: Queries with results, preferably several, some with common documents; None for
            :data:`QUERIES`.
        k: Number of documents per query, at least 2.
        unknown: A query without results. None for retrievers that always return neighbours, such
            as dense ones.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: No query has results, so nothing could be checked.
        RetrievalError: The backend could not answer.

    Example:
        >>> from search_env import FakeRetriever
        >>> fake = FakeRetriever({"x": [Document("1", "", "a"), Document("2", "", "b")]})
        >>> check_retriever(fake, ["x"]).documents
        2
    """
    queries = list(QUERIES if queries is None else queries)
    if k < 2:
        raise ConfigurationError(f"Expected k of at least 2, got {k}. Ties need two. Pass k=3.")
    results = _search(retriever, queries, k)
    if not any(results):
        raise ConfigurationError(
            f"Expected queries with results from {type(retriever).__name__}, got none for "
            f"{queries[:4]}. Pass queries= that its corpus answers."
        )
    scored = any(document.score != 0 for documents in results for document in documents)
    for query, documents in zip(queries, results, strict=True):
        _check_documents(query, documents, scored)
    _check_no_results(retriever, k, unknown)
    _check_repeated(retriever, queries, results, k)
    for query in ODD:
        _check_odd(retriever, query, k)
    distinct = {document.id for documents in results for document in documents}
    return RetrieverReport(len(queries), len(distinct), scored, _picklable(retriever))


def _search(retriever: Retriever, queries: Sequence[str], k: int) -> Results:
    """Search as the environments do; results that they would refuse break a rule."""
    name = type(retriever).__name__
    try:
        answer = retriever.search(queries, k)
    except RetrievalError:
        raise
    except Exception as error:
        expected = f"{name}.search to return documents or to raise a RetrievalError"
        got = f"{error!r} for k={k} and {[query[:40] for query in queries[:4]]}"
        advice = "Catch the backend's errors and raise search_env.errors.RetrievalError from them."
        raise broken("errors", expected, got, advice) from error
    # A class of the same name, so that the message names the retriever.
    answered = type(name, (), {"search": lambda self, queries, k: answer})()
    try:
        return retrieve(answered, queries, k)
    except InvalidRetrievalError as error:
        rule, got = "fields" if error.field else "result", f"this: {error}".rstrip(".")
        advice = "Correct what search() returns."
        raise broken(rule, "lists of documents", got, advice) from error


def _check_documents(query: str, documents: Sequence[Document], scored: bool) -> None:
    for document in documents:
        texts = (document.id, document.title, document.text)
        number = isinstance(document.score, int | float) and math.isfinite(document.score)
        fits = all(isinstance(text, str) for text in texts) and document.id and number
        expected = "id, title and text as str, the id not empty, and a finite score"
        got = f"{document!r:.200} for {query!r}"
        advice = "Convert them where the documents are created."
        require(fits, "fields", expected, got, advice)
        expected = "no document with score 0 where others have scores"
        got = f"{document.id!r} for {query!r}"
        advice = "Leave out documents that share nothing with the query."
        require(document.score != 0 or not scored, "score-0", expected, got, advice)
    ids = [document.id for document in documents]
    expected = f"every document once in the result of {query!r}"
    advice = "Drop duplicates before cutting to k."
    require(len(set(ids)) == len(ids), "unique", expected, ids, advice)
    scores = [document.score for document in documents]
    falling = scores == sorted(scores, reverse=True)
    expected = f"the best document of {query!r} first"
    advice = "Sort by score, falling; break ties by position in the corpus."
    require(falling, "order", expected, f"scores {scores}", advice)


def _check_no_results(retriever: Retriever, k: int, unknown: str | None) -> None:
    _search(retriever, [], k)  # no queries, no lists
    rules = [("empty-query", ""), ("empty-query", "  \n")]
    rules += [] if unknown is None else [("unknown-query", unknown)]
    for rule, query in rules:
        try:
            (documents,) = _search(retriever, [query], k)
        except RetrievalError as error:
            if rule == "unknown-query":  # a cassette may hold only recorded queries
                continue
            raise broken(rule, f"[] for {query!r}", repr(error), "Return [] instead.") from error
        ids = [document.id for document in documents]
        advice = "Return [] where nothing matches; pass unknown=None for a dense retriever."
        require(not documents, rule, f"no document for {query!r}", ids, advice)


def _check_repeated(retriever: Retriever, queries: list[str], results: Results, k: int) -> None:
    """Search for the same queries in other ways, with the same documents expected."""
    again = _search(retriever, queries, k)
    _require_equal("repeatable", queries, results, again, _BREAK_TIES)
    backwards = _search(retriever, queries[::-1], k)[::-1]
    single = [_search(retriever, [query], k)[0] for query in queries]
    for other in (backwards, single):
        _require_equal("batch", queries, results, other, "Score each query by itself.")
    doubled = _search(retriever, [query for query in queries for _ in "ab"], k)
    for copy in (doubled[::2], doubled[1::2]):
        _require_equal("duplicates", queries, results, copy, "Answer every copy of a query.")
    for fewer, more in ((1, k), (k, max(1000, 2 * k))):
        few, many = _search(retriever, queries, fewer), _search(retriever, queries, more)
        cut = [documents[:fewer] for documents in many]
        advice = f"Rank first, then cut; k={more} may exceed the number of documents."
        _require_equal("prefix", queries, few, cut, advice)


_BREAK_TIES = "Break ties by position in the corpus."


def _require_equal(rule: str, queries: list[str], a: Results, b: Results, advice: str) -> None:
    for query, one, two in zip(queries, a, b, strict=True):
        first, second = ([(d.id, d.score) for d in documents] for documents in (one, two))
        expected = f"the same documents for {query[:40]!r} each time"
        require(one == two, rule, expected, f"{first} and then {second}", advice)


def _check_odd(retriever: Retriever, query: str, k: int) -> None:
    """Search for a query such as a policy may write: documents or a RetrievalError are right."""
    try:
        once, again = (_search(retriever, [query], k) for _ in range(2))
    except RetrievalError:
        return
    _require_equal("odd-query", [query], once, again, _BREAK_TIES)


def _picklable(retriever: Retriever) -> bool:
    try:
        pickle.loads(pickle.dumps(retriever))
    except Exception:  # pickle promises no type of error
        return False
    return True
