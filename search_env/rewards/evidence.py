"""Rewards of retrieval, whatever the answer: of a gold answer, or of the supporting documents.

They are shaping rewards: to be added to a reward of the answer, well below it in size, and switched
off at the end of training. Both are given once, at the end of the episode.

Source: arXiv 2505.11821 (MT-PPO), where a turn earns 0.3 if the gold answer is in its results. One
reward per episode instead of per turn, matching by whole words, and the recall of supporting
documents are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_env.metrics.golds_in_text import any_gold_in
from search_env.rewards.base import Reward, register_reward
from search_env.types import Transcript
from search_env.validation import check_amount


def answer_found(amount: float = 0.3) -> Reward:
    """Return the reward of retrieving a gold answer.

    A passage must contain it as contiguous whole words, normalised by R1-Searcher's rule, in the
    part that the policy saw (blocks may be truncated). Yes and no never count: any text would
    contain them.

    Args:
        amount: The reward, given at most once.

    Raises:
        ConfigurationError: ``amount`` is not a finite number of at least 0.
    """
    return Reward("answer-found", ("answer_found",), _AnswerFound(check_amount("amount", amount)))


def evidence_recall(amount: float = 0.3) -> Reward:
    """Return the reward of retrieving the question's supporting documents.

    Args:
        amount: The reward for all of them; a part of them earns that share, and questions without
            annotated documents earn nothing.

    Raises:
        ConfigurationError: ``amount`` is not a finite number of at least 0.
    """
    function = _EvidenceRecall(check_amount("amount", amount))
    return Reward("evidence-recall", ("evidence_recall",), function)


def passages_seen(transcript: Transcript) -> list[str]:
    """Return the inserted passages as the policy saw them.

    They include titles, but no ranks, tags or text for "no documents". In a truncated block, the
    last passages are truncated or empty. Passages are separated by their lengths in characters, so
    a tokenizer that changes text (few do) shifts their boundaries.
    """
    markup = transcript.required_markup()
    passages = []
    for search in transcript.searches:
        block = transcript.decode(transcript.tokens[search.start : search.end])
        block = block.removesuffix(markup.documents_suffix)
        position = len(markup.documents_prefix)
        for rank, document in enumerate(search.documents, 1):
            position += len(markup.document_rank.replace("{rank}", str(rank)))
            end = position + len(markup.document_text(document))
            passages.append(block[position:end])
            position = end
    return passages


@dataclass(frozen=True, slots=True)
class _AnswerFound:
    amount: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        retrieved = any_gold_in(passages_seen(transcript), transcript.question.answers)
        return {"answer_found": self.amount if retrieved else 0.0}


@dataclass(frozen=True, slots=True)
class _EvidenceRecall:
    amount: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        supporting = set(transcript.question.supporting)
        retrieved = {i for search in transcript.searches for i in search.document_ids}
        share = len(supporting & retrieved) / len(supporting) if supporting else 0.0
        return {"evidence_recall": self.amount * share}


ANSWER_FOUND = register_reward(answer_found())
"""0.3 if a gold answer was retrieved."""

EVIDENCE_RECALL = register_reward(evidence_recall())
"""0.3 for all supporting documents."""
