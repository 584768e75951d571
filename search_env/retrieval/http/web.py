"""What engines of the web share: results with an address, a title and a snippet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from search_env.retrieval.http import fields
from search_env.retrieval.http.dialect import Options, WireRequest
from search_env.types import Document

SUFFIX = {"suffix": "text after every query, such as site:en.wikipedia.org"}


def query_with(queries: Sequence[str], options: Options) -> str:
    """Return the only query, with what the option ``suffix`` puts after it."""
    suffix = options.get("suffix", "")
    return f"{queries[0]} {suffix}" if suffix else queries[0]


def chosen(options: Options) -> dict[str, str]:
    """Return the options that go to the engine as they are."""
    return {name: value for name, value in options.items() if name not in ("suffix", "tool")}


def get(path: str, parameters: Mapping[str, Any]) -> WireRequest:
    """Return a request without a body."""
    encoded = urlencode(parameters, errors="replace")  # surrogates, which no address can hold
    return WireRequest(f"{path}?{encoded}", None, method="GET")


def results(found: Sequence[Any], place: str, *, link: str, snippet: str) -> list[Document]:
    """Return results as documents: the address is the id, the snippet is the text.

    A page that occurs twice counts once. The order is the engine's.
    """
    return fields.scores_that_fall(
        fields.distinct(
            _result(entry, f"{place}[{i}]", link, snippet) for i, entry in enumerate(found)
        )
    )


def _result(entry: Any, place: str, link: str, snippet: str) -> Document:
    values = fields.item(entry, dict, place)
    title = fields.text(values.get("title"), f"{place}.title")
    text = fields.text(values.get(snippet), f"{place}.{snippet}")
    name = fields.identifier(values.get(link), f"{title}\n{text}", f"{place}.{link}")
    return Document(name, title, text, fields.score(values.get("score"), f"{place}.score"))
