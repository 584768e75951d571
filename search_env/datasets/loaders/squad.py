"""SQuAD (Rajpurkar et al., 2016 and 2018), and the many datasets that copy its layout.

Its own JSON (articles of paragraphs of questions, flattened by
:mod:`search_env.datasets.containers`) and the hub's rows: ``id``, ``title``, ``context``,
``question``, ``answers`` (spans with a ``text``). A question's evidence is the paragraph that it
was asked about. SQuAD 2.0's questions without an answer cannot be scored: readers leave them out.
"""

from __future__ import annotations

from dataclasses import replace

from search_env.datasets.loaders import native
from search_env.datasets.rows import Row, make_document
from search_env.types import Document, Question


def parse_question(row: Row) -> Question:
    """Return the question of a row; ``dataset`` stays empty."""
    supporting = tuple(document.id for document in parse_documents(row))
    return replace(native.parse_question(row), supporting=supporting)


def parse_documents(row: Row) -> list[Document]:
    """Return the paragraph of a row."""
    return [make_document(row.optional_text("title"), row.text("context"))]
