"""R1-Searcher's question files: JSON lines ``{idx, question, answer, ...}``.

Its four evaluation sets and its two training stages share this layout; other fields
(``gen_text_store``, ``pred_anses``) are outputs and are ignored. There is one gold answer and no
evidence. Where rows have no ``idx``, their line is the id, so any file of ``question`` and
``answer`` reads.
"""

from __future__ import annotations

from search_env.datasets.rows import Row
from search_env.types import Question


def parse_question(row: Row) -> Question:
    """Return the question of a row; ``dataset`` and ``split`` stay empty."""
    return Question(
        id=row.identifier("idx") if "idx" in row.data else str(row.line),
        text=row.text("question"),
        answers=(row.text("answer"),),
    )
