"""All colours: a style for each source of tokens, for tags, faults and scores.

The accents were chosen by search so that every pair is at least 20 CIELAB units apart in normal
vision and under simulated protanopia, deuteranopia and tritanopia (Machado et al. 2009), and
every text colour has a WCAG contrast of at least 4.5 on the background. Both are tested. Faults
are also underlined, so that no meaning depends on colour alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from search_env.types import Source

RGB: TypeAlias = tuple[int, int, int]

BACKGROUND: RGB = (14, 18, 24)
PANEL: RGB = (23, 29, 38)
TRACK: RGB = (44, 52, 64)
"""The unused part of a budget bar, and thin rules."""


@dataclass(frozen=True, slots=True)
class Style:
    """Style of a piece of text; media without bold ignore it."""

    rgb: RGB
    bold: bool = False
    underline: bool = False
    native: bool = False  # in the terminal's own foreground colour, readable on light and dark


MUTED = Style((125, 134, 139))
TEXT = Style((243, 245, 248), native=True)
STRONG = Style((243, 245, 248), bold=True, native=True)
TAG = Style((214, 174, 223), bold=True)
FAULT = Style((231, 91, 79), bold=True, underline=True)
GOOD = Style((77, 208, 150), bold=True)
BAD = Style((231, 91, 79), bold=True)
CAUTION = Style((232, 176, 67), bold=True)

SOURCES: Mapping[Source, Style] = MappingProxyType(
    {
        Source.PADDING: MUTED,
        Source.PROMPT: MUTED,
        Source.POLICY: TEXT,
        Source.RETRIEVED: Style((84, 143, 219)),
        Source.NOTICE: Style((232, 176, 67)),
    }
)


def score_style(score: float) -> Style:
    """Return green for a positive score, red for zero or less.

    Example:
        >>> score_style(0.4) is GOOD, score_style(0.0) is BAD
        (True, True)
    """
    return GOOD if score > 0 else BAD


def mix(over: RGB, under: RGB, share: float) -> RGB:
    """Return ``share`` of one colour laid over another.

    Example:
        >>> mix((100, 200, 0), (0, 0, 0), 0.5)
        (50, 100, 0)
    """
    red, green, blue = (
        round(share * a + (1 - share) * b) for a, b in zip(over, under, strict=True)
    )
    return red, green, blue


def sgr(style: Style) -> str:
    r"""Return the escape sequence that switches a terminal to ``style`` (24-bit colour).

    Example:
        >>> sgr(FAULT), sgr(TEXT)
        ('\x1b[1;4;38;2;231;91;79m', '\x1b[39m')
    """
    codes = ["1"] * style.bold + ["4"] * style.underline
    codes.append("39" if style.native else "38;2;{};{};{}".format(*style.rgb))
    return f"\x1b[{';'.join(codes)}m"


def wants_plain_text() -> bool:
    """Return whether the user asks for text without colours (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def paint(text: str, style: Style, *, color: bool) -> str:
    """Return ``text`` in ``style``, or unchanged without ``color``.

    Each line is painted separately, so that pagers and single lines keep their colour.
    """
    if not color:
        return text
    start = sgr(style)
    return "\n".join(f"{start}{line}\x1b[0m" if line else "" for line in text.split("\n"))
