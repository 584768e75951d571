"""Layouts by name, the one reader of all of them, and the rules that detect a file's layout.

The layout is that of the first rule below whose fields the first row of the file has; a name from
the caller always wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TypeVar

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
from search_env.datasets.rows import Row, unique_documents, unique_questions
from search_env.datasets.streaming import (
    file_fault,
    is_csv,
    is_mapping,
    iter_csv,
    iter_json_mapping,
    iter_rows,
)
from search_env.errors import DataFormatError
from search_env.registry import Registry
from search_env.types import Document, Question

_Item = TypeVar("_Item")
_Parser = TypeVar("_Parser")

_ADVICE = "Leave it out to detect it from the first record."

QUESTION_FORMATS: Registry[Callable[[Row], Question]] = Registry(
    "format",
    _ADVICE,
    {
        "2wikimultihopqa": twowiki.parse_question,
        "bamboogle": bamboogle.parse_question,
        "flashrag": flashrag.parse_question,
        "hipporag": hipporag.parse_question,
        "hotpotqa": hotpotqa.parse_question,
        "musique": musique.parse_question,
        "native": native.parse_question,
        "r1_searcher": r1_searcher.parse_question,
    },
)
"""Parsers of a row of a question file, by layout."""

CORPUS_FORMATS: Registry[Callable[[Row], Iterable[Document]]] = Registry(
    "format",
    _ADVICE,
    {
        "2wikimultihopqa": twowiki.parse_documents,
        "flashrag": flashrag.parse_documents,
        "hipporag": hipporag.parse_documents,
        "hotpotqa": hotpotqa.parse_documents,
        "musique": musique.parse_documents,
        "native": native.parse_documents,
    },
)
"""Parsers of the passages of a row, by layout."""

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
"""Fields of a question row, and its layout."""
_CORPUS_RULES = (
    ({"contents"}, "flashrag"),
    ({"title", "text"}, "native"),
    ({"title", "sentences"}, "hipporag"),  # a row of one JSON object from titles to sentences
)
"""Fields of a passage row, and its layout; question rows with passages have their own."""
_ONE_PASSAGE_A_ROW = ("flashrag", "native")
"""Corpora with ids of their own, read in constant memory without a check for repeats."""


def read_questions(path: str | Path, format: str | None = None) -> Iterator[Question]:
    """Yield the questions of a file.

    Args:
        path: The file; plain, gzip or xz.
        format: A key of :data:`QUESTION_FORMATS`; None detects it from the first row.

    Raises:
        ConfigurationError: No such layout.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is none of the known ones, a row is bad, or the file is damaged.
    """
    path = Path(path)
    parse = QUESTION_FORMATS[format or question_format(path)]
    return _hinted(unique_questions(_rows(path), parse), path, format, question_format)


def read_documents(path: str | Path, format: str | None = None) -> Iterator[Document]:
    """Yield the passages of a corpus, or of a question file that carries passages.

    Args:
        path: The file; plain, gzip or xz.
        format: A key of :data:`CORPUS_FORMATS`; None detects it from the first row.

    Raises:
        ConfigurationError: No such layout.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is none of the known ones, a row is bad, or the file is damaged.
    """
    path = Path(path)
    layout = format or corpus_format(path)
    parse = CORPUS_FORMATS[layout]
    rows = _rows(path, mapping=layout == "hipporag")
    documents: Iterator[Document] = chain.from_iterable(map(parse, rows))
    if layout not in _ONE_PASSAGE_A_ROW:
        documents = unique_documents(documents)
    return _hinted(documents, path, format, corpus_format)


def question_format(path: Path) -> str:
    """Return the name of a question file's layout by the rules above."""
    fields = _first_fields(path)
    if layout := _first_match(_QUESTION_RULES, fields):
        return layout
    if _first_match(_CORPUS_RULES, fields):
        raise file_fault(path, "questions", "a corpus of passages", "Use read_documents.")
    raise _unknown(path, "questions", fields, QUESTION_FORMATS)


def corpus_format(path: Path) -> str:
    """Return the name of a corpus file's layout by the rules above."""
    fields = _first_fields(path)
    if layout := _first_match(_CORPUS_RULES, fields):
        return layout
    as_questions = _first_match(_QUESTION_RULES, fields)
    if as_questions in CORPUS_FORMATS and fields & {"paragraphs", "context"}:
        return as_questions
    if as_questions:
        raise file_fault(
            path, "passages", f"questions ({as_questions}) without any", "Use read_questions."
        )
    raise _unknown(path, "passages", fields, CORPUS_FORMATS)


def _rows(path: Path, *, mapping: bool = False) -> Iterator[Row]:
    """Return the rows of a file; ``mapping`` splits one JSON object from titles to sentences."""
    if is_csv(path):
        return iter_csv(path)
    return iter_json_mapping(path) if mapping and is_mapping(path) else iter_rows(path)


def _first_fields(path: Path) -> frozenset[str]:
    """Return the field names of the first row."""
    return frozenset(next(_rows(path, mapping=True)).data)


def _first_match(rules: tuple[tuple[set[str], str], ...], fields: frozenset[str]) -> str:
    return next((layout for required, layout in rules if required <= fields), "")


def _unknown(
    path: Path, what: str, fields: frozenset[str], layouts: Mapping[str, object]
) -> DataFormatError:
    return file_fault(
        path,
        f"{what} in a known layout ({', '.join(layouts)})",
        f"a first row with the fields {', '.join(sorted(fields))}",
        "Pass format= if it is one of them, or write the file in the native layout.",
    )


def _hinted(
    items: Iterator[_Item], path: Path, format: str | None, detect: Callable[[Path], str]
) -> Iterator[_Item]:
    """Return the items; where the first fails in the caller's layout, suggest the likely one."""
    try:
        first = next(items)
    except DataFormatError as error:
        if format is None:
            raise
        likely = detect(path)
        if likely == format:
            raise
        raise DataFormatError(
            f"{error} The file looks like the layout {likely!r}, not {format!r}: "
            f"pass format={likely!r} or leave it out."
        ) from error
    return chain([first], items)
