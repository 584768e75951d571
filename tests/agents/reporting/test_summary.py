from __future__ import annotations

import dataclasses
import io
import re

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from search_env.agents.baselines.scripted import make_baseline
from search_env.agents.reporting.summary import Sample, results_table, select_samples, show_episodes
from search_env.agents.types import Trajectory
from search_env.envs.search_qa import bare_env
from search_env.errors import ConfigurationError
from search_env.evaluation.evaluate import evaluate
from search_env.protocols.grammar import format_violations
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Hop, Question, Source, StopReason

NO_TOKENS = np.zeros(0, np.int32)


def trajectory(question="q", **fields) -> Trajectory:
    exact = float(fields.pop("right", False))
    defaults = {
        "question_id": question,
        "group": 0,
        "tokens": NO_TOKENS,
        "sources": NO_TOKENS.astype(np.int8),
        "log_probs": np.zeros(0, np.float32),
        "values": None,
        "reward": exact,
        "reward_parts": {},
        "stop_reason": StopReason.ANSWERED,
        "valid": True,
        "well_formed": True,
        "answer": "x",
        "scores": {"exact_match": exact, "f1": exact, "cover_exact_match": exact},
        "num_searches": 1,
        "hops": 2,
        "kind": "",
    }
    return Trajectory(**{**defaults, **fields})


def printed(renderable, width=80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def cells(line: str) -> list[str]:
    return line.split()


def test_the_table_holds_hand_computed_means():
    before = [
        trajectory("a", right=True, hops=1, num_searches=0),
        trajectory("b", hops=2, num_searches=0, well_formed=False),
        trajectory("c", hops=2, num_searches=3),
        trajectory("d", hops=2, valid=False, num_searches=9),
    ]
    after = [
        trajectory(name, right=True, hops=1 + (name != "a"), num_searches=2) for name in "abcd"
    ]
    lines = printed(results_table({"before": before, "after": after}, resamples=200))
    rows = [cells(line) for line in lines if "before" in line or "after" in line]
    third = ["33.3", "33.3", "33.3", "1.00", "66.7", "3"]
    assert rows[0] == ["all", "before", *third], "a failed retrieval counts for nothing"
    assert rows[1] == ["after", "100.0", "100.0", "100.0", "2.00", "100.0", "4"]
    assert rows[2] == ["1", "hop", "before", "100.0", "100.0", "0.0", "0.00", "100.0", "1"]
    assert rows[4] == ["2", "hops", "before", "0.0", "0.0", "50.0", "1.50", "50.0", "2"]
    assert cells(lines[lines.index(next(x for x in lines if "1 hop" in x)) + 1])[0] == "100-100"


def test_intervals_are_those_of_the_bootstrap():
    from search_env.metrics.statistics import bootstrap_mean

    episodes = [trajectory(str(n), right=n % 3 == 0, hops=0) for n in range(50)]
    wanted = bootstrap_mean([float(n % 3 == 0) for n in range(50)], seed=4)
    lines = printed(results_table({"it": episodes}, seed=4))
    assert cells(lines[-1])[0] == f"{100 * wanted.low:.0f}-{100 * wanted.high:.0f}"
    assert len([line for line in lines if "hop" in line]) == 0, "hops are unknown here"


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_is_never_cut(width):
    episodes = [
        trajectory(str(n), right=n % 2 == 0, hops=1 + n % 4, num_searches=n % 9)
        for n in range(2000)
    ]
    table = results_table({"before": episodes, "after": episodes}, resamples=50)
    text = "\n".join(printed(table, width))
    assert "…" not in text
    assert "2,000" in text
    assert max(map(len, text.splitlines())) <= 80


def test_records_have_no_format_column():
    env = gym.make("SearchQA-Toy-v0", split="test")
    records = evaluate(env, make_baseline("oracle"), range(5))
    lines = printed(results_table({"oracle": records}, resamples=50))
    (row,) = [cells(line) for line in lines if "oracle" in line]
    assert row == ["all", "oracle", "100.0", "100.0", "100.0", "1.00", "-", "5"]


def test_a_table_of_nothing_is_named():
    with pytest.raises(ConfigurationError, match="'before', got none of 1"):
        results_table({"before": [trajectory(valid=False)]})


def test_the_telling_episodes():
    after = [
        trajectory("easy", right=True, hops=1),
        trajectory("long", right=True, hops=3, tokens=np.zeros(9, np.int32)),
        trajectory("short", right=True, hops=3, tokens=np.zeros(5, np.int32)),
        trajectory("silent", answer=None, num_searches=0),
        trajectory("mistaken", num_searches=2),
        trajectory("failed", valid=False),
    ]
    before = [trajectory(name) for name in ("easy", "long", "short", "silent", "mistaken")]
    told = select_samples(after, before)
    assert [(one.why, one.episode.question_id) for one in told] == [
        ("right, 3 hops", "short"),
        ("wrong, 2 hops", "mistaken"),
        ("before training, 3 hops", "long"),
        ("after training, 3 hops", "long"),
    ]
    assert told[2].episode is before[1]
    assert [one.episode.question_id for one in select_samples(after, count=3)] == [
        "short",
        "mistaken",
        "long",
    ]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), max_size=12),
    st.booleans(),
    st.integers(0, 15),
)
def test_as_many_questions_are_told_as_there_are(drawn, has_before, count):
    after = [
        trajectory(str(n), right=right, valid=valid, hops=hops)
        for n, (right, valid, hops) in enumerate(drawn)
    ]
    before = [trajectory(str(n), right=not right) for n, (right, _, _) in enumerate(drawn)]
    told = select_samples(after, before if has_before else None, count)
    asked = [one.episode.question_id for one in told]
    assert len(set(asked)) == min(count, sum(valid for _, valid, _ in drawn))
    assert all(one.episode.valid for one in told)
    firsts = [one for one in told if not one.why.startswith("before")]
    assert len(firsts) == len(set(asked)), "one look at each question, but for what it was before"


@pytest.fixture(scope="module")
def played():
    """An oracle's episode over several hops in the embedded world."""
    env = gym.make("SearchQA-v0", split="test", dataset_options={"articles": 200, "questions": 40})
    bare = bare_env(env)
    index = next(n for n, q in enumerate(bare.questions) if len(q.hops) == 3)
    evaluate(env, make_baseline("oracle"), [index])
    transcript = bare.transcript()
    episode = trajectory(
        transcript.question.id,
        right=True,
        tokens=transcript.tokens,
        sources=transcript.sources,
        answer=transcript.answer,
        num_searches=len(transcript.searches),
        well_formed=not format_violations(transcript),
        hops=3,
    )
    return episode, transcript, bare


def shown(told, tokenizer, questions, width=80, color=False) -> str:
    system = "truecolor" if color else None
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system=system)
    show_episodes(told, tokenizer, questions, console=console)
    return console.file.getvalue()


def test_an_episode_reads_from_question_to_verdict(played):
    episode, transcript, env = played
    text = shown([Sample("right, 3 hops", episode)], env.tokenizer, env.questions)
    flat = " ".join(text.split())
    assert "── right, 3 hops ──" in text
    assert f"Question {transcript.question.text}" in flat
    assert "User:" not in text, "the prompt's rules are not repeated"
    for search in transcript.searches:
        assert f"<|begin_of_query|> {search.query} <|end_of_query|>" in flat
    assert f"<answer> {transcript.answer} </answer>" in flat
    assert f"Answer {transcript.answer} right 3 searches" in flat
    written = sum(episode.sources == Source.POLICY)
    assert f"{written} tokens written" in text


def test_documents_are_cut_but_for_their_evidence(played):
    episode, transcript, env = played
    text = shown([Sample("right", episode)], env.tokenizer, env.questions)
    documents = [line for line in text.splitlines() if re.match(r"\(\d\)", line)]
    assert documents
    assert max(map(len, text.splitlines())) <= 80
    assert any(line.endswith("...") for line in documents)
    for hop in transcript.question.hops:
        assert any(hop.answer in line for line in documents), hop


def test_colours_are_those_of_who_wrote_it(played):
    episode, _, env = played
    text = shown([Sample("right", episode)], env.tokenizer, env.questions, color=True)
    assert "\x1b[38;2;84;143;219m(1)" in text, "documents"
    assert "\x1b[1;38;2;214;174;223m<answer>" in text, "tags"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain == shown([Sample("right", episode)], env.tokenizer, env.questions)


def test_texts_have_no_power_over_the_terminal():
    tokenizer = load_tokenizer("byte")
    tokens = tokenizer.encode("?\x1b[2J[red]see [/red]\r<answer>\x07</answer>")
    sources = np.full(len(tokens), Source.POLICY, np.int8)
    sources[0] = Source.PROMPT
    episode = trajectory(tokens=tokens, sources=sources, answer="\x1b]0;title\x07", hops=0)
    question = Question("q", "who\x1b[H?", ("\x1b[31mgold",), hops=(Hop("a", ""), Hop("b", "no")))
    text = shown([Sample("wrong", episode)], tokenizer, [question])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "[red]see [/red]" in text, "brackets are no markup"


def test_what_was_not_answered_says_why():
    episode = trajectory(answer=None, stop_reason=StopReason.MAX_TOKENS, num_searches=0)
    question = Question("q", "who?", ("gold",))
    text = shown([Sample("wrong", episode)], load_tokenizer("byte"), [question])
    assert "Answer    none (max tokens)   0 searches, 0 tokens written" in text


def test_an_unknown_question_is_named():
    other = dataclasses.replace(Question("q", "who?", ("gold",)), id="other")
    with pytest.raises(ConfigurationError, match="'q' among 1 questions"):
        shown([Sample("right", trajectory())], load_tokenizer("byte"), [other])
