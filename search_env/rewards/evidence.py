"""Rewards of what was found, whatever is answered: a gold answer, or the supporting documents.

They are shaping: meant beside a reward of the answer, bounded well below it, and switched off in
the end. Both pay at the end of the episode, once.

Source: arXiv 2505.11821 (MT-PPO), whose turns earn 0.3 if the gold answer is in their results.
Paid once an episode and not once a turn, by whole words, and the recall of supporting documents:
this project.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_env.metrics.answers import R1_SEARCHER
from search_env.rewards.base import Reward, register_reward
from search_env.types import Transcript
from search_env.validation import check_amount


def answer_found(amount: float = 0.3) -> Reward:
    """Return the reward of having a gold answer in what was retrieved.

    It must stand there in whole words, one after the other, as normalised by R1-Searcher's rule,
    in a passage as far as the policy saw it (blocks may have been cut). An answer of yes or no is
    never found: it would be in any text.

    Args:
        amount: Paid once.

    Raises:
        ConfigurationError: No finite number of at least 0.
    """
    return Reward("answer-found", ("answer_found",), _AnswerFound(check_amount("amount", amount)))


def evidence_recall(amount: float = 0.3) -> Reward:
    """Return the reward of having retrieved the question's supporting documents.

    Args:
        amount: For all of them; a share of them pays that share. Where the dataset names none,
            nothing is paid.

    Raises:
        ConfigurationError: No finite number of at least 0.
    """
    function = _EvidenceRecall(check_amount("amount", amount))
    return Reward("evidence-recall", ("evidence_recall",), function)


def passages_seen(transcript: Transcript) -> list[str]:
    """Return the passages that were inserted, as far as the policy saw them.

    Titles belong to them; ranks, tags and what stands for "nothing found" do not. Where a block
    had to be cut, its last passages are cut or empty. Passages are told apart by their lengths in
    characters, so a tokenizer that changes text (few do) shifts their borders by as much.
    """
    markup = transcript.required_markup()
    passages = []
    for search in transcript.searches:
        block = transcript.decode(transcript.tokens[search.start : search.end])
        block = block.removesuffix(markup.documents_suffix)
        position = len(markup.documents_prefix)
        for rank, document_id in enumerate(search.document_ids, 1):
            position += len(markup.document_rank.replace("{rank}", str(rank)))
            end = position + len(markup.document_text(transcript.documents[document_id]))
            passages.append(block[position:end])
            position = end
    return passages


@dataclass(frozen=True, slots=True)
class _AnswerFound:
    amount: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        golds = {R1_SEARCHER.normalize(gold) for gold in transcript.question.answers}
        golds -= {"", *R1_SEARCHER.closed_answers}
        texts = [f" {R1_SEARCHER.normalize(text)} " for text in passages_seen(transcript)]
        found = any(f" {gold} " in text for gold in golds for text in texts)
        return {"answer_found": self.amount if found else 0.0}


@dataclass(frozen=True, slots=True)
class _EvidenceRecall:
    amount: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        wanted = set(transcript.question.supporting)
        found = {i for search in transcript.searches for i in search.document_ids}
        share = len(wanted & found) / len(wanted) if wanted else 0.0
        return {"evidence_recall": self.amount * share}


ANSWER_FOUND = register_reward(answer_found())
"""0.3 if a gold answer was retrieved."""

EVIDENCE_RECALL = register_reward(evidence_recall())
"""0.3 for all supporting documents."""
