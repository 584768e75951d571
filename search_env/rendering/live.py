"""An episode printed while it runs: only new text, coloured by source.

The cursor is never moved, so that a pipe, a log file and a terminal get the same text. Colours
follow the stream and ``NO_COLOR`` (https://no-color.org).
"""

from __future__ import annotations

from typing import TextIO

import numpy as np

from search_env.rendering.ansi import budget_row, footer, header
from search_env.rendering.frame import Frame
from search_env.rendering.palette import paint, wants_plain_text
from search_env.rendering.spans import Span, SpanStream


class LiveTerminal:
    """Prints episodes to a stream as they grow.

    The text of an episode is that of :func:`~search_env.rendering.render_ansi`, however the tokens
    are split over calls; the budgets are repeated at the end.

    Args:
        stream: For example ``sys.stdout``. Characters that its encoding lacks become "?".
        color: Whether to use colours; None uses them on a terminal that is not "dumb", unless
            ``NO_COLOR`` is set.
    """

    def __init__(self, stream: TextIO, *, color: bool | None = None) -> None:
        self._stream = stream
        self._color = _wants_color(stream) if color is None else color
        self._spans = SpanStream()
        self._shown: Frame | None = None
        self._ended = False
        self._at_line_start = True

    def show(self, frame: Frame) -> None:
        """Print the new text of ``frame`` since the last call.

        A frame whose tokens do not continue those of the last one begins a new episode.
        """
        text = "" if self._continues(frame) else self._begin(frame)
        if not self._ended:
            text += self._body(self._spans.advance(frame.transcript))
            self._shown = frame
            if not frame.running:
                text += self._end(frame)
        if text:
            self._write(text)

    def _continues(self, frame: Frame) -> bool:
        if self._shown is None:
            return False
        old, new = self._shown.transcript, frame.transcript
        if self._ended and (frame.running or len(old.tokens) != len(new.tokens)):
            return False
        same_start = np.array_equal(new.tokens[: len(old.tokens)], old.tokens)
        return old.question == new.question and same_start

    def _begin(self, frame: Frame) -> str:
        """Return a new episode's header, after the pending text of an abandoned episode."""
        rest = "" if self._shown is None else self._body(self._spans.pending())
        gap = "" if self._shown is None else "\n" if self._at_line_start else "\n\n"
        self._spans, self._ended, self._at_line_start = SpanStream(), False, True
        return rest + gap + header(frame, color=self._color)

    def _body(self, spans: list[Span]) -> str:
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
    """Return whether the stream is a terminal whose user does not request plain text."""
    return not wants_plain_text() and stream.isatty()
