"""The reward of knowing what cannot be known: every row of its table, by hand."""

from __future__ import annotations

import pytest

from search_env.errors import ConfigurationError
from search_env.rewards.abstention import abstention
from search_env.testing import check_reward
from search_env.types import Question
from tests.rewards.episodes import QUESTION, play

UNANSWERABLE = Question("q2", "Who wrote the last program?", ("unknown",))


@pytest.mark.parametrize(
    ("answer", "of_answerable", "of_unanswerable"),
    [
        ("Ada King", (1, 0), (0, -0.5)),
        ("Unknown.", (0, 0), (1, 0)),
        ("Grace Hopper", (0, -0.5), (0, -0.5)),
        ("Ada King or unknown", (0, -0.5), (0, -0.5)),  # hedging is no abstention
        ("", (0, -0.5), (0, -0.5)),
        (None, (0, 0), (0, 0)),
    ],
)
def test_golden_numbers(answer, of_answerable, of_unanswerable):
    reward = abstention("unknown", cost=0.5)
    text = "" if answer is None else f"</think><answer>{answer}</answer>"
    for question, expected in ((QUESTION, of_answerable), (UNANSWERABLE, of_unanswerable)):
        total, parts = reward(play(text, question=question))
        assert (parts["exact_match"], parts["wrong"]) == expected
        assert total == sum(expected)


def test_a_guess_pays_from_the_threshold_on():
    """A cost of t / (1 - t): by an answer that is right with probability t nothing is gained."""
    for threshold, cost in ((0.5, 1.0), (0.75, 3.0), (0.9, 9.0)):
        reward = abstention(cost=cost)
        right = reward(play("</think><answer>Ada King</answer>")).total
        wrong = reward(play("</think><answer>Ulm</answer>")).total
        assert threshold * right + (1 - threshold) * wrong == pytest.approx(0)


def test_the_contract():
    check_reward(abstention())
    check_reward(abstention("find", 0))


@pytest.mark.parametrize("answer", ["", " the ", "...", None])
def test_bad_abstentions(answer):
    with pytest.raises(ConfigurationError, match="unknown"):
        abstention(answer)


def test_a_bad_cost():
    with pytest.raises(ConfigurationError, match="cost"):
        abstention(cost=-1)
