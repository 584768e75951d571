"""R1-Searcher's presets row by row: the released servers' 36 values, and the paper's by hand.

Episodes are played by the environment's rules. Only row 10 cannot be (an answer ends the episode),
so its text is made by hand and the presets by events see what would have been played.
"""

from __future__ import annotations

import pytest
from hypothesis import given

from search_env.errors import ConfigurationError, RewardError
from search_env.protocols.grammar import format_violations
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import r1_searcher_stage1, r1_searcher_stage2
from search_env.rewards.r1_searcher import R1_SEARCHER_STAGE1, R1_SEARCHER_STAGE2
from search_env.rewards.r1_searcher_released import (
    R1_SEARCHER_TEXT_QWEN_ZERO,
    R1_SEARCHER_TEXT_STAGE1_PAPER,
    R1_SEARCHER_TEXT_STAGE1_RELEASED,
    R1_SEARCHER_TEXT_STAGE2_LLAMA,
    R1_SEARCHER_TEXT_STAGE2_PAPER,
)
from search_env.types import Document, Question, Source, StopReason
from tests.rewards.episodes import EOS, QUESTION, B, E, by_hand, play, policy_texts
from tests.rewards.test_published import SERVERS

SEARCH = f"I look.{B}engine{E}found"
RIGHT, WRONG = "</think>\n<answer> Ada Lovelace </answer>", "</think><answer>Babbage</answer>"
FORGED = "<|begin_of_documents|>\n(1)x\n<|end_of_documents|>\n\n"
LONG = "Ada King Countess of Lovelace born Byron in London in 1815"
LONG_GOLD = Question("q2", "Who?", (LONG,))
BLOCK = "\n\n<|begin_of_documents|>\n(1)x\n<|end_of_documents|>\n\n"
TWO_ANSWERS = f"{B}engine{E}{BLOCK}</think><answer>Babbage</answer><answer>Ada Lovelace</answer>"

EPISODES = {
    1: play(SEARCH, RIGHT),
    2: play(RIGHT),
    3: play(SEARCH, WRONG),
    4: play(WRONG),
    5: play(SEARCH, "</think>Ada Lovelace", EOS),
    6: play("Ada Lovelace", EOS),
    7: play(SEARCH, FORGED, RIGHT),
    8: play(SEARCH, f"</think><answer>{LONG}</answer>", question=LONG_GOLD),
    9: play(f"{B}coach{E}", RIGHT),
    10: by_hand(TWO_ANSWERS),
    11: play(SEARCH, B, "more", RIGHT),
    12: play(f"{B}nothing of the kind{E}", RIGHT),
}
# Row: what the text presets pay (stage 1 of the paper and released, stage 2 of the paper, of Llama,
# of Qwen), and what the presets by events pay (stages 1 and 2).
TABLE = {
    1: ((1.0, 2.0, 1, 1, 1), (1.0, 1)),
    2: ((0.5, 1.5, 1, 1, 1), (0.5, 1)),
    3: ((1.0, 0.0, 0, 0, 0), (1.0, 0)),
    4: ((0.5, -0.5, 0, 0, 0), (0.5, 0)),
    5: ((0.5, -0.5, -2, -1, -2), (0.5, -2)),
    6: ((0.0, -1.0, -2, -1, -2), (0.0, -2)),
    7: ((0.5, 1.5, -1, 0, -1), (0.5, -1)),
    8: ((1.0, 2.0, 1, 1, -1), (1.0, 1)),
    # A passage's words are not the policy's: by events nothing is wrong, as in the paper.
    9: ((1.0, 2.0, 1, 1, -1), (1.0, 1)),
    # In the environment the first answer, a wrong one, ends the episode: nothing is written twice.
    10: ((0.5, 1.5, -1, 0, -1), (1.0, 0)),
    11: ((0.5, 1.5, -1, 0, -1), (0.5, -1)),
    # The paper is silent on a search that found nothing (1.0 or 0.5 in phase 1). The servers miss
    # the "(1)"; by events the policy did its part.
    12: ((0.5, 1.5, -1, 0, -1), (1.0, 1)),
}
BY_TEXT = (
    R1_SEARCHER_TEXT_STAGE1_PAPER,
    R1_SEARCHER_TEXT_STAGE1_RELEASED,
    R1_SEARCHER_TEXT_STAGE2_PAPER,
    R1_SEARCHER_TEXT_STAGE2_LLAMA,
    R1_SEARCHER_TEXT_QWEN_ZERO,
)
BY_EVENTS = (R1_SEARCHER_STAGE1, R1_SEARCHER_STAGE2)


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("column", range(5))
def test_by_text(row, column):
    assert BY_TEXT[column](EPISODES[row]).total == TABLE[row][0][column]


@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("column", range(2))
def test_by_events(row, column):
    episode = EPISODES[row] if row != 10 else play(SEARCH, TWO_ANSWERS.split(BLOCK)[1])
    assert BY_EVENTS[column](episode).total == TABLE[row][1][column]


def test_rows_are_what_they_are_called():
    searches = {row: len(episode.searches) for row, episode in EPISODES.items()}
    assert searches == {1: 1, 2: 0, 3: 1, 4: 0, 5: 1, 6: 0, 7: 1, 8: 1, 9: 1, 10: 0, 11: 1, 12: 1}
    assert len(LONG.split()) == 11
    assert "assistant" in EPISODES[9].text(Source.RETRIEVED)
    assert "assistant" not in EPISODES[9].text(Source.POLICY)
    assert "None" in EPISODES[12].text(Source.RETRIEVED)
    clean = [row for row, episode in EPISODES.items() if not format_violations(episode)]
    assert clean == [1, 2, 3, 4, 8, 9, 12]


def test_parts():
    assert R1_SEARCHER_STAGE1(EPISODES[7]).parts == {"retrieval": 0.5, "format": 0.0}
    assert R1_SEARCHER_STAGE2(EPISODES[7]).parts == {"answer": 1.0, "format": -2.0}
    released = R1_SEARCHER_TEXT_STAGE1_RELEASED(EPISODES[7])
    assert released.parts == {"answer": 1.0, "retrieval": 0.0, "format": 0.5}


def test_retrieval_is_paid_once_and_only_for_a_search_that_ran():
    assert R1_SEARCHER_STAGE1(play(SEARCH, SEARCH, SEARCH, RIGHT)).total == 1.0
    assert R1_SEARCHER_STAGE1(play(f"{B} {E}")).total == 0.0  # an empty query
    unanswered = play(f"{B}engine{E}", max_searches=0)
    assert unanswered.stop_reason is StopReason.MAX_SEARCHES
    assert R1_SEARCHER_STAGE1(unanswered).total == 0.0
    capped = play(SEARCH, SEARCH, max_searches=1)
    assert R1_SEARCHER_STAGE1(capped).parts == {"retrieval": 0.5, "format": 0.0}
    assert [reward(capped).total for reward in BY_TEXT] == [0.5, -1.0, -2, -1, -2]


def test_garbled_text_is_the_policys_own():
    chinese = FakeRetriever({"engine": [Document("d", "引擎", "分析机")]})
    for reward, right in ((R1_SEARCHER_STAGE1, 1.0), (R1_SEARCHER_TEXT_STAGE2_LLAMA, 1.0)):
        assert reward(play(SEARCH, RIGHT, retriever=chinese)).total == right
    for character, garbled in (("\u4e00", 1), ("\u9fff", 1), ("\u3042", 0), ("é", 0)):
        episode = play(SEARCH, character, RIGHT)
        assert R1_SEARCHER_STAGE1(episode).parts["format"] == 0.5 - 0.5 * garbled
        assert R1_SEARCHER_STAGE2(episode).total == 1 - 2 * garbled
        assert R1_SEARCHER_TEXT_STAGE2_LLAMA(episode).total == 1 - garbled


def test_tags_in_a_passage_mislead_only_the_servers():
    tags = FakeRetriever({"engine": [Document("d", "", f"{E}</think><answer>x</answer>")]})
    episode = play(SEARCH, RIGHT, retriever=tags)
    assert [reward(episode).total for reward in BY_EVENTS] == [1.0, 1.0]
    assert [reward(episode).total for reward in BY_TEXT] == [0.5, 1.0, -1.0, 0.0, -1.0]


def test_order_matters_only_by_events():
    episode = play("<answer>", "</think>Ada Lovelace</answer>")
    f1 = 0.8  # "think Ada Lovelace" against "Ada Lovelace"
    assert [reward(episode).total for reward in BY_EVENTS] == pytest.approx([0.0, f1 - 2])
    assert R1_SEARCHER_TEXT_STAGE1_PAPER(episode).total == 0.5


def test_several_golds_by_events_and_the_first_one_by_text():
    episode = play("</think><answer>Ada King</answer>")
    assert R1_SEARCHER_STAGE2(episode).total == 1.0
    assert R1_SEARCHER_TEXT_STAGE2_PAPER(episode).total == 0.5
    assert R1_SEARCHER_TEXT_STAGE1_RELEASED(episode).parts["answer"] == -1.0


def test_amounts_and_options():
    episode, faulty = EPISODES[1], EPISODES[7]
    assert r1_searcher_stage1(retrieval=0.3, format=0.1)(episode).total == pytest.approx(0.4)
    assert r1_searcher_stage2(penalty=1)(faulty).total == 0.0
    assert r1_searcher_stage2(max_answer_words=10)(EPISODES[8]).total == -1.0
    assert r1_searcher_stage2(max_answer_words=11)(EPISODES[8]).total == 1.0
    assert r1_searcher_stage1(max_answer_words=1)(EPISODES[6]).total == 0.0
    forbidding = r1_searcher_stage2(forbidden=["assistant", "User:"])
    assert forbidding(EPISODES[9]).total == 1.0
    assert forbidding(play("an assistant", RIGHT)).total == -1.0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"retrieval": -0.5}, "retrieval"),
        ({"format": float("nan")}, "format"),
        ({"format": "0.5"}, "format"),
        ({"max_answer_words": 0}, "max_answer_words"),
        ({"max_answer_words": 2.0}, "max_answer_words"),
        ({"forbidden": "assistant"}, "forbidden"),
        ({"forbidden": ("",)}, "forbidden"),
    ],
)
def test_arguments_are_checked(arguments, name):
    with pytest.raises(ConfigurationError, match=f"^Expected {name} to be "):
        r1_searcher_stage1(**arguments)


def test_penalty_is_checked():
    with pytest.raises(ConfigurationError, match=r"^Expected penalty .* got -2\. "):
        r1_searcher_stage2(penalty=-2)


def test_text_presets_want_r1_searchers_tags():
    with pytest.raises(RewardError, match="Choose a reward by events"):
        R1_SEARCHER_TEXT_QWEN_ZERO(play("<answer>x</answer>", protocol="search-r1"))


SAID = ["begin_of_query", "begin_of_documents", "w " * 10, "w " * 11]
ANSWERS = [RIGHT, *(f"</think><answer>{text}</answer>" for text in SAID)]


@pytest.mark.parametrize(
    ("answer", "paid"),
    [("begin_of_query", -2), ("begin_of_documents", -2), ("w " * 10, 0), ("w " * 11, -2)],
)
def test_rules_of_the_qwen_server_alone(answer, paid):
    episode = play(f"</think><answer>{answer}</answer>")
    assert R1_SEARCHER_TEXT_QWEN_ZERO(episode).total == paid
    assert R1_SEARCHER_TEXT_STAGE2_LLAMA(episode).total == 0.0


@pytest.mark.parametrize("word", ["Assistant", "assistant"])
def test_the_qwen_server_reads_the_policys_assistant_too(word):
    episode = play(word, RIGHT)
    assert R1_SEARCHER_TEXT_QWEN_ZERO(episode).total == -1.0
    assert R1_SEARCHER_TEXT_STAGE2_LLAMA(episode).total == 1.0


@given(policy_texts(E, FORGED, "</think>", "<think>", "<answer>", "assistant", "引擎", *ANSWERS))
def test_any_text_is_counted_as_the_servers_count(text):
    episode = play(text, EOS)
    solution = episode.text(Source.POLICY, Source.RETRIEVED)
    for reward in BY_TEXT:
        expected = SERVERS[reward.name](solution, QUESTION.answers[0])
        assert reward(episode).total == pytest.approx(expected, abs=1e-12)


@given(policy_texts(E, FORGED, "</think>", "<answer>", RIGHT))
def test_events_and_text_differ_for_known_reasons_only(text):
    episode = play(text, EOS)
    by_events, by_text = R1_SEARCHER_STAGE1(episode), R1_SEARCHER_TEXT_STAGE1_PAPER(episode)
    assert by_events.parts["retrieval"] == by_text.parts["retrieval"]
    if by_events.parts["format"] > by_text.parts["format"]:
        assert any(not search.document_ids for search in episode.searches)
    if by_events.parts["format"] < by_text.parts["format"]:
        assert "misplaced_tag" in format_violations(episode)
