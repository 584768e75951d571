"""Helpers of all checks: errors for broken rules, warnings as errors, exact comparison."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from search_env.errors import ConformanceError


def broken(rule: str, expected: str, got: object, advice: str) -> ConformanceError:
    """Return the error for a broken rule of the check's list; ``advice`` is one sentence."""
    return ConformanceError(f"[{rule}] Expected {expected}, got {got}. {advice}")


def require(kept: object, rule: str, expected: str, got: object, advice: str) -> None:
    """Raise :func:`broken` unless a rule was kept."""
    if not kept:
        raise broken(rule, expected, got, advice)


def require_same(a: Any, b: Any, rule: str, expected: str, advice: str, where: str = "") -> None:
    """Raise :func:`broken` with the first difference, after ``where``, unless results are equal."""
    difference = first_difference(a, b)
    require(not difference, rule, expected, f"{where}{difference}", advice)


def require_repeatable_close(close: Callable[[], Any]) -> None:
    """Raise :func:`broken` unless an environment can be closed twice."""
    try:
        close()
        close()
    except Exception as error:  # a user's code may raise anything
        advice = "Let close() do nothing when closed."
        raise broken("close", "close() twice", repr(error), advice) from error


@contextlib.contextmanager
def no_warnings(rule: str, *, except_for: str = "\0") -> Iterator[None]:
    """Raise a :class:`ConformanceError` at the end of a block in which a warning was given.

    Python's warnings about unclosed files do not count, nor do those that contain ``except_for``.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = str(warning.message)
        if except_for not in text and not issubclass(warning.category, ResourceWarning):
            got = f"{warning.category.__name__}: {text}"
            raise broken(rule, "no warning", got, "Remove the cause.")


def first_difference(a: Any, b: Any, where: str = "") -> str:
    """Return the place and values of the first difference of two results, "" if there is none.

    Types are compared too, so 1 differs from 1.0.

    Example:
        >>> first_difference({"f1": 0.5}, {"f1": 0.0})
        "['f1']: 0.5 and 0.0"
        >>> first_difference([1, np.zeros(2)], [1, np.zeros(2)])
        ''
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{where}: keys {sorted(map(str, a))} and {sorted(map(str, b))}"
        parts = ((a[key], b[key], f"{where}[{key!r}]") for key in a)
    elif isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        parts = ((x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"{where}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
        if a.dtype != object:
            same = np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
            return "" if same else f"{where}: {_differing(a, b)}"
        pairs = enumerate(zip(a.flat, b.flat, strict=True))
        parts = ((x, y, f"{where}[{i}]") for i, (x, y) in pairs)
    else:
        same = type(a) is type(b) and (a == b or (a != a and b != b))
        return "" if same else f"{where}: {_short(a)} and {_short(b)}"
    differences = (first_difference(x, y, place) for x, y, place in parts)
    return next(filter(None, differences), "")


def named(result: tuple[Any, ...]) -> dict[str, Any]:
    """Return the result of ``reset`` or ``step`` by name, so that a difference names the part.

    Example:
        >>> list(named(([0], {})))
        ['observation', 'info']
    """
    numbers = ("reward", "terminated", "truncated")[: len(result) - 2]
    return dict(zip(("observation", *numbers, "info"), result, strict=True))


def plain(value: Any) -> Any:
    """Return a value with its NumPy numbers converted to Python's int, float or bool."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(plain(part) for part in value)
    return value


def _differing(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> str:
    at = tuple(int(i) for i in np.argwhere(np.asarray(a != b))[0]) if a.ndim else ()
    return f"{a[at]} and {b[at]} at {list(at)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
