"""``gem``: Search-R1's format as msgpack, as GEM and ROLL.

Two versions are in use. gem-llm 0.1.0 sends ``{"query", "topk", "return_scores"}`` and reads a flat
``{"result": [{"document", "score"}]}``; later ones send ``{"queries": [...]}`` and read a list for
each query. The client sends both fields, of which either server reads its own, and reads both
replies; our server answers each in its own way. Sources: gem-llm 0.1.0 and axon-rl/gem@11546193,
gem/tools/search_tool.py, gem/tools/search_engine/retrieval_server.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_env.errors import ConfigurationError
from search_env.retrieval.http import fields, search_r1
from search_env.retrieval.http.dialect import Asked, Dialect, Options, Results, WireRequest
from search_env.types import Document
from search_env.validation import shown

CONTENT_TYPE = "application/msgpack"


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    payload = {"query": queries[0], "queries": list(queries), "topk": k, "return_scores": True}
    return WireRequest("/retrieve", pack(payload), CONTENT_TYPE)


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply of either version."""
    reply = unpack(body)
    found = fields.member(reply, "result", list)
    if all(isinstance(entry, dict) for entry in found):
        return [search_r1.documents_of(found, "result")]
    return search_r1.results_of(reply, count)


def asked(values: Mapping[str, Any]) -> Asked:
    """Return what a request to our server asks for, of a client of either version."""
    nested = search_r1.asked(values)

    def reply(results: Sequence[Sequence[Document]]) -> Any:
        answer = nested.reply(results)
        return answer if "queries" in values else {"result": answer["result"][0]}

    return Asked("gem", nested.queries, nested.k, reply)


def pack(value: Any) -> bytes:
    """Return a value as msgpack."""
    packed: bytes = _msgpack().packb(value, unicode_errors="surrogatepass")
    return packed


def unpack(body: bytes) -> Any:
    """Return the value of some msgpack."""
    msgpack = _msgpack()
    try:
        return msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=True)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        start = body[:80].decode("utf-8", "replace")
        raise fields.WrongReplyError("msgpack", f"something else: {shown(start)}") from None


def is_msgpack(body: bytes) -> bool:
    """Whether a body is a map of msgpack rather than an object of JSON: clients do not say it."""
    return body[:1] >= b"\x80"


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise ConfigurationError(
            "Expected the msgpack package for the dialect 'gem', got none. Run "
            '`pip install "search-env[http]"`.'
        ) from error
    return msgpack


GEM = Dialect("gem", ("/retrieve",), request, documents)
