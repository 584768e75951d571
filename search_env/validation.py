"""Checks of arguments: an impossible value is a ConfigurationError that names the argument."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection

from search_env.errors import ConfigurationError, nearest
from search_env.redaction import redacted


def check_amount(name: str, value: float) -> float:
    """Return an amount, a finite number of at least 0, as a float."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"Expected {name} to be a finite number of at least 0, got {value!r}. Pass the "
            "amount without a sign; -reward negates a reward."
        )
    return float(value)


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


def check_choice(
    name: str,
    value: object,
    choices: Collection[object],
    advice: str = "",
    error: type[ConfigurationError] = ConfigurationError,
) -> None:
    """Check that a value is among the choices; the error suggests the nearest one.

    In the error, ``name`` says what the value is, and the sentence ``advice`` comes last.
    """
    if value not in choices:
        texts = [choice for choice in choices if isinstance(choice, str)]
        hint = f"{nearest(str(value), texts)}{advice}"
        got = redacted(repr(value))
        raise error(f"Expected {name} among {list(choices)}, got {got}. {hint}")
