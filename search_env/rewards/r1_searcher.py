"""R1-Searcher's two phases, computed from events, with the paper's amounts.

Phase 1 rewards searching and the format, whatever the answer; phase 2 rewards the answer. The
format is right if the policy's tags have no violation
(:func:`search_env.protocols.grammar.format_violations`) and its text is not garbled, as in the
paper. Retrieved text has no influence. The released servers, which count substrings of the whole
text, documents included, are :mod:`search_env.rewards.r1_searcher_released`. The paper does not say
whether a query without results counts as a search; here it does, as the policy did its part.

Source: arXiv 2503.05592 v2, the rewards of stage 1 and stage 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_env.errors import ConfigurationError
from search_env.metrics.answers import token_f1
from search_env.protocols.grammar import format_violations
from search_env.rewards.base import Reward, register_reward
from search_env.types import Source, Transcript
from search_env.validation import check_amount, check_count

GARBLED = re.compile("[\u4e00-\u9fff]")
"""CJK unified ideographs, the released servers' only sign of garbled text."""


def r1_searcher_stage1(
    *,
    retrieval: float = 0.5,
    format: float = 0.5,
    max_answer_words: int | None = None,
    forbidden: Sequence[str] = (),
) -> Reward:
    """Return the reward of phase 1, for at least one search and for the format.

    Args:
        retrieval: Reward for one or more queries that were run.
        format: Reward for the right format.
        max_answer_words: Longest answer of the right format, in words; None: no limit.
        forbidden: Texts that the policy may not write, case-sensitive. The released Qwen
            server forbids ``Assistant`` and ``assistant``.

    Raises:
        ConfigurationError: An impossible number or text.

    Example:
        >>> r1_searcher_stage1().parts
        ('retrieval', 'format')
    """
    amounts = check_amount("retrieval", retrieval), check_amount("format", format)
    function = _Stage1(*amounts, _format_rules(max_answer_words, forbidden))
    return Reward("r1-searcher-stage1", ("retrieval", "format"), function)


def r1_searcher_stage2(
    *, penalty: float = 2.0, max_answer_words: int | None = None, forbidden: Sequence[str] = ()
) -> Reward:
    """Return the reward of phase 2: the answer's F1, less a penalty for the wrong format.

    Args:
        penalty: Subtracted, once, for a wrong format.
        max_answer_words: As for :func:`r1_searcher_stage1`.
        forbidden: As for :func:`r1_searcher_stage1`.

    Raises:
        ConfigurationError: An impossible number or text.

    Example:
        >>> r1_searcher_stage2().parts
        ('answer', 'format')
    """
    function = _Stage2(check_amount("penalty", penalty), _format_rules(max_answer_words, forbidden))
    return Reward("r1-searcher-stage2", ("answer", "format"), function)


@dataclass(frozen=True, slots=True)
class FormatRules:
    """Whether an episode's format is right: its tags, and the policy's text as far as checked."""

    max_answer_words: int | None
    forbidden: tuple[str, ...]

    def __call__(self, transcript: Transcript) -> bool:
        """Return whether it is."""
        if format_violations(transcript):
            return False
        limit, words = self.max_answer_words, (transcript.answer or "").split()
        if limit is not None and len(words) > limit:
            return False
        written = transcript.text(Source.POLICY)
        return not GARBLED.search(written) and not any(t in written for t in self.forbidden)


@dataclass(frozen=True, slots=True)
class _Stage1:
    retrieval: float
    format: float
    has_format: FormatRules

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {
            "retrieval": self.retrieval if transcript.searches else 0.0,
            "format": self.format if self.has_format(transcript) else 0.0,
        }


@dataclass(frozen=True, slots=True)
class _Stage2:
    penalty: float
    has_format: FormatRules

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {
            "answer": token_f1(transcript.answer, transcript.question.answers),
            "format": 0.0 if self.has_format(transcript) else -self.penalty,
        }


def _format_rules(max_answer_words: int | None, forbidden: Sequence[str]) -> FormatRules:
    if max_answer_words is not None:
        check_count("max_answer_words", max_answer_words, least=1)
    if isinstance(forbidden, str) or not all(isinstance(t, str) and t for t in forbidden):
        raise ConfigurationError(
            f"Expected forbidden to be a sequence of non-empty strings, got {forbidden!r}. Pass "
            "a tuple, also where there is only one text."
        )
    return FormatRules(max_answer_words, tuple(forbidden))


R1_SEARCHER_STAGE1 = register_reward(r1_searcher_stage1())
"""Phase 1: 0.5 for a search and 0.5 for the format, in [0, 1]. No part for the answer."""

R1_SEARCHER_STAGE2 = register_reward(r1_searcher_stage2())
"""Phase 2: token F1 of the answer, less 2 for the wrong format, in [-2, 1]."""
