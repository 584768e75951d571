"""An episode printed while it happens: only what is new, coloured by who wrote it.

Printing forward is all it does: no cursor is moved, so that the output of a pipe, a log file and
a terminal are the same text. Colours follow the stream and ``NO_COLOR`` (https://no-color.org).
"""

from __future__ import annotations

import os
from typing import TextIO

import numpy as np

from search_env.rendering.ansi import budget_row, footer, header
from search_env.rendering.frame import Frame
from search_env.rendering.palette import paint
from search_env.rendering.spans import Span, SpanStream


class LiveTerminal:
    """Prints episodes to a stream as they grow.

    The text printed for an episode is that of :func:`~search_env.rendering.render_ansi`, however
    the tokens are spread over calls; the budgets are repeated at the end.

    Args:
        stream: Where to print, for example ``sys.stdout``. Characters that its encoding
            lacks become "?".
        color: Whether to use colours; None decides by the stream (a terminal that is not "dumb")
            and by ``NO_COLOR``.
    """

    def __init__(self, stream: TextIO, *, color: bool | None = None) -> None:
        self._stream = stream
        self._color = _wants_color(stream) if color is None else color
        self._spans = SpanStream()
        self._shown: Frame | None = None
        self._ended = False
        self._at_line_start = True

    def show(self, frame: Frame) -> None:
        """Print what is new since the last call.

        A frame whose tokens do not continue the last one's begins a new episode.

        Args:
            frame: The episode's present state.
        """
        text = ""
        if not self._continues(frame):
            text += self._begin(frame)
        if not self._ended:
            text += self._body(self._spans.advance(frame.transcript))
            self._shown = frame
            if not frame.running:
                text += self._end(frame)
        if text:
            self._write(text)

    def _continues(self, frame: Frame) -> bool:
        """Return whether the frame is of the episode that is being shown."""
        if self._shown is None:
            return False
        old, new = self._shown.transcript, frame.transcript
        if self._ended and (frame.running or len(old.tokens) != len(new.tokens)):
            return False
        same_start = np.array_equal(new.tokens[: len(old.tokens)], old.tokens)
        return old.question == new.question and same_start

    def _begin(self, frame: Frame) -> str:
        """Return a new episode's header, after what an abandoned episode left unprinted."""
        rest = "" if self._shown is None else self._body(self._spans.held())
        gap = "" if self._shown is None else "\n" if self._at_line_start else "\n\n"
        self._spans, self._ended, self._at_line_start = SpanStream(), False, True
        return rest + gap + header(frame, color=self._color)

    def _body(self, spans: list[Span]) -> str:
        """Return the painted spans."""
        if spans:
            self._at_line_start = spans[-1].text.endswith("\n")
        return "".join(paint(span.text, span.style, color=self._color) for span in spans)

    def _end(self, frame: Frame) -> str:
        """Return the footer, on a new line, with the final budgets."""
        gap = "" if self._at_line_start else "\n"
        self._ended = self._at_line_start = True
        return gap + footer(frame, color=self._color) + budget_row(frame, color=self._color)

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


def _wants_color(stream: TextIO) -> bool:
    """Return whether the stream is a terminal whose user did not ask for plain text."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()
