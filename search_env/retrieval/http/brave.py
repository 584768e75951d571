"""``brave``: GET https://api.search.brave.com/res/v1/web/search.

``?q=&count=`` with the key in ``X-Subscription-Token``; replies hold
``web.results[].{title, url, description}``, 20 at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_env.retrieval.http import fields, web
from search_env.retrieval.http.dialect import Dialect, Key, Options, Results, WireRequest

_MOST = 20


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    query = web.query_with(queries, options)
    parameters = {"q": query, "count": min(k, _MOST), **web.chosen(options)}
    return web.get("/res/v1/web/search", parameters)


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply; where nothing was found there is no ``web``."""
    reply = fields.item(fields.read_json(body), dict, "the reply")
    found = fields.member(reply["web"], "results", list, "web") if "web" in reply else []
    return [web.results(found, "web.results", link="url", snippet="description")]


BRAVE = Dialect(
    "brave",
    ("/res/v1/web/search",),
    request,
    documents,
    cuts=True,
    key=Key("BRAVE_API_KEY", "X-Subscription-Token", ""),
    options={
        **web.SUFFIX,
        "country": "code of a country",
        "search_lang": "code of a language",
        "freshness": "pd, pw, pm or py",
    },
)
