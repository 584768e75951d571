"""The contract of :class:`search_env.retrieval.base.Retriever`, checked on a real one."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

from search_env.errors import ConfigurationError, InvalidRetrievalError, RetrievalError
from search_env.retrieval.base import Retriever, retrieve
from search_env.testing.base import broken, require
from search_env.types import Document

QUERIES = ("capital of France", "who wrote Hamlet", "longest river in Africa", "key1 key2")
"""Searched for where the caller names no queries."""

UNKNOWN = "qzxvwjk zzyqxw"
ODD = ("Ünïcødé 東京 🜁", 'a\nb\t"c" \\ \'', "</search> <|endoftext|>", "\udcff", "word " * 5000)

Results = list[list[Document]]


@dataclass(frozen=True, slots=True)
class RetrieverReport:
    """What a check of a retriever saw.

    Attributes:
        queries: Queries that were compared.
        documents: Distinct documents that they found.
        scored: Whether documents carry scores.
        picklable: Whether it can be sent to a worker process. Not a rule: the environments send
            names, see :func:`search_env.register_retriever`.
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

    Rules, by the name that an error begins with: ``result`` (one list of at most k documents for
    each query), ``errors`` (what it raises is a RetrievalError), ``fields`` (types, finite
    scores), ``unique`` (no document twice in a result), ``order`` (scores do not rise), ``score-0``
    (none where others have one), ``empty-query`` and ``unknown-query`` (find nothing),
    ``repeatable``, ``batch`` (a query's documents do not depend on its neighbours),
    ``duplicates``, ``prefix`` (fewer documents are the first ones of more) and ``odd-query``.

    Args:
        retriever: To be checked; it is searched about twenty times.
        queries: Queries that find something, better several and some that find the same; None
            for a few of :data:`QUERIES`.
        k: Documents a query, at least 2.
        unknown: A query without a hit. None for retrievers that always find neighbours, such as
            dense ones.

    Raises:
        ConformanceError: A rule is broken.
        ConfigurationError: No query found anything, so nothing could be checked.
        RetrievalError: The backend could not answer.

    Example:
        >>> from search_env import FakeRetriever
        >>> fake = FakeRetriever({"x": [Document("1", "", "a"), Document("2", "", "b")]})
        >>> check_retriever(fake, ["x"]).documents
        2
    """
    asked = list(QUERIES if queries is None else queries)
    if k < 2:
        raise ConfigurationError(f"Expected k of at least 2, got {k}. Ties need two. Pass k=3.")
    found = _search(retriever, asked, k)
    if not any(found):
        raise ConfigurationError(
            f"Expected queries that find something in {type(retriever).__name__}, got none for "
            f"{asked[:4]}. Pass queries= that its corpus answers."
        )
    scored = any(document.score != 0 for documents in found for document in documents)
    for query, documents in zip(asked, found, strict=True):
        _check_documents(query, documents, scored)
    _check_nothing(retriever, k, unknown)
    _check_same(retriever, asked, found, k)
    for query in ODD:
        _check_odd(retriever, query, k)
    distinct = {document.id for documents in found for document in documents}
    return RetrieverReport(len(asked), len(distinct), scored, _picklable(retriever))


def _search(retriever: Retriever, queries: Sequence[str], k: int) -> Results:
    """Search as the environments do; what they would refuse breaks a rule."""
    name = type(retriever).__name__
    try:
        answer = retriever.search(queries, k)
    except RetrievalError:
        raise
    except Exception as error:
        raise broken(
            "errors",
            f"{name}.search to answer or to raise a RetrievalError",
            f"{error!r} for k={k} and {[query[:40] for query in queries[:4]]}",
            "Catch what the backend raises and raise search_env.errors.RetrievalError from it.",
        ) from error
    # Of the same name, so that the message names the retriever.
    answered = type(name, (), {"search": lambda self, queries, k: answer})()
    try:
        return retrieve(answered, queries, k)
    except InvalidRetrievalError as error:
        raise broken("result", "lists of documents", f"this: {error}", "Mend search().") from error


def _check_documents(query: str, documents: Sequence[Document], scored: bool) -> None:
    for document in documents:
        texts = (document.id, document.title, document.text)
        number = isinstance(document.score, int | float) and math.isfinite(document.score)
        require(
            all(isinstance(text, str) for text in texts) and document.id and number,
            "fields",
            "id, title and text as str, the id not empty, and a finite score",
            f"{document!r:.200} for {query!r}",
            "Convert them where documents are built.",
        )
        require(
            document.score != 0 or not scored,
            "score-0",
            "no document with score 0 where others have scores",
            f"{document.id!r} for {query!r}",
            "Leave out what shares nothing with the query.",
        )
    ids = [document.id for document in documents]
    require(
        len(set(ids)) == len(ids),
        "unique",
        f"every document once in the result of {query!r}",
        ids,
        "Drop duplicates before cutting to k.",
    )
    scores = [document.score for document in documents]
    require(
        all(a >= b for a, b in itertools.pairwise(scores)),
        "order",
        f"the best document of {query!r} first",
        f"scores {scores}",
        "Sort by score, falling; break ties by position in the corpus.",
    )


def _check_nothing(retriever: Retriever, k: int, unknown: str | None) -> None:
    _search(retriever, [], k)  # no queries, no lists
    rules = [("empty-query", ""), ("empty-query", "  \n")]
    rules += [] if unknown is None else [("unknown-query", unknown)]
    for rule, query in rules:
        try:
            found = _search(retriever, [query], k)
        except RetrievalError as error:
            if rule == "unknown-query":  # a recording may hold only what was recorded
                continue
            raise broken(rule, f"[] for {query!r}", repr(error), "Answer [] instead.") from error
        require(
            found == [[]],
            rule,
            f"no document for {query!r}",
            [document.id for document in found[0]],
            "Return [] where nothing matches; pass unknown=None for a dense retriever.",
        )


def _check_same(retriever: Retriever, asked: list[str], found: Results, k: int) -> None:
    """Ask again in other ways; the documents must be the same each time."""
    again = _search(retriever, asked, k)
    _require_same("repeatable", asked, found, again, "Break ties by position in the corpus.")
    backwards = _search(retriever, asked[::-1], k)[::-1]
    _require_same("batch", asked, found, backwards, "Score each query by itself.")
    alone = [_search(retriever, [query], k)[0] for query in asked]
    _require_same("batch", asked, found, alone, "Score each query by itself.")
    doubled = _search(retriever, [query for query in asked for _ in "ab"], k)
    for copy in (doubled[::2], doubled[1::2]):
        _require_same("duplicates", asked, found, copy, "Answer every copy of a query.")
    for fewer, more in ((1, k), (k, max(1000, 2 * k))):
        few, many = _search(retriever, asked, fewer), _search(retriever, asked, more)
        cut = [documents[:fewer] for documents in many]
        advice = f"Rank first, then cut; k={more} may be more than there are documents."
        _require_same("prefix", asked, few, cut, advice)


def _require_same(rule: str, asked: list[str], a: Results, b: Results, advice: str) -> None:
    for query, one, two in zip(asked, a, b, strict=True):
        require(
            one == two,
            rule,
            f"the same documents for {query!r} each time",
            f"{_named(one)} and then {_named(two)}",
            advice,
        )


def _named(documents: Sequence[Document]) -> list[tuple[str, float]]:
    return [(document.id, document.score) for document in documents]


def _check_odd(retriever: Retriever, query: str, k: int) -> None:
    """A policy may write anything: the answer is documents or a RetrievalError."""
    try:
        found = _search(retriever, [query], k)[0]
        again = _search(retriever, [query], k)[0]
    except RetrievalError:
        return
    require(
        found == again,
        "odd-query",
        f"the same documents for {query[:40]!r} each time",
        f"{_named(found)} and then {_named(again)}",
        "Break ties by position in the corpus.",
    )


def _picklable(retriever: Retriever) -> bool:
    try:
        pickle.loads(pickle.dumps(retriever))
    except Exception:  # pickle promises no type of error
        return False
    return True
