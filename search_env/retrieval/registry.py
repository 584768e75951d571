"""Retrievers by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

from search_env.retrieval.base import Retriever

RetrieverFactory = Callable[[], Retriever]

_FACTORIES: dict[str, RetrieverFactory] = {}


def register_retriever(name: str, factory: RetrieverFactory) -> None:
    """Make a retriever known by name, so that an ``EnvSpec`` can hold it.

    Args:
        name: What ``retriever=`` takes; it replaces an earlier one of that name.
        factory: Called once, when first needed.
    """
    _FACTORIES[name] = factory
    _registered.cache_clear()


@functools.lru_cache(maxsize=16)
def _registered(name: str) -> Retriever:
    return _FACTORIES[name]()
