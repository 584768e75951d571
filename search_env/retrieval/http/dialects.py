"""The table of dialects: what a client speaks, and where our server is spoken to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from search_env.retrieval.http import flashrag, gem, r1_searcher, ragen, search_r1
from search_env.retrieval.http.brave import BRAVE
from search_env.retrieval.http.dialect import Asked, Dialect
from search_env.retrieval.http.fields import WrongRequestError
from search_env.retrieval.http.litellm import LITELLM
from search_env.retrieval.http.searxng import SEARXNG
from search_env.retrieval.http.serper import SERPER
from search_env.retrieval.http.tavily import TAVILY

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        search_r1.SEARCH_R1,
        search_r1.SKYRL,
        flashrag.FLASHRAG,
        r1_searcher.R1_SEARCHER,
        ragen.RAGEN,
        gem.GEM,
        SEARXNG,
        SERPER,
        BRAVE,
        TAVILY,
        LITELLM,
    )
}
"""By name, as ``?dialect=`` takes it."""


def asked_of_retrieve(values: Mapping[str, Any]) -> Asked:
    """Return what a JSON request to /retrieve asks for: three dialects, told apart by fields."""
    if "queries" in values or "topk" in values or "return_scores" in values:
        return search_r1.asked(values)
    if "query" in values:
        return ragen.asked(values) if "top_k" in values else search_r1.asked(values)
    raise WrongRequestError(
        "queries with topk (search-r1), query with topk (skyrl) or query with top_k (ragen), got "
        f"the fields {sorted(map(str, values))}"
    )


SERVED: dict[str, Callable[[Mapping[str, Any]], Asked]] = {
    "/retrieve": asked_of_retrieve,
    "/search": flashrag.asked_single,
    "/batch_search": flashrag.asked_batch,
    "/queries": r1_searcher.asked,
}
"""The paths of our server, each with what reads its JSON; msgpack to /retrieve is ``gem``'s."""
