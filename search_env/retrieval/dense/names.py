"""Options in the names of retrievers: ``faiss:FOLDER?nprobe=64&device=cpu``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from search_env.errors import ConfigurationError
from search_env.retrieval.dense.retriever import DenseRetriever
from search_env.validation import check_choice

_OPTIONS = {"model": str, "device": str, "dtype": str, "nprobe": int, "ef": int}


def dense_retriever(rest: str) -> DenseRetriever:
    """Return the retriever of a name after ``faiss:``; options are those of its ``load``."""
    folder, options = split_options(f"faiss:{rest}", rest, _OPTIONS)
    return DenseRetriever.load(folder, **options)


def split_options(name: str, text: str, types: Mapping[str, type]) -> tuple[str, dict[str, Any]]:
    """Return what stands before the first ``?`` of a text, and the options after it.

    Args:
        name: The whole name, for errors.
        text: ``PATH`` or ``PATH?option=value&option=value``.
        types: Type of each option's value.

    Raises:
        ConfigurationError: An unknown option, one without a value, or a value of another type.

    Example:
        >>> split_options("faiss:wiki?ef=128", "wiki?ef=128", {"ef": int})
        ('wiki', {'ef': 128})
    """
    path, _, query = text.partition("?")
    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ConfigurationError(
            f"Expected options such as ?device=cpu in {name!r}, got {query!r}. Join several by &."
        ) from None
    for key, value in pairs:
        check_choice(f"option in {name!r}", key, list(types))
        try:
            options[key] = types[key](value)
        except ValueError:
            raise ConfigurationError(
                f"Expected {key} in {name!r} to be a number, got {value!r}. Pass an integer."
            ) from None
    return path, options
