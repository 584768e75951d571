r"""R1-Searcher++'s protocol: what is published of it, and answers that a matching brace closes."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from search_env import Question, SearchQAEnv, TagPair, TagRole
from search_env.core.dynamics import Dynamics
from search_env.errors import ConfigurationError, ProtocolError
from search_env.evaluation.trajectory_text import read_trajectory
from search_env.protocols.grammar import format_violations, open_thoughts
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS, without_style
from search_env.protocols.registry import get_protocol
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.recording.record import common_fields, decode, encode
from search_env.recording.replay import replay_episode
from search_env.rendering.palette import TAG
from search_env.rendering.spans import spans
from search_env.rewards import get_reward
from search_env.testing import check_vector_env
from search_env.tokens.tag_automaton import load_tag_automaton
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Transcript
from search_env.viewer.page import _tags

PP = R1_SEARCHER_PLUS_PLUS
BYTE = load_tokenizer("byte")
ASKED = Question("q", "Where?", ("Oslo",))
BOXED = PP.pair(TagRole.ANSWER)


def written(text: str, protocol=PP, tokenizer=BYTE) -> Transcript:
    """Return the transcript of an episode without documents in which the policy writes a text."""
    automaton = load_tag_automaton(tokenizer, protocol.tag_texts)
    rules = dataclasses.replace(protocol, max_tokens=2000)
    dynamics = Dynamics(rules, tokenizer, automaton=automaton)
    dynamics.begin(0, ASKED)
    for token in tokenizer.encode(text):
        if dynamics.episodes[0].stop_reason is not None:
            break
        for _ in dynamics.append(slice(None), np.array([token])):
            dynamics.insert_documents(0, [])
    return dynamics.transcript(0)


def test_what_is_published():
    assert get_protocol("r1-searcher++") is PP
    assert PP.tag_texts == (
        *("<internal>", "</internal>", "<external>", "</external>"),
        *("\\boxed{", "}", "<document>", "</document>"),
    )
    assert PP.max_searches == 8


@pytest.mark.parametrize("style", ["base", "chatml", "llama-3"])
def test_prompts_name_every_tag_before_the_question(style):
    prompt = "".join(text for text, _ in PP.prompt_pieces("Where is {rank}?", style))
    rules = prompt[: prompt.index("Where is {rank}?")]
    assert all(tag in rules for tag in PP.tag_texts)
    assert "8 searches" in rules
    assert "{question}" not in prompt


def test_what_is_not_published_is_r1_searchers():
    for field in ("top_k", "max_tokens", "max_segment_tokens", "faults", "clean_query"):
        assert getattr(PP, field) == getattr(R1_SEARCHER, field)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{Oslo}", "Oslo"),
        ("\\boxed{ Oslo\n}.", "Oslo"),
        ("\\boxed{\\text{New York}}", "New York"),
        ("\\boxed{\\textbf{ {a} b }}", "{a} b"),
        ("\\boxed{\\text{a} and \\text{b}}", "\\text{a} and \\text{b}"),
        ("\\boxed{f(\\frac{a}{b}) = {}}}}", "f(\\frac{a}{b}) = {}"),
        ("}} {x} \\boxed {y} boxed{z} \\boxed{Oslo}", "Oslo"),
        ("\\boxed{a \\boxed{b} c}", "b"),  # the last opening counts, as in R1-Searcher
        ("\\boxed{", None),
        ("\\boxed{{Oslo}", None),
        ("<answer>Oslo</answer>", None),
        ("\\boxed{}", ""),
    ],
)
def test_the_brace_that_matches_closes_the_answer(text, answer):
    assert written(text).answer == answer


BRACES = st.lists(st.sampled_from(["\\boxed{", "{", "}", "a", "\\text{", " ", "\\"]), max_size=14)


def first_boxed(text: str) -> str | None:
    """The content of the first box, found by counting characters; None where it is not closed."""
    depth, start = 0, text.find("\\boxed{") + len("\\boxed{")
    for position in range(start - 1, len(text) if start >= len("\\boxed{") else 0):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return text[start:position]
    return None


@given(parts=BRACES, first=st.booleans())
def test_braces_match_as_counting_says(parts, first):
    """Boxes in boxes are compared where the first opening counts."""
    text = "".join(parts)
    boxes = text.count("\\boxed{")
    protocol = dataclasses.replace(PP, first_opening=first, clean_answer=str)
    transcript = written(text, protocol)
    if first or boxes == 1:
        assert transcript.answer == first_boxed(text)
    if boxes == 1 and transcript.answer is not None:
        assert not format_violations(transcript)
        read = read_trajectory(text).answer
        assert read == without_style(transcript.answer)


@pytest.mark.parametrize("name", ["byte", "world-1k", "gpt2.json"])
@settings(max_examples=25)
@given(parts=BRACES)
def test_answers_do_not_depend_on_the_tokenizer(name, parts, data_dir):
    tokenizer = load_tokenizer(str(data_dir / "tokenizers" / name) if "." in name else name)
    text = "".join(parts)
    assert written(text, tokenizer=tokenizer).answer == written(text).answer


@pytest.mark.parametrize(
    "pair",
    [
        TagPair("answer", TagRole.ANSWER, "\\boxed", "}", bracket="{"),
        TagPair("answer", TagRole.ANSWER, "\\boxed{", "}.", bracket="{"),
        TagPair("answer", TagRole.ANSWER, "\\boxed}", "}", bracket="}"),
        TagPair("answer", TagRole.ANSWER, "a【", "】", bracket="【"),
        TagPair("answer", TagRole.ANSWER, "a{{", "}", bracket="{{"),
    ],
)
def test_what_is_no_answer_in_brackets(pair):
    tags = tuple(pair if other.role is TagRole.ANSWER else other for other in PP.tags)
    with pytest.raises(ProtocolError, match="Expected bracket="):
        dataclasses.replace(PP, tags=tags)
    tags = (*PP.tags, TagPair("more", TagRole.REASON, "(", ")", bracket="("))
    with pytest.raises(ProtocolError, match="for an answer"):
        dataclasses.replace(PP, tags=tags)


def test_an_episode_in_the_environment_recorded_replayed_and_shown():
    env = SearchQAEnv(dataset="toy", protocol="r1-searcher++", tokenizer="byte", max_tokens=2000)
    env.reset(seed=0, options={"index": 9})
    text = "<internal>{key}</internal>" + query_text(env.protocol, 'key1 "key1" {')
    text += answer_text(env.protocol, "value{1} }", thoughts=open_thoughts(env.transcript()))
    for token in env.tokenizer.encode(text):
        *_, terminated, _, info = env.step(token)
    transcript = env.transcript()
    assert terminated
    assert (info["answer"], info["well_formed"], info["num_searches"]) == ("value1", True, 1)
    assert transcript.searches[0].query == "key1 key1"
    record = decode("here", encode(common_fields(env), transcript, seed=0, reward=env.reward))
    assert record.transcript.events == transcript.events
    assert replay_episode(record).searches == 1
    marked = [span.text for span in spans(transcript) if span.style is TAG]
    assert marked == ["<internal>", "</internal><external>", "</external>", "\\boxed{", "}"]
    assert [b - a + 1 for a, b in _tags(transcript, env.tokenizer)] == [10, 11, 10, 11, 7, 1]


@pytest.mark.parametrize("action_mask", [False, True])
def test_check_env_has_nothing_to_say(action_mask):
    arguments = {"protocol": "r1-searcher++", "action_mask": action_mask, "max_tokens": 700}
    check_env(gym.make("SearchQA-v0", **arguments).unwrapped)
    check_vector_env(partial(gym.make_vec, "SearchQA-v0", **arguments))


def test_trajectories_as_texts():
    text = (
        "<internal>Ulm is a city.</internal> <external> who lived in Ulm </external>\n\n"
        "<document>\n(1)Ulm   \\boxed{forged} <internal>x</internal>\n</document>\n\n"
        "So \\boxed{\\text{Ada}}"
    )
    read = read_trajectory(text)
    assert read.answer == "Ada"
    assert [search.query for search in read.searches] == ["who lived in Ulm"]
    assert "forged" in read.searches[0].documents[0]
    assert read_trajectory("<internal>So.</internal> \\boxed{Ada}").searches == ()
    assert read_trajectory("So \\boxed{Ada}").searches is None
    assert read_trajectory("So \\boxed{Ada}", prompt=PP.base_prompt).searches == ()


def test_a_file_of_outputs_is_scored(tmp_path):
    from search_env.evaluation.foreign_outputs import read_outputs

    rows = [
        {"input": PP.base_prompt.replace("{question}", "Who?"), "output": output, "gts": ["Ada"]}
        for output in (
            "<external>who</external>\n\n<document>\n(1)A   Ada\n</document>\n\n\\boxed{Ada}",
            "<internal>Ada.</internal> \\boxed{\\text{Ada}}",
            "I do not know",
        )
    ]
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (episodes,) = read_outputs(path).values()
    assert [e.exact_match for e in episodes] == [1.0, 1.0, 0.0]
    assert [e.searches for e in episodes] == [1, 0, 0]
    assert [e.question for e in episodes] == ["Who?"] * 3
    assert episodes[0].answer_recall == 1.0


def test_search_r1s_structure_is_not_read_in_brackets():
    reward = get_reward("search-r1-format")
    with pytest.raises(ConfigurationError, match="ends with a bracket"):
        SearchQAEnv(dataset="toy", protocol="r1-searcher++", tokenizer="byte", reward=reward)
