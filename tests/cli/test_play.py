from __future__ import annotations

import io

import pytest

from search_env import SearchQAEnv, Source, StopReason
from search_env.cli.play import _instructions, _play, _text_of, _Wrapped


def played(lines, **arguments):
    """Play a toy question by these lines; returns the transcript and the screen."""
    defaults = {"dataset": "toy", "protocol": "r1-searcher", "tokenizer": "byte"}
    env = SearchQAEnv(**{**defaults, **arguments})
    env.reset(options={"index": 9})  # find key1 key1
    left, screen = iter(lines), io.StringIO()
    transcript = _play(env, lambda: next(left, None), screen)
    return env, transcript, screen.getvalue()


def test_an_episode_from_question_to_score():
    _, transcript, screen = played(["hm", "? key1 key1", "! x", "never read"])
    assert transcript.text(Source.POLICY) == (
        "hm\n<|begin_of_query|> key1 key1 <|end_of_query|></think>\n\n<answer> x </answer>"
    )
    assert transcript.stop_reason is StopReason.ANSWERED
    (document,) = transcript.documents.values()
    assert document.text in screen
    assert screen.index("find key1 key1") < screen.index("? words") < screen.index(document.text)
    assert "Gold      value" in screen
    assert "Score     0.000" in screen


def test_tags_may_be_written_by_hand():
    _, transcript, _ = played(
        ["<|begin_of_query|>key1", "key1<|end_of_query|>", "<answer>a</answer>"]
    )
    assert [s.query for s in transcript.searches] == ["key1 key1"]
    assert transcript.answer == "a"


def test_without_more_lines_the_episode_stays_open():
    _, transcript, _ = played(["well"])
    assert transcript.stop_reason is None
    assert transcript.num_policy_tokens == len("well\n")


@pytest.mark.parametrize("line", [" ! ", "!", "? </answer>"])
def test_a_sign_without_words_writes_nothing(line):
    _, transcript, screen = played([line])
    assert transcript.num_policy_tokens == 0
    assert f"Write something after {line.strip()}" in screen


def test_a_text_that_outlasts_the_episode_is_cut():
    _, transcript, _ = played(["x" * 600])  # a segment holds 512 tokens
    assert transcript.num_policy_tokens == 512
    assert transcript.stop_reason is StopReason.MAX_SEGMENT_TOKENS


def test_signs_by_protocol():
    env, _, _ = played([], protocol="search-r1")
    assert _text_of(env, "?  a b ") == "<search> a b </search>"
    assert _text_of(env, "!a") == "<answer> a </answer>"
    assert _text_of(env, "why? !") == "why? !\n"
    assert "<search> words </search>" in _instructions(env)


@pytest.mark.parametrize("line", ["", "?", "  ?  "])
def test_help_shows_what_can_be_written_and_costs_nothing(line):
    env, transcript, screen = played([line])
    assert transcript.num_policy_tokens == 0
    assert screen.count(_instructions(env)) == 2  # at the start, and as help
    assert "ends the episode" in screen
    assert "Used: tokens " in screen


def test_each_line_says_what_it_did():
    _, _, screen = played(["? key1 key1", "</answer>", "! x y"])
    assert "[searched for 'key1 key1': 1 document]" in screen
    assert "[format fault: unopened close]" in screen
    _, _, screen = played(["! x y"])
    assert "[answered 'x y']" in screen


class Screen(io.StringIO):
    encoding = "utf-8"


def test_words_are_not_split_at_the_edge():
    screen = Screen()
    wrapped = _Wrapped(screen, 20)
    wrapped.write("\x1b[31mone two three\x1b[0m ")
    wrapped.write("four five six\n")
    wrapped.write("\u5317\u4eac " * 5 + "\n" + "x" * 45 + " end")  # two columns each
    lines = screen.getvalue().split("\n")
    assert lines == [
        "\x1b[31mone two three\x1b[0m four ",
        "five six",
        "\u5317\u4eac " * 4,
        "\u5317\u4eac ",
        "x" * 45 + " end",
    ]
    assert "".join(screen.getvalue().split()) == "".join(
        (
            "\x1b[31mone two three\x1b[0m four five six" + "\u5317\u4eac " * 5 + "x" * 45 + " end"
        ).split()
    )
