"""Every preset over the 625 published trajectories, against plain counting of their texts.

The functions named ``server_...`` are written in the released servers' plain style, from the
recorded text alone; they share nothing with the package.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from pathlib import Path

import pytest

from search_env.benchmarks.speed.published_trajectories import FILES, read_trajectories
from search_env.retrieval.base import FakeRetriever
from search_env.rewards import get_reward, r1_searcher_stage2
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Source
from tests.rewards.episodes import play

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"


def normalize(text):
    text = {"True": "yes", "False": "no"}.get(text, text).replace("_", " ").lower()
    for mark in string.punctuation + "‘’´`":
        text = text.replace(mark, " ")
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def server_f1(prediction, gold):
    prediction, gold = normalize(prediction), normalize(gold)
    if prediction != gold and {"yes", "no", "noanswer"} & {prediction, gold}:
        return 0.0
    same = sum((Counter(prediction.split()) & Counter(gold.split())).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction.split()), same / len(gold.split())
    return 2 * precision * recall / (precision + recall)


def server_covers(prediction, gold):
    return set(normalize(gold).split()) <= set(normalize(prediction).split())


def server_answer(text):
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def answer_tags_occur(text):
    return "<answer>" in text and "</answer>" in text


def seven_counts(text):
    return [
        text.count("<|begin_of_documents|>\n"),
        text.count("<|end_of_documents|>\n\n"),
        text.count("<|begin_of_query|>"),
        text.count("<|end_of_query|>"),
        text.count("<|begin_of_documents|>"),
        text.count("<|end_of_documents|>"),
        text.count("<|begin_of_documents|>\n(1)"),
    ]


def think_and_answer_right(text):
    return (
        text.count("<think>") == 0
        and text.count("</think>") == 1
        and text.count("<answer>") == 1
        and text.count("</answer>") == 1
    )


def llama_rules_hold(text):
    counts = seven_counts(text)
    if not all(count == counts[0] for count in counts):
        return False
    if not think_and_answer_right(text):
        return False
    outside = re.sub(
        r"<\|begin_of_documents\|>.*?<\|end_of_documents\|>", "", text, flags=re.DOTALL
    )
    return not any("\u4e00" <= character <= "\u9fff" for character in outside)


def server_stage1_paper(text, gold):
    searched = re.search(r"<\|end_of_query\|>\n\n<\|begin_of_documents\|>\n", text)
    return (0.5 if searched else 0) + (0.5 if llama_rules_hold(text) else 0)


def server_stage1_released(text, gold):
    score = -1
    if answer_tags_occur(text) and server_covers(server_answer(text), gold):
        score = 1
    counts = seven_counts(text)
    if all(count == counts[0] for count in counts) and counts[0] >= 1:
        score += 0.5
    if think_and_answer_right(text):
        score += 0.5
    return score


def server_stage2(text, gold, penalty):
    score = server_f1(server_answer(text), gold) if answer_tags_occur(text) else 0
    return score if llama_rules_hold(text) else score - penalty


def server_qwen_zero(text, gold):
    score = server_f1(server_answer(text), gold) if answer_tags_occur(text) else 0
    answer = server_answer(text)
    wrong = not llama_rules_hold(text)
    wrong = wrong or "Assistant" in text or "assistant" in text
    wrong = wrong or "begin_of_query" in answer or "begin_of_documents" in answer
    wrong = wrong or len(answer.split()) > 10
    return score - 2 if wrong else score


SERVERS = {
    "r1-searcher-text-stage1-paper": server_stage1_paper,
    "r1-searcher-text-stage1-released": server_stage1_released,
    "r1-searcher-text-stage2-paper": lambda text, gold: server_stage2(text, gold, 2),
    "r1-searcher-text-stage2-llama-released": lambda text, gold: server_stage2(text, gold, 1),
    "r1-searcher-text-qwen-zero-released": server_qwen_zero,
}


@pytest.fixture(scope="module")
def episodes(data_dir):
    """{question id: (trajectory, transcript)} of both files, each played token by token."""
    tokenizer = load_tokenizer("world-1k")
    played = {}
    for dataset in FILES:
        for trajectory in read_trajectories(data_dir, dataset):
            documents = dict(zip(trajectory.queries, trajectory.documents, strict=True))
            played[trajectory.question.id] = (
                trajectory,
                play(
                    *trajectory.segments,
                    question=trajectory.question,
                    retriever=FakeRetriever(documents),
                    tokenizer=tokenizer,
                    top_k=5,
                    max_tokens=1 << 15,
                    max_segment_tokens=None,
                ),
            )
    return played


def test_the_texts_are_the_recorded_ones(episodes):
    assert len(episodes) == 625
    for trajectory, transcript in episodes.values():
        written = transcript.text(Source.POLICY, Source.RETRIEVED, Source.NOTICE)
        assert written == trajectory.text


@pytest.mark.parametrize("name", SERVERS)
def test_text_presets_are_the_servers(episodes, name):
    reward = get_reward(name)
    for question_id, (trajectory, transcript) in episodes.items():
        expected = SERVERS[name](trajectory.text, trajectory.question.answers[0])
        assert reward(transcript).total == pytest.approx(expected, abs=1e-12), question_id


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_events_agree_with_the_paper_by_text_on_all_of_them(episodes, stage):
    by_events = get_reward(f"r1-searcher-{stage}")
    by_text = get_reward(f"r1-searcher-text-{stage}-paper")
    for _, transcript in episodes.values():
        assert by_events(transcript) == by_text(transcript)


def test_stage1_differs_from_the_released_one_by_its_answer_part(episodes):
    released, by_events = get_reward("r1-searcher-text-stage1-released"), get_reward(STAGE1)
    for _, transcript in episodes.values():
        parts = dict(released(transcript).parts)
        assert parts.pop("answer") in (-1.0, 1.0)
        assert by_events(transcript).parts == parts


STAGE1, STAGE2 = "r1-searcher-stage1", "r1-searcher-stage2"
QWEN = "r1-searcher-text-qwen-zero-released"
ASSISTANT = 'a passage says "assistant"'
LONG = "an answer of more than ten words"


def test_the_page_lists_where_stage2_differs_from_qwen_zero(episodes):
    expected = {
        f"{dataset}-{row}": reason
        for dataset, rows, reason in re.findall(
            r"^\| `(\w+)` \| ([\d, ]+) \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE
        )
        for row in rows.split(", ")
    }
    reasons = {}
    for question_id, (trajectory, transcript) in episodes.items():
        by_events, by_text = get_reward(STAGE2)(transcript), get_reward(QWEN)(transcript)
        if by_events != by_text:
            assert by_events.parts["answer"] == by_text.parts["answer"]
            assert (by_events.parts["format"], by_text.parts["format"]) == (0.0, -2.0)
            reasons[question_id] = why(trajectory, transcript)
    assert reasons == expected


def why(trajectory, transcript):
    """The reason from the recorded text, or None where there is no known one."""
    if len(server_answer(trajectory.text).split()) > 10:
        return LONG
    passages = [
        document.title + document.text for results in trajectory.documents for document in results
    ]
    if any("ssistant" in passage for passage in passages):
        assert "ssistant" not in transcript.text(Source.POLICY)
        return ASSISTANT
    return None


def test_with_the_qwen_servers_options_only_passages_make_a_difference(episodes):
    strict = r1_searcher_stage2(max_answer_words=10, forbidden=("Assistant", "assistant"))
    differing = [
        (trajectory, transcript)
        for trajectory, transcript in episodes.values()
        if strict(transcript) != get_reward(QWEN)(transcript)
    ]
    assert len(differing) == 42
    assert {why(*episode) for episode in differing} == {ASSISTANT}
