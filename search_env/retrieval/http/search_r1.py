r"""``search-r1`` and ``skyrl``: POST /retrieve, as Search-R1's server, verl, slime and SkyRL.

::

    {"queries": ["..."], "topk": 3, "return_scores": true}     (skyrl: "query": "...")
    {"result": [[{"document": {"id": "1", "contents": "\"Title\"\nText"}, "score": 1.5}]]}

Without ``return_scores`` a document stands in place of its object with a score. Sources:
PeterGriffinJin/Search-R1@a14dc3a, search_r1/search/retrieval_server.py; skyrl-gym 0.4.0,
skyrl_gym/tools/search.py, whose client reads a query's list of such objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_env.retrieval.http import fields
from search_env.retrieval.http.dialect import Asked, Dialect, Options, Results, WireRequest
from search_env.types import Document

_DEFAULT_K = 3  # retrieval_launch.sh: --topk 3


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for all queries."""
    return WireRequest("/retrieve", fields.write_json(_payload({"queries": list(queries)}, k)))


def skyrl_request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    return WireRequest("/retrieve", fields.write_json(_payload({"query": queries[0]}, k)))


def _payload(queries: Mapping[str, Any], k: int) -> dict[str, Any]:
    # Search-R1's server fails without scores.
    return {**queries, "topk": k, "return_scores": True}


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply."""
    return results_of(fields.read_json(body), count)


def results_of(reply: Any, count: int) -> Results:
    """Return the documents of a reply that was read."""
    found = fields.lists(fields.member(reply, "result", list), count, "result")
    return [documents_of(entries, f"result[{i}]") for i, entries in enumerate(found)]


def documents_of(entries: Sequence[Any], place: str) -> list[Document]:
    """Return the documents of one query's list, with scores or without."""
    return [document_of(entry, f"{place}[{i}]") for i, entry in enumerate(entries)]


def document_of(entry: Any, place: str) -> Document:
    """Return ``{"document": ..., "score": ...}``, or a document alone, as a document."""
    has_score = "document" in fields.item(entry, dict, place)
    found = fields.member(entry, "document", dict, place) if has_score else entry
    contents = fields.member(found, "contents", str, place)
    name = fields.identifier(found.get("id"), contents, f"{place}.id")
    number = fields.score(entry.get("score") if has_score else None, f"{place}.score")
    return Document(name, *fields.split_contents(contents), number)


def entries_for(found: Sequence[Document], scored: bool) -> list[dict[str, Any]]:
    """Return documents as a reply has them."""
    plain = [{"id": d.id, "contents": fields.join_contents(d)} for d in found]
    if not scored:
        return plain
    return [{"document": p, "score": d.score} for p, d in zip(plain, found, strict=True)]


def asked(values: Mapping[str, Any]) -> Asked:
    """Return what a request to our server asks for."""
    single = "queries" not in values
    queries = (
        [fields.asked_query(values, "query")] if single else fields.asked_queries(values, "queries")
    )
    k = fields.asked_count(values, "topk", _DEFAULT_K)
    scored = fields.asked_flag(values, "return_scores")

    def reply(results: Sequence[Sequence[Document]]) -> Any:
        return {"result": [entries_for(found, scored) for found in results]}

    return Asked("skyrl" if single else "search-r1", queries, k, reply)


SEARCH_R1 = Dialect("search-r1", ("/retrieve",), request, documents, batched=True)
SKYRL = Dialect("skyrl", ("/retrieve",), skyrl_request, documents)
