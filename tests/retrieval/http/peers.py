"""The other sides of the dialects, written from the published sources without our code.

``SERVERS`` answer as the systems' servers do, ``CLIENTS`` ask as their clients do and read what
those read. Documents are tuples ``(id, title, text, score)``.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgpack

from tests.retrieval.http.small_server import Reply, Sent

Row = tuple[str, str, str, float]
Search = Callable[[list[str], int], list[list[Row]]]


def contents(row: Row) -> str:
    return f'"{row[1]}"\n{row[2]}'


def pairs(rows: list[Row]) -> list[dict[str, Any]]:
    return [{"document": {"id": r[0], "contents": contents(r)}, "score": r[3]} for r in rows]


def fields_of(sent: Sent, path: str, *names: str) -> dict[str, Any]:
    """Check a request as FastAPI's models do, and return its fields."""
    assert sent.method == "POST"
    assert sent.path == path
    assert sent.headers["Content-Type"] == "application/json"
    fields = json.loads(sent.body)
    assert set(fields) == set(names)
    return fields


def search_r1(search: Search, sent: Sent) -> Any:
    asked = fields_of(sent, "/retrieve", "queries", "topk", "return_scores")
    assert asked["return_scores"] is True
    return {"result": [pairs(rows) for rows in search(asked["queries"], asked["topk"])]}


def skyrl(search: Search, sent: Sent) -> Any:
    asked = fields_of(sent, "/retrieve", "query", "topk", "return_scores")
    return {"result": [pairs(rows) for rows in search([asked["query"]], asked["topk"])]}


def flashrag(search: Search, sent: Sent) -> Any:
    asked = fields_of(sent, "/batch_search", "query", "top_n", "return_score")
    found = search(asked["query"], asked["top_n"])
    documents = [[{"id": r[0], "contents": contents(r)} for r in rows] for rows in found]
    return [documents, [[r[3] for r in rows] for rows in found]]


def r1_searcher(search: Search, sent: Sent) -> Any:
    asked = fields_of(sent, "/queries", "queries", "k")
    found = search(asked["queries"], asked["k"])
    lines = [[f"{r[0]}\t{r[1]}   {r[2]}" for r in rows] for rows in found]
    return {"queries": asked["queries"], "answers": lines}


def ragen(search: Search, sent: Sent) -> Any:
    asked = fields_of(sent, "/retrieve", "query", "top_k")
    (rows,) = search([asked["query"]], asked["top_k"])
    return {"results": [{"id": r[0], "content": contents(r), "score": r[3]} for r in rows]}


def rllm(search: Search, sent: Sent) -> Any:
    asked = fields_of(sent, "/retrieve", "query", "top_k")
    (rows,) = search([asked["query"]], asked["top_k"])
    return {"query": asked["query"], "method": "e5", "results": pairs(rows)}


def zerosearch(search: Search, sent: Sent) -> Any:
    asked = fields_of(sent, "/retrieve", "query", "top_k")
    (rows,) = search([asked["query"]], asked["top_k"])
    return [{"id": r[0], "text": contents(r), "score": r[3]} for r in rows]


def _unpacked(sent: Sent) -> dict[str, Any]:
    assert sent.path == "/retrieve"
    return msgpack.unpackb(sent.body, unicode_errors="surrogatepass")


def gem_0_1(search: Search, sent: Sent) -> Any:
    asked = _unpacked(sent)
    (rows,) = search([asked["query"]], asked["topk"])
    body = msgpack.packb({"result": pairs(rows)}, unicode_errors="surrogatepass")
    return Reply(body, content_type="application/msgpack")


def gem(search: Search, sent: Sent) -> Any:
    asked = _unpacked(sent)
    found = search(asked["queries"], asked["topk"])
    packed = msgpack.packb({"result": [pairs(rows) for rows in found]})
    return Reply(packed, content_type="application/msgpack")


def searxng(search: Search, sent: Sent) -> Any:
    """The layout of searx/webutils.py:get_json_response; no parameter limits the results."""
    parts = urlsplit(sent.path)
    asked = parse_qs(parts.query, keep_blank_values=True)
    assert (sent.method, parts.path, asked["format"]) == ("GET", "/search", ["json"])
    (rows,) = search(asked["q"], 1000)
    results = [
        {
            "url": r[0],
            "title": r[1],
            "content": r[2],
            "publishedDate": None,
            "engine": "wikipedia",
            "template": "default.html",
            "engines": ["wikipedia"],
            "positions": [i],
            "score": r[3],
            "category": "general",
        }
        for i, r in enumerate(rows, 1)
    ]
    return {
        "query": asked["q"][0],
        "number_of_results": 0,
        "results": results,
        "answers": [],
        "corrections": [],
        "infoboxes": [],
        "suggestions": [],
        "unresponsive_engines": [],
    }


def serper(search: Search, sent: Sent) -> Any:
    assert sent.headers["X-Api-Key"] == "serper-key"
    asked = fields_of(sent, "/search", "q", "num")
    (rows,) = search([asked["q"]], asked["num"])
    organic = [
        {"title": r[1], "link": r[0], "snippet": r[2], "position": i} for i, r in enumerate(rows, 1)
    ]
    parameters = {"q": asked["q"], "type": "search", "num": asked["num"], "engine": "google"}
    return {"searchParameters": parameters, "credits": 1, **({"organic": organic} if rows else {})}


def brave(search: Search, sent: Sent) -> Any:
    assert sent.headers["X-Subscription-Token"] == "brave-key"
    parts = urlsplit(sent.path)
    asked = parse_qs(parts.query)
    assert (sent.method, parts.path) == ("GET", "/res/v1/web/search")
    (rows,) = search(asked["q"], int(asked["count"][0]))
    results = [{"title": r[1], "url": r[0], "description": r[2], "language": "en"} for r in rows]
    reply = {"type": "search", "query": {"original": asked["q"][0]}, "mixed": {"type": "mixed"}}
    return {**reply, **({"web": {"type": "search", "results": results}} if rows else {})}


def tavily(search: Search, sent: Sent) -> Any:
    assert sent.headers["Authorization"] == "Bearer tavily-key"
    asked = fields_of(sent, "/search", "query", "max_results", "search_depth")
    (rows,) = search([asked["query"]], asked["max_results"])
    results = [
        {"title": r[1], "url": r[0], "content": r[2], "score": r[3], "raw_content": None}
        for r in rows
    ]
    return {"query": asked["query"], "answer": None, "images": [], "results": results}


def litellm(search: Search, sent: Sent) -> Any:
    assert "Authorization" not in sent.headers
    asked = fields_of(sent, "/v1/search/my%20tool", "query", "max_results")
    (rows,) = search([asked["query"]], asked["max_results"])
    results = [{"title": r[1], "url": r[0], "snippet": r[2], "date": None} for r in rows]
    return {"object": "search", "results": results}


SERVERS: dict[str, tuple[str, Callable[[Search, Sent], Any]]] = {
    "search-r1": ("dialect=search-r1", search_r1),
    "skyrl": ("dialect=skyrl", skyrl),
    "flashrag": ("dialect=flashrag", flashrag),
    "r1-searcher": ("dialect=r1-searcher", r1_searcher),
    "ragen": ("dialect=ragen", ragen),
    "rllm": ("dialect=ragen", rllm),
    "zerosearch": ("dialect=ragen", zerosearch),
    "gem-0.1": ("dialect=gem", gem_0_1),
    "gem": ("dialect=gem", gem),
    "searxng": ("dialect=searxng", searxng),
    "serper": ("dialect=serper", serper),
    "brave": ("dialect=brave", brave),
    "tavily": ("dialect=tavily", tavily),
    "litellm": ("dialect=litellm&tool=my%20tool", litellm),
}
"""By name: the options of an address, and who answers there."""


def _post(url: str, body: bytes, content_type: str | None = "application/json") -> bytes:
    headers = {"Content-Type": content_type} if content_type else {}
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read()


def _post_json(url: str, **fields: Any) -> Any:
    return json.loads(_post(url, json.dumps(fields).encode()))


def _titled(content: str) -> tuple[str, str]:
    """Cut contents as verl's _passages2string does."""
    lines = content.split("\n")
    return lines[0], "\n".join(lines[1:])


def ask_search_r1(url: str, query: str, k: int) -> list[tuple[str, str]]:
    reply = _post_json(f"{url}/retrieve", queries=[query], topk=k, return_scores=True)
    return [_titled(item["document"]["contents"]) for item in reply["result"][0]]


def ask_skyrl(url: str, query: str, k: int) -> list[tuple[str, str]]:
    reply = _post_json(f"{url}/retrieve", query=query, topk=k, return_scores=True)
    return [_titled(item["document"]["contents"]) for item in reply["result"][0]]


def ask_flashrag(url: str, query: str, k: int) -> list[tuple[str, str]]:
    reply = _post_json(f"{url}/search", query=query, top_n=k, return_score=False)
    return [_titled(item["contents"]) for item in reply]


def ask_flashrag_batch(url: str, query: str, k: int) -> list[tuple[str, str]]:
    reply = _post_json(f"{url}/batch_search", query=[query, query], top_n=k, return_score=True)
    documents, scores = reply
    assert documents[0] == documents[1]
    assert scores[0] == sorted(scores[0], reverse=True)
    return [_titled(item["contents"]) for item in documents[1]]


def ask_r1_searcher(url: str, query: str, k: int) -> list[tuple[str, str]]:
    import re

    reply = _post_json(f"{url}/queries", queries=[query], k=k)
    assert reply["queries"] == [query]
    found = [re.sub(r"^\d+\s+", "", line) for line in reply["answers"][0]]
    return [(f'"{title}"', text) for title, _, text in (line.partition("   ") for line in found)]


def ask_ragen(url: str, query: str, k: int) -> list[tuple[str, str]]:
    reply = _post_json(f"{url}/retrieve", query=query, top_k=k)
    return [_titled(item["content"]) for item in reply["results"]]


def ask_rllm(url: str, query: str, k: int) -> list[tuple[str, str]]:
    """Read what rllm's LocalRetrievalTool reads."""
    reply = _post_json(f"{url}/retrieve", query=query, top_k=k)
    return [_titled(item["document"]["contents"]) for item in reply["results"]]


def ask_gem_0_1(url: str, query: str, k: int) -> list[tuple[str, str]]:
    payload = msgpack.packb({"query": query, "topk": k, "return_scores": True})
    reply = msgpack.unpackb(_post(f"{url}/retrieve", payload, None))
    return [_titled(item["document"]["contents"]) for item in reply["result"]]


def ask_gem(url: str, query: str, k: int) -> list[tuple[str, str]]:
    payload = msgpack.packb({"queries": [query], "topk": k, "return_scores": True})
    reply = msgpack.unpackb(_post(f"{url}/retrieve", payload, None))
    return [_titled(item["document"]["contents"]) for item in reply["result"][0]]


CLIENTS: dict[str, Callable[[str, str, int], list[tuple[str, str]]]] = {
    "search-r1": ask_search_r1,
    "skyrl": ask_skyrl,
    "flashrag": ask_flashrag,
    "flashrag-batch": ask_flashrag_batch,
    "r1-searcher": ask_r1_searcher,
    "ragen": ask_ragen,
    "rllm": ask_rllm,
    "gem-0.1": ask_gem_0_1,
    "gem": ask_gem,
}
"""By name: who asks a server for the titles (in quotes) and texts of one query."""
