"""This project's own layout, the one to write new data in: JSON lines or one JSON list.

Questions: ``id``, ``question``, ``answers``, and where known ``dataset``, ``split``, ``kind``,
``supporting`` (ids of passages) and ``decomposition`` (``[{question, answer}]`` as MuSiQue writes
it). Passages: ``title``, ``text`` and where known ``id``; without one the id is
:func:`~search_env.datasets.rows.document_id`. Other fields are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search_env.datasets.loaders.musique import resolve_hops
from search_env.datasets.rows import Row, document_id, unique_questions
from search_env.datasets.streaming import iter_rows
from search_env.types import Document, Question


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of a native file; ids are unique within a dataset.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad, an id comes twice, or the file is damaged.
    """
    return unique_questions(iter_rows(Path(path)), _question)


def read_documents(path: str | Path) -> Iterator[Document]:
    """Yield the passages of a native corpus in constant memory; ids are not checked for repeats.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad or the file is damaged.
    """
    for record in iter_rows(Path(path)):
        title, text = record.optional_text("title"), record.text("text")
        known = record.data.get("id") is not None
        yield Document(record.identifier("id") if known else document_id(title, text), title, text)


def _question(record: Row) -> Question:
    steps = [(s.text("question"), s.text("answer")) for s in record.rows("decomposition")]
    return Question(
        id=record.identifier("id"),
        text=record.text("question"),
        answers=record.answers("answers"),
        dataset=record.optional_text("dataset"),
        split=record.optional_text("split"),
        kind=record.optional_text("kind"),
        supporting=record.texts("supporting"),
        hops=resolve_hops(steps),
    )
