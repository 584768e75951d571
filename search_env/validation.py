"""Checks of arguments: what cannot be meant is refused early, by name, with a way out."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

from search_env.errors import ConfigurationError, nearest


def check_amount(name: str, value: float) -> float:
    """Return an amount as a float.

    Raises:
        ConfigurationError: It is no finite number of at least 0.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"Expected {name} to be a finite number of at least 0, got {value!r}. Pass how much, "
            "without a sign; -reward turns a reward around."
        )
    return float(value)


def check_count(name: str, value: int, least: int = 0) -> int:
    """Return a count as a plain integer.

    Raises:
        ConfigurationError: It is no integer of at least ``least``.
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


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse a value that is not among the choices, with the nearest one.

    Raises:
        ConfigurationError: It is not.
    """
    if value not in choices:
        texts = [choice for choice in choices if isinstance(choice, str)]
        raise ConfigurationError(
            f"Expected {name} among {list(choices)}, got {value!r}. {nearest(str(value), texts)}"
        )
