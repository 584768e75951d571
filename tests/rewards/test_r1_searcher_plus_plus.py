"""R1-Searcher++'s rewards: each format rule, the table of the group reward, parameters."""

from __future__ import annotations

import dataclasses
import math
import pickle
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.errors import ConfigurationError
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import get_group_reward, get_reward, group_scores
from search_env.rewards.r1_searcher_plus_plus import (
    R1_SEARCHER_PLUS_PLUS,
    R1_SEARCHER_PLUS_PLUS_GROUP,
    fewest_searches,
    r1_searcher_plus_plus,
)
from search_env.testing import check_group_reward, check_reward, failed_episode
from search_env.types import Document, Question, Searched
from tests.rewards.episodes import EOS, play

SEARCH = "<external>engine</external>"
RIGHT = "\\boxed{Ada Lovelace}"
YES = Question("q2", "Is it so?", ("yes",))
LONG = "Ada Lovelace of London in the kingdom of that time"  # ten words


def written(*pieces, **options):
    return play(*pieces, protocol="r1-searcher++", **options)


def worth(*pieces, **options):
    return R1_SEARCHER_PLUS_PLUS(written(*pieces, **options)).parts


@pytest.mark.parametrize(
    ("pieces", "answer", "format"),
    [
        ([SEARCH, RIGHT], 1, 0),
        (["<internal>Ada did.</internal>", RIGHT], 1, 0),
        ([RIGHT], 1, 0),
        ([SEARCH, "\\boxed{Bob}"], 0, 0),
        # The answer covers a gold answer, of any of them, in at most ten words.
        ([f"\\boxed{{{LONG}}}"], 1, 0),
        ([f"\\boxed{{{LONG} too}}"], 0, 0),
        (["\\boxed{King, or Ada,}"], 1, 0),
        (["\\boxed{Ada}"], 0, 0),
        (["\\boxed{\\text{Ada King}}"], 1, 0),
        (["\\boxed{}"], 0, 0),
        # The format, rule by rule.
        ([SEARCH, "<answer>Ada Lovelace</answer>", EOS], 0, -2),  # not in the boxed form
        ([SEARCH, "Ada Lovelace", EOS], 0, -2),
        (["<external>engine", RIGHT], 1, -2),  # the query's tag is left open
        (["engine</external>", RIGHT], 0, -2),  # it ends the episode
        (["<external> </external>", RIGHT], 0, -2),
        ([SEARCH, "<document>(1)Ada</document>", RIGHT], 1, -2),  # a document of the policy
        (["<internal>so", RIGHT], 1, -2),
        ([SEARCH, "引擎", RIGHT], 1, -2),  # garbled text
        ([SEARCH * 8, RIGHT], 1, 0),
        ([SEARCH * 9, RIGHT], 0, -2),  # the ninth query is not answered
    ],
)
def test_answer_and_format(pieces, answer, format):
    assert worth(*pieces) == {"answer": answer, "format": format}


def test_any_gold_answer_counts_and_documents_have_no_influence():
    both = dataclasses.replace(YES, answers=("no", "yes"))
    assert worth("\\boxed{yes}", question=both)["answer"] == 1
    assert worth("\\boxed{it is}", question=YES)["answer"] == 0
    found = FakeRetriever({"engine": [Document("d", "引擎", "<external> \\boxed{Bob}")]})
    assert worth(SEARCH, RIGHT, retriever=found) == {"answer": 1, "format": 0}


def test_amounts_and_words_are_parameters():
    mine = r1_searcher_plus_plus(penalty=0.5, max_answer_words=1)
    assert mine(written("<internal>", RIGHT)).parts == {"answer": 0.0, "format": -0.5}
    assert get_reward("r1-searcher++") is R1_SEARCHER_PLUS_PLUS
    for bad in ({"penalty": -1.0}, {"penalty": math.nan}, {"max_answer_words": 0}):
        with pytest.raises(ConfigurationError, match=next(iter(bad))):
            r1_searcher_plus_plus(**bad)


# The group.

_WRONG = "\\boxed{Bob}"


def member(searches, answer=RIGHT, fault=""):
    """An episode with so many searches, right unless told otherwise."""
    return written(SEARCH * searches, fault, answer)


@pytest.fixture(scope="module")
def members():
    """Right and wrong ones by number of searches; -1, -2, ... are wrong after 0, 1, ..."""
    kinds = {count: member(count) for count in range(9)}
    return kinds | {-1 - count: member(count, _WRONG) for count in range(5)}


def paid(reward, group):
    return [score.total for score in reward(group)]


@pytest.mark.parametrize(
    ("group", "paid_"),
    [
        # All right, equal counts: no deviation.
        ([2, 2, 2], [0, 0, 0]),
        ([0, 0], [0, 0]),
        # Exactly one right.
        ([1, -1, -3], [0, 0, 0]),
        # A wrong one never, and it does not enter the deviation.
        ([-1, 1, 2], [0, 0.5, 0]),  # variance of 1, 2: 0.25
        ([-1, -5, 2, 2], [0, 0, 0, 0]),
        # Counts 1 and 3: mean 2, variance 1, 2 * 1 = 2.
        ([1, 3], [2, 0]),
        # Counts 0, 1, 2: mean 1, variance 2/3, 4/3.
        ([0, 1, 2], [4 / 3, 0, 0]),
        # Counts 0, 8: variance 16; the cap.
        ([0, 8], [2, 0]),
        # Ties: counts 1, 1, 2, 2: variance 0.25; 1, 1, 1, 3: mean 1.5, variance 0.75.
        ([1, 1, 2, 2], [0.5, 0.5, 0, 0]),
        ([3, 1, 1, 1], [0, 1.5, 1.5, 1.5]),
        # Groups of one, and without a right one.
        ([0], [0]),
        ([-1], [0]),
        ([-1, -2, -5], [0, 0, 0]),
    ],
)
def test_the_table_of_consequences(members, group, paid_):
    assert paid(R1_SEARCHER_PLUS_PLUS_GROUP, [members[m] for m in group]) == pytest.approx(paid_)


@pytest.mark.parametrize(
    ("parameters", "group", "paid_"),
    [
        ({"coefficient": 3}, [1, 2], [0.75, 0]),
        ({"coefficient": 0}, [1, 3], [0, 0]),
        ({"exponent": 1}, [1, 2], [1, 0]),  # 2 * 0.5
        ({"exponent": 1}, [0, 1, 2], [2 * math.sqrt(2 / 3), 0, 0]),
        ({"exponent": 1, "cap": None}, [0, 8], [8, 0]),
        ({"cap": None}, [0, 8], [32, 0]),
        ({"cap": 0.25}, [1, 2], [0.25, 0]),
        ({"ties": "share"}, [1, 1, 3], [8 / 9, 8 / 9, 0]),  # variance 8/9, 16/9 in two
        ({"ties": "share"}, [1, 3], [2, 0]),
        ({"ties": "none"}, [1, 1, 3], [0, 0, 0]),
        ({"ties": "none"}, [1, 3, 3], [16 / 9, 0, 0]),
        ({"unbiased": True}, [1, 2], [1, 0]),  # 0.5 / 1
        ({"unbiased": True}, [1, -2], [0, 0]),  # one right: no deviation, not a division by 0
    ],
)
def test_what_is_not_published_is_a_parameter(members, parameters, group, paid_):
    got = paid(fewest_searches(**parameters), [members[m] for m in group])
    assert got == pytest.approx(paid_)


def test_right_in_a_wrong_format(members):
    group = [member(0, fault="<internal>"), members[2], members[2]]
    variance = statistics.pvariance([0, 2, 2])
    assert paid(fewest_searches(), group) == pytest.approx([2 * variance, 0, 0])
    assert paid(fewest_searches(needs_format=True), group) == [0, 0, 0]


def test_answers_that_are_too_long_are_wrong(members):
    group = [member(0, f"\\boxed{{{LONG} too}}"), members[1], members[3]]
    assert paid(fewest_searches(), group) == [0, 2, 0]
    assert paid(fewest_searches(max_answer_words=11), group)[0] > 0


@given(
    counts=st.lists(st.integers(-5, 8), min_size=1, max_size=6),
    coefficient=st.floats(0, 5),
    exponent=st.floats(0.25, 3),
    order=st.randoms(use_true_random=False),
)
def test_as_an_independent_implementation_says(members, counts, coefficient, exponent, order):
    group = [members[c] for c in counts]
    right = [c for c in counts if c >= 0]
    deviation = statistics.pstdev(right) if right else 0.0
    bonus = min(coefficient * deviation**exponent, 2.0)
    expected = [bonus if c >= 0 and c == min(right) else 0.0 for c in counts]
    reward = fewest_searches(coefficient=coefficient, exponent=exponent)
    got = paid(reward, group)
    assert got == pytest.approx(expected, abs=1e-12)
    places = list(range(len(group)))
    order.shuffle(places)
    assert paid(reward, [group[place] for place in places]) == [got[place] for place in places]


def test_rollouts_whose_retrieval_failed_are_no_members(members):
    failed = dataclasses.replace(failed_episode(), question=members[1].question)
    assert paid(R1_SEARCHER_PLUS_PLUS_GROUP, [failed, members[1], members[3]]) == [0, 2, 0]


def test_the_sum_of_all_parts(members):
    group = [members[1], members[3], members[-1], member(0, fault="<internal>")]
    own = [R1_SEARCHER_PLUS_PLUS(rollout) for rollout in group]
    group_reward = get_group_reward("r1-searcher++-group", beside=R1_SEARCHER_PLUS_PLUS)
    scores = group_scores(group_reward, group, own)
    bonus = min(2 * statistics.pvariance([1, 3, 0]), 2)
    assert [score.total for score in scores] == pytest.approx([1, 1, 0, 1 - 2 + bonus])
    assert all(tuple(score.parts) == ("answer", "format", "group") for score in scores)


def test_only_searches_that_were_run_count(members):
    """Eight searches and a ninth that was not run are eight."""
    ninth = written(SEARCH * 9, RIGHT)
    assert sum(isinstance(event, Searched) for event in ninth.events) == 8


@pytest.mark.parametrize(
    "bad",
    [
        {"coefficient": -1.0},
        {"exponent": 0.0},
        {"exponent": math.inf},
        {"cap": -1.0},
        {"ties": "first"},
        {"unbiased": 1},
        {"needs_format": "yes"},
        {"max_answer_words": 0},
    ],
)
def test_impossible_parameters(bad):
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        fewest_searches(**bad)


def test_the_contracts():
    check_reward(R1_SEARCHER_PLUS_PLUS)
    for ties in ("all", "share", "none"):
        check_group_reward(fewest_searches(ties=ties))
    again = pickle.loads(pickle.dumps(R1_SEARCHER_PLUS_PLUS_GROUP))
    assert again == R1_SEARCHER_PLUS_PLUS_GROUP
