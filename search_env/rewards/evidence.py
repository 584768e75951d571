"""Rewards of what was found, whatever is answered: a gold answer, or the supporting documents.

They are shaping: meant beside a reward of the answer, bounded well below it, and switched off in
the end. Both pay at the end of the episode, once.

Source: arXiv 2505.11821 (MT-PPO), whose turns earn 0.3 if the gold answer is in their results.
Paid once an episode and not once a turn, by whole words, and the recall of supporting documents:
this project.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_env.protocols import get_protocol
from search_env.rewards.arguments import check_amount
from search_env.rewards.base import Reward, register_reward
from search_env.scoring import HOTPOTQA, normalize_squad
from search_env.types import Tag, Transcript


def answer_found(amount: float = 0.3) -> Reward:
    """Return the reward of having a gold answer in what was retrieved.

    It must stand there in whole words, one after the other, as normalised by SQuAD's rule, in the
    text that the policy saw (blocks may have been cut). An answer of yes or no is never found: it
    would be in any text.

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


def retrieved_texts(transcript: Transcript) -> list[str]:
    """Return what stands between the tags of each inserted block, as the policy saw it."""
    tags = get_protocol(transcript.protocol).tags
    texts = []
    for search in transcript.searches:
        block = transcript.decode(transcript.tokens[search.start : search.end])
        # The outermost tags are the environment's; a document may spell some of its own.
        inside = block.partition(tags[Tag.DOCUMENTS_OPEN])[2]
        texts.append(inside.rpartition(tags[Tag.DOCUMENTS_CLOSE])[0])
    return texts


@dataclass(frozen=True, slots=True)
class _AnswerFound:
    amount: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        golds = {normalize_squad(gold) for gold in transcript.question.answers}
        golds -= {"", *HOTPOTQA.closed_answers}
        texts = [f" {normalize_squad(text)} " for text in retrieved_texts(transcript)]
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
