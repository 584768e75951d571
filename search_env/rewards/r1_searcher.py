"""R1-Searcher's two phases, judged by events: the paper's amounts, nobody's text counted.

Phase 1 teaches to search and to keep the format, whatever is answered; phase 2 pays the answer.
What the format asks for is read from what the policy did: no violation of the grammar of tags
(:func:`search_env.protocols.grammar.format_violations`) and no garbled text, as in the paper.
Retrieved text has no say. The released servers, which count substrings of everything, documents
included, are :mod:`search_env.rewards.r1_searcher_released`.

Where the paper is silent: a query that found nothing was run and answered (the policy did its
part), so phase 1 pays it.

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
"""The one sign of garbled text in the released servers: CJK unified ideographs."""


def r1_searcher_stage1(
    *,
    retrieval: float = 0.5,
    format: float = 0.5,
    max_answer_words: int | None = None,
    forbidden: Sequence[str] = (),
) -> Reward:
    """Return the reward of phase 1: search at least once, and keep the format.

    Args:
        retrieval: Paid once if at least one query was run, however many more there were.
        format: Paid if the format is right.
        max_answer_words: Longest answer of the right format, in words; None: no limit.
        forbidden: Texts that the policy may not write, as they are spelled. The released Qwen
            server forbids ``Assistant`` and ``assistant``.

    Raises:
        ConfigurationError: A number or text that cannot be meant.

    Example:
        >>> r1_searcher_stage1().parts
        ('retrieval', 'format')
    """
    function = _Stage1(
        check_amount("retrieval", retrieval),
        check_amount("format", format),
        _format_rules(max_answer_words, forbidden),
    )
    return Reward("r1-searcher-stage1", ("retrieval", "format"), function)


def r1_searcher_stage2(
    *,
    penalty: float = 2.0,
    max_answer_words: int | None = None,
    forbidden: Sequence[str] = (),
) -> Reward:
    """Return the reward of phase 2: the answer's F1, less a penalty for the wrong format.

    Args:
        penalty: Taken, once, if the format is wrong.
        max_answer_words: As for :func:`r1_searcher_stage1`.
        forbidden: As for :func:`r1_searcher_stage1`.

    Raises:
        ConfigurationError: A number or text that cannot be meant.

    Example:
        >>> r1_searcher_stage2().parts
        ('answer', 'format')
    """
    function = _Stage2(check_amount("penalty", penalty), _format_rules(max_answer_words, forbidden))
    return Reward("r1-searcher-stage2", ("answer", "format"), function)


@dataclass(frozen=True, slots=True)
class _FormatRules:
    """Whether an episode's format is right."""

    max_answer_words: int | None
    forbidden: tuple[str, ...]

    def __call__(self, transcript: Transcript) -> bool:
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
    right: _FormatRules

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {
            "retrieval": self.retrieval if transcript.searches else 0.0,
            "format": self.format if self.right(transcript) else 0.0,
        }


@dataclass(frozen=True, slots=True)
class _Stage2:
    penalty: float
    right: _FormatRules

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        return {
            "answer": token_f1(transcript.answer, transcript.question.answers),
            "format": 0.0 if self.right(transcript) else -self.penalty,
        }


def _format_rules(max_answer_words: int | None, forbidden: Sequence[str]) -> _FormatRules:
    if max_answer_words is not None:
        check_count("max_answer_words", max_answer_words, least=1)
    if isinstance(forbidden, str) or not all(isinstance(t, str) and t for t in forbidden):
        raise ConfigurationError(
            f"Expected forbidden to be a sequence of non-empty strings, got {forbidden!r}. Pass "
            "a tuple, also where there is only one text."
        )
    return _FormatRules(max_answer_words, tuple(forbidden))


R1_SEARCHER_STAGE1 = register_reward(r1_searcher_stage1())
"""Phase 1: 0.5 for a search and 0.5 for the format, in [0, 1]. No part for the answer."""

R1_SEARCHER_STAGE2 = register_reward(r1_searcher_stage2())
"""Phase 2: token F1 of the answer, less 2 for the wrong format, in [-2, 1]."""
