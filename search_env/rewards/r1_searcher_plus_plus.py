"""R1-Searcher++'s three parts: the answer, the format, and the fewest searches of a group.

The answer earns 1 if it covers a gold answer in at most ten words; a wrong format costs 2; and of
the right rollouts of a question, those with the fewest searches earn the more, the more their
numbers of searches differ: ``min(2 * variance, 2)``. The last part compares rollouts, so it is a
group reward, paid in addition.

The paper (arXiv 2505.17005) is known through notes on it, and there is no code. That the spread is
a standard deviation over the right rollouts, that only they are paid, and the cap of 2 is agreed
among them. Coefficient and exponent, the kind of deviation, what becomes of ties, and whether a
right answer in a wrong format counts as right, are not: they are parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from search_env.errors import ConfigurationError
from search_env.metrics.answers import cover_exact_match
from search_env.rewards.base import Reward, register_reward
from search_env.rewards.group import GroupReward, register_group_reward
from search_env.rewards.r1_searcher import FormatRules
from search_env.types import Transcript
from search_env.validation import check_amount, check_choice, check_count, check_flag

MAX_ANSWER_WORDS = 10
"""Longest answer that is right, in words separated by white space."""

Ties = Literal["all", "share", "none"]
_TIES = ("all", "share", "none")
_FORMAT = FormatRules(None, ())


def covers_briefly(transcript: Transcript, max_answer_words: int = MAX_ANSWER_WORDS) -> bool:
    """Return whether an answer holds every word of a gold answer and few others."""
    answer = transcript.answer
    if answer is None or len(answer.split()) > max_answer_words:
        return False
    return cover_exact_match(answer, transcript.question.answers) == 1.0


def has_right_format(transcript: Transcript) -> bool:
    """Return whether no tag is misplaced, forged or unanswered, an answer is given, none garbled.

    The rule is that of R1-Searcher's rewards by events.
    """
    return _FORMAT(transcript)


def r1_searcher_plus_plus(
    *, penalty: float = 2.0, max_answer_words: int = MAX_ANSWER_WORDS
) -> Reward:
    """Return the reward of a single rollout: 1 for the answer, less a penalty for a wrong format.

    Args:
        penalty: Subtracted, once, for a wrong format.
        max_answer_words: A longer answer is wrong, whatever it covers.

    Raises:
        ConfigurationError: An impossible number.

    Example:
        >>> r1_searcher_plus_plus().parts
        ('answer', 'format')
    """
    check_count("max_answer_words", max_answer_words, least=1)
    function = _OfOne(check_amount("penalty", penalty), max_answer_words)
    return Reward("r1-searcher++", ("answer", "format"), function)


def fewest_searches(
    *,
    coefficient: float = 2.0,
    exponent: float = 2.0,
    cap: float | None = 2.0,
    ties: Ties = "all",
    unbiased: bool = False,
    max_answer_words: int = MAX_ANSWER_WORDS,
    needs_format: bool = False,
) -> GroupReward:
    """Return the reward of the right rollouts with the fewest searches of their group.

    With the standard deviation of the right rollouts' numbers of searches, it is
    ``min(coefficient * deviation ** exponent, cap)``: 0 where all searched alike, or one is right.

    Args:
        coefficient: Not published; 2 makes the cap bind from a deviation of 1 on.
        exponent: Above 0. Not published; 2 makes it the variance.
        cap: The largest reward, published as 2; None for no limit.
        ties: What several with the fewest searches earn: ``"all"`` (each the whole, as each did
            what is rewarded), ``"share"`` (equal parts of it) or ``"none"`` (nothing).
        unbiased: Divide the squared deviations by the right rollouts less one. Not published; with
            False a group of two with one search between them earns .5, with True 1.
        max_answer_words: As for :func:`r1_searcher_plus_plus`.
        needs_format: Count only rollouts with a right format as right. The published rule names
            right answers alone; their format is paid by the other reward.

    Raises:
        ConfigurationError: An impossible value.

    Example:
        >>> fewest_searches().parts
        ('group',)
    """
    check_choice("ties", ties, _TIES)
    check_count("max_answer_words", max_answer_words, least=1)
    if not check_amount("exponent", exponent):
        raise ConfigurationError(
            f"Expected an exponent above 0, got {exponent!r}: equal numbers of searches would be "
            "paid. Pass 2 for the variance, 1 for the standard deviation."
        )
    function = _FewestSearches(
        coefficient=check_amount("coefficient", coefficient),
        exponent=float(exponent),
        cap=math.inf if cap is None else check_amount("cap", cap),
        ties=ties,
        unbiased=check_flag("unbiased", unbiased),
        max_answer_words=max_answer_words,
        needs_format=check_flag("needs_format", needs_format),
    )
    return GroupReward("r1-searcher++-group", ("group",), function)


@dataclass(frozen=True, slots=True)
class _OfOne:
    penalty: float
    max_answer_words: int

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {
            "answer": float(covers_briefly(transcript, self.max_answer_words)),
            "format": 0.0 if has_right_format(transcript) else -self.penalty,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _FewestSearches:
    coefficient: float
    exponent: float
    cap: float
    ties: Ties
    unbiased: bool
    max_answer_words: int
    needs_format: bool

    def __call__(self, group: Sequence[Transcript]) -> list[Mapping[str, float]]:
        right = [self._is_right(member) for member in group]
        searches = [len(member.searches) for member in group]
        counts = [count for count, counted in zip(searches, right, strict=True) if counted]
        fewest = min(counts, default=None)
        worth = self._worth(counts)
        tied = counts.count(fewest) if fewest is not None else 0
        if tied > 1:
            worth = {"all": worth, "share": worth / tied, "none": 0.0}[self.ties]
        return [
            {"group": worth if counted and count == fewest else 0.0}
            for count, counted in zip(searches, right, strict=True)
        ]

    def _is_right(self, transcript: Transcript) -> bool:
        has_format = not self.needs_format or has_right_format(transcript)
        return has_format and covers_briefly(transcript, self.max_answer_words)

    def _worth(self, counts: Sequence[int]) -> float:
        """Return what the spread of the right rollouts' numbers of searches is worth."""
        if len(counts) < 2:
            return 0.0
        # Integers until the division, so that the order of the members does not matter.
        number, divisor = len(counts), len(counts) - self.unbiased
        squares = number * sum(count * count for count in counts) - sum(counts) ** 2
        deviation = math.sqrt(squares / (number * divisor))
        return min(self.coefficient * math.pow(deviation, self.exponent), self.cap)


R1_SEARCHER_PLUS_PLUS = register_reward(r1_searcher_plus_plus())
"""1 for the answer, less 2 for a wrong format, in [-2, 1]."""

R1_SEARCHER_PLUS_PLUS_GROUP = register_group_reward(fewest_searches())
"""``min(2 * variance, 2)`` to each right rollout with the fewest searches, in [0, 2]."""
