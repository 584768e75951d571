"""Layouts by name, the one reader of all of them, and the rules that detect a file's layout.

The layout is that of the first rule below whose fields the first row of the file has; where there
is none, ``native`` reads any row with a question and answers, or with a text, under the names that
:mod:`~search_env.datasets.loaders.native` knows. A name from the caller always wins.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

from search_env.datasets.containers import MAPPING, files_of, object_kind, rows_of, split_of
from search_env.datasets.loaders import (
    bamboogle,
    flashrag,
    hipporag,
    hotpotqa,
    musique,
    native,
    r1_searcher,
    squad,
    twowiki,
    verl,
)
from search_env.datasets.rows import Row, unique_documents, unique_questions, without_repeats
from search_env.datasets.streaming import file_fault
from search_env.datasets.tables import is_table
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
        "squad": squad.parse_question,
        "verl": verl.parse_question,
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
        "squad": squad.parse_documents,
    },
)
"""Parsers of the passages of a row, by layout."""

_QUESTION_RULES = (
    ({"golden_answers"}, "flashrag"),
    ({"title", "context", "question", "answers"}, "squad"),
    ({"question", "answers"}, "native"),
    ({"paragraphs", "id", "question_decomposition"}, "musique"),
    ({"paragraphs"}, "hipporag"),
    ({"context", "evidences"}, "2wikimultihopqa"),
    ({"context", "supporting_facts"}, "hotpotqa"),
    ({"Question", "Answer"}, "bamboogle"),
    ({"question", "answer"}, "r1_searcher"),
    ({"reward_model"}, "verl"),
)
"""Fields of a question row, and its layout."""
_CORPUS_RULES = (
    ({"contents"}, "flashrag"),
    ({"title", "text"}, "native"),
    ({"title", "sentences"}, "hipporag"),  # of a mapping from titles to sentences
)
"""Fields of a passage row, and its layout; question rows with passages have their own."""
_ONE_PASSAGE_A_ROW = ("flashrag", "native")
"""Corpora whose rows mostly have ids of their own, which are read without a check for repeats."""
_NATIVE = {"questions": "id, question, answers", "passages": "id, title, text"}
_QUESTION_FILES, _CORPUS_FILES = ("questions", "queries"), ("corpus", "passages", "documents")
"""Names of files that count alone in a folder, as of BEIR."""


def read_questions(path: str | Path, format: str | None = None) -> Iterator[Question]:
    """Yield the questions of a file, or of all files of a folder.

    Blank rows are left out, and a warning tells their number when the file is read. The name of a
    file in a folder (``train-00000-of-00002.parquet``) says the split of rows that name none.

    Args:
        path: JSON lines, JSON, CSV, TSV (plain, gzip, xz or bzip2) or Parquet; or a folder of such.
        format: A key of :data:`QUESTION_FORMATS`; None detects it from the first row.

    Raises:
        ConfigurationError: No such layout, or Parquet without pyarrow.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is none of the known ones, a row is bad, or the file is damaged.
    """
    path = Path(path).expanduser()
    files, skipped = files_of(path, _QUESTION_FILES), _Skipped(path)
    parse = QUESTION_FORMATS[format or question_format(files[0])]

    def of_shard(row: Row) -> Question:
        question = parse(row)
        return question if question.split else replace(question, split=split_of(row.path))

    rows = chain.from_iterable(_answered(file, skipped) for file in files)
    questions = unique_questions(rows, of_shard if path.is_dir() else parse)
    return _hinted(skipped.told_after(questions), files[0], format, question_format)


def read_documents(path: str | Path, format: str | None = None) -> Iterator[Document]:
    """Yield the passages of a corpus, or of a question file that carries passages.

    Passages without title and text are left out, and a warning tells their number when the file is
    read. A passage without an id that occurs again is left out too.

    Args:
        path: JSON lines, JSON, CSV, TSV (plain, gzip, xz or bzip2) or Parquet; or a folder of such.
        format: A key of :data:`CORPUS_FORMATS`; None detects it from the first row.

    Raises:
        ConfigurationError: No such layout, or Parquet without pyarrow.
        DataNotFoundError: There is no readable file.
        DataFormatError: The layout is none of the known ones, a row is bad, or the file is damaged.
    """
    path = Path(path).expanduser()
    files, skipped = corpus_files(path), _Skipped(path)
    layout = format or corpus_format(files[0])
    parse = CORPUS_FORMATS[layout]

    def passages() -> Iterator[Document]:
        for row in chain.from_iterable(map(rows_of, files)):
            documents = [] if row.is_blank() else list(parse(row))
            filled = [d for d in documents if d.title.strip() or d.text.strip()]
            if not filled:
                skipped.add(row, "without a passage")
            yield from filled

    unique = without_repeats if layout in _ONE_PASSAGE_A_ROW else unique_documents
    return _hinted(skipped.told_after(unique(passages())), files[0], format, corpus_format)


def corpus_files(path: Path) -> list[Path]:
    """Return the files of a corpus: the file itself, or those of a folder."""
    return files_of(path, _CORPUS_FILES)


def question_format(path: Path) -> str:
    """Return the name of a question file's layout by the rules above."""
    first = _first_row(path)
    if not first.name_of(native.QUESTIONS) and not _has_golds(first):
        raise _no_questions(path, first)
    answered = next(_answered(path, _Skipped(path)), None)
    if answered is None:
        raise _unanswered(first)
    layout = _first_match(_QUESTION_RULES, frozenset(answered.data))
    if layout == "bamboogle" and answered.name_of(native.QUESTION_IDS):
        return "native"  # TriviaQA's own files have the same two names
    if layout or answered.name_of(native.QUESTIONS):
        return layout or "native"
    raise _unknown(answered, "questions", QUESTION_FORMATS)


def _no_questions(path: Path, first: Row) -> DataFormatError:
    """Return the error for a file without questions, which says what it has."""
    if object_kind(path) == MAPPING:
        got = "a corpus of titles and sentences (one JSON object from names to lists)"
    elif _passage_layout(first):
        got = "a corpus of passages, or queries without answers"
    else:
        return _unknown(first, "questions", QUESTION_FORMATS)
    remedy = "A corpus is passed as corpus= and read by read_documents; questions are rows with "
    return file_fault(path, "questions", got, f"{remedy}{_NATIVE['questions']}.")


def corpus_format(path: Path) -> str:
    """Return the name of a corpus file's layout by the rules above."""
    first = _first_row(path)
    fields = frozenset(first.data)
    as_questions = _first_match(_QUESTION_RULES, fields)
    if as_questions in CORPUS_FORMATS and fields & {"paragraphs", "context"}:
        return as_questions
    if as_questions or first.name_of(native.QUESTIONS):
        raise file_fault(
            path,
            "passages",
            f"questions ({as_questions or 'native'}) without any",
            "Questions are passed as dataset= and read by read_questions.",
        )
    if layout := _passage_layout(first):
        return layout
    raise _unknown(first, "passages", CORPUS_FORMATS)


def _passage_layout(row: Row) -> str:
    layout = _first_match(_CORPUS_RULES, frozenset(row.data))
    return layout or ("native" if row.name_of(native.TEXTS) else "")


def _answered(path: Path, skipped: _Skipped) -> Iterator[Row]:
    """Yield the rows of a question file that have content; of a whole file, some have answers."""
    is_answered = False
    for row in rows_of(path):
        if row.is_blank():
            skipped.add(row, "without content")
            continue
        if not _has_golds(row):
            if "context" in row.data and _is_span(row.data.get("answers")):
                skipped.add(row, "without an answer")  # SQuAD 2.0
                continue
            if not is_answered and not any(map(_has_golds, rows_of(path))):
                raise _unanswered(row)
        is_answered = True
        yield row


def _is_span(answers: object) -> bool:
    return answers == [] or (isinstance(answers, dict) and "answer_start" in answers)


def _has_golds(row: Row) -> bool:
    """Return whether a row has gold answers, or what its parser will refuse as such."""
    name = row.name_of(native.ANSWERS)
    holder, field = (row, name) if name else (verl.nested(row, "reward_model"), "ground_truth")
    try:
        return bool(holder.golds(field))
    except DataFormatError:
        return True


def _unanswered(row: Row) -> DataFormatError:
    name = row.name_of(native.ANSWERS)
    place = f"{row.where}, field {name!r}" if name else row.where
    got = repr(row.data[name]) if name else f"only the fields {', '.join(row.data)}"
    return DataFormatError(
        f"{row.path}, {place}: expected at least one answer, got {got:.200}. No row of the file "
        "has one: it is a split without answers, as the test splits of MuSiQue, HotpotQA and "
        "2WikiMultiHopQA are published. Use the train or the dev split."
    )


class _Skipped:
    """Counts the rows that a reader leaves out; one warning tells of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, row: Row, reason: str) -> None:
        """Count a row."""
        self._first.setdefault(reason, row.where)
        self._counts[reason] += 1

    def told_after(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yield the items, of which there must be one, and then warn about the others."""
        is_empty = True
        for item in items:
            is_empty = False
            yield item
        if not self._counts:
            return
        reasons = [
            f"{count} row{'s' * (count > 1)} {why} (first: {self._first[why]})"
            for why, count in self._counts.items()
        ]
        if is_empty:
            got = ", ".join(reasons)
            raise file_fault(self._path, "a row with content", got, "Pass another file.")
        warnings.warn(f"{self._path}: left out {', '.join(reasons)}.", stacklevel=2)


def _first_row(path: Path) -> Row:
    """Return the first row that is not blank."""
    for row in rows_of(path):
        if not row.is_blank():
            return row
    raise file_fault(
        path, "rows in a known layout", "rows without any content", "Pass another file."
    )


def _first_match(rules: tuple[tuple[set[str], str], ...], fields: frozenset[str]) -> str:
    return next((layout for required, layout in rules if required <= fields), "")


def _unknown(row: Row, what: str, layouts: Mapping[str, object]) -> DataFormatError:
    """Return the error for a file in no known layout."""
    names = ", ".join(sorted(row.data))
    if is_table(row.path):
        got, remedy = f"a header with the columns {names}", "Write a first line with the names "
    else:
        got, remedy = f"a first row with the fields {names}", "Rename the fields to those "
    expected = f"{what} in a known layout ({', '.join(layouts)})"
    return file_fault(row.path, expected, got, f"{remedy}of the native layout ({_NATIVE[what]}).")


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
