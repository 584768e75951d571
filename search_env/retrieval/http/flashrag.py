r"""``flashrag``: POST /batch_search and /search, as ReSearch, ReCall and FlashRAG's serving.

::

    /batch_search  {"query": ["..."], "top_n": 3, "return_score": true}
                   [[[{"id": "1", "contents": "\"Title\"\nText"}]], [[1.5]]]
    /search        {"query": "...", "top_n": 3, "return_score": true}
                   [[{"id": "1", "contents": "\"Title\"\nText"}], [1.5]]

Without ``return_score`` the documents stand alone. ``retriever="...?dialect=flashrag"`` uses
/batch_search. Source: Agent-RL/ReSearch, scripts/serving/retriever_serving.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from search_env.retrieval.http import fields, search_r1
from search_env.retrieval.http.dialect import Asked, Dialect, Options, Results, WireRequest
from search_env.types import Document

_DEFAULT_K = 10


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for all queries."""
    payload = {"query": list(queries), "top_n": k, "return_score": True}
    return WireRequest("/batch_search", fields.write_json(payload))


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply, a pair of documents and scores."""
    pair = fields.item(fields.read_json(body), list, "the reply")
    if len(pair) != 2:
        raise fields.WrongReplyError("a pair of documents and scores", f"a list of {len(pair)}")
    found = fields.lists(pair[0], count, "documents")
    scores = fields.lists(pair[1], count, "scores")
    return [
        _scored(search_r1.documents_of(entries, f"documents[{i}]"), scores[i], f"scores[{i}]")
        for i, entries in enumerate(found)
    ]


def _scored(found: Sequence[Document], scores: Sequence[Any], place: str) -> list[Document]:
    if len(found) != len(scores):
        raise fields.WrongReplyError(f"{len(found)} scores in {place}", str(len(scores)))
    numbers = [fields.score(value, f"{place}[{i}]") for i, value in enumerate(scores)]
    return [replace(document, score=n) for document, n in zip(found, numbers, strict=True)]


def asked_batch(values: Mapping[str, Any]) -> Asked:
    """Return what a request to our server's /batch_search asks for."""
    k, scored = _arguments(values)

    def reply(results: Sequence[Sequence[Document]]) -> Any:
        found = [search_r1.entries_for(documents, scored=False) for documents in results]
        return [found, [_scores(documents) for documents in results]] if scored else found

    return Asked("flashrag", fields.asked_queries(values, "query"), k, reply)


def asked_single(values: Mapping[str, Any]) -> Asked:
    """Return what a request to our server's /search asks for."""
    k, scored = _arguments(values)

    def reply(results: Sequence[Sequence[Document]]) -> Any:
        found = search_r1.entries_for(results[0], scored=False)
        return [found, _scores(results[0])] if scored else found

    return Asked("flashrag", [fields.asked_query(values, "query")], k, reply)


def _arguments(values: Mapping[str, Any]) -> tuple[int, bool]:
    k = fields.asked_count(values, "top_n", _DEFAULT_K)
    return k, fields.asked_flag(values, "return_score")


def _scores(documents: Sequence[Document]) -> list[float]:
    return [document.score for document in documents]


FLASHRAG = Dialect("flashrag", ("/batch_search", "/search"), request, documents, batched=True)
