"""The text: exact without colour, coloured by source, harmless in a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_env.rendering import render_ansi
from search_env.rendering.palette import BAD, FAULT, GOOD, SOURCES, TAG, sgr
from search_env.types import Question, Source, StopReason

from .episodes import Writer, episode

RULE = "─" * 72

ENDED = f"""\
Question  In which country was the author of The Salt Road born?
Budget    tokens 331 / 4,096   searches 2 / 4
{RULE}
Answer the question.
<think>Who wrote it?</think>
<search>author of The Salt Road</search>
<information>(1) The Salt Road is a novel by Ana Lindqvist.</information>
</answer>
That tag was not open.
<search>Ana Lindqvist born</search>
<information>(1) Ana Lindqvist was born in Tromsø, Norway.</information>
<answer>Norway</answer>
{RULE}
Ended     answered
Answer    Norway
Gold      Norway | Kingdom of Norway
Score     1.000
"""

RUNNING = f"""\
Question  In which country was the author of The Salt Road born?
Budget    tokens 55 / 4,096   searches 0 / 4
{RULE}
Answer the question.
<think>Who wrote it?</think>
<sear
"""


def test_ended():
    assert render_ansi(episode().frame(), color=False) == ENDED


def test_running_hides_the_gold_answers():
    assert render_ansi(episode().frame(55), color=False) == RUNNING
    assert "Kingdom" not in render_ansi(episode().frame(55))


def test_before_the_first_token():
    text = render_ansi(Writer().frame(0), color=False)
    assert text.endswith(f"tokens 0 / 4,096   searches 0 / 4\n{RULE}\n")


def test_no_answer_and_no_score():
    writer = Writer().write(Source.POLICY, "x\n").end(StopReason.MAX_TOKENS)
    text = render_ansi(writer.frame(score=None), color=False)
    assert text.endswith(
        f"x\n{RULE}\nEnded     out of tokens\n"
        "Answer    none\nGold      Norway | Kingdom of Norway\n"
    )


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("Answer the question.", SOURCES[Source.PROMPT]),
        ("author of The Salt Road", SOURCES[Source.POLICY]),
        ("<search>", TAG),
        ("That tag was not open.", SOURCES[Source.NOTICE]),
        ("</answer>", FAULT),
        ("</answer>", TAG),
        (
            "<information>(1) Ana Lindqvist was born in Tromsø, Norway.</information>",
            SOURCES[Source.RETRIEVED],
        ),
        ("1.000", GOOD),
    ],
)
def test_colours(text, style):
    assert f"{sgr(style)}{text}\x1b[0m" in render_ansi(episode().frame(), color=True)


def test_a_score_of_zero_is_red():
    assert f"{sgr(BAD)}0.000\x1b[0m" in render_ansi(episode().frame(score=0.0), color=True)


@given(st.text(), st.binary(), st.text(), st.text(), st.booleans())
def test_no_text_controls_the_terminal(question, policy, document, answer, ended):
    writer = Writer(Question("q", question, (answer,)))
    writer.write(Source.POLICY, policy)
    writer.write(Source.RETRIEVED, document.encode("utf-8", "replace"))
    if ended:
        writer.answer("a")
    text = render_ansi(writer.frame(), color=False)
    controls = {char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
    assert controls <= {"\n"}
    assert text.count("\n") == len(text.split("\n")) - 1
    text.encode("utf-8")


def test_forged_escape_is_shown():
    writer = Writer().write(Source.RETRIEVED, "\x1b[2J\x1b[31mGold: me\r")
    assert "␛[2J␛[31mGold: me␍" in render_ansi(writer.frame(), color=False)
    assert "\x1b[2J" not in render_ansi(writer.frame(), color=True)
