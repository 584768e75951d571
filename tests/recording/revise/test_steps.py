"""Steps, thoughts and transitions: by hand, and against a reader of texts."""

from __future__ import annotations

import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.recording.revise.settings import KEYWORDS, PLAIN, RevisionSettings
from search_env.recording.revise.steps import StepReader, plain_trace, policy_tokens
from search_env.tokens.tokenizer import load_tokenizer
from tests.recording.revise.episodes import write

BYTE = load_tokenizer("byte")
WORLD = load_tokenizer("world-1k")


def texts_of(trace, steps, tokenizer):
    """The text from each step's first token to the next one's."""
    starts = [step.start for step in steps.steps]
    ends = [*starts[1:], len(trace.tokens)]
    return [tokenizer.decode(trace.tokens[a:b]) for a, b in zip(starts, ends, strict=True)]


def test_a_plain_trace_by_hand():
    text = "First.\n\n\n\nBut no.\n\nbutter is fine.\n\n  hmm, wait.\n\nNot sure.\n\n"
    trace = plain_trace(BYTE, "Why?", text)
    steps = StepReader(BYTE, PLAIN).read(trace)
    assert texts_of(trace, steps, BYTE) == [
        "First.\n\n\n\n",
        "But no.\n\n",
        "butter is fine.\n\n  ",
        "hmm, wait.\n\n",
        "Not sure.\n\n",
    ]
    assert [step.has_keyword for step in steps.steps] == [False, True, False, True, True]
    places = [t.position for t in steps.transitions]
    assert places == [steps.steps[n].start for n in (1, 3, 4)]
    assert all(t.search == -1 and t.announced == t.position for t in steps.transitions)


def test_a_keyword_at_the_very_beginning_is_no_transition():
    trace = plain_trace(BYTE, "?", "Wait.\n\nWait.")
    assert len(StepReader(BYTE, PLAIN).read(trace).transitions) == 1


@pytest.mark.parametrize("tokenizer", [BYTE, WORLD], ids=["byte", "world-1k"])
def test_costs_by_hand(tokenizer):
    settings = replace(PLAIN, token_cost=1 / 64)
    trace = plain_trace(tokenizer, "?", "One.\n\nTwo.\n\nWait.\n\nFour.")
    reader = StepReader(tokenizer, settings)
    starts = [step.start for step in reader.read(trace).steps]
    for number, start in enumerate(starts):
        left = len(trace.tokens) - start
        assert reader.cost(trace, start) == 4 - number + left / 64
    assert StepReader(tokenizer, PLAIN).cost(trace) == 4.0
    assert StepReader(tokenizer, replace(PLAIN, separator="\n\n\n")).cost(trace) == 1.0


def test_a_search_episode_by_hand():
    """Toy tags; a space is blank, so searches are steps of their own and the answer is one."""
    episode = write("<q>key1 key2 </q><q>key3 key4 </q><a>value1 </a>")
    settings = RevisionSettings()
    reader = StepReader(load_tokenizer("toy"), settings)
    steps = reader.read(episode)
    first, second = episode.searches
    assert [step.search for step in steps.steps] == [0, 1, -1]
    assert steps.steps[1].start == first.end
    assert steps.steps[2].start == second.end
    prompt = int((episode.sources == 1).sum())
    at, then = steps.transitions
    assert (at.position, at.announced, at.search, at.after) == (prompt, prompt, 0, first.end)
    assert (then.position, then.search, then.after) == (first.end, 1, second.end)
    assert reader.cost(episode) == 3 + 2 * 2
    assert reader.cost(episode, second.end) == 1
    assert StepReader(load_tokenizer("toy"), replace(settings, search_cost=0.5)).cost(episode) == 4


def test_text_that_announces_a_search_is_a_step_before_it():
    env = gym.make("SearchQA-v0", dataset_options={"articles": 120, "questions": 4}).unwrapped
    pieces = [
        " I look it up.\n\n Alternatively, I need",
        " this.<|begin_of_query|> Ulm <|end_of_query|>",
        " Fine.\n\n<|begin_of_query|> Rom <|end_of_query|>",
        "</think>\n\n<answer> x </answer>",
    ]
    env.reset(options={"index": 0})
    for token in (t for piece in pieces for t in env.tokenizer.encode(piece).tolist()):
        env.step(token)
    episode = env.transcript()
    steps = StepReader(env.tokenizer, RevisionSettings()).read(episode)
    assert [step.search for step in steps.steps] == [-1, -1, 0, -1, 1, -1, -1]
    keyword, first, second = steps.transitions
    assert keyword.position == steps.steps[1].start
    assert (first.position, first.announced) == (steps.steps[2].start, steps.steps[1].start)
    assert second.position == second.announced == steps.steps[4].start  # a separator before it
    decoded = env.tokenizer.decode(episode.tokens[first.position : episode.searches[0].start])
    assert decoded == "<|begin_of_query|> Ulm <|end_of_query|>"


PIECES = st.sampled_from(["\n\n", "\n", " ", "a", "Wait", "wait", "But", ".", "Not", " sure", "é"])


@given(st.lists(PIECES, max_size=30).map("".join), st.sampled_from([BYTE, WORLD]))
def test_steps_are_what_a_regular_expression_finds(text, tokenizer):
    trace = plain_trace(tokenizer, "?", text)
    steps = StepReader(tokenizer, PLAIN).read(trace)
    expected = [chunk for chunk in text.split("\n\n") if chunk.strip()]
    assert len(steps.steps) == len(expected)
    words = "|".join(sorted(KEYWORDS, key=len, reverse=True))
    begins = [re.match(rf"\s*(?:{words})(?![A-Za-z0-9_])", chunk, re.I) for chunk in expected]
    assert [step.has_keyword for step in steps.steps] == [match is not None for match in begins]
    assert len(steps.transitions) == sum(match is not None for match in begins[1:])
    starts = [step.start for step in steps.steps]
    assert starts == sorted(starts)
    # Each begins in the token that holds its first letter.
    at = 0
    for chunk, start in zip(expected, starts, strict=True):
        at = text.index(chunk, at)
        letter = len(text[: at + len(chunk) - len(chunk.lstrip())].encode())
        before = len(tokenizer.bytes_of(trace.tokens[1:start].tolist()))
        assert before <= letter < before + len(tokenizer.token_bytes[trace.tokens[start]])
        at += len(chunk)


def test_costs_of_tails_add_up():
    random = np.random.default_rng(0)
    reader = StepReader(BYTE, replace(PLAIN, token_cost=0.25))
    for _ in range(50):
        text = "".join(random.choice(["a.", "\n\n", "Wait ", " "], 12))
        trace = plain_trace(BYTE, "??", text)
        cuts = sorted(random.integers(0, len(trace.tokens) + 1, 2).tolist())
        whole = reader.cost(trace, cuts[0]) - reader.cost(trace, cuts[1])
        steps = [s for s in reader.read(trace).steps if cuts[0] <= s.start < cuts[1]]
        tokens = policy_tokens(trace, cuts[0]) - policy_tokens(trace, cuts[1])
        assert whole == len(steps) + 0.25 * tokens
