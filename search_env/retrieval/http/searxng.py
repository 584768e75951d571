"""``searxng``: GET /search of an instance of SearXNG.

Replies hold ``results[].{url, title, content, score}``, as many as its engines return: the client
cuts them. The instance must have ``json`` among ``search.formats`` of its settings.yml, else it
answers 403. Source: https://docs.searxng.org/dev/search_api.html
"""

from __future__ import annotations

from collections.abc import Sequence

from search_env.retrieval.http import fields, web
from search_env.retrieval.http.dialect import Dialect, Options, Results, WireRequest


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    parameters = {"q": web.query_with(queries, options), "format": "json", **web.chosen(options)}
    return web.get("/search", parameters)


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply."""
    found = fields.member(fields.read_json(body), "results", list)
    return [web.results(found, "results", link="url", snippet="content")]


SEARXNG = Dialect(
    "searxng",
    ("/search",),
    request,
    documents,
    cuts=True,
    options={
        **web.SUFFIX,
        "categories": "categories, separated by commas",
        "engines": "engines, separated by commas",
        "language": "code of a language",
        "safesearch": "0, 1 or 2",
        "time_range": "day, month or year",
    },
)
