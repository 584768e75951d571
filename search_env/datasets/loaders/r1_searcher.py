"""R1-Searcher's question files: JSON lines ``{idx, question, answer, ...}``.

Its four evaluation sets and its two training stages share this layout; other fields
(``gen_text_store``, ``pred_anses``) are outputs and are ignored. There is no evidence. Rows without
``idx`` have an id under another name, or else by content, so any file of ``question`` and
``answer`` reads.
"""

from __future__ import annotations

from search_env.datasets.loaders import native
from search_env.datasets.rows import Row, question_id
from search_env.types import Question


def parse_question(row: Row) -> Question:
    """Return the question of a row; ``dataset`` and ``split`` stay empty."""
    text = row.text("question")
    return Question(
        id=row.own_id(("idx", *native.QUESTION_IDS)) or question_id(text),
        text=text,
        answers=native.golds_of(row),
    )
