"""From a growing transcript to coloured text, token by token.

The one reading of tokens that all renderers share. Three rules make it independent of how an
episode is cut into calls: characters whose bytes are not complete are held back, text of the
policy that may still become a tag is held back, and colours come from sources and events, never
from looking for tags in text that the policy did not write.

``Transcript.decode`` is expected to join the bytes of its ids and to write U+FFFD for those that
are no UTF-8; text of a run of tokens is then the text of its parts but for a character cut in two.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_env.rendering.palette import FAULT, SOURCES, TAG, Style
from search_env.types import (
    Event,
    FormatFault,
    Markup,
    Source,
    TagWritten,
    Transcript,
    pairs_by_tag,
)

_REPLACEMENT = "\ufffd"
_SOME_TAG = (re.compile(r"<[^<>\s]{1,40}>"), re.compile(r"<[^<>\s]{0,40}$"))


@functools.lru_cache(maxsize=64)
def _tag_patterns(markup: Markup | None) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a tag, and of a text's end that may become one.

    Where the tags are not known, anything in angle brackets is taken for one.
    """
    if markup is None:
        return _SOME_TAG
    tags = [pair.text(tag.side) for tag, pair in pairs_by_tag(markup.tags).items()]
    begun = sorted({tag[:length] for tag in tags for length in range(1, len(tag))}, key=len)
    any_tag, any_begun = ("|".join(map(re.escape, texts)) for texts in (tags, reversed(begun)))
    return re.compile(any_tag), re.compile(rf"(?:{any_begun})\Z")


def _stand_ins() -> dict[int, str]:
    """Return visible characters for those that could repaint, reorder or break a terminal."""
    table = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}
    table |= {ord("\t"): "    ", ord("\n"): "\n"}
    breaking = [*range(0x80, 0xA0), 0x2028, 0x2029, *range(0xD800, 0xE000)]
    reordering = [0x061C, *range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    return table | dict.fromkeys(breaking + reordering, _REPLACEMENT)


_STAND_INS = _stand_ins()


def neutralise(text: str) -> str:
    r"""Return ``text`` without control characters but newline; it keeps no power over a terminal.

    C0 controls become their pictures, a tab four spaces; C1 controls, line and paragraph
    separators, bidirectional controls and lone surrogates become U+FFFD.

    Example:
        >>> neutralise("a\x1b[2Jb\n\u202ec")
        'a␛[2Jb\n�c'
    """
    return text.translate(_STAND_INS)


def one_line(text: str) -> str:
    r"""Return ``text`` neutralised, on one line, with single spaces.

    Example:
        >>> one_line(" who\n wrote\tit? ")
        'who wrote it?'
    """
    return " ".join(neutralise(text).split())


class Span(NamedTuple):
    """A piece of text with one look."""

    text: str
    style: Style
    source: Source


class SpanStream:
    """Reads a transcript as it grows; each call gives what is new.

    Args:
        start: Index of the first token to read. A character that begins before it shows as U+FFFD.

    Attributes:
        position: Index of the next token to read.
    """

    def __init__(self, start: int = 0) -> None:
        self.position = start
        self._source = Source.PADDING
        self._clean = start  # where the ids begin whose last character is incomplete
        self._taken = 0  # characters of them that were given out
        self._held = ""  # policy text that may become a tag
        self._events = 0
        self._tag, self._begun = _SOME_TAG

    def advance(self, transcript: Transcript) -> list[Span]:
        """Return the spans of the tokens since the last call; the last ones once it has ended."""
        marks = self._marks(transcript.events)
        self._tag, self._begun = _tag_patterns(transcript.markup)
        spans: list[Span] = []
        for begin, end in _pieces(transcript.sources, self.position, marks):
            source = Source(int(transcript.sources[begin]))
            if source is not self._source:
                spans += self._end_run(transcript)
                self._source = source
            text = self._decode(transcript, end)
            self.position = end
            spans += self._style(text, marks.get(begin))
        if transcript.stop_reason is not None:
            spans += self._end_run(transcript)
        return _join(spans)

    def held(self) -> list[Span]:
        """Return the text held back because it may become a tag, without giving it out."""
        return _join([Span(self._held, SOURCES[self._source], self._source)])

    def _marks(self, events: Sequence[Event]) -> dict[int, Style]:
        """Return the styles of tokens at which new events happened; a fault outshines a tag."""
        marks: dict[int, Style] = {}
        for event in events[self._events :]:
            if isinstance(event, FormatFault):
                marks[event.position] = FAULT
            elif isinstance(event, TagWritten):
                marks.setdefault(event.position, TAG)
        self._events = len(events)
        return marks

    def _decode(self, transcript: Transcript, end: int) -> str:
        """Return the characters that are complete by ``end`` and were not given out.

        Of bytes that stop inside a character a UTF-8 decoder makes one U+FFFD, the last one; so
        all before it is final.
        """
        text = transcript.decode(transcript.tokens[self._clean : end])
        complete = text[:-1] if text.endswith(_REPLACEMENT) else text
        new = complete[self._taken :]
        if complete is text:
            self._clean, self._taken = end, 0
        else:
            self._taken = len(complete)
        return new

    def _style(self, text: str, mark: Style | None) -> Iterator[Span]:
        """Yield spans for the next ``text`` of the current source; ``mark`` is its event's."""
        plain = SOURCES[self._source]
        if self._source is not Source.POLICY:
            yield Span(text, plain, self._source)
            return
        held = self._held + text
        done = 0
        for begin, end in self._marked(held, len(text)) if mark else ():
            yield Span(held[done:begin], plain, self._source)
            yield Span(held[begin:end], mark or plain, self._source)
            done = end
        begun = self._begun.search(held, done)
        cut = begun.start() if begun else len(held)
        yield Span(held[done:cut], plain, self._source)
        self._held = held[cut:]

    def _marked(self, text: str, new: int) -> list[tuple[int, int]]:
        """Return where tags end in the last ``new`` characters; without one, those characters."""
        first = len(text) - new
        found = [match.span() for match in self._tag.finditer(text) if match.end() > first]
        return found or [(first, len(text))]

    def _end_run(self, transcript: Transcript) -> Iterator[Span]:
        """Yield what is held back; nothing can complete it any more."""
        tail = transcript.decode(transcript.tokens[self._clean : self.position])
        yield Span(self._held + tail[self._taken :], SOURCES[self._source], self._source)
        self._held, self._clean, self._taken = "", self.position, 0


def spans(transcript: Transcript, start: int = 0) -> list[Span]:
    """Return the coloured text from token ``start`` on, but for an incomplete last character.

    Args:
        transcript: Ended or running.
        start: Index of the first token to read.

    Returns:
        Spans in order; neighbours differ in style or source, and none is empty.
    """
    stream = SpanStream(start)
    return _join(stream.advance(transcript) + stream.held())


def _pieces(
    sources: NDArray[np.int8], start: int, marks: dict[int, Style]
) -> Iterator[tuple[int, int]]:
    """Yield ``(begin, end)`` of runs of one source, each marked token by itself."""
    total = len(sources)
    if start >= total:
        return
    cuts = set((np.flatnonzero(np.diff(sources[start:])) + start + 1).tolist())
    for position in marks:
        cuts |= {position, position + 1}
    edges = [start, *sorted(cut for cut in cuts if start < cut < total), total]
    yield from itertools.pairwise(edges)


def _join(parts: Sequence[Span]) -> list[Span]:
    """Return the spans neutralised, without empty ones, neighbours of one look made one."""
    joined: list[Span] = []
    for part in parts:
        if not part.text:
            continue
        if joined and joined[-1][1:] == part[1:]:
            joined[-1] = part._replace(text=joined[-1].text + part.text)
        else:
            joined.append(part)
    return [span._replace(text=neutralise(span.text)) for span in joined]
