"""``tavily``: POST https://api.tavily.com/search.

``{"query", "max_results", "search_depth"}`` with a bearer key; replies hold
``results[].{title, url, content, score}``, 20 at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_env.retrieval.http import fields, web
from search_env.retrieval.http.dialect import Dialect, Key, Options, Results, WireRequest

_MOST = 20


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    query = web.query_with(queries, options)
    payload = {
        "query": query,
        "max_results": min(k, _MOST),
        "search_depth": "basic",
        **web.chosen(options),
    }
    return WireRequest("/search", fields.write_json(payload))


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply."""
    found = fields.member(fields.read_json(body), "results", list)
    return [web.results(found, "results", link="url", snippet="content")]


TAVILY = Dialect(
    "tavily",
    ("/search",),
    request,
    documents,
    cuts=True,
    key=Key("TAVILY_API_KEY"),
    options={
        **web.SUFFIX,
        "search_depth": "basic (the default) or advanced",
        "topic": "general or news",
        "time_range": "day, week, month or year",
    },
)
