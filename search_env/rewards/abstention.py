"""A reward of knowing what cannot be known: abstaining is an answer, and a wrong answer costs.

A dataset marks a question without an answer by giving the abstention as its gold answer, as SQuAD
2.0 gives none (Rajpurkar et al. 2018, arXiv 1806.03822). With a cost of t / (1 - t) a policy gains
by an answer only if it is right with a probability above t (Kalai et al. 2025, arXiv 2509.04664).
"""

from __future__ import annotations

from dataclasses import dataclass

from search_env.errors import ConfigurationError
from search_env.metrics.answers import R1_SEARCHER, exact_match
from search_env.rewards.base import Reward
from search_env.types import Transcript
from search_env.validation import check_amount, check_text

WHAT = 'Name what the policy writes when it does not know, such as "unknown".'


def abstention(answer: str = "unknown", cost: float = 1.0) -> Reward:
    """Return the reward of right answers, less the cost of wrong ones.

    =========================  ================  ============
    episode                    ``exact_match``   ``wrong``
    =========================  ================  ============
    answers a gold answer      1                 0
    abstains, and that is one  1                 0
    abstains, and it is not    0                 0
    answers anything else      0                 ``-cost``
    does not answer            0                 0
    =========================  ================  ============

    Args:
        answer: The abstention, compared as answers are.
        cost: Cost of a wrong answer, 0 or more.

    Raises:
        ConfigurationError: An abstention that is equal to an empty answer, or an impossible cost.

    Example:
        >>> abstention("unknown").parts
        ('exact_match', 'wrong')
    """
    check_text("answer", answer, WHAT)
    if not R1_SEARCHER.normalize(answer):
        raise ConfigurationError(
            f"Expected answer to have a word that scores compare, got {answer!r}. {WHAT}"
        )
    function = _Abstention(answer, check_amount("cost", cost))
    return Reward("abstention", ("exact_match", "wrong"), function)


@dataclass(frozen=True, slots=True)
class _Abstention:
    answer: str
    cost: float

    def __call__(self, transcript: Transcript) -> dict[str, float]:
        right = exact_match(transcript.answer, transcript.question.answers)
        silent = transcript.answer is None or exact_match(transcript.answer, (self.answer,)) == 1.0
        return {"exact_match": right, "wrong": 0.0 if right or silent else -self.cost}
