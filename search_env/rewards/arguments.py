"""Checks of the numbers that rewards are built from: refused early, by name, with a way out."""

from __future__ import annotations

import math

from search_env.errors import ConfigurationError


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
    """Return a count.

    Raises:
        ConfigurationError: It is no integer of at least ``least``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(
            f"Expected {name} to be an integer of at least {least}, got {value!r}. Pass {least} "
            "or more."
        )
    return value
