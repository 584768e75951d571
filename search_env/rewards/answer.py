"""Rewards of the answer alone: exact match, token F1, cover exact match.

Without an answer, every part is 0. Answers are compared by R1-Searcher's rule, as everywhere in
this package; Search-R1's exact match, by SQuAD's rule, is in :mod:`search_env.rewards.search_r1`.
"""

from __future__ import annotations

from search_env.metrics.answers import cover_exact_match, exact_match, token_f1
from search_env.rewards.base import Reward, register_reward
from search_env.types import Transcript


def _f1(transcript: Transcript) -> dict[str, float]:
    return {"f1": token_f1(transcript.answer, transcript.question.answers)}


def _exact_match(transcript: Transcript) -> dict[str, float]:
    return {"exact_match": exact_match(transcript.answer, transcript.question.answers)}


def _cover_exact_match(transcript: Transcript) -> dict[str, float]:
    return {"cover_exact_match": cover_exact_match(transcript.answer, transcript.question.answers)}


F1 = register_reward(Reward("f1", ("f1",), _f1))
"""Token F1 of the answer, in [0, 1]. The default reward of the environments."""

EXACT_MATCH = register_reward(Reward("exact-match", ("exact_match",), _exact_match))
"""1 where the answer equals a gold answer after normalisation, else 0."""

COVER_EXACT_MATCH = register_reward(
    Reward("cover-exact-match", ("cover_exact_match",), _cover_exact_match)
)
"""1 where the answer contains every token of a gold answer, else 0; favours long answers."""
