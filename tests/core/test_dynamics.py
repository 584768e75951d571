"""The rules: tags, faults, budgets, insertion, state. No environment, no retriever."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.core.dynamics import Dynamics
from search_env.errors import ConfigurationError, ProtocolError
from search_env.protocols.protocol import Consequence, Protocol
from search_env.protocols.registry import get_protocol
from search_env.tokens.tag_automaton import load_tag_automaton
from search_env.tokens.tokenizer import Tokenizer, load_tokenizer
from search_env.types import (
    Answered,
    Document,
    Ended,
    FaultKind,
    FormatFault,
    Question,
    Searched,
    Source,
    StopReason,
    Tag,
    TagWritten,
    Transcript,
)

ALL = slice(None)
QUESTION = Question("q1", "Who?", ("Ada",))
DOCUMENT = Document("d1", "Ada", "Ada wrote it.")
R1 = get_protocol("r1-searcher").limited(max_tokens=4096)
SR1 = get_protocol("search-r1")
BYTE = load_tokenizer("byte")
EOS = 256
B, E = "<|begin_of_query|>", "<|end_of_query|>"


def rules(protocol: Protocol, tokenizer: Tokenizer = BYTE, rows: int = 1) -> Dynamics:
    """Dynamics whose automaton is built once for all examples."""
    automaton = load_tag_automaton(tokenizer, protocol.tag_texts)
    return Dynamics(protocol, tokenizer, rows=rows, automaton=automaton)


def feed(
    dynamics: Dynamics,
    ids: Sequence[int],
    documents: Mapping[str, list[Document]] | None = None,
    row: int = 0,
) -> int:
    """Send ids to one row until it ends; return how many were taken."""
    for count, token in enumerate(ids):
        if dynamics.episodes[row].stop_reason is not None:
            return count
        for query in dynamics.append(np.array([row]), np.array([int(token)])):
            results = [DOCUMENT] if documents is None else documents.get(query.text, [])
            dynamics.insert_documents(query.row, results)
    return len(ids)


def played(protocol: Protocol, *text: str | int, documents=None, tokenizer=BYTE) -> Transcript:
    """The transcript of one episode of policy text (ints are ids)."""
    dynamics = rules(protocol, tokenizer)
    dynamics.begin(0, QUESTION)
    ids = [i for t in text for i in ([t] if isinstance(t, int) else tokenizer.encode(t).tolist())]
    feed(dynamics, ids, documents)
    return dynamics.transcript(0)


def kinds(transcript: Transcript) -> list[FaultKind]:
    return [fault.kind for fault in transcript.faults]


def test_search_then_answer_in_full():
    t = played(R1, f"I look.{B}Ada{E}so</think><answer> Ada </answer>ignored")
    assert [(s, x) for s, x in t.segments()][1:] == [
        (Source.POLICY, f"I look.{B}Ada{E}"),
        (
            Source.RETRIEVED,
            "\n\n<|begin_of_documents|>\n(1)Ada   Ada wrote it.\n<|end_of_documents|>\n\n",
        ),
        (Source.POLICY, "so</think><answer> Ada </answer>"),
    ]
    assert t.segments()[0][1].endswith("User:Who?\nAssistant: <think>")
    (searched,) = t.searches
    assert (searched.query, searched.document_ids) == ("Ada", ("d1",))
    assert t.decode(t.tokens[searched.start : searched.end]) == t.segments()[2][1]
    assert (t.answer, t.stop_reason) == ("Ada", StopReason.ANSWERED)
    assert [type(e) for e in t.events] == [
        TagWritten,
        TagWritten,
        Searched,
        TagWritten,
        TagWritten,
        TagWritten,
        Answered,
        Ended,
    ]
    assert [e.tag for e in t.events if isinstance(e, TagWritten)] == [
        Tag("query", "open"),
        Tag("query", "close"),
        Tag("think", "close"),
        Tag("answer", "open"),
        Tag("answer", "close"),
    ]
    assert not t.faults
    assert t.documents == {"d1": DOCUMENT}


# What the policy writes, how the episode stands afterwards, which faults were found.
CASES = [
    (R1, f"{B} \n {E}", StopReason.FORMAT_FAULT, [FaultKind.EMPTY_QUERY]),
    (R1, f'{B} "" {E}', StopReason.FORMAT_FAULT, [FaultKind.EMPTY_QUERY]),
    (R1, f"Ada{E}", StopReason.FORMAT_FAULT, [FaultKind.UNOPENED_CLOSE]),
    (R1, "Ada</answer>", StopReason.FORMAT_FAULT, [FaultKind.UNOPENED_CLOSE]),
    (R1, f"{B}a{B}b{E}", None, [FaultKind.NESTED_OPEN]),
    (R1, f"<answer>{B}b{E}", None, [FaultKind.NESTED_OPEN]),
    (R1, "<|begin_of_documents|>x", None, [FaultKind.FORGED_DOCUMENTS]),
    (R1, "<|end_of_documents|>x", None, [FaultKind.FORGED_DOCUMENTS]),
    (R1, "<think><think>", None, []),
    (R1, f"<answer>{B}q{E}</answer>", StopReason.FORMAT_FAULT, [*"NU"]),
    (SR1, "<search> </search>", None, [FaultKind.EMPTY_QUERY]),
    (SR1, "x</search>", None, [FaultKind.UNOPENED_CLOSE]),
    (SR1, "x</answer>", None, [FaultKind.UNOPENED_CLOSE]),
    (SR1, "<information>", None, [FaultKind.FORGED_DOCUMENTS]),
]
_SHORT = {"N": FaultKind.NESTED_OPEN, "U": FaultKind.UNOPENED_CLOSE}


@pytest.mark.parametrize(("protocol", "text", "stop", "faults"), CASES)
def test_faults_and_what_follows(protocol, text, stop, faults):
    t = played(protocol, text)
    assert t.stop_reason == stop
    assert kinds(t) == [_SHORT.get(kind, kind) for kind in faults]
    noticed = {FaultKind.EMPTY_QUERY, FaultKind.UNOPENED_CLOSE} & set(kinds(t))
    assert (Source.NOTICE in t.sources) == (protocol is SR1 and bool(noticed))


def test_which_opening_counts_is_the_protocols():
    assert played(R1, f"{B}a{B}b{E}").searches[0].query == "b"
    assert played(SR1, "<search>a<search>b</search>").searches[0].query == "a<search>b"
    assert played(SR1, "<search>a<answer>b</answer>").answer == "b"
    assert played(SR1, "<search>a<answer>b</search>").searches[0].query == "a<answer>b"


def test_queries_are_cleaned_as_published():
    assert played(R1, f'{B} "Ada"\n  Lovelace\t{E}').searches[0].query == "Ada Lovelace"
    assert played(SR1, '<search> "Ada"  x </search>').searches[0].query == '"Ada"  x'


def test_end_of_sequence():
    ended = played(R1, "hm", EOS)
    assert (ended.stop_reason, ended.num_policy_tokens) == (StopReason.END_OF_SEQUENCE, 3)
    went_on = played(SR1, "hm", EOS, "<answer>Ada</answer>")
    assert kinds(went_on) == [FaultKind.NO_ACTION]
    assert went_on.answer == "Ada"
    assert SR1.notice in went_on.text(Source.NOTICE)


def test_nothing_found_is_said_as_published():
    t = played(R1, f"{B}Bob{E}", documents={})
    assert t.segments()[-1][1] == ("\n\n<|begin_of_documents|>\nNone\n<|end_of_documents|>\n\n")
    t = played(SR1, "<search>Bob</search>", documents={})
    assert t.segments()[-1][1] == "\n\n<information></information>\n\n"


def test_search_r1_documents_are_written_as_published():
    documents = [Document("1", "A", "x"), Document("2", "", "y")]
    t = played(SR1, "<search>q</search>", documents={"q": documents})
    assert t.segments()[-1][1] == ("\n\n<information>Doc 1(Title: A) x\nDoc 2y\n</information>\n\n")


def test_max_searches_closes_but_does_not_run():
    t = played(R1.limited(max_searches=2), f"{B}a{E}" * 4)
    assert (len(t.searches), t.stop_reason) == (2, StopReason.MAX_SEARCHES)
    assert kinds(t) == [FaultKind.UNANSWERED_QUERY]
    assert isinstance(t.events[-1], Ended)
    assert played(R1.limited(max_searches=0), f"{B}a{E}").stop_reason is StopReason.MAX_SEARCHES


def test_published_search_limit_is_eight():
    t = played(R1.limited(max_tokens=30_000), f"{B}a{E}" * 9)
    assert (len(t.searches), t.stop_reason) == (8, StopReason.MAX_SEARCHES)


def test_turns_count_searches_and_notices():
    turn = ["<search>a</search>", "x</search>", "<search>b</search>", "<search></search>"]
    t = played(SR1, *turn, "<search>c</search>")
    assert (len(t.searches), t.stop_reason) == (2, StopReason.MAX_TURNS)
    assert kinds(t)[-1] is FaultKind.UNANSWERED_QUERY
    assert played(SR1, *turn, "<answer>Ada</answer>").answer == "Ada"
    assert played(SR1, *turn, "x", EOS).stop_reason is StopReason.MAX_TURNS


def test_segment_limits():
    ended = played(R1, "x" * 512)
    assert (ended.stop_reason, ended.num_policy_tokens) == (StopReason.MAX_SEGMENT_TOKENS, 512)
    assert played(R1, "x" * 511).stop_reason is None
    renewed = played(R1, "x" * 400, f"{B}q{E}", "x" * 511)
    assert renewed.stop_reason is None
    noticed = played(SR1, "x" * 500, "<answer>Ada</answer>")
    assert (kinds(noticed), noticed.answer) == ([FaultKind.NO_ACTION], "Ada")


def test_policy_budget_counts_policy_tokens_only():
    limited = R1.limited(max_policy_tokens=60)
    t = played(limited, f"{B}q{E}", "x" * 100)
    assert (t.num_policy_tokens, t.stop_reason) == (60, StopReason.MAX_POLICY_TOKENS)
    spent = played(R1.limited(max_policy_tokens=len(f"{B}q{E}")), f"{B}q{E}")
    assert (spent.stop_reason, len(spent.searches)) == (StopReason.MAX_POLICY_TOKENS, 0)
    assert kinds(spent) == [FaultKind.UNANSWERED_QUERY]
    answered = "<answer>Ada</answer>"
    at_the_limit = played(R1.limited(max_policy_tokens=len(answered)), answered)
    assert at_the_limit.stop_reason is StopReason.ANSWERED


def prompt_length(protocol: Protocol) -> int:
    dynamics = rules(protocol)
    dynamics.begin(0, QUESTION)
    return dynamics.length(0)


def test_full_context():
    limit = prompt_length(R1) + 5
    t = played(R1.limited(max_tokens=limit), "x" * 9)
    assert (len(t.tokens), t.stop_reason) == (limit, StopReason.MAX_TOKENS)


@pytest.mark.parametrize("room", range(130))
def test_documents_are_cut_so_that_the_closing_tag_stays(room):
    query = f"{B}q{E}"
    long = Document("d", "Título", "é" * 200)
    limit = prompt_length(R1) + len(query) + room
    t = played(R1.limited(max_tokens=limit), query, documents={"q": [long]})
    frame = len(R1.documents_prefix) + len(R1.documents_suffix)
    assert t.stop_reason is (
        StopReason.MAX_TOKENS if room < frame or len(t.tokens) == limit else None
    )
    assert len(t.tokens) <= limit
    if room < frame:
        assert not t.searches
        assert kinds(t) == [FaultKind.UNANSWERED_QUERY]
    else:
        block = t.segments()[-1][1]
        assert block.endswith(R1.documents_suffix)
        assert block.startswith(R1.documents_prefix)
        assert "\ufffd" not in block
        assert len(t.tokens) >= limit - 1  # at most one byte is given up for a whole character


def test_block_limit_of_search_r1():
    long = [Document(str(i), "T", "word " * 300) for i in range(3)]
    t = played(SR1, "<search>q</search>", documents={"q": long})
    assert t.searches[0].end - t.searches[0].start == 500
    assert t.segments()[-1][1].endswith("</information>\n\n")


def test_prompt_that_does_not_fit():
    dynamics = rules(R1.limited(max_tokens=50))
    with pytest.raises(ConfigurationError, match="Raise max_tokens"):
        dynamics.begin(0, QUESTION)


def test_failed_retrieval_ends_the_episode():
    dynamics = rules(R1)
    dynamics.begin(0, QUESTION)
    for token in BYTE.encode(f"{B}q{E}"):
        queries = dynamics.append(ALL, np.array([int(token)]))
    assert [q.text for q in queries] == ["q"]
    dynamics.fail_retrieval(0)
    t = dynamics.transcript(0)
    assert (t.stop_reason, kinds(t)) == (
        StopReason.RETRIEVAL_ERROR,
        [FaultKind.UNANSWERED_QUERY],
    )
    assert not t.stop_reason.terminated
    with pytest.raises(ConfigurationError, match="waits for documents"):
        dynamics.insert_documents(0, [])


def words(*tokens: str) -> Tokenizer:
    """One id a word; encodes byte by byte through 256 further ids."""
    table = [*(t.encode() for t in tokens), *(bytes([b]) for b in range(256)), b"<eos>"]
    start = len(tokens)
    return Tokenizer(
        "words", table, lambda text, _: [start + b for b in text.encode()], [len(table) - 1]
    )


def test_bytes_after_a_closing_tag_stay_policy_and_out_of_the_query():
    tokenizer = words("<search>", "Ada</search>\n\nso ", "<answer>x</answer>.")
    t = played(SR1, 0, 1, 2, tokenizer=tokenizer)
    assert t.searches[0].query == "Ada"
    assert t.text(Source.POLICY) == "<search>Ada</search>\n\nso <answer>x</answer>."
    assert t.answer == "x"


def test_several_tags_in_one_token_act_in_order():
    opened = played(SR1, 0, 1, tokenizer=words("<search>a</search><answer>", "Ada</answer>"))
    assert (opened.searches[0].query, opened.answer) == ("a", "Ada")
    twice = played(SR1, 0, tokenizer=words("<search>a</search><search>b</search>"))
    assert ([s.query for s in twice.searches], kinds(twice)) == (
        ["b"],
        [FaultKind.UNANSWERED_QUERY],
    )
    ended = played(SR1, 0, tokenizer=words("<search>a</search><answer>b</answer>"))
    assert (ended.answer, len(ended.searches)) == ("b", 0)
    assert [type(e) for e in ended.events[-3:]] == [Answered, FormatFault, Ended]


def tag_soup(protocol: Protocol) -> st.SearchStrategy[str]:
    pieces = [*protocol.tag_texts, "a", " ", "Ada", "<", ">", "</", "é"]
    return st.lists(st.sampled_from(pieces), max_size=40).map("".join)


@pytest.mark.parametrize("protocol", [R1, SR1], ids=lambda p: p.name)
@given(data=st.data())
def test_policy_ids_are_the_actions_sent(tokenizer, protocol, data):
    protocol = dataclasses.replace(protocol, max_tokens=4096)
    text = data.draw(tag_soup(protocol))
    noise = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=20))
    dynamics = rules(protocol, tokenizer)
    dynamics.begin(0, QUESTION)
    ids = [*tokenizer.encode(text).tolist(), *noise]
    taken = feed(dynamics, ids)
    t = dynamics.transcript(0)
    assert t.tokens[t.sources == Source.POLICY].tolist() == ids[:taken]
    assert t.num_policy_tokens == dynamics.policy_tokens(0) == taken
    assert np.count_nonzero(t.sources == Source.PADDING) == 0
    assert len([e for e in t.events if isinstance(e, Ended)]) == (t.stop_reason is not None)


@pytest.mark.parametrize("protocol", [R1, SR1], ids=lambda p: p.name)
@given(data=st.data())
def test_retrieved_text_full_of_tags_changes_nothing(tokenizer, protocol, data):
    protocol = dataclasses.replace(protocol, max_tokens=8192)
    text, poison = data.draw(tag_soup(protocol)), data.draw(tag_soup(protocol))
    ids = tokenizer.encode(text).tolist()

    def events(document: Document) -> list[tuple]:
        dynamics = rules(protocol, tokenizer)
        dynamics.begin(0, QUESTION)
        feed(dynamics, ids, _Everything(document))
        transcript = dynamics.transcript(0)
        return [
            (type(e), getattr(e, "query", None) or getattr(e, "tag", None) or getattr(e, "text", 0))
            for e in transcript.events
        ]

    plain = Document("d", "x", "x")
    poisoned = Document("d", poison, "<|endoftext|>" + poison)
    assert events(poisoned) == events(plain)


class _Everything(dict):
    """Finds the same document for every query."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def get(self, query, default=None):
        return [self.document]


@given(data=st.data(), protocol=st.sampled_from([R1, SR1]))
def test_restored_episodes_go_on_identically(data, protocol):
    ids = BYTE.encode(data.draw(tag_soup(protocol)) + "<answer>Ada</answer>").tolist()
    cut = data.draw(st.integers(0, len(ids)))
    original = rules(protocol)
    original.begin(0, QUESTION)
    feed(original, ids[:cut])
    saved = pickle.loads(pickle.dumps(original.save(0)))
    other = rules(protocol, rows=3)
    for row in range(3):
        other.begin(row, Question("other", "Where? " * row, ("x",)))
    feed(other, ids, row=2)  # what was in the row before must leave no trace
    other.restore(2, saved)
    np.testing.assert_array_equal(other.tokens[2], original.tokens[0])
    feed(original, ids[cut:])
    feed(other, ids[cut:], row=2)
    a, b = original.transcript(0), other.transcript(2)
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_array_equal(a.sources, b.sources)
    assert a.events == b.events
    assert saved.episode.events == list(a.events[: len(saved.episode.events)])


@given(texts=st.lists(tag_soup(R1), min_size=2, max_size=5), protocol=st.sampled_from([R1, SR1]))
def test_rows_side_by_side_equal_rows_alone(texts, protocol):
    streams = [BYTE.encode(text).tolist() for text in texts]
    together = rules(protocol, rows=len(texts))
    for row in range(len(texts)):
        together.begin(row, QUESTION)
    for step in range(max(map(len, streams))):
        rows = [
            row
            for row, ids in enumerate(streams)
            if step < len(ids) and together.episodes[row].stop_reason is None
        ]
        tokens = np.array([streams[row][step] for row in rows])
        if rows:
            for query in together.append(np.array(rows), tokens):
                together.insert_documents(query.row, [DOCUMENT])
    for row, ids in enumerate(streams):
        alone = rules(protocol)
        alone.begin(0, QUESTION)
        feed(alone, ids)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_array_equal(alone.sources[0], together.sources[row])
        assert alone.episodes[0] == together.episodes[row]


def test_an_ended_row_that_was_restored_stays_ended():
    ended, both = rules(SR1), rules(SR1, rows=2)
    ended.begin(0, QUESTION)
    feed(ended, BYTE.encode("<answer>Ada</answer>").tolist())
    for row in (0, 1):
        both.begin(row, QUESTION)
    both.restore(1, ended.save(0))
    events = list(both.episodes[1].events)
    for _ in range(600):  # past the segment limit, also of a driver that writes into ended rows
        both.append(ALL, np.array([97, 97]))
    assert kinds(both.transcript(0)) == [FaultKind.NO_ACTION]
    assert both.episodes[1].events == events


def test_a_nested_opening_that_earns_a_notice_leaves_nothing_open():
    faults = {**SR1.faults, FaultKind.NESTED_OPEN: Consequence.NOTICE}
    strict = dataclasses.replace(SR1, faults=faults)
    t = played(strict, "<search>a<search>", "b</search>")
    assert kinds(t) == [FaultKind.NESTED_OPEN, FaultKind.UNOPENED_CLOSE]
    assert (len(t.searches), t.text(Source.NOTICE)) == (0, SR1.notice * 2)


def test_a_block_limit_below_its_frame_is_refused():
    with pytest.raises(ProtocolError, match="frame, 31 tokens"):
        rules(dataclasses.replace(SR1, max_documents_tokens=30))


def test_restoring_into_a_smaller_context_is_refused():
    dynamics = rules(R1)
    dynamics.begin(0, QUESTION)
    with pytest.raises(ConfigurationError, match="as large as it was"):
        rules(R1.limited(max_tokens=100)).restore(0, dynamics.save(0))


def test_dynamics_of_the_same_rules_share_tables_and_no_rows():
    one = rules(R1, rows=2)
    other = one.like(3)
    assert (other.protocol, other.tokenizer, other.prompt) == (
        one.protocol,
        one.tokenizer,
        one.prompt,
    )
    assert np.shares_memory(other._next, one._next)
    assert not np.shares_memory(other.tokens, one.tokens)
    assert (len(one.episodes), len(other.episodes)) == (2, 3)
    with pytest.raises(AttributeError):
        one._tables.notice = None


@pytest.mark.parametrize("consequence", list(Consequence))
@pytest.mark.parametrize("reason", [StopReason.RETRIEVAL_ERROR, StopReason.MAX_TOKENS])
def test_an_episode_ends_once_where_a_query_cannot_be_run(consequence, reason):
    """The fault is recorded, but what ended the episode is the failed search or the context."""
    faults = {FaultKind.UNANSWERED_QUERY: consequence}
    ids = BYTE.encode(f"{B}q{E}").tolist()
    context = len(played(R1).tokens) + len(ids) + 10  # too little for the tags of a block
    protocol = dataclasses.replace(R1, name="own", faults=faults, notice="!", max_tokens=context)
    dynamics = rules(protocol)
    dynamics.begin(0, QUESTION)
    feed(dynamics, ids[:-1])
    dynamics.append(ALL, np.array(ids[-1:]))
    if reason is StopReason.MAX_TOKENS:
        dynamics.insert_documents(0, [DOCUMENT])
    else:
        dynamics.fail_retrieval(0)
    *_, fault, ended = dynamics.transcript(0).events
    assert (fault.kind, ended.reason) == (FaultKind.UNANSWERED_QUERY, reason)
    assert sum(isinstance(event, Ended) for event in dynamics.transcript(0).events) == 1
