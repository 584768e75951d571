"""Retrievers by name, so that the JSON of an ``EnvSpec`` can hold them.

A name is plain (``"bm25"``) or a scheme with the rest (``"cassette:PATH"``). This module registers
the schemes ``cassette``, ``faiss``, ``http``, ``https`` and ``mcp``,
:mod:`search_env.envs.loading` the retrievers over a dataset's documents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from search_env.errors import ConfigurationError
from search_env.paths import FileKey, file_key
from search_env.registry import Registry
from search_env.retrieval.base import Retriever
from search_env.retrieval.cassette import Cassette
from search_env.retrieval.http.client import HttpRetriever
from search_env.retrieval.mcp_client import McpRetriever
from search_env.validation import check_choice


class CorpusChoice(NamedTuple):
    """The arguments of an environment that choose the documents; ``corpus`` is a file or index."""

    dataset: str
    split: str | None = None
    options: Mapping[str, Any] | None = None
    corpus: str | None = None


_Entry: TypeAlias = Callable[[str, CorpusChoice], Retriever]  # from the text after the colon

_ADVICE = "Add your own with register_retriever() or register_retriever_scheme()."
_RETRIEVERS: Registry[_Entry] = Registry("retriever", _ADVICE)


def register_retriever(
    name: str, factory: Callable[[], Retriever], *, replace: bool = True
) -> None:
    """Register a retriever under a plain name.

    Args:
        name: What ``retriever=`` takes.
        factory: Called once, when first needed.
        replace: Whether it may take the place of one that is registered.

    Raises:
        ConfigurationError: The name is taken and ``replace`` is False.
    """
    build = functools.cache(factory)
    _RETRIEVERS.add(name, lambda rest, choice: build(), replace=replace)


def register_retriever_scheme(
    scheme: str, factory: Callable[[str], Retriever], *, replace: bool = False
) -> None:
    """Register the retrievers of all names ``scheme:rest``.

    The last 16 are cached. Where the rest is the path of a file or folder, the retriever is built
    again after a change there, see :func:`~search_env.paths.file_key`.

    Args:
        scheme: Text before the first colon.
        factory: Returns the retriever for the text after it: a path, a URL or any other.
        replace: Whether it may take the place of one that is registered.

    Raises:
        ConfigurationError: The scheme is empty or contains a colon, or is taken and ``replace`` is
            False.
    """
    if not scheme or ":" in scheme:
        raise ConfigurationError(
            f"Expected a scheme without a colon, got {scheme!r}. Pass 'web' for names 'web:...'."
        )

    @functools.lru_cache(maxsize=16)
    def build(rest: str, files: FileKey) -> Retriever:
        return factory(rest)

    def entry(rest: str, choice: CorpusChoice) -> Retriever:
        if not rest:
            raise ConfigurationError(
                f"Expected text after the colon of retriever '{scheme}:', got none. Pass "
                f"'{scheme}:...' in full."
            )
        folder = Path(rest.partition("?")[0])  # what follows are options
        return build(rest, file_key(Path(rest), folder))

    _RETRIEVERS.add(f"{scheme}:", entry, replace=replace)


def register_corpus_retriever(
    name: str, factory: Callable[[CorpusChoice], Retriever], *, replace: bool = False
) -> None:
    """Register a retriever over the documents that an environment's arguments choose.

    ``factory`` is called for every environment; it caches what is expensive to build.

    Raises:
        ConfigurationError: The name is taken and ``replace`` is False.
    """
    _RETRIEVERS.add(name, lambda rest, choice: factory(choice), replace=replace)


def register_composite_scheme(
    scheme: str, factory: Callable[[str, CorpusChoice], Retriever], *, replace: bool = False
) -> None:
    """Register the retrievers of all names ``scheme:rest`` that are made of other retrievers.

    ``factory`` is called for every environment, with the rest and the documents that its arguments
    choose; it gets its parts from :func:`get_retriever` and caches what is expensive to build.

    Raises:
        ConfigurationError: The scheme is taken and ``replace`` is False.
    """
    _RETRIEVERS.add(f"{scheme}:", factory, replace=replace)


def is_retriever_name(name: str) -> bool:
    """Return whether a retriever has this name, or a scheme fits it."""
    scheme, colon, _ = name.partition(":")
    return name in _RETRIEVERS or (bool(colon) and scheme + colon in _RETRIEVERS)


def check_retriever_name(name: str) -> None:
    """Raise a ConfigurationError if no retriever has this name and no scheme fits it."""
    if not is_retriever_name(name):
        check_choice("retriever", name, [*_RETRIEVERS], _ADVICE)


def get_retriever(name: str, choice: CorpusChoice) -> Retriever:
    """Return the retriever of a registered name, or ``scheme:rest`` of a registered scheme.

    Raises:
        ConfigurationError: No retriever of that name.
    """
    if name in _RETRIEVERS:
        return _RETRIEVERS[name]("", choice)
    scheme, colon, rest = name.partition(":")
    return _RETRIEVERS[scheme + colon](rest, choice)


def _faiss(rest: str) -> Retriever:
    from search_env.retrieval.dense.names import dense_retriever

    return dense_retriever(rest)


def _http(scheme: str) -> Callable[[str], Retriever]:
    return lambda rest: HttpRetriever(f"{scheme}:{rest}")


register_retriever_scheme("cassette", Cassette)
register_retriever_scheme("faiss", _faiss)
register_retriever_scheme("http", _http("http"))
register_retriever_scheme("https", _http("https"))
register_retriever_scheme("mcp", McpRetriever)
