"""Search-R1's rewards: exact match (v0.2), and exact match with a format term (v0.3).

Both read the answer from the episode's events. The released code searches the whole text for answer
tags, the prompt's examples included, so that a rollout without an answer there answers "Beijing"
(and under v0.3 earns 0.1 for a wrong answer); here it has no answer and earns 0.

Source: PeterGriffinJin/Search-R1@a14dc3a, ``verl/utils/reward_score/qa_em.py``,
``qa_em_format.py`` and ``scripts/nq_hotpotqa/v0.3``; arXiv 2503.09516 and 2505.15117.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from search_env.errors import ConfigurationError
from search_env.metrics.answers import SQUAD, exact_match, normalize_squad
from search_env.protocols.grammar import prompt_thoughts
from search_env.rewards.base import Reward, register_reward
from search_env.rewards.evidence import passages_seen
from search_env.types import Markup, Side, Source, TagPair, TagRole, Transcript, pairs_by_tag
from search_env.validation import check_amount

# The state machine of v0.3: for each state, what may follow, and the next state. Tags are the
# policy's; RETRIEVED stands for a block that the environment inserted.
_NEXT: dict[str, dict[tuple[TagRole, Side] | Source, str]] = {
    "start": {(TagRole.REASON, "open"): "in thought"},
    "in thought": {(TagRole.REASON, "close"): "thought"},
    "thought": {(TagRole.TOOL, "open"): "in query", (TagRole.ANSWER, "open"): "in answer"},
    "in query": {(TagRole.TOOL, "close"): "query"},
    "query": {Source.RETRIEVED: "start"},  # of the next thought
    "in answer": {(TagRole.ANSWER, "close"): "answer"},
    "answer": {},
}


def search_r1_format(
    *, structure: float = 0.2, final: float = 0.1, retrieval: float = 0.0
) -> Reward:
    """Return Search-R1's reward of v0.3, for exact match and for the structure.

    =========  =========  =====================  ==========================
    answer     structure  gold answer retrieved  reward
    =========  =========  =====================  ==========================
    right      right                             1
    right      wrong                             1 - ``structure``
    wrong      right      yes                    ``structure + retrieval``
    wrong      right      no                     ``structure``
    wrong      wrong                             ``final``
    none                                         0
    =========  =========  =====================  ==========================

    The structure is right if the policy wrote a thought, then any number of pairs of an answered
    query and a thought, then the answer, with only white space between them. Only document blocks
    inserted by the environment count; a notice breaks the structure.

    Args:
        structure: Reward for the structure, and what a right answer loses without it.
        final: Reward for a wrong answer with a wrong structure.
        retrieval: Added to ``structure`` if the answer is wrong but a gold answer was retrieved.
            The scripts set 0; their comments mention 0.1 and more.

    Raises:
        ConfigurationError: An amount is not a finite number of at least 0.

    Example:
        >>> search_r1_format(retrieval=0.1).parts
        ('answer', 'format', 'retrieval')
    """
    amounts = {"structure": structure, "final": final, "retrieval": retrieval}
    function = _Format(**{name: check_amount(name, value) for name, value in amounts.items()})
    parts = ("answer", "format", "retrieval")
    return Reward("search-r1-format", parts, function, check=check_thoughts)


@dataclass(frozen=True, slots=True)
class _Format:
    structure: float
    final: float
    retrieval: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        golds, right = transcript.question.answers, structure_is_right(transcript)
        parts = {"answer": 0.0, "format": 0.0, "retrieval": 0.0}
        if transcript.answer is None:
            return parts
        if exact_match(transcript.answer, golds, SQUAD):
            return {**parts, "answer": 1.0, "format": 0.0 if right else -self.structure}
        parts["format"] = self.structure if right else self.final
        if right and _gold_was_retrieved(transcript):
            parts["retrieval"] = self.retrieval
        return parts


def structure_is_right(transcript: Transcript) -> bool:
    """Return whether an episode has the structure of Search-R1's v0.3.

    Where the prompt opened a thought (R1-Searcher's does), the first one begins there.
    """
    markup = transcript.required_markup()
    check_thoughts(transcript.protocol, markup)
    by_text, pattern = _tags(markup.tags)
    thoughts = prompt_thoughts(transcript)
    state, inside = ("in thought", thoughts[-1]) if thoughts else ("start", "")
    for source, text in transcript.segments():
        if source is Source.PROMPT:
            continue
        for part in pattern.split(text) if source is Source.POLICY else [source]:
            piece = part if isinstance(part, Source) else by_text.get(part, part)
            if isinstance(piece, str):
                if not state.startswith("in ") and piece.strip():
                    return False
                continue
            symbol: tuple[TagRole, Side] | Source = source
            if not isinstance(piece, Source):
                pair, side = piece
                if side == "close" and pair.name != inside:
                    return False
                symbol, inside = (pair.role, side), pair.name
            if symbol not in _NEXT[state]:
                return False
            state = _NEXT[state][symbol]
    return state == "answer"


def check_thoughts(protocol: str, markup: Markup) -> None:
    """Raise a ConfigurationError for a protocol without tags for thoughts."""
    if not any(pair.role is TagRole.REASON for pair in markup.tags):
        raise ConfigurationError(
            f"Expected a protocol with tags for thoughts, got {protocol!r}. Without them no "
            "structure is right; choose reward 'search-r1-em' or 'r1-searcher-stage2'."
        )
    if any(pair.bracket for pair in markup.tags):
        raise ConfigurationError(
            f"Expected a protocol whose tags are tags wherever they stand, got {protocol!r}, whose "
            "answer ends with a bracket. Choose another reward, such as 'search-r1-em'."
        )


@functools.lru_cache(maxsize=64)
def _tags(pairs: tuple[TagPair, ...]) -> tuple[dict[str, tuple[TagPair, Side]], re.Pattern[str]]:
    """Return the tags by their texts, and the pattern that splits a text at them."""
    tags = {pair.text(tag.side): (pair, tag.side) for tag, pair in pairs_by_tag(pairs).items()}
    return tags, re.compile(f"({'|'.join(map(re.escape, tags))})")


def _gold_was_retrieved(transcript: Transcript) -> bool:
    """Return whether a gold answer is a substring of a passage, both normalised, as published."""
    golds = [g for g in map(normalize_squad, transcript.question.answers) if g]
    return any(g in normalize_squad(t) for t in passages_seen(transcript) for g in golds)


def _em(transcript: Transcript) -> dict[str, float]:
    return {"answer": exact_match(transcript.answer, transcript.question.answers, SQUAD)}


SEARCH_R1_EM = register_reward(Reward("search-r1-em", ("answer",), _em))
"""v0.2: exact match by SQuAD's rule, 0 or 1, without a term for format or retrieval."""

SEARCH_R1_FORMAT = register_reward(search_r1_format())
"""v0.3 with the amounts of its scripts, in [0, 1]."""
