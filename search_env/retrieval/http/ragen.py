r"""``ragen``: POST /retrieve with one query, as RAGEN, rLLM and ZeroSearch's local server.

::

    {"query": "...", "top_k": 3}
    {"results": [{"id": "1", "content": "\"Title\"\nText", "score": 1.5}]}

rLLM's server nests the passage as Search-R1's does, ``{"document": {"id", "contents"}, "score"}``;
ZeroSearch's sends the list alone, with ``text``. The client reads all three; our server's entries
hold the first two. Sources: rllm-org/rllm, examples/search/retrieval/server.py and
local_retrieval_tool.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_env.retrieval.http import fields, search_r1
from search_env.retrieval.http.dialect import Asked, Dialect, Options, Results, WireRequest
from search_env.types import Document

_DEFAULT_K = 10
_CONTENTS = ("content", "contents", "text")


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    return WireRequest("/retrieve", fields.write_json({"query": queries[0], "top_k": k}))


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply."""
    reply = fields.read_json(body)
    found = reply if isinstance(reply, list) else fields.member(reply, "results", list)
    return [[_document(entry, f"results[{i}]") for i, entry in enumerate(found)]]


def _document(entry: Any, place: str) -> Document:
    values = fields.item(entry, dict, place)
    if "document" in values:
        return search_r1.document_of(values, place)
    name = next((name for name in _CONTENTS if name in values), _CONTENTS[0])
    contents = fields.member(values, name, str, place)
    title, text = fields.split_contents(contents)
    number = fields.score(values.get("score"), f"{place}.score")
    own_id = fields.identifier(values.get("id"), contents, f"{place}.id")
    return Document(own_id, title, text, number)


def asked(values: Mapping[str, Any]) -> Asked:
    """Return what a request to our server asks for."""
    query = fields.asked_query(values, "query")

    def reply(results: Sequence[Sequence[Document]]) -> Any:
        entries = search_r1.entries_for(results[0], scored=True)
        flat = [
            {"id": entry["document"]["id"], "content": entry["document"]["contents"], **entry}
            for entry in entries
        ]
        return {"query": query, "results": flat, "num_results": len(flat)}

    return Asked("ragen", [query], fields.asked_count(values, "top_k", _DEFAULT_K), reply)


RAGEN = Dialect("ragen", ("/retrieve",), request, documents)
