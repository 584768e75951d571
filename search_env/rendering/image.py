"""An episode as an image, for ``rgb_array``: header, budget bars, the newest text, ending.

The text scrolls as in a terminal, so that the frames of an episode make a readable video. Only the
visible tail of the episode is decoded and wrapped: a frame of a long episode costs as much as one
of a short episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_env.errors import ConfigurationError
from search_env.rendering.ansi import ending_style
from search_env.rendering.frame import Budget, Frame
from search_env.rendering.layout import Face, Line, TextRun, load_face, wrap, wrap_plain
from search_env.rendering.palette import (
    BACKGROUND,
    CAUTION,
    FAULT,
    MUTED,
    PANEL,
    RGB,
    SOURCES,
    TAG,
    TEXT,
    TRACK,
    Style,
    mix,
    score_style,
)
from search_env.rendering.spans import one_line, spans
from search_env.types import Source, Transcript

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_DESIGN = (960, 540)
_SMALLEST = (480, 270)
_TAIL = 1024
"""Tokens decoded at first. They start at a multiple of a quarter, so line breaks rarely move."""
_LEGEND: tuple[tuple[str, Style], ...] = (
    ("prompt", SOURCES[Source.PROMPT]),
    ("policy", SOURCES[Source.POLICY]),
    ("tag", TAG),
    ("retrieved", SOURCES[Source.RETRIEVED]),
    ("notice", SOURCES[Source.NOTICE]),
    ("fault", FAULT),
)


def render_rgb(
    frame: Frame, *, size: tuple[int, int] = _DESIGN, font: str | None = None
) -> NDArray[np.uint8]:
    """Draw the episode.

    Args:
        frame: The episode. Gold answers appear only after its end.
        size: Width and height in pixels; all lengths scale with it.
        font: A TrueType file for scripts other than Latin, which Pillow's own font lacks; None
            for that font.

    Returns:
        A new uint8 array ``(height, width, 3)``; equal frames give equal arrays.

    Raises:
        ConfigurationError: ``size`` is too small for header, text and footer.
    """
    from PIL import Image, ImageDraw

    if size[0] < _SMALLEST[0] or size[1] < _SMALLEST[1]:
        raise ConfigurationError(
            f"Expected a size of at least {_SMALLEST[0]} x {_SMALLEST[1]} pixels, got {size}. "
            "Pass a larger (width, height)."
        )
    image = Image.new("RGB", size, BACKGROUND)
    canvas = _Canvas(image, ImageDraw.Draw(image), font)
    canvas.body(frame, canvas.header(frame), canvas.footer(frame))
    return np.array(image, dtype=np.uint8)


def visible_lines(transcript: Transcript, face: Face, width: float, count: int) -> list[Line]:
    """Return the last ``count`` lines of the episode, wrapped at ``width`` pixels.

    Only the tokens of these lines are decoded.
    """
    total, tail = len(transcript.tokens), _TAIL
    while True:
        start = max(0, (total - tail) // (tail // 4) * (tail // 4))
        lines = wrap(spans(transcript, start), face, width)
        # One line more than is visible: the first one starts in the middle of its paragraph.
        if start == 0 or len(lines) > count:
            return lines[-count:]
        tail *= 2


class _Canvas:
    """An image being drawn, with lengths in units of the 960 x 540 design."""

    def __init__(self, image: Image.Image, draw: ImageDraw.ImageDraw, font: str | None) -> None:
        self._image, self._draw, self._font = image, draw, font
        self._width, self._height = image.size
        self._scale = min(image.size[0] / _DESIGN[0], image.size[1] / _DESIGN[1])
        self._margin = self._px(28)

    def header(self, frame: Frame) -> int:
        """Draw question and budgets; return the lower edge."""
        gap, column = self._px(14), self._px(220)
        room = self._width - 3 * self._margin - column
        lines, face = self._question(one_line(frame.transcript.question.text), room)
        caption = self._face(12)
        text_height = caption.height + self._px(6) + len(lines) * self._leading(face)
        bars_height = len(frame.budgets) * self._px(30) - self._px(6)
        bottom = max(text_height, bars_height) + 2 * gap
        self._draw.rectangle((0, 0, self._width, bottom), fill=PANEL)
        self._draw.line((0, bottom, self._width, bottom), fill=TRACK)
        self._text(self._margin, gap, _caption(frame.transcript), MUTED.rgb, caption, room)
        y = gap + caption.height + self._px(6)
        for line in lines:
            self._text(self._margin, y, line, TEXT.rgb, face, room)
            y += self._leading(face)
        x = self._width - self._margin - column
        for row, budget in enumerate(frame.budgets):
            self._bar(budget, x, gap + row * self._px(30), column)
        return bottom

    def body(self, frame: Frame, top: int, bottom: int) -> None:
        """Draw the newest lines of the episode between the two edges."""
        face = self._face(15)
        leading, pad = self._leading(face), self._px(12)
        left = self._margin + self._px(12)
        count = max(1, (bottom - top - 2 * pad) // leading)
        width = self._width - left - self._margin
        lines = visible_lines(frame.transcript, face, width, count)
        y = top + pad
        for line in lines:
            gutter = SOURCES[line.source].rgb if line.source is not Source.PADDING else BACKGROUND
            box = (self._margin, y, self._margin + self._px(3) - 1, y + leading - 1)
            self._draw.rectangle(box, fill=mix(gutter, BACKGROUND, 0.7))
            for run in line.runs:
                self._run(run, left, y, face)
            y += leading
        if frame.running:
            x, y = left + lines[-1].width + self._px(2), y - leading
            self._draw.rectangle((x, y, x + self._px(7), y + face.height - 1), fill=TEXT.rgb)

    def footer(self, frame: Frame) -> int:
        """Draw the legend, or the ending with answers and score; return the upper edge."""
        top = self._height - self._px(62)
        self._draw.rectangle((0, top, self._width, self._height), fill=PANEL)
        self._draw.line((0, top, self._width, top), fill=TRACK)
        if frame.running:
            self._legend(top)
        else:
            self._ending(frame, top)
        return top

    def _question(self, question: str, room: int) -> tuple[list[str], Face]:
        """Return the wrapped question in the largest size in which it fits."""
        for size, max_lines in ((20, 2), (17, 3), (14, 4)):
            face = self._face(size)
            lines = wrap_plain(question, face, room)
            if len(lines) <= max_lines:
                return lines, face
        return [*lines[: max_lines - 1], face.fit(" ".join(lines[max_lines - 1 :]), room)], face

    def _bar(self, budget: Budget, x: int, y: int, width: int) -> None:
        """Draw one budget: name, numbers and a bar of the used share."""
        face, thick = self._face(12), self._px(5)
        self._text(x, y, budget.name, MUTED.rgb, face, width)
        _, wide = face.measure(str(budget))
        self._text(x + width - wide, y, str(budget), TEXT.rgb, face, width)
        y += face.height + self._px(4)
        if budget.limit is None:
            return
        self._draw.rectangle((x, y, x + width - 1, y + thick - 1), fill=TRACK)
        used = width * budget.fraction
        if used >= 1:
            fill = CAUTION.rgb if budget.fraction >= 0.9 else SOURCES[Source.RETRIEVED].rgb
            self._draw.rectangle((x, y, x + used - 1, y + thick - 1), fill=fill)

    def _run(self, run: TextRun, left: int, y: int, face: Face) -> None:
        """Draw text of one style; tags and faults have a tint, faults are underlined."""
        x, style = left + run.x, run.style
        if style.bold:
            box = (x - 1, y, x + run.width, y + face.height)
            self._draw.rounded_rectangle(box, 3, fill=mix(style.rgb, BACKGROUND, 0.2))
        face.draw(self._image, x, y, run.text, style.rgb)
        if style.underline:
            line = y + face.ascent + self._px(2)
            self._draw.line((x, line, x + run.width, line), fill=style.rgb)

    def _legend(self, top: int) -> None:
        """Draw the meaning of each colour."""
        face = self._face(13)
        x, y = float(self._margin), top + (self._height - top - face.height) // 2
        box = self._px(9)
        for name, style in _LEGEND:
            upper = y + face.ascent - box
            self._draw.rectangle((x, upper, x + box - 1, upper + box - 1), fill=style.rgb)
            x += box + self._px(6)
            self._text(x, y, name, MUTED.rgb, face, self._width)
            x += face.measure(name)[1] + self._px(20)

    def _ending(self, frame: Frame, top: int) -> None:
        """Draw the ending on the left, answer and gold answers in the middle, the score right."""
        middle = (top + self._height) // 2
        left = self._pill(frame.ending, ending_style(frame), middle) + self._px(22)
        right = self._width - self._margin
        if frame.score is not None:
            right = self._score(frame.score, right, middle) - self._px(22)
        transcript = frame.transcript
        answer = "none" if transcript.answer is None else one_line(transcript.answer)
        gold = "  |  ".join(map(one_line, transcript.question.answers))
        shade = MUTED.rgb if transcript.answer is None else TEXT.rgb
        upper = middle - self._face(15).height - 1
        self._labelled("answer", answer, shade, (left, upper), right)
        self._labelled("gold", gold, TEXT.rgb, (left, middle + 1), right)

    def _pill(self, text: str, style: Style, middle: int) -> int:
        """Draw text on a tint at the left margin; return its right edge."""
        face, pad = self._face(13), self._px(10)
        left, half = self._margin, face.height // 2 + self._px(5)
        right = left + round(face.measure(text)[1]) + 2 * pad
        box = (left, middle - half, right, middle + half)
        self._draw.rounded_rectangle(box, self._px(4), fill=mix(style.rgb, PANEL, 0.25))
        self._text(left + pad, middle - face.height // 2, text, style.rgb, face, self._width)
        return right

    def _score(self, score: float, right: int, middle: int) -> int:
        """Draw the score and its label up to ``right``; return the left edge."""
        text, large, small = f"{score:.2f}", self._face(26), self._face(13)
        top = middle - large.height // 2
        left = right - round(large.measure(text)[1])
        self._text(left, top, text, score_style(score).rgb, large, self._width)
        left -= round(small.measure("score")[1]) + self._px(10)
        base = top + large.ascent - small.ascent
        self._text(left, base, "score", MUTED.rgb, small, self._width)
        return left

    def _labelled(
        self, label: str, text: str, fill: RGB, at: tuple[float, float], right: float
    ) -> None:
        """Draw a label and, beside it, text cut at ``right``."""
        face = self._face(15)
        column = round(face.measure("answer")[1]) + self._px(10)
        self._text(at[0], at[1], label, MUTED.rgb, face, column)
        self._text(at[0] + column, at[1], text, fill, face, right - at[0] - column)

    def _text(self, x: float, y: float, text: str, fill: RGB, face: Face, room: float) -> None:
        """Draw one line cut to ``room`` pixels."""
        face.draw(self._image, x, y, face.fit(text, room), fill)

    def _face(self, size: int) -> Face:
        return load_face(max(9, self._px(size)), self._font)

    def _leading(self, face: Face) -> int:
        return round(face.height * 1.12)

    def _px(self, length: float) -> int:
        return max(1, round(length * self._scale))


def _caption(transcript: Transcript) -> str:
    question = transcript.question
    parts = (question.dataset, question.split, question.kind, transcript.protocol)
    return "  ·  ".join(one_line(part) for part in parts if part)
