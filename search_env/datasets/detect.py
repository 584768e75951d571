"""Layouts by name, and the rules that tell a file's layout from its first record.

Questions, first rule that fits:

====================================================  ===================
the first record                                      layout
====================================================  ===================
has ``golden_answers``                                ``flashrag``
has ``question`` and ``answers``                      ``native``
has ``paragraphs``, ``id``, ``question_decomposition``  ``musique``
has ``paragraphs``                                    ``hipporag``
has ``context`` and ``evidences``                     ``2wikimultihopqa``
has ``context`` and ``supporting_facts``              ``hotpotqa``
has ``Question`` and ``Answer``                       ``bamboogle``
has ``question`` and ``answer``                       ``r1_searcher``
====================================================  ===================

Passages: ``contents`` is ``flashrag``; ``title`` and ``text`` are ``native``; one JSON object from
titles to sentences is ``hipporag``; a question file that carries passages is read by its own
layout. Nothing else is looked at, and a name given by the caller always wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from search_env.datasets.loaders import (
    bamboogle,
    flashrag,
    hipporag,
    hotpotqa,
    musique,
    native,
    r1_searcher,
    twowiki,
)
from search_env.datasets.streaming import file_fault, is_csv, is_mapping, iter_csv, iter_rows
from search_env.errors import ConfigurationError, DataFormatError, nearest
from search_env.types import Document, Question

_Item = TypeVar("_Item")
_Reader: TypeAlias = Callable[[Path], Iterator[_Item]]

QUESTION_FORMATS: Mapping[str, _Reader[Question]] = MappingProxyType(
    {
        "2wikimultihopqa": twowiki.read_questions,
        "bamboogle": bamboogle.read_questions,
        "flashrag": flashrag.read_questions,
        "hipporag": hipporag.read_questions,
        "hotpotqa": hotpotqa.read_questions,
        "musique": musique.read_questions,
        "native": native.read_questions,
        "r1_searcher": r1_searcher.read_questions,
    }
)
"""Readers of question files by layout."""

CORPUS_FORMATS: Mapping[str, _Reader[Document]] = MappingProxyType(
    {
        "2wikimultihopqa": twowiki.read_documents,
        "flashrag": flashrag.read_documents,
        "hipporag": hipporag.read_documents,
        "hotpotqa": hotpotqa.read_documents,
        "musique": musique.read_documents,
        "native": native.read_documents,
    }
)
"""Readers of passages by layout."""

_QUESTION_RULES = (
    ({"golden_answers"}, "flashrag"),
    ({"question", "answers"}, "native"),
    ({"paragraphs", "id", "question_decomposition"}, "musique"),
    ({"paragraphs"}, "hipporag"),
    ({"context", "evidences"}, "2wikimultihopqa"),
    ({"context", "supporting_facts"}, "hotpotqa"),
    ({"Question", "Answer"}, "bamboogle"),
    ({"question", "answer"}, "r1_searcher"),
)
_CORPUS_RULES = (({"contents"}, "flashrag"), ({"title", "text"}, "native"))


def read_questions(path: str | Path, format: str | None = None) -> Iterator[Question]:
    """Yield the questions of a file.

    Args:
        path: The file; plain, gzip or xz.
        format: A key of :data:`QUESTION_FORMATS`; None looks at the first record.

    Raises:
        ConfigurationError: No such layout.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is none of the known ones, a row is bad, or the file is damaged.
    """
    path = Path(path)
    reader = _reader(QUESTION_FORMATS, format or question_format(path))
    return _hinted(reader(path), path, format, question_format)


def read_documents(path: str | Path, format: str | None = None) -> Iterator[Document]:
    """Yield the passages of a corpus, or of a question file that carries passages.

    Args:
        path: The file; plain, gzip or xz.
        format: A key of :data:`CORPUS_FORMATS`; None looks at the first record.

    Raises:
        ConfigurationError: No such layout.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is none of the known ones, a row is bad, or the file is damaged.
    """
    path = Path(path)
    reader = _reader(CORPUS_FORMATS, format or corpus_format(path))
    return _hinted(reader(path), path, format, corpus_format)


def question_format(path: Path) -> str:
    """Return the name of a question file's layout by the rules above.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: No rule fits; the message says whether the file is a corpus.
    """
    fields = _first_fields(path)
    if found := _first_match(_QUESTION_RULES, fields):
        return found
    if not fields or _first_match(_CORPUS_RULES, fields):
        raise file_fault(path, "questions", "a corpus of passages", "Use read_documents.")
    raise _unknown(path, "questions", fields, QUESTION_FORMATS)


def corpus_format(path: Path) -> str:
    """Return the name of a corpus file's layout by the rules above.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: No rule fits; the message says whether the file holds questions alone.
    """
    fields = _first_fields(path)
    if not fields:
        return "hipporag"
    if found := _first_match(_CORPUS_RULES, fields):
        return found
    as_questions = _first_match(_QUESTION_RULES, fields)
    if as_questions in CORPUS_FORMATS and fields & {"paragraphs", "context"}:
        return as_questions
    if as_questions:
        raise file_fault(
            path, "passages", f"questions ({as_questions}) without any", "Use read_questions."
        )
    raise _unknown(path, "passages", fields, CORPUS_FORMATS)


def _first_fields(path: Path) -> frozenset[str]:
    """Return the field names of the first record; none for one JSON object from titles to texts."""
    if is_csv(path):
        return frozenset(next(iter_csv(path)).data)
    if is_mapping(path):
        return frozenset()
    return frozenset(next(iter_rows(path)).data)


def _first_match(rules: tuple[tuple[set[str], str], ...], fields: frozenset[str]) -> str:
    return next((name for needed, name in rules if needed <= fields), "")


def _unknown(
    path: Path, what: str, fields: frozenset[str], known: Mapping[str, object]
) -> DataFormatError:
    return file_fault(
        path,
        f"{what} in a known layout ({', '.join(known)})",
        f"a first record with the fields {', '.join(sorted(fields))}",
        "Pass format= if it is one of them, or write the file in the native layout.",
    )


def _reader(formats: Mapping[str, _Reader[_Item]], name: str) -> _Reader[_Item]:
    if name not in formats:
        raise ConfigurationError(
            f"Expected format to be one of {', '.join(formats)}, got {name!r}. "
            f"{nearest(name, formats)}Leave it out to have it told from the first record."
        )
    return formats[name]


def _hinted(
    items: Iterator[_Item], path: Path, given: str | None, tell: Callable[[Path], str]
) -> Iterator[_Item]:
    """Pass items on; where the first fails under a layout the caller named, name the likely one."""
    try:
        first = next(items)
    except DataFormatError as error:
        if given is None:
            raise
        likely = tell(path)
        if likely == given:
            raise
        raise DataFormatError(
            f"{error} The file looks like the layout {likely!r}, not {given!r}: "
            f"pass format={likely!r} or leave it out."
        ) from error
    return chain([first], items)
