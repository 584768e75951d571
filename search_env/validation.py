"""Checks of arguments: an impossible value is a ConfigurationError that names the argument."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Collection

import numpy as np

from search_env.errors import ConfigurationError, nearest
from search_env.redaction import redacted


def check_amount(name: str, value: float) -> float:
    """Return an amount, a finite number of at least 0, as a float."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not is_finite(value) or value < 0:
        raise ConfigurationError(
            f"Expected {name} to be a finite number of at least 0, got {value!r}. Pass the "
            "amount without a sign; -reward negates a reward."
        )
    return float(value)


def is_finite(number: float) -> bool:
    """Return whether a number is finite; an integer beyond all floats is not."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def check_count(name: str, value: int, least: int = 0) -> int:
    """Return a count, an integer of at least ``least``, as a plain integer."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if isinstance(value, bool) or count < least:
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
        index = operator.index(value)
    except TypeError:
        index = -1
    if isinstance(value, bool) or not 0 <= index < count:
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
