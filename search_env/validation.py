"""Checks of arguments and of documents: an impossible value is an error that names its place."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import os
import reprlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from search_env.errors import ConfigurationError, InvalidRetrievalError, nearest
from search_env.redaction import redacted
from search_env.types import Document

_TRUTH_VALUES = (bool, np.bool_)


def check_amount(name: str, value: float) -> float:
    """Return an amount, a finite number of at least 0, as a float."""
    if not is_real(value) or value < 0:
        raise ConfigurationError(
            f"Expected {name} to be a finite number of at least 0, got {value!r}. Pass the "
            "amount without a sign; -reward negates a reward."
        )
    return float(value)


def is_real(value: object) -> bool:
    """Return whether a value is a finite number, Python's or NumPy's, and no bool."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and is_finite(value)  # type: ignore[arg-type]


def is_finite(number: float) -> bool:
    """Return whether a number is finite; an integer beyond all floats is not."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def as_integer(value: Any) -> int:
    """Return an integer of any type as a plain one.

    Raises:
        TypeError: It is no integer; truth values are none, which NumPy before 2.4 only warns of.
    """
    if isinstance(value, _TRUTH_VALUES):
        raise TypeError(f"expected an integer, got {value!r}")
    return operator.index(value)


def check_count(name: str, value: int, least: int = 0) -> int:
    """Return a count, an integer of at least ``least``, as a plain integer."""
    try:
        count = as_integer(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise ConfigurationError(
            f"Expected {name} to be an integer of at least {least}, got {value!r}. Pass {least} "
            "or more."
        )
    return count


def check_limit(name: str, value: int | None, least: int = 1) -> int | None:
    """Return a limit, an integer of at least ``least`` or None for none, as a plain integer."""
    return None if value is None else check_count(name, value, least)


def check_index(name: str, value: int, count: int) -> int:
    """Return an index below ``count``, at least 0, as a plain integer."""
    try:
        index = as_integer(value)
    except TypeError:
        index = -1
    if not 0 <= index < count:
        raise ConfigurationError(
            f"Expected {name} from 0 to {count - 1}, got {value!r}. Choose one of these."
        )
    return index


def check_flag(name: str, value: object, advice: str = "Pass one of them.") -> bool:
    """Return a flag, True or False (NumPy's too), as a plain one."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigurationError(f"Expected {name} to be True or False, got {value!r}. {advice}")
    return bool(value)


def check_text(name: str, value: object, advice: str) -> None:
    """Check that a value is a string; the sentence ``advice`` ends the error."""
    if not isinstance(value, str):
        hint = "Pass str(path). " if isinstance(value, os.PathLike) else ""
        raise ConfigurationError(f"Expected {name} to be a string, got {value!r}. {hint}{advice}")


def check_queries(queries: Any) -> None:
    """Check that queries are a list (or another sequence) of strings, not one string."""
    is_list = isinstance(queries, Sequence) and not isinstance(queries, str)
    if not (is_list and all(isinstance(query, str) for query in queries)):
        raise ConfigurationError(
            f"Expected a list of query strings, got {queries!r:.80}. Pass [query] for one."
        )


def check_mapping(name: str, value: object, example: str) -> None:
    """Check that a value is a dictionary or None; ``example`` is one."""
    if value is not None and not isinstance(value, dict):
        raise ConfigurationError(
            f"Expected {name} to be a dictionary or None, got {value!r}. Pass {example}, for "
            "example."
        )


def check_choice(
    name: str,
    value: object,
    choices: Collection[object],
    advice: str = "Choose one of them.",
    error: type[ConfigurationError] = ConfigurationError,
) -> None:
    """Check that a value is among the choices; the error suggests the nearest one.

    In the error, ``name`` says what the value is, and the sentence ``advice`` comes last.
    """
    try:
        is_known = value in choices
    except (TypeError, ValueError):  # an unhashable value, or an array
        is_known = False
    if not is_known:
        texts = [choice for choice in choices if isinstance(choice, str)]
        hint = f"{nearest(str(value), texts)}{advice}"
        got = redacted(repr(value))
        raise error(f"Expected {name} among {list(choices)}, got {got}. {hint}")


def checked_documents(
    source: str, query: str, documents: object, k: int | None = None
) -> list[Document]:
    """Return the documents of one query as a new list, with scores as plain numbers.

    Texts may hold lone surrogates, as JSON files do. ``source`` says for the error where the
    documents come from; ``k`` is their largest number, None for any.

    Raises:
        InvalidRetrievalError: Not a list of documents with strings and a finite score.
    """
    if not isinstance(documents, list):
        error = InvalidRetrievalError(
            f"Expected {source} to return lists of Document, got {describe(documents)} for query "
            f"{shown(query)}. Build search_env.types.Document objects; return [] for a query "
            "without a hit."
        )
        error.query = query
        raise error
    documents = list(documents)
    if k is not None and len(documents) > k:
        error = InvalidRetrievalError(
            f"Expected at most k={k} documents from {source}, got {len(documents)} for query "
            f"{shown(query)}. Cut the list to k."
        )
        error.query, error.position = query, k
        raise error
    for position, document in enumerate(documents):
        if not (
            type(document) is Document
            and type(document.id) is type(document.title) is type(document.text) is str
            and type(document.score) is float
            and math.isfinite(document.score)
        ):
            documents[position] = _repaired(source, query, position, document)
    return documents


def _repaired(source: str, query: str, position: int, document: object) -> Document:
    """Return a document that needs a closer look, its score converted from NumPy's numbers."""
    if not isinstance(document, Document):
        raise _invalid(source, query, position, "", "a Document", document)
    for field, text in (("id", document.id), ("title", document.title), ("text", document.text)):
        if not isinstance(text, str):
            raise _invalid(source, query, position, field, "a string", text)
    score: object = document.score
    is_number = isinstance(score, int | float | np.integer | np.floating)
    if not is_number or not is_real(score):
        raise _invalid(source, query, position, "score", "a finite number", score)
    if isinstance(score, np.generic):
        return dataclasses.replace(document, score=float(score))
    return document


def _invalid(
    source: str, query: str, position: int, field: str, expected: str, got: object
) -> InvalidRetrievalError:
    place = f"documents[{position}]" + (f".{field}" if field else "")
    error = InvalidRetrievalError(
        f"Expected {place} from {source} for query {shown(query)} to be {expected}, got "
        f"{shown(got)} ({type(got).__name__}). Convert it where the documents are created."
    )
    error.query, error.position, error.field = query, position, field
    return error


def shown(value: object) -> str:
    """Return a value for an error, cut to about 80 characters: it may be huge."""
    text = repr(value[:80]) if isinstance(value, str | bytes) else reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe(value: object) -> str:
    """Return a value's type and length; the value itself may be huge."""
    size = f" of length {len(value)}" if isinstance(value, Sequence) else ""
    return f"{type(value).__name__}{size}"
