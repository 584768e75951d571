"""Answers from text by a handful of rules: the reader of the scripted agents.

It takes the place of a model where retrieval is measured. Its limits: one sentence, one span, no
reasoning over two documents, English words only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from search_env.metrics.answers import R1_SEARCHER, contains_words
from search_env.types import Document, Transcript

_YES_NO_STARTS = frozenset(
    {"is", "are", "was", "were", "do", "does", "did", "has", "have", "had"}
    | {"can", "could", "will", "would", "should"}
)
_TOKEN = re.compile(r"\w[\w'’.-]*|\S")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_DATE = re.compile(r"\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4}|\b\d{4}\b")
# Patterns of questions and of their answers; the first match is used.
_SHAPES = (
    (re.compile(r"\byear\b", re.I), re.compile(r"\b\d{4}\b")),
    (re.compile(r"\bwhen\b|\bdate\b", re.I), _DATE),
    (re.compile(r"\bhow (many|long|tall|high|old|much)\b", re.I), re.compile(r"\d[\d,.]*\b")),
    (re.compile(r"\b(population|length|height|area|number)\b", re.I), re.compile(r"\d[\d,.]*\b")),
)
_STEM = 5  # letters that two words must share to count as the same
_SHORTEST = 4  # letters; shorter words say little about a sentence


def guess(question: str) -> str:
    """Return an answer by the question's words alone.

    ``yes`` where :func:`is_yes_no`; otherwise the question's longest run of capitalised words, its
    first word left out and punctuation ending a run (the earliest where several are as long);
    otherwise its last word.

    Example:
        >>> guess("Did Ibsen know Grieg?"), guess("Who wrote The Wild Duck, a play?")
        ('yes', 'The Wild Duck')
        >>> guess("what is it called?")
        'called'
    """
    if is_yes_no(question):
        return "yes"
    words = [word for word in _TOKEN.findall(question) if word[0].isalnum()]
    last = words[-1].rstrip(".-") if words else ""
    return max(_names(question), key=len, default=last)


def is_yes_no(question: str) -> bool:
    """Return whether a question begins with an auxiliary verb, as those for yes or no do.

    Example:
        >>> is_yes_no("Were both films made in Norway?"), is_yes_no("Where is Oslo?")
        (True, False)
    """
    first = question.split(maxsplit=1)[:1]
    return bool(first) and first[0].lower() in _YES_NO_STARTS


def read(transcript: Transcript) -> str:
    """Return an answer by what was retrieved.

    A question for yes or no, or with ``or`` in it, gets :func:`guess`: comparing is beyond these
    rules. Otherwise the documents of the last search that gives any candidate are looked at:

    * A question for a year, a date or a number: the first one in the sentence that shares most
      words with the last query (its document's title counted in; the earliest where several do).
    * Any other: the title of the best document, unless the question or a query mentions it (what
      is found by its own name is seldom the answer). Then, in sentences ordered in the same way,
      the first run of capitalised words that none of them mentions.

    A document without a title is its own answer. Without any candidate, :func:`guess`.
    """
    question, searches = transcript.question.text, transcript.searches
    if is_yes_no(question) or " or " in question:
        return guess(question)
    shape = next((looks for asks, looks in _SHAPES if asks.search(question)), None)
    mentions = [R1_SEARCHER.normalize(text) for text in (question, *(s.query for s in searches))]
    for search in reversed(searches):
        documents = search.documents
        query = R1_SEARCHER.normalize(search.query)
        if shape is None:
            candidates = _named(documents, query, mentions)
        else:
            candidates = (m for s in _sentences(documents, query) for m in shape.findall(s))
        answer = next(candidates, None)
        if answer is not None:
            return answer
    return guess(question)


def _named(documents: Sequence[Document], query: str, mentions: Sequence[str]) -> Iterator[str]:
    """Yield names that nothing mentions yet: the best title, then those in fitting sentences."""
    names = itertools.chain(
        (document.title or document.text for document in documents[:1]),
        (name for sentence in _sentences(documents, query) for name in _names(sentence)),
    )
    for name in names:
        words = R1_SEARCHER.normalize(name)
        if words and not any(contains_words(text, words) for text in mentions):
            yield name


def _sentences(documents: Sequence[Document], query: str) -> list[str]:
    """Return all sentences, sorted by the number of words that they share with the query."""
    stems = _stems(query)
    scored = [
        (len(stems & (_stems(document.title) | _stems(sentence))), sentence)
        for document in documents
        for sentence in _SENTENCE_END.split(document.text)
    ]
    return [sentence for _, sentence in sorted(scored, key=lambda pair: -pair[0])]


def _names(sentence: str) -> list[str]:
    """Return the runs of capitalised words, without the sentence's first word."""
    runs = itertools.groupby(_TOKEN.findall(sentence)[1:], key=lambda word: word[0].isupper())
    return [" ".join(run).rstrip(".-") for capitalised, run in runs if capitalised]


def _stems(text: str) -> set[str]:
    words = R1_SEARCHER.normalize(text).split()
    return {word[:_STEM] for word in words if len(word) >= _SHORTEST}
