"""The live terminal prints each text once, the same on every stream."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.rendering import LiveTerminal, render_ansi
from search_env.rendering.ansi import budget_row, header
from search_env.types import Question, Source, StopReason

from .episodes import Writer, episode

RULE = "─" * 72 + "\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(*frames, color=False):
    stream = io.StringIO()
    live = LiveTerminal(stream, color=color)
    for frame in frames:
        live.show(frame)
    return stream.getvalue()


def play(writer, cuts, color=False):
    return printed(*map(writer.frame, cuts), color=color)


def after_header(text):
    return text.split(RULE, 1)[1]


def painted(text):
    """Each visible character with the style it is shown in."""
    letters, style = [], ""
    for escape, char in re.findall(r"\x1b\[([\d;]*)m|([\s\S])", text):
        if char:
            letters.append((char, "" if char == "\n" else style))
        else:
            style = "" if escape == "0" else escape
    return letters


def test_token_by_token():
    writer = episode()
    total = len(writer.tokens)
    text = play(writer, range(21, total + 1))
    first, last = writer.frame(21), writer.frame()
    assert text.startswith(header(first, color=False))
    assert after_header(text) == after_header(render_ansi(last, color=False)) + budget_row(
        last, color=False
    )


@given(st.data())
def test_any_split_prints_the_same(data):
    writer = Writer().write(Source.PROMPT, "frage\n")
    for _ in range(data.draw(st.integers(0, 3))):
        writer.write(Source.POLICY, data.draw(st.sampled_from(["é🙂", "a<b", "東", "x\n"])))
        writer.write(Source.POLICY, data.draw(st.binary(max_size=3)))
        writer.search("q€", data.draw(st.sampled_from(["d", "ü" * 3, "\x1b[0m"])))
    writer.answer("ja")
    total = len(writer.tokens)
    cuts = [*sorted(data.draw(st.lists(st.integers(0, total - 1)))), total]
    color = data.draw(st.booleans())
    last = writer.frame()
    expected = render_ansi(last, color=color) + budget_row(last, color=color)
    strip = len(painted(header(last, color=color)))
    letters = painted(play(writer, cuts, color))
    skip = len(painted(header(writer.frame(cuts[0]), color=color)))
    assert letters[skip:] == painted(expected)[strip:]


def test_same_frame_twice_prints_nothing_more():
    writer = episode()
    assert play(writer, [40, 40, None, None]) == play(writer, [40, None])


def test_partial_character_waits():
    writer = Writer().write(Source.POLICY, "a€")
    assert after_header(play(writer, [2])) == "a"
    assert after_header(play(writer, [2, 3, 4])) == "a€"


def test_new_episodes():
    parts = play(episode(), [24, 21, None, 21]).split("Question  ")
    assert len(parts) == 4
    assert parts[1].endswith("Answer the question.\n<th\n\n")
    assert parts[2].endswith("searches 2 / 4\n\n")
    assert parts[3].endswith("Answer the question.\n")


def test_another_question_with_the_same_tokens_is_another_episode():
    other = Writer(Question("q2", "Who?", ("me",)))
    assert printed(Writer().frame(0), other.frame(0)).count("Question  ") == 2


def test_ended_episode_after_an_ended_one():
    short = Writer().write(Source.POLICY, "a").end(StopReason.MAX_TOKENS)
    long = Writer().write(Source.POLICY, "ab").end(StopReason.MAX_TOKENS)
    assert printed(short.frame(), long.frame()).count("Ended") == 2


@pytest.mark.parametrize(
    ("stream", "variables", "colored"),
    [
        (Terminal, {}, True),
        (Terminal, {"NO_COLOR": "1"}, False),
        (Terminal, {"NO_COLOR": ""}, True),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {}, False),
    ],
)
def test_colour_follows_the_stream(monkeypatch, stream, variables, colored):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = stream()
    LiveTerminal(out).show(episode().frame())
    assert ("\x1b[" in out.getvalue()) is colored


def test_stream_that_cannot_write_everything():
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="ascii")
    LiveTerminal(stream).show(episode().frame())
    assert b"Troms?, Norway" in data.getvalue()
