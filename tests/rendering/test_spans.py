"""Coloured text does not depend on how an episode is split into calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.rendering.palette import FAULT, SOURCES, TAG
from search_env.rendering.spans import Span, SpanStream, neutralise, spans
from search_env.types import FaultKind, Source, StopReason, Tag, TagWritten

from .episodes import Writer, decode, episode

POLICY = SOURCES[Source.POLICY]


def policy_spans(writer):
    return [(text, style) for text, style, _ in spans(writer.transcript())]


def test_episode():
    retrieved, notice = SOURCES[Source.RETRIEVED], SOURCES[Source.NOTICE]
    assert policy_spans(episode()) == [
        ("Answer the question.\n", SOURCES[Source.PROMPT]),
        ("<think>Who wrote it?</think>\n", POLICY),
        ("<search>", TAG),
        ("author of The Salt Road", POLICY),
        ("</search>", TAG),
        (
            "\n<information>(1) The Salt Road is a novel by Ana Lindqvist.</information>\n",
            retrieved,
        ),
        ("</answer>", FAULT),
        ("\nThat tag was not open.\n", notice),
        ("<search>", TAG),
        ("Ana Lindqvist born", POLICY),
        ("</search>", TAG),
        (
            "\n<information>(1) Ana Lindqvist was born in Tromsø, Norway.</information>\n",
            retrieved,
        ),
        ("<answer>", TAG),
        ("Norway", POLICY),
        ("</answer>", TAG),
    ]


def test_only_events_make_tags():
    writer = Writer().write(Source.POLICY, "a <search> b").end(StopReason.MAX_TOKENS)
    assert policy_spans(writer) == [("a <search> b", POLICY)]


def test_fault_without_a_tag_colours_its_token():
    writer = Writer().write(Source.POLICY, "no end.").fault(FaultKind.NO_ACTION)
    assert policy_spans(writer.end(StopReason.FORMAT_FAULT)) == [
        ("no end", POLICY),
        (".", FAULT),
    ]


def test_text_around_a_tag_in_one_token():
    """One id may contain the end of a tag and more."""
    pieces = ["x <sea", "rch>\n", "q"]
    transcript = Writer().transcript()
    transcript = type(transcript)(
        transcript.question,
        "p",
        np.arange(3, dtype=np.int32),
        np.full(3, Source.POLICY, np.int8),
        (TagWritten(1, Tag("query", "open")),),
        decode=lambda ids: "".join(pieces[i] for i in ids),
    )
    assert spans(transcript) == [
        Span("x ", POLICY, Source.POLICY),
        Span("<search>", TAG, Source.POLICY),
        Span("\nq", POLICY, Source.POLICY),
    ]


def test_incomplete_character_is_withheld_until_the_end():
    euro = "€".encode()
    writer = Writer().write(Source.POLICY, b"a" + euro[:2])
    assert policy_spans(writer) == [("a", POLICY)]
    assert policy_spans(writer.end(StopReason.MAX_TOKENS)) == [("a\ufffd", POLICY)]


def test_character_cut_off_by_other_text_is_shown_as_broken():
    writer = Writer().write(Source.POLICY, "€".encode()[:1]).write(Source.RETRIEVED, "doc")
    assert [span.text for span in spans(writer.transcript())] == ["\ufffd", "doc"]


def test_start_in_the_middle():
    writer = episode()
    total = len(writer.tokens)
    assert [span.text for span in spans(writer.transcript(), total - 15)] == ["Norway", "</answer>"]
    assert spans(writer.transcript(), total) == []


@pytest.mark.parametrize(
    "char", ["\x1b", "\x00", "\r", "\x7f", "\x9b", "\u202e", "\u2066", "\ud800"]
)
def test_control_characters_are_shown_and_have_no_effect(char):
    (visible,) = neutralise(char)
    assert visible == "\ufffd" or 0x2400 <= ord(visible) <= 0x2421


def test_letters_and_joiners_pass():
    text = "Łódź 東京 👩\u200d👩 naïve\n"
    assert neutralise(text) == text


TEXTS = st.one_of(
    st.sampled_from(["<", "<search>", "</search>", ">", "é", "€", "🙂", " ", "\n", "ab", "\x1b["]),
    st.text(max_size=4).filter(str.isprintable),
    st.binary(max_size=4),
)
RUNS = st.lists(
    st.tuples(
        st.sampled_from([Source.POLICY, Source.POLICY, Source.RETRIEVED, Source.NOTICE]),
        TEXTS,
        st.sampled_from(["", "", "tag", "fault"]),
    ),
    max_size=12,
)


def build(runs):
    writer = Writer().write(Source.PROMPT, "p")
    for source, text, event in runs:
        writer.write(source, text)
        if event == "tag":
            writer.events.append(TagWritten(writer.last, Tag("query", "open")))
        elif event == "fault":
            writer.fault(FaultKind.NESTED_OPEN)
    return writer


def letters(parts):
    return [(char, span.style, span.source) for span in parts for char in span.text]


@given(RUNS, st.booleans(), st.data())
def test_any_split_gives_the_same_text(runs, ended, data):
    writer = build(runs)
    if ended:
        writer.end(StopReason.MAX_TOKENS)
    total = len(writer.tokens)
    cuts = data.draw(st.sets(st.integers(0, total)))
    stream, parts = SpanStream(), []
    for cut in [*sorted(cuts - {total}), total]:
        parts += stream.advance(writer.transcript(cut))
    assert letters(parts + stream.pending()) == letters(spans(writer.transcript()))
    assert stream.position == total


@given(RUNS)
def test_text_is_that_of_the_segments(runs):
    transcript = build(runs).end(StopReason.MAX_TOKENS).transcript()
    expected = "".join(text for _, text in transcript.segments())
    assert "".join(span.text for span in spans(transcript)) == neutralise(expected)
    assert decode(transcript.tokens[:1]) == "p"
