from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env import Question, SearchQAEnv, Source, TagRole, Transcript
from search_env.protocols.grammar import format_violations, open_thoughts, prompt_thoughts
from search_env.protocols.r1_searcher import R1_SEARCHER
from search_env.protocols.r1_searcher_plus_plus import R1_SEARCHER_PLUS_PLUS
from search_env.protocols.registry import register_protocol
from search_env.protocols.search_r1 import SEARCH_R1
from search_env.protocols.tagged_text import answer_text, query_text, without_tags
from search_env.protocols.toy import TOY
from search_env.tokens.tokenizer import load_tokenizer

PROTOCOLS = [R1_SEARCHER, R1_SEARCHER_PLUS_PLUS, SEARCH_R1, TOY]


def pieces(protocol):
    """Text made of tags, of parts of tags and of what stands between them."""
    tags = list(protocol.tag_texts)
    parts = [tag[:3] for tag in tags] + [tag[3:] for tag in tags]
    return st.lists(st.sampled_from([*tags, *parts, "<", ">", " ", "\n", "a", "é", "|"])).map(
        "".join
    )


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
@given(data=st.data())
def test_no_tag_is_left_and_other_words_stay(protocol, data):
    text = data.draw(pieces(protocol))
    clean = without_tags(protocol, text)
    assert not any(tag in clean for tag in protocol.tag_texts)
    assert clean == " ".join(clean.split())
    assert without_tags(protocol, clean) == clean
    plain = re.sub("[<>{}]", "", text)
    assert without_tags(protocol, plain) == " ".join(plain.split())


@pytest.mark.parametrize("name", ["r1-searcher", "r1-searcher++", "search-r1"])
@given(data=st.data())
def test_whatever_a_query_holds_it_is_one_query(name, data):
    env = SearchQAEnv(dataset="toy", protocol=name, tokenizer="byte")
    env.reset(seed=0)
    query = "x" + data.draw(pieces(env.protocol))
    for token in env.tokenizer.encode(query_text(env.protocol, query)):
        env.step(token)
    transcript = env.transcript()
    assert [s.query for s in transcript.searches] == [
        env.protocol.clean_query(without_tags(env.protocol, query))
    ]
    assert not transcript.faults


def test_texts_by_protocol():
    assert query_text(TOY, "key1  key2") == "<q> key1 key2 </q>"
    assert answer_text(SEARCH_R1, "Oslo") == "<answer> Oslo </answer>"
    assert answer_text(SEARCH_R1, "a </answer> b") == "<answer> a b </answer>"


def written(env, text):
    for token in env.tokenizer.encode(text):
        env.step(token)
    return open_thoughts(env.transcript())


def test_thinking_follows_the_tags():
    env = SearchQAEnv(dataset="toy", protocol="r1-searcher", tokenizer="byte")
    env.reset(seed=0)
    assert open_thoughts(env.transcript())  # the prompt leaves <think> open
    assert written(env, "well")
    assert not written(env, "</think>")
    assert written(env, "\n<think>")


def test_not_thinking_where_the_prompt_only_speaks_of_it():
    env = SearchQAEnv(dataset="toy", protocol="search-r1", tokenizer="byte")
    env.reset(seed=0)
    assert not open_thoughts(env.transcript())
    assert written(env, "<think>")


def test_not_thinking_without_think_tags():
    env = SearchQAEnv(dataset="toy", protocol="toy", tokenizer="toy")
    env.reset(seed=0)
    assert not env.protocol.pairs(TagRole.REASON)
    assert not open_thoughts(env.transcript())


def after_prompt(prompt, tokenizer):
    ids = tokenizer.encode(prompt)
    sources = np.full(len(ids), Source.PROMPT, np.int8)
    question = Question("q", "who", ("a",))
    return Transcript(
        question,
        "r1-searcher",
        ids,
        sources,
        (),
        decode=tokenizer.decode,
        markup=R1_SEARCHER.markup,
    )


ENDS = ["<think>", "</think>", "<thin", "k>", " ", "\n", "\n\n\n", "\u3000", "é", "\ufffd", "x"]


@pytest.mark.parametrize("name", ["byte", "world-1k"])
@given(parts=st.lists(st.sampled_from(ENDS), max_size=12))
def test_a_thought_is_open_where_the_prompt_ends_with_its_tag_and_white_space(name, parts):
    prompt = "Answer. " + "".join(parts)
    transcript = after_prompt(prompt, load_tokenizer(name))
    expected = ("think",) if prompt.rstrip().endswith("<think>") else ()
    assert prompt_thoughts(transcript) == expected
    assert open_thoughts(transcript) == expected


@pytest.mark.parametrize("ending", ["", "\n", "\n\n\n", " \n" * 9])
def test_the_packages_own_answer_is_well_formed_whatever_white_space_ends_the_prompt(ending):
    protocol = dataclasses.replace(
        R1_SEARCHER, name="spaced", base_prompt="{question}<think>" + ending
    )
    register_protocol(protocol, replace=True)
    env = SearchQAEnv(dataset="toy", protocol="spaced", tokenizer="byte")
    env.reset(seed=0)
    text = answer_text(env.protocol, "value1", thoughts=open_thoughts(env.transcript()))
    for token in env.tokenizer.encode(text):
        env.step(token)
    assert env.transcript().answer == "value1"
    assert not format_violations(env.transcript())
