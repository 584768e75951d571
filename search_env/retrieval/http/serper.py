"""``serper``: POST https://google.serper.dev/search, Google's results.

``{"q", "num"}`` with the key in ``X-API-KEY``; replies hold ``organic[].{title, link, snippet}``.
With ``suffix=site:en.wikipedia.org`` the queries are those of R1-Searcher's online variant.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_env.retrieval.http import fields, web
from search_env.retrieval.http.dialect import Dialect, Key, Options, Results, WireRequest

_MOST = 100


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    payload = {"q": web.query_with(queries, options), "num": min(k, _MOST), **web.chosen(options)}
    return WireRequest("/search", fields.write_json(payload))


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply; where nothing was found there is no list."""
    reply = fields.item(fields.read_json(body), dict, "the reply")
    found = fields.item(reply.get("organic", []), list, "organic")
    return [web.results(found, "organic", link="link", snippet="snippet")]


SERPER = Dialect(
    "serper",
    ("/search",),
    request,
    documents,
    cuts=True,
    key=Key("SERPER_API_KEY", "X-API-KEY", ""),
    options={**web.SUFFIX, "gl": "code of a country", "hl": "code of a language"},
)
