"""The image: shape, determinism, what changes it, and its cost."""

import numpy as np
import pytest

from search_env.errors import ConfigurationError
from search_env.rendering import render_rgb
from search_env.rendering.image import visible_lines
from search_env.rendering.layout import load_face, wrap, wrap_plain
from search_env.rendering.palette import BACKGROUND, FAULT, SOURCES, TAG
from search_env.rendering.spans import Span, spans
from search_env.types import Question, Source, StopReason
from tests.work import count_calls

from .episodes import Writer, episode


def text(lines):
    return ["".join(run.text for run in line.runs) for line in lines]


def long_episode(tokens):
    writer = Writer().write(Source.PROMPT, "p\n")
    count = 0
    while len(writer.tokens) < tokens:
        count += 1
        writer.search(f"query {count}", *[f"({i}) sentence number {i}. " * 4 for i in range(3)])
    return writer


@pytest.mark.parametrize("size", [(960, 540), (480, 270), (1280, 720), (640, 640)])
def test_shape(size):
    image = render_rgb(episode().frame(), size=size)
    assert image.shape == (size[1], size[0], 3)
    assert image.dtype == np.uint8
    assert image.flags.owndata
    assert image.flags.writeable


def test_size_too_small():
    with pytest.raises(ConfigurationError, match=r"at least 480 x 270 pixels, got \(100, 100\)"):
        render_rgb(episode().frame(), size=(100, 100))


def test_equal_frames_give_equal_images():
    assert np.array_equal(render_rgb(episode().frame(100)), render_rgb(episode().frame(100)))


def test_every_state_has_another_image():
    writer = episode()
    frames = [writer.frame(n) for n in (0, 21, 22, 60, 150, 300)]
    frames += [writer.frame(), writer.frame(score=0.5), writer.frame(score=None)]
    frames += [writer.frame(max_tokens=8192), writer.frame(max_searches=None)]
    assert len({render_rgb(frame).tobytes() for frame in frames}) == len(frames)


def test_gold_answers_are_invisible_while_the_episode_runs():
    other = Question("q1", episode().question.text, ("Sweden",), "world", "dev", "2hop")
    secret = Writer(other).write(Source.PROMPT, "p")
    visible = Writer().write(Source.PROMPT, "p")
    assert np.array_equal(
        render_rgb(visible.frame(score=None)), render_rgb(secret.frame(score=None))
    )
    visible.end(StopReason.MAX_TOKENS)
    secret.end(StopReason.MAX_TOKENS)
    assert not np.array_equal(render_rgb(visible.frame()), render_rgb(secret.frame()))


@pytest.mark.parametrize(
    "style",
    [TAG, FAULT, *(SOURCES[source] for source in Source if source is not Source.PADDING)],
)
def test_colours_appear(style):
    image = render_rgb(episode().frame())[86:470]
    assert (image == style.rgb).all(axis=-1).any()


def test_text_stays_inside_the_margins():
    writer = Writer(Question("q", "long question " * 40, ("gold " * 90,)))
    writer.write(Source.POLICY, "word " * 300 + "x" * 900).answer("answer " * 90)
    image = render_rgb(writer.frame())
    middle = image[130:470]
    assert (middle[:, :28] == BACKGROUND).all()
    assert (middle[:, -26:] == BACKGROUND).all()


def test_scrolls_to_the_newest_line():
    writer = long_episode(6000)
    face = load_face(15)
    lines = text(visible_lines(writer.transcript(), face, 800, 10))
    everything = text(wrap(spans(writer.transcript()), face, 800))
    assert lines == everything[-10:]
    assert len(everything) > 70


def test_text_without_line_breaks_fills_the_view():
    writer = Writer().write(Source.POLICY, "word " * 3000)
    lines = visible_lines(writer.transcript(), load_face(15), 880, 17)
    assert len(lines) == 17
    assert all(line.width > 700 for line in lines[1:-1])


def test_ids_without_text_end_the_search_for_lines():
    transcript = long_episode(3000).transcript()
    silent = type(transcript)(
        transcript.question, "p", transcript.tokens, transcript.sources, (), decode=lambda ids: ""
    )
    assert text(visible_lines(silent, load_face(15), 800, 10)) == [""]


def test_wrap():
    face = load_face(15)
    width = face.measure("aaa bbb")[1]
    assert wrap_plain("aaa bbb ccc", face, width) == ["aaa bbb", "ccc"]
    assert wrap_plain("aaa\n\nbbb", face, width) == ["aaa", "", "bbb"]
    assert wrap_plain("", face, width) == [""]
    long = wrap_plain("a " + "m" * 20, face, width)
    assert long[0].strip() == "a"
    assert "".join(long[1:]) == "m" * 20
    assert all(face.measure(line)[1] <= width for line in long)


def test_wrap_keeps_styles_and_sources():
    face = load_face(15)
    plain, tag = SOURCES[Source.POLICY], TAG
    parts = [
        Span("a ", plain, Source.POLICY),
        Span("<b>", tag, Source.POLICY),
        Span("c\nd", SOURCES[Source.RETRIEVED], Source.RETRIEVED),
    ]
    first, second = wrap(parts, face, 500)
    assert [(run.text, run.style) for run in first.runs] == [
        ("a ", plain),
        ("<b>", tag),
        ("c", SOURCES[Source.RETRIEVED]),
    ]
    assert [run.x for run in first.runs] == [
        0,
        face.measure("a ")[1],
        face.measure("a ")[1] + face.measure("<b>")[1],
    ]
    assert (first.source, second.source) == (Source.POLICY, Source.RETRIEVED)


@pytest.mark.parametrize(
    ("text", "printable"),
    [
        ("Beyoncé São Łódź", "Beyonce Sao Lodz"),
        ("Tromsø ß æ", "Tromso ss ae"),
        ("1921–1987 — “x” … →", "1921-1987 - “x” … ->"),
        ("½ Ⅷ", "1⁄2 VIII"),
        ("e\u0301", "e"),
        ("東🙂", "\ufffd\ufffd"),
        ("👩\u200d👩\ufe0f", "\ufffd\ufffd"),
    ],
)
def test_characters_the_font_lacks(text, printable):
    assert load_face(15).measure(text)[0] == printable


def test_fit():
    face = load_face(15)
    assert face.fit("short", 500) == "short"
    cut = face.fit("a rather long answer", 60)
    assert cut.endswith("…")
    assert face.measure(cut)[1] <= 60


def test_fonts_are_loaded_once():
    assert load_face(15) is load_face(15)


def test_cost_of_a_long_episode():
    writer = long_episode(4096)
    render_rgb(writer.frame(4095))
    calls = {
        length: count_calls(lambda n=length: render_rgb(writer.frame(n))) for length in (2000, 4000)
    }
    assert calls[4000] < 25_000
    assert calls[4000] < 1.5 * calls[2000], "what is drawn is a window on the episode"
