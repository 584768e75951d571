"""What a dialect is: pure functions between queries, bytes and documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from search_env.types import Document

Options: TypeAlias = Mapping[str, str]
Results: TypeAlias = list[list[Document]]


class WireRequest(NamedTuple):
    """One HTTP request; a ``path`` with its query, below the address's own."""

    path: str
    body: bytes | None = None
    content_type: str = "application/json"
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Key:
    """How a key goes with a request: header ``header``, its value ``prefix`` and the key.

    ``variable`` names the environment variable, the only place that a key is read from.
    """

    variable: str
    header: str = "Authorization"
    prefix: str = "Bearer "
    required: bool = True


LOCAL_KEY = Key("SEARCH_ENV_RETRIEVER_KEY", required=False)
"""For servers of one's own behind something that asks for a key."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format as a client speaks it.

    Attributes:
        paths: Endings of addresses that are the dialect's own paths: they are not doubled.
        request: From queries, k and options to a request. Of a dialect that is not ``batched``
            it gets one query.
        documents: From the body of a reply and the number of queries to their documents, best
            first. Raises :class:`~search_env.retrieval.http.fields.WrongReplyError`.
        batched: Whether one request holds several queries.
        cuts: Whether replies may hold more than k documents: the engine has no limit of its own.
        key: Where its key is read from.
        options: Options of its own that an address may name, with what they mean.
    """

    name: str
    paths: tuple[str, ...]
    request: Callable[[Sequence[str], int, Options], WireRequest]
    documents: Callable[[bytes, int], Results]
    batched: bool = False
    cuts: bool = False
    key: Key = LOCAL_KEY
    options: Mapping[str, str] = field(default_factory=dict)
    required_options: tuple[str, ...] = ()


class Asked(NamedTuple):
    """What a client asked our server for; ``reply`` makes the value that is sent back."""

    dialect: str
    queries: list[str]
    k: int
    reply: Callable[[Sequence[Sequence[Document]]], Any]
