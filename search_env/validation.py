"""Checks of arguments: an impossible value is an error at once, which names the argument."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection

from search_env.errors import ConfigurationError, nearest


def check_amount(name: str, value: float) -> float:
    """Return an amount as a float.

    Raises:
        ConfigurationError: It is not a finite number of at least 0.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"Expected {name} to be a finite number of at least 0, got {value!r}. Pass the "
            "amount without a sign; -reward negates a reward."
        )
    return float(value)


def check_count(name: str, value: int, least: int = 0) -> int:
    """Return a count as a plain integer.

    Raises:
        ConfigurationError: It is not an integer of at least ``least``.
    """
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

    Args:
        name: What the value is, for the error.
        value: The value.
        choices: The possible values, in the order to list them.
        advice: Sentence that ends the error.
        error: The error to raise.

    Raises:
        ConfigurationError: The value is not among the choices.
    """
    if value not in choices:
        texts = [choice for choice in choices if isinstance(choice, str)]
        hint = f"{nearest(str(value), texts)}{advice}"
        raise error(f"Expected {name} among {list(choices)}, got {value!r}. {hint}")
