"""``litellm``: POST /v1/search/TOOL of a LiteLLM gateway, in front of a dozen engines.

``{"query", "max_results"}`` with a bearer key where the gateway has one; replies hold
``results[].{title, url, snippet}``. Source: https://docs.litellm.ai/docs/search
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from search_env.retrieval.http import fields, web
from search_env.retrieval.http.dialect import Dialect, Key, Options, Results, WireRequest

_MOST = 20


def request(queries: Sequence[str], k: int, options: Options) -> WireRequest:
    """Return the request for one query."""
    payload = {
        "query": web.query_with(queries, options),
        "max_results": min(k, _MOST),
        **web.chosen(options),
    }
    path = f"/v1/search/{quote(options['tool'], safe='')}"
    return WireRequest(path, fields.write_json(payload))


def documents(body: bytes, count: int) -> Results:
    """Return the documents of a reply."""
    found = fields.member(fields.read_json(body), "results", list)
    return [web.results(found, "results", link="url", snippet="snippet")]


LITELLM = Dialect(
    "litellm",
    ("/v1/search",),
    request,
    documents,
    cuts=True,
    key=Key("LITELLM_API_KEY", required=False),
    options={
        **web.SUFFIX,
        "tool": "name of the gateway's search tool; needed",
        "country": "code of a country",
    },
    required_options=("tool",),
)
