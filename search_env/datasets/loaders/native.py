"""This project's own layout, the one to write new data in: JSON lines or one JSON list.

Questions: ``id``, ``question``, ``answers``, and where known ``dataset``, ``split``, ``kind``,
``supporting`` (ids of passages) and ``decomposition`` (``[{question, answer}]`` as MuSiQue writes
it). Passages: ``title``, ``text`` and where known ``id``; without one the id is
:func:`~search_env.datasets.rows.document_id`. Other fields are ignored.
"""

from __future__ import annotations

from search_env.datasets.loaders.musique import resolve_hops
from search_env.datasets.rows import Row, document_id
from search_env.types import Document, Question


def parse_documents(row: Row) -> list[Document]:
    """Return the passage of a row."""
    title, text = row.optional_text("title"), row.text("text")
    has_id = row.data.get("id") is not None
    return [Document(row.identifier("id") if has_id else document_id(title, text), title, text)]


def parse_question(row: Row) -> Question:
    """Return the question of a row."""
    steps = [(s.text("question"), s.text("answer")) for s in row.rows("decomposition")]
    return Question(
        id=row.identifier("id"),
        text=row.text("question"),
        answers=row.answers("answers"),
        dataset=row.optional_text("dataset"),
        split=row.optional_text("split"),
        kind=row.optional_text("kind"),
        supporting=row.texts("supporting"),
        hops=resolve_hops(steps),
    )
