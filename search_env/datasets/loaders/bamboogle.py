"""Bamboogle: 125 two-hop questions that a search engine does not answer directly.

Published as a CSV file with the header ``Question,Answer`` (Press et al., 2022; copied in
FireAct@94c6189), and as JSON lines with the same two names in either case. There is one split,
``test``. Rows have neither ids nor evidence, so ids are ``bamboogle_1`` ... in file order.

Answers are kept unchanged. A spreadsheet has rewritten 13 dates of FireAct's copy
(``13-Sep-93`` for ``September 13, 1993``): score against another copy if you can.
"""

from __future__ import annotations

from search_env.datasets.rows import Row
from search_env.types import Question


def parse_question(row: Row) -> Question:
    """Return the question of a row, without an id."""
    question, answer = ("Question", "Answer") if "Question" in row.data else ("question", "answer")
    return Question(
        id="",
        text=row.text(question),
        answers=row.answers(answer),
        dataset="bamboogle",
        split="test",
    )
