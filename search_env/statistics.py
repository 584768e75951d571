"""The mean of a score over questions, and how far to trust it.

One interval is offered, the percentile bootstrap over questions: it needs no assumption about the
scores' distribution. It says nothing about other sources of chance, such as training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_env.errors import ConfigurationError

RESAMPLES = 2000
LEVEL = 0.95

_DRAWS_AT_ONCE = 1 << 20  # keeps the index matrix below 10 MB at any number of values


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: Arithmetic mean of the values.
        low: Lower end.
        high: Upper end.
        count: How many values there were.
    """

    mean: float
    low: float
    high: float
    count: int


def bootstrap_mean(
    values: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the mean and its percentile bootstrap interval (Efron 1979).

    Each resample draws as many values as there are, with replacement; the interval lies between
    the quantiles ``(1 - level) / 2`` and ``(1 + level) / 2`` of their means. Where all values are
    equal it has no width, which for scores of 0 or 1 does not mean certainty: after n times the
    same outcome, the rule of three bounds the other's rate by 3 / n.

    Args:
        values: One finite number for each question.
        resamples: How many resamples.
        level: Confidence level, in (0, 1).
        seed: Seeds the resampling; equal seeds and counts resample the same questions.

    Raises:
        ConfigurationError: There is no value, or one that is not finite.

    Example:
        >>> bootstrap_mean([1.0, 1.0, 1.0])
        Interval(mean=1.0, low=1.0, high=1.0, count=3)
    """
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    if not count or not np.isfinite(array).all():
        raise ConfigurationError(
            f"Expected at least one value, all finite, got {count} values. "
            "Leave out what was not measured."
        )
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // count)
    means = np.concatenate(
        [
            array[random.integers(count, size=(min(rows, resamples - start), count))].mean(axis=1)
            for start in range(0, resamples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high), count)
