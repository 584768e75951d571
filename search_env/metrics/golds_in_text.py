"""Whether and where texts hold gold answers: the one rule by which retrieval is scored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias

from search_env.metrics.answers import R1_SEARCHER, contains_words, mapped_for_r1_searcher

Span: TypeAlias = tuple[int, int]


def open_golds(golds: Iterable[str]) -> list[str]:
    """Return normalised golds without those that are not looked for in texts: yes, no, and "".

    Example:
        >>> open_golds(["The Art", "no", "The"])
        ['art']
    """
    normalised = dict.fromkeys(map(R1_SEARCHER.normalize, golds))
    return [gold for gold in normalised if gold and gold not in R1_SEARCHER.closed_answers]


def any_gold_in(texts: Iterable[str], golds: Iterable[str]) -> bool | None:
    """Return whether a text holds a gold answer as full words, both normalised.

    None where no gold is looked for in texts (:func:`open_golds`).

    Example:
        >>> any_gold_in(["in New-York"], ["New York"]), any_gold_in(["smart"], ["art"])
        (True, False)
    """
    wanted = open_golds(golds)
    if not wanted:
        return None
    normalised = map(R1_SEARCHER.normalize, texts)
    return any(contains_words(text, gold) for text in normalised for gold in wanted)


def gold_spans(text: str, golds: Sequence[str]) -> list[Span]:
    """Return the characters of a text that are a gold answer: full words, both normalised.

    There is a span exactly where :func:`any_gold_in` finds a gold; spans that touch or overlap are
    joined.

    Example:
        >>> gold_spans("Unknown art of the New-York school", ["no", "New York", "Art"])
        [(8, 11), (19, 27)]
    """
    words = list(_words(text))
    if not words:
        return []
    joined = f" {' '.join(word for word, _ in words)} "
    starts = accumulate((len(word) + 1 for word, _ in words), initial=0)
    place_of = {start: place for place, start in enumerate(starts)}
    found = []
    for gold in open_golds(golds):
        count, at = gold.count(" ") + 1, joined.find(f" {gold} ")
        while at >= 0:
            first, last = words[place_of[at]], words[place_of[at] + count - 1]
            found.append((first[1][0], last[1][1]))
            at = joined.find(f" {gold} ", at + 1)
    return list(_united(sorted(found)))


def _words(text: str) -> Iterator[tuple[str, Span]]:
    """Yield each normalised word with its characters in the text."""
    plain = mapped_for_r1_searcher(text)
    # Lower case is longer than the text where a letter becomes two, as the Turkish dotted I does.
    same = len(plain) == len(text)
    origin = range(len(text)) if same else [n for n, c in enumerate(text) for _ in c.lower()]
    for word in re.finditer(r"\S+", plain):
        yield word[0], (origin[word.start()], origin[word.end() - 1] + 1)


def _united(spans: Iterable[Span]) -> Iterator[Span]:
    start, end = -1, -1
    for begin, stop in spans:
        if begin > end:
            if end >= 0:
                yield start, end
            start, end = begin, stop
        end = max(end, stop)
    if end >= 0:
        yield start, end


def marked_parts(text: str, spans: Iterable[Span]) -> list[str]:
    """Return a text in pieces, of which the second, fourth and so on are the spans.

    Example:
        >>> marked_parts("in Ulm.", [(3, 6)])
        ['in ', 'Ulm', '.']
    """
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], text[start:end]]
        at = end
    return [*parts, text[at:]]
