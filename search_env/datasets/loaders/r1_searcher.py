"""R1-Searcher's question files: JSON lines ``{idx, question, answer, ...}``.

Its four evaluation sets and its two training stages share this layout; other fields
(``gen_text_store``, ``pred_anses``) are outputs and are ignored. There is one gold answer and no
evidence. Where rows have no ``idx``, their line is the id, so any file of ``question`` and
``answer`` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search_env.datasets.rows import Row, unique_questions
from search_env.datasets.streaming import iter_rows
from search_env.types import Question


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of an R1-Searcher file; ``dataset`` and ``split`` stay empty.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad, an id comes twice, or the file is damaged.
    """
    return unique_questions(iter_rows(Path(path)), _question)


def _question(record: Row) -> Question:
    return Question(
        id=record.identifier("idx") if "idx" in record.data else str(record.line),
        text=record.text("question"),
        answers=(record.text("answer"),),
    )
