"""Text measured, made printable and wrapped into lines for an image.

The default font is the one in Pillow (Aileron), so that images are the same on every machine. It
covers ASCII and a little punctuation: accents are dropped (``é`` shows as ``e``), a few letters
and symbols are spelt out, and the others show as the font's empty box. A TrueType file shows all
that it covers.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from search_env.rendering.palette import RGB, SOURCES, Style
from search_env.rendering.spans import Span
from search_env.types import Source

if TYPE_CHECKING:
    from PIL import Image, ImageFont

_MISSING = "\ufffd"
_BEARING = 4  # pixels that a glyph may extend beyond its advance
_SPELT_TABLE = """
ß ss  æ ae  Æ AE  œ oe  Œ OE  ø o  Ø O  ł l  Ł L  đ d  Đ D  ð d  Ð D  þ th  Þ Th  ı i  ſ s
‐ -  ‑ -  ‒ -  – -  — -  ― -  − -  ′ '  ″ "  ‚ ,  „ "  • ·  × x  → ->  ← <-  ≤ <=  ≥ >=  ≠ !=
€ EUR  £ GBP
"""
_SPELT = dict(zip(_SPELT_TABLE.split()[::2], _SPELT_TABLE.split()[1::2], strict=True))
# A line may break before and after each of these: scripts without spaces, and empty boxes.
_ALONE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\ufffd\U00020000-\U0003ffff"
_WORDS = re.compile(r"\s+|\S+")
_PIECES = re.compile(rf"\n|[^\S\n]+|[{_ALONE}]|[^\s{_ALONE}]+")


class Face:
    """A Pillow font at one size, with bounded caches of measured and drawn words."""

    def __init__(self, font: ImageFont.FreeTypeFont) -> None:
        self._font = font
        self.ascent, descent = font.getmetrics()  # pixels above and below the base line
        self.height = self.ascent + descent
        self._box = bytes(font.getmask(_MISSING))
        self._glyph = functools.lru_cache(8192)(self._find_glyph)
        self._word = functools.lru_cache(4096)(self._measure_word)
        self._mask = functools.lru_cache(4096)(self._draw_mask)

    def measure(self, text: str) -> tuple[str, float]:
        """Return ``text`` with printable characters only, and its width in pixels."""
        return self._word(text)

    def draw(self, image: Image.Image, x: float, y: float, text: str, fill: RGB) -> None:
        """Draw printable ``text`` with the left end of its line's top at ``(x, y)``."""
        for word in _WORDS.findall(text):
            if not word.isspace():
                image.paste(fill, (round(x) - _BEARING, round(y)), self._mask(word))
            x += self._word(word)[1]

    def fit(self, text: str, width: float) -> str:
        """Return ``text`` printable and, with an ellipsis, cut to ``width`` pixels."""
        printable, used = self.measure(text)
        if used <= width:
            return printable
        room = width - self.measure("…")[1]
        while printable and used > room:
            used -= self._glyph(printable[-1])[1]
            printable = printable[:-1]
        return printable.rstrip() + "…"

    def _measure_word(self, text: str) -> tuple[str, float]:
        glyphs = [self._glyph(char) for char in text]
        return "".join(printable for printable, _ in glyphs), sum(width for _, width in glyphs)

    def _draw_mask(self, word: str) -> Image.Image:
        """Return one word's coverage, with room for glyphs that extend beyond their advance."""
        from PIL import Image, ImageDraw

        width = math.ceil(self._word(word)[1]) + 2 * _BEARING
        mask = Image.new("L", (width, self.height + _BEARING))
        ImageDraw.Draw(mask).text((_BEARING, 0), word, fill=255, font=self._font)
        return mask

    def _find_glyph(self, char: str) -> tuple[str, float]:
        printable = self._printable(char)
        return printable, float(self._font.getlength(printable))

    def _printable(self, char: str) -> str:
        if char.isspace():
            return " "
        if self._covers(char):
            return char
        if unicodedata.category(char) in ("Mn", "Me", "Cf"):
            return ""  # accents, joiners and variation selectors only change their neighbours
        plain = [c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c)]
        spelt = "".join(_SPELT.get(c, c) for c in plain)
        return spelt if spelt and all(map(self._covers, spelt)) else _MISSING

    def _covers(self, char: str) -> bool:
        return char == " " or bytes(self._font.getmask(char)) != self._box


@functools.lru_cache(maxsize=32)
def load_face(size: int, path: str | None = None) -> Face:
    """Return a font of ``size`` pixels, loaded once: a TrueType or OpenType file, or Pillow's."""
    from PIL import ImageFont

    # Basic layout everywhere: an image must not depend on whether Pillow finds Raqm.
    basic = ImageFont.Layout.BASIC
    if path is not None:
        return Face(ImageFont.truetype(path, size, layout_engine=basic))
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # pragma: no cover - a Pillow without FreeType
        raise ImportError("Expected a Pillow with FreeType, got one without. Install pillow>=10.1.")
    return Face(font.font_variant(layout_engine=basic))


class TextRun(NamedTuple):
    """Text of one style on a line, ``x`` pixels from the line's start."""

    x: float
    text: str
    style: Style
    width: float


@dataclass(slots=True)
class Line:
    """One wrapped line. ``source`` wrote its first character (an empty line: the one before)."""

    source: Source
    runs: list[TextRun] = field(default_factory=list)
    width: float = 0.0

    def add(self, text: str, width: float, style: Style) -> None:
        """Append text to the line."""
        if self.runs and self.runs[-1].style is style:
            last = self.runs[-1]
            self.runs[-1] = last._replace(text=last.text + text, width=last.width + width)
        else:
            self.runs.append(TextRun(self.width, text, style, width))
        self.width += width


def wrap(spans: Iterable[Span], face: Face, width: float) -> list[Line]:
    """Return coloured text as at least one line of at most ``width`` pixels.

    Lines break at spaces, which are dropped there, and inside words that are wider than a line.
    """
    lines = [Line(Source.PADDING)]
    for text, style, source in spans:
        for piece in _PIECES.findall(text):
            if not lines[-1].runs:
                lines[-1].source = source
            if piece == "\n":
                lines.append(Line(source))
                continue
            printable, advance = face.measure(piece)
            if lines[-1].width + advance <= width:
                lines[-1].add(printable, advance, style)
            elif not piece.isspace():
                _break_into(lines, printable, advance, Span(text, style, source), face, width)
    return lines


def _break_into(
    lines: list[Line], printable: str, advance: float, span: Span, face: Face, width: float
) -> None:
    """Put a piece that does not fit on the last line onto new ones."""
    if lines[-1].runs:
        lines.append(Line(span.source))
    if advance <= width:
        lines[-1].add(printable, advance, span.style)
        return
    for char in printable:
        _, advance = face.measure(char)
        if lines[-1].runs and lines[-1].width + advance > width:
            lines.append(Line(span.source))
        lines[-1].add(char, advance, span.style)


def wrap_plain(text: str, face: Face, width: float) -> list[str]:
    """Return text of one style as wrapped lines."""
    span = Span(text, SOURCES[Source.POLICY], Source.POLICY)
    return ["".join(run.text for run in line.runs) for line in wrap([span], face, width)]
