"""A protocol that no module of the package knows: two pairs for thoughts, two for queries."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from search_env import (
    Document,
    Protocol,
    Question,
    SearchQAEnv,
    Tag,
    TagPair,
    TagRole,
    register_protocol,
)
from search_env.core.action_mask import ActionMasks
from search_env.core.dynamics import Dynamics
from search_env.core.episode_state import Query
from search_env.errors import ConfigurationError, ProtocolError
from search_env.protocols.grammar import format_violations, open_thoughts, prompt_thoughts
from search_env.protocols.protocol import Consequence
from search_env.protocols.tagged_text import answer_text, query_text
from search_env.recording.record import common_fields, decode, encode
from search_env.recording.replay import replay_episode
from search_env.rendering.palette import TAG
from search_env.rendering.spans import SpanStream
from search_env.rewards import get_reward
from search_env.tokens.tokenizer import load_tokenizer
from search_env.types import Answered, FaultKind, FormatFault, Searched, Source, TagWritten
from search_env.viewer.page import _tags

OWN = Protocol(
    name="own",
    source="this test",
    tags=(
        TagPair("think", TagRole.REASON, "<think>", "</think>"),
        TagPair("internal", TagRole.REASON, "<internal>", "</internal>"),
        TagPair("query", TagRole.TOOL, "<external>", "</external>", tool="search"),
        TagPair("image_query", TagRole.TOOL, "[look for]", "[/look for]", tool="image-search"),
        TagPair("answer", TagRole.ANSWER, "<answer>", "</answer>"),
        TagPair("documents", TagRole.DOCUMENTS, "<found>", "</found>"),
    ),
    base_prompt="{question} <think>\n\n\n",
    documents_prefix="<found>",
    document_rank="",
    document_body="{title}: {text}",
    documents_suffix="</found>",
    faults={FaultKind.NO_ACTION: Consequence.END},
    max_tokens=600,
    max_searches=3,
)
# Environments have one retriever, for one tool.
PLAYED = dataclasses.replace(
    OWN,
    name="own-played",
    tags=tuple(dataclasses.replace(p, tool="search" if p.tool else "") for p in OWN.tags),
)
BYTE = load_tokenizer("byte")
ANSWER_TAGS = ("</think>", "<answer>", "</answer>")
ANSWER = "</think><answer>Oslo</answer>"


@pytest.fixture(autouse=True)
def _registered():
    for protocol in (OWN, PLAYED):
        register_protocol(protocol, replace=True)


def begun(protocol: Protocol = OWN) -> Dynamics:
    dynamics = Dynamics(protocol, BYTE)
    dynamics.begin(0, Question("q", "Where?", ("Oslo",)))
    return dynamics


def write(dynamics: Dynamics, text: str) -> list[Query]:
    """Write a text, which may close queries; return them, answered."""
    queries = []
    for token in text.encode():
        for query in dynamics.append(slice(None), np.array([token])):
            queries.append(query)
            dynamics.insert_documents(0, [Document(query.tool, "Title", query.text)])
    return queries


def allowed(dynamics: Dynamics) -> str:
    mask = ActionMasks(dynamics).of(dynamics, 0)
    return bytes(np.flatnonzero(mask[:128]).tolist()).decode()


def test_each_query_names_its_tool():
    dynamics = begun()
    text = f"{query_text(OWN, 'fjord')}{query_text(OWN, 'photo', tool='image-search')}"
    assert write(dynamics, text) == [
        Query(0, "fjord", "search"),
        Query(0, "photo", "image-search"),
    ]
    write(dynamics, ANSWER)
    transcript = dynamics.transcript(0)
    assert transcript.answer == "Oslo"
    assert [(s.query, s.tool) for s in transcript.searches] == [
        ("fjord", "search"),
        ("photo", "image-search"),
    ]
    assert not format_violations(transcript)


def test_a_pending_query_and_its_tool_are_saved_with_the_episode():
    dynamics = begun()
    for token in b"[look for]a[/look for]":
        dynamics.append(slice(None), np.array([token]))
    other = begun()
    other.restore(0, dynamics.save(0))
    assert other.pending(0) == Query(0, "a", "image-search")
    assert begun().pending(0) is None


@pytest.mark.parametrize("first", [False, True])
def test_a_query_within_another_is_a_fault_and_only_its_own_tag_closes_it(first):
    dynamics = begun(dataclasses.replace(OWN, first_opening=first))
    queries = write(dynamics, "<external>a [look for]b[/look for]c</external>")
    assert queries == [Query(0, "b", "image-search")]
    kinds = [e.kind for e in dynamics.episodes[0].events if isinstance(e, FormatFault)]
    assert kinds == [FaultKind.NESTED_OPEN, FaultKind.UNOPENED_CLOSE]


def test_a_saved_episode_keeps_what_was_open():
    dynamics = begun()
    write(dynamics, "<external>a")
    saved = dynamics.save(0)
    write(dynamics, "</external>")
    dynamics.restore(0, saved)
    assert dynamics.written_inside(0, "query") == b"a"
    assert write(dynamics, "b</external>") == [Query(0, "ab", "search")]


@pytest.mark.parametrize(
    ("text", "violations"),
    [
        (ANSWER, ()),
        ("<internal>so</internal>" + ANSWER, ()),
        ("<internal>so <external>x</external></internal>" + ANSWER, ()),
        ("</think><internal>so</internal><answer>Oslo</answer>", ()),
        ("<internal>a</internal><internal>b</internal>" + ANSWER, ()),
        ("<internal>so</think></internal>" + ANSWER, ("misplaced_tag",)),  # closed crosswise
        ("<internal><internal></internal>" + ANSWER, ("misplaced_tag",)),
        ("</think><think></think><answer>Oslo</answer>", ("misplaced_tag", "misplaced_tag")),
        ("<internal></think><answer>Oslo</answer>", ("misplaced_tag",) * 3 + ("unclosed_tag",)),
        ("<found>" + ANSWER, ("forged_documents",)),
    ],
)
def test_the_grammar_reads_the_list_of_pairs(text, violations):
    dynamics = begun()
    write(dynamics, text)
    assert format_violations(dynamics.transcript(0)) == violations


def test_the_mask_reads_the_list_of_pairs():
    dynamics = begun()
    write(dynamics, "<internal>")
    write(dynamics, "</think")
    assert ">" not in allowed(dynamics)  # the inner thought is open
    write(dynamics, "! <internal")
    assert ">" not in allowed(dynamics)
    write(dynamics, "! [look for] [/look for")
    assert "]" not in allowed(dynamics)  # an empty query
    write(dynamics, "x[/look for")
    assert "]" in allowed(dynamics)
    write(dynamics, "! </external")
    assert ">" not in allowed(dynamics)  # another query is open
    write(dynamics, "![/look for]</internal></think></think")
    assert ">" not in allowed(dynamics)
    write(dynamics, "! <answer")
    assert ">" in allowed(dynamics)
    assert not dynamics.transcript(0).faults


def test_the_mask_refuses_what_the_environment_no_longer_holds_open():
    """The grammar holds the outer query open; the environment dropped it with the inner one."""
    dynamics = begun()
    write(dynamics, "<external>a [look for]b[/look for]c</external")
    assert ">" not in allowed(dynamics)


@pytest.mark.parametrize(
    ("ending", "thoughts"),
    [
        ("", ()),
        ("<think>.", ()),
        ("<internal>", ("internal",)),
        ("<think>\n<internal>\n\n\n\n", ("think", "internal")),
        ("<internal><think> ", ("internal", "think")),
        ("<think><internal><think>", ("internal", "think")),
        ("<think></think>", ()),
    ],
)
def test_a_prompt_may_leave_several_thoughts_open(ending, thoughts):
    dynamics = begun(dataclasses.replace(OWN, base_prompt="{question} " + ending))
    assert prompt_thoughts(dynamics.transcript(0)) == thoughts
    assert open_thoughts(dynamics.transcript(0)) == thoughts
    write(dynamics, answer_text(OWN, "Oslo", thoughts=thoughts))
    assert not format_violations(dynamics.transcript(0))


def test_scripted_answers_close_every_thought():
    dynamics = begun()
    write(dynamics, "<internal>well ")
    thoughts = open_thoughts(dynamics.transcript(0))
    assert thoughts == ("think", "internal")
    write(dynamics, answer_text(OWN, "Oslo", thoughts=thoughts))
    assert dynamics.transcript(0).answer == "Oslo"
    assert not format_violations(dynamics.transcript(0))


def test_the_viewer_reads_the_list_of_pairs():
    dynamics, stream = begun(), SpanStream()
    shown = []
    for part in ("a [x] <b> [look", " for]photo[/look for]", ANSWER):
        write(dynamics, part)
        shown += stream.advance(dynamics.transcript(0))
    marked = [span.text for span in shown if span.style is TAG]
    assert marked == ["[look for]", "[/look for]", "</think><answer>", "</answer>"]
    text = "".join(span.text for span in shown if span.source is Source.POLICY)
    assert text == "a [x] <b> [look for]photo[/look for]" + ANSWER
    numbers = {row[1] - row[0] + 1 for row in _tags(dynamics.transcript(0), BYTE)}
    assert numbers == {len(tag) for tag in ("[look for]", "[/look for]", *ANSWER_TAGS)}


def test_a_record_holds_tags_and_tools():
    dynamics = begun()
    write(dynamics, query_text(OWN, "fjord") + query_text(OWN, "photo", tool="image-search"))
    write(dynamics, ANSWER)
    transcript = dynamics.transcript(0)
    common = common_fields(SearchQAEnv(dataset="toy", tokenizer="byte"))
    line = encode(common, transcript, seed=0, reward=get_reward("f1"))
    assert b'["tag",' in line
    assert b'"image_query_close"]' in line
    assert decode("here", line).transcript.events == transcript.events


def test_an_episode_is_played_recorded_and_replayed():
    env = SearchQAEnv(dataset="toy", protocol="own-played", tokenizer="byte")
    env.reset(seed=0, options={"index": 0})
    text = "<internal>hm</internal>" + query_text(env.protocol, "key1")
    text += "[look for]key2[/look for]</think><answer>value1</answer>"
    for token in env.tokenizer.encode(text):
        env.step(token)
    transcript = env.transcript()
    assert [e.tag if isinstance(e, TagWritten) else type(e) for e in transcript.events[:-1]] == [
        Tag("internal", "open"),
        Tag("internal", "close"),
        Tag("query", "open"),
        Tag("query", "close"),
        Searched,
        Tag("image_query", "open"),
        Tag("image_query", "close"),
        Searched,
        Tag("think", "close"),
        Tag("answer", "open"),
        Tag("answer", "close"),
        Answered,
    ]
    assert not format_violations(transcript)
    line = encode(common_fields(env), transcript, seed=0, reward=env.reward)
    replayed = replay_episode(decode("here", line))
    assert (replayed.observations, replayed.searches) == (1 + len(text), 2)


def test_a_tool_without_a_retriever_is_refused_when_the_environment_is_made():
    with pytest.raises(ConfigurationError, match="'image-search' of the tags 'image_query'"):
        SearchQAEnv(dataset="toy", protocol="own", tokenizer="byte")
    with pytest.raises(ProtocolError, match="'image-search', 'search'"):
        query_text(OWN, "a", tool="image")


ANSWERS, QUERIES = OWN.pair(TagRole.ANSWER), OWN.pair(TagRole.TOOL)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (list(OWN.tags), "tuple of TagPair"),
        (("<q>", "</q>"), "tuple of TagPair"),
        ((*OWN.tags, ANSWERS), "unique names"),
        ((dataclasses.replace(ANSWERS, name="Answer"), *OWN.tags), "unique names"),
        ((dataclasses.replace(ANSWERS, name="second"), *OWN.tags), "role ANSWER"),
        (tuple(p for p in OWN.tags if p is not ANSWERS), "role ANSWER"),
        (tuple(p for p in OWN.tags if not p.tool), "role TOOL or more"),
        (tuple(p for p in OWN.tags if p.role is not TagRole.DOCUMENTS), "role DOCUMENTS"),
        ((dataclasses.replace(QUERIES, name="tool", tool=""), *OWN.tags), "name a tool"),
        ((TagPair("x", TagRole.REASON, "<x>", "</x>", "search"), *OWN.tags), "name a tool"),
    ],
)
def test_pairs_that_make_no_protocol(tags, message):
    with pytest.raises(ProtocolError, match=message):
        dataclasses.replace(OWN, tags=tags)


@pytest.mark.parametrize("name", ["", "query", "open", "_open", "query_opened"])
def test_names_that_are_no_tags(name):
    with pytest.raises(ValueError, match="_open or _close"):
        Tag.parse(name)


def test_no_pair_of_a_role():
    with pytest.raises(ProtocolError, match="role REASON"):
        dataclasses.replace(OWN, tags=OWN.tags[2:]).pair(TagRole.REASON)
