"""Bootstrap intervals of means over questions, and paired comparisons of two agents.

The intervals are percentile bootstraps: over questions, or over training seeds and questions. They
need no assumption about the scores' distribution. Two agents that answered the same questions are
compared question by question, which has far more power than checking whether their intervals
overlap.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_env.errors import ConfigurationError

RESAMPLES = 2000
LEVEL = 0.95

_DRAWS_AT_ONCE = 1 << 20  # keeps the index matrix below 10 MB at any number of values


@dataclass(frozen=True, slots=True)
class Interval:
    """The arithmetic mean of ``count`` values with its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap_mean(
    values: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Return the mean and its percentile bootstrap interval (Efron 1979).

    Each resample draws as many values as there are, with replacement; the interval lies between
    the quantiles ``(1 - level) / 2`` and ``(1 + level) / 2`` of their means. Its width is 0 where
    all values are equal, which for scores of 0 or 1 does not mean certainty: after n equal
    outcomes, the rule of three bounds the rate of the other by 3 / n.

    Args:
        values: One finite number for each question.
        resamples: Number of resamples.
        level: Confidence level, in (0, 1).
        seed: Equal seeds and counts draw the same questions.

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
    sizes = [(min(rows, resamples - start), count) for start in range(0, resamples, rows)]
    means = np.concatenate([array[random.integers(count, size=s)].mean(axis=1) for s in sizes])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high), count)


def bootstrap_crossed(
    values: Sequence[Sequence[float]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Return the mean over training seeds and questions, with an interval that covers both.

    Each resample draws rows and columns independently (the pigeonhole bootstrap, Owen 2007, which
    is never too narrow on average). For the difference of two agents, pass the differences of
    their scores, cell by cell.

    Args:
        values: ``(seeds, questions)``, finite: one row for each seed, the same questions in each.
        resamples: As for :func:`bootstrap_mean`.
        level: As for :func:`bootstrap_mean`.
        seed: As for :func:`bootstrap_mean`.

    Raises:
        ConfigurationError: The values are not such a table.

    Example:
        >>> bootstrap_crossed([[1.0, 1.0], [1.0, 1.0]])
        Interval(mean=1.0, low=1.0, high=1.0, count=4)
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except ValueError:
        array = np.zeros(0)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ConfigurationError(
            "Expected a row of finite values for each seed, equally many in each, got an array of "
            f"shape {array.shape}. Leave out what was not measured."
        )
    rows, columns = array.shape
    random = np.random.default_rng(seed)
    means = [
        array[random.integers(rows, size=rows)].mean(axis=0)[random.integers(columns, size=columns)]
        for _ in range(resamples)
    ]
    low, high = np.quantile(np.mean(means, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high), array.size)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one agent's score differs from another's on the same questions.

    Attributes:
        difference: Mean of first minus second, with its paired bootstrap interval.
        first_only: Questions on which the first scored more; ``second_only`` the reverse.
        p_value: Two-sided; the chance of a split at least as uneven of the questions on which they
            differ if both were equally good.
    """

    difference: Interval
    first_only: int
    second_only: int
    p_value: float


def compare_paired(
    first: Sequence[float], second: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two agents' scores of the same questions, in the same order.

    The interval is the paired bootstrap's: a question is drawn with both scores. The p-value is
    that of the exact sign test over the questions on which the agents differ; for scores of 0 and 1
    it is McNemar's exact test (McNemar 1947).

    Args:
        first: One finite score for each question.
        second: The other agent's.
        resamples: As for :func:`bootstrap_mean`.
        seed: As for :func:`bootstrap_mean`.

    Raises:
        ConfigurationError: The lengths differ, there is no score, or one that is not finite.

    Example:
        >>> result = compare_paired([1, 1, 1, 0], [0, 0, 0, 0])
        >>> result.first_only, result.second_only, result.p_value
        (3, 0, 0.25)
    """
    if len(first) != len(second):
        raise ConfigurationError(
            f"Expected two scores of every question, got {len(first)} and {len(second)}. "
            "Compare the questions that both answered."
        )
    differences = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    interval = bootstrap_mean(differences, resamples=resamples, seed=seed)
    more = sum(difference > 0 for difference in differences)
    less = sum(difference < 0 for difference in differences)
    return Comparison(interval, more, less, sign_test(more, less))


def sign_test(more: int, less: int) -> float:
    """Return the exact two-sided p-value of so many outcomes of two kinds under a fair coin.

    Example:
        >>> sign_test(0, 0), sign_test(5, 0), sign_test(3, 3)
        (1.0, 0.0625, 1.0)
    """
    count = more + less
    tail = sum(math.comb(count, k) for k in range(min(more, less) + 1))
    return min(1.0, 2 * tail / (1 << count))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that at least one of ``k`` samples drawn without replacement is right.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1).

    Args:
        samples: Number of samples of one question.
        right: Number of right ones among them.
        k: Number of samples drawn, at most ``samples``.

    Raises:
        ConfigurationError: The numbers contradict each other.

    Example:
        >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 1, 4)
        (0.25, 0.5, 1.0)
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ConfigurationError(
            f"Expected 0 <= right <= samples and 1 <= k <= samples, got right {right}, samples "
            f"{samples}, k {k}. Take more samples or lower k."
        )
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority_vote(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer, the first of equals; None where there is none.

    Args:
        answers: One for each sample, normalised so that equal answers are equal strings; None
            where a sample has no answer, which is no vote.

    Example:
        >>> majority_vote(["ulm", None, "bonn", "bonn"]), majority_vote([None, None])
        ('bonn', None)
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


# Quantiles .975 of Student's t for 1 to 10 degrees of freedom; beyond, an expansion (Abramowitz and
# Stegun 26.7.5) is off by 0.003 at most.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def t_quantile(degrees: int) -> float:
    """Return the .975 quantile of Student's t, half a 95 % interval in standard errors.

    ``degrees`` of freedom are the number of seeds - 1; 0 gives 0, as there is no interval.

    Example:
        >>> t_quantile(4), round(t_quantile(30), 3)
        (2.776, 2.042)
    """
    if degrees <= len(_T):
        return (0.0, *_T)[degrees]
    z = 1.959964
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2
