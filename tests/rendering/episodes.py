"""Transcripts made by hand: ids are bytes, so the expected texts are evident."""

from __future__ import annotations

import numpy as np

from search_env.protocols.search_r1 import SEARCH_R1
from search_env.rendering import Frame
from search_env.types import (
    Answered,
    Document,
    Ended,
    Event,
    FaultKind,
    FormatFault,
    Question,
    Searched,
    Source,
    StopReason,
    Tag,
    TagWritten,
    Transcript,
)

QUESTION = Question(
    "q1",
    "In which country was the author of The Salt Road born?",
    ("Norway", "Kingdom of Norway"),
    dataset="world",
    split="dev",
    kind="2hop",
)


DOCUMENT = Document("d", "", "text")


def decode(ids):
    return bytes(int(i) for i in ids).decode("utf-8", errors="replace")


class Writer:
    """Builds a transcript piece by piece; ids are UTF-8 bytes."""

    def __init__(self, question=QUESTION):
        self.question = question
        self.tokens: list[int] = []
        self.sources: list[int] = []
        self.events: list[Event] = []

    @property
    def last(self):
        return len(self.tokens) - 1

    def write(self, source, text):
        data = text if isinstance(text, bytes) else text.encode()
        self.tokens += data
        self.sources += [int(source)] * len(data)
        return self

    def tag(self, text, tag):
        self.write(Source.POLICY, text)
        self.events.append(TagWritten(self.last, tag))
        return self

    def fault(self, kind):
        self.events.append(FormatFault(self.last, kind))
        return self

    def search(self, query, *documents):
        self.tag("<search>", Tag("query", "open"))
        self.write(Source.POLICY, query)
        self.tag("</search>", Tag("query", "close"))
        position = self.last
        block = "\n".join(documents)
        self.write(Source.RETRIEVED, f"\n<information>{block}</information>\n")
        self.events.append(Searched(position, query, (DOCUMENT,), position + 1, len(self.tokens)))
        return self

    def answer(self, text):
        self.tag("<answer>", Tag("answer", "open"))
        self.write(Source.POLICY, text)
        self.tag("</answer>", Tag("answer", "close"))
        self.events.append(Answered(self.last, text))
        return self.end(StopReason.ANSWERED)

    def end(self, reason):
        self.events.append(Ended(self.last, reason))
        return self

    def transcript(self, length=None):
        """The transcript, or its first ``length`` tokens."""
        length = len(self.tokens) if length is None else length
        return Transcript(
            self.question,
            "search-r1",
            np.array(self.tokens[:length], np.int32),
            np.array(self.sources[:length], np.int8),
            tuple(e for e in self.events if e.position < length),
            decode=decode,
            markup=SEARCH_R1.markup,
        )

    def frame(self, length=None, **changes):
        score = 1.0 if length is None or length >= len(self.tokens) else None
        return Frame(
            self.transcript(length),
            **{"max_tokens": 4096, "max_searches": 4, "score": score} | changes,
        )


def episode():
    """A question, two searches, a fault with its notice, an answer."""
    writer = Writer().write(Source.PROMPT, "Answer the question.\n")
    writer.write(Source.POLICY, "<think>Who wrote it?</think>\n")
    writer.search("author of The Salt Road", "(1) The Salt Road is a novel by Ana Lindqvist.")
    writer.tag("</answer>", Tag("answer", "close")).fault(FaultKind.UNOPENED_CLOSE)
    writer.write(Source.NOTICE, "\nThat tag was not open.\n")
    writer.search("Ana Lindqvist born", "(1) Ana Lindqvist was born in Tromsø, Norway.")
    return writer.answer("Norway")
