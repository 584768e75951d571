"""From a growing transcript to coloured text, token by token; shared by all renderers.

Three rules make the result independent of how an episode is split into calls: characters with
incomplete bytes are withheld, text of the policy that may still become a tag is withheld, and
colours come from sources and events, never from tags in text that the policy did not write.

``Transcript.decode`` must join the bytes of its ids and write U+FFFD for bytes that are not UTF-8;
the text of several tokens is then the text of its parts but for a character that is cut in two.
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
_ANY_TAG = (re.compile(r"<[^<>\s]{1,40}>"), re.compile(r"<[^<>\s]{0,40}$"))


@functools.lru_cache(maxsize=64)
def _tag_patterns(markup: Markup | None) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a tag, and of the start of one at the end of a text."""
    if markup is None:
        return _ANY_TAG  # anything in angle brackets
    tags = [pair.text(tag.side) for tag, pair in pairs_by_tag(markup.tags).items()]
    prefixes = sorted({tag[:n] for tag in tags for n in range(1, len(tag))}, key=len, reverse=True)
    any_tag, any_prefix = ("|".join(map(re.escape, texts)) for texts in (tags, prefixes))
    return re.compile(any_tag), re.compile(rf"(?:{any_prefix})\Z")


# Characters that break, reorder or repaint a terminal, and their visible replacements.
_BREAKING = [*range(0x80, 0xA0), 0x2028, 0x2029, *range(0xD800, 0xE000)]
_REORDERING = [0x061C, *range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_REPLACEMENTS = {code: chr(0x2400 + code) for code in range(0x20)}
_REPLACEMENTS |= {0x7F: "\u2421", ord("\t"): "    ", ord("\n"): "\n"}
_REPLACEMENTS |= dict.fromkeys(_BREAKING + _REORDERING, _REPLACEMENT)


def neutralise(text: str) -> str:
    r"""Return ``text`` with newline as its only control character, harmless in a terminal.

    C0 controls become their pictures, a tab four spaces; C1 controls, line and paragraph
    separators, bidirectional controls and lone surrogates become U+FFFD.

    Example:
        >>> neutralise("a\x1b[2Jb\n\u202ec")
        'a␛[2Jb\n�c'
    """
    return text.translate(_REPLACEMENTS)


def one_line(text: str) -> str:
    r"""Return ``text`` neutralised, on one line, with single spaces.

    Example:
        >>> one_line(" who\n wrote\tit? ")
        'who wrote it?'
    """
    return " ".join(neutralise(text).split())


class Span(NamedTuple):
    """A piece of text with one style and source."""

    text: str
    style: Style
    source: Source


class SpanStream:
    """Reads a transcript as it grows, from token ``start`` on; each call returns the new spans.

    A character that begins before the first token shows as U+FFFD.
    """

    def __init__(self, start: int = 0) -> None:
        self.position = start  # index of the next token to read
        self._source = Source.PADDING
        self._decoded = start  # end of the tokens whose characters are all complete
        self._emitted = 0  # characters returned from later tokens
        self._pending = ""  # policy text that may become a tag
        self._events = 0
        self._tag, self._tag_prefix = _ANY_TAG

    def advance(self, transcript: Transcript) -> list[Span]:
        """Return the new spans since the last call; after the end, also the withheld text."""
        marks = self._marks(transcript.events)
        self._tag, self._tag_prefix = _tag_patterns(transcript.markup)
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

    def pending(self) -> list[Span]:
        """Return the text that is withheld because it may become a tag, and keep it."""
        return _join([Span(self._pending, SOURCES[self._source], self._source)])

    def _marks(self, events: Sequence[Event]) -> dict[int, Style]:
        """Return the styles of the tokens of new events; a fault overrides a tag."""
        marks: dict[int, Style] = {}
        for event in events[self._events :]:
            if isinstance(event, FormatFault):
                marks[event.position] = FAULT
            elif isinstance(event, TagWritten):
                marks.setdefault(event.position, TAG)
        self._events = len(events)
        return marks

    def _decode(self, transcript: Transcript, end: int) -> str:
        """Return the characters that are complete at ``end`` and were not returned before.

        A UTF-8 decoder makes one final U+FFFD of bytes that stop inside a character, so all before
        it is final.
        """
        text = transcript.decode(transcript.tokens[self._decoded : end])
        complete = text.removesuffix(_REPLACEMENT)
        new = complete[self._emitted :]
        if complete == text:
            self._decoded, self._emitted = end, 0
        else:
            self._emitted = len(complete)
        return new

    def _style(self, text: str, mark: Style | None) -> Iterator[Span]:
        """Yield spans of the next ``text`` of the current source, with the style of its event."""
        plain = SOURCES[self._source]
        if self._source is not Source.POLICY:
            yield Span(text, plain, self._source)
            return
        text, new = self._pending + text, len(text)
        done = 0
        for begin, end in self._marked(text, new) if mark else ():
            yield Span(text[done:begin], plain, self._source)
            yield Span(text[begin:end], mark or plain, self._source)
            done = end
        prefix = self._tag_prefix.search(text, done)
        cut = prefix.start() if prefix else len(text)
        yield Span(text[done:cut], plain, self._source)
        self._pending = text[cut:]

    def _marked(self, text: str, new: int) -> list[tuple[int, int]]:
        """Return the tags that end in the last ``new`` characters, or else those characters."""
        first = len(text) - new
        tags = [match.span() for match in self._tag.finditer(text) if match.end() > first]
        return tags or [(first, len(text))]

    def _end_run(self, transcript: Transcript) -> Iterator[Span]:
        """Yield the withheld text, which nothing can complete any more."""
        tail = transcript.decode(transcript.tokens[self._decoded : self.position])
        yield Span(self._pending + tail[self._emitted :], SOURCES[self._source], self._source)
        self._pending, self._decoded, self._emitted = "", self.position, 0


def spans(transcript: Transcript, start: int = 0) -> list[Span]:
    """Return the coloured text from token ``start`` on, without an incomplete last character.

    Neighbouring spans differ in style or source, and none is empty.
    """
    stream = SpanStream(start)
    return _join(stream.advance(transcript) + stream.pending())


def _pieces(
    sources: NDArray[np.int8], start: int, marks: dict[int, Style]
) -> Iterator[tuple[int, int]]:
    """Return ``(begin, end)`` of runs of one source; marked tokens are runs of their own."""
    total = len(sources)
    cuts = {start, total, *(np.flatnonzero(np.diff(sources[start:])) + start + 1).tolist()}
    for position in marks:
        cuts |= {position, position + 1}
    return itertools.pairwise(sorted(cut for cut in cuts if start <= cut <= total))


def _join(parts: Sequence[Span]) -> list[Span]:
    """Return the spans neutralised, without empty ones, equal neighbours merged."""
    runs = itertools.groupby(filter(lambda part: part.text, parts), lambda part: part[1:])
    return [Span(neutralise("".join(part.text for part in run)), *style) for style, run in runs]
