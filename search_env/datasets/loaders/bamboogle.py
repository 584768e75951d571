"""Bamboogle: 125 two-hop questions that a search engine does not answer at once.

Published as a CSV file with the header ``Question,Answer`` (Press et al., 2022; copied in
FireAct@94c6189), and as JSON lines with the same two names in either case. There is one split,
``test``. Rows have neither ids nor evidence, so ids are ``bamboogle_1`` ... in file order.

Answers are kept as the file has them. A spreadsheet has rewritten 13 dates of FireAct's copy
(``13-Sep-93`` for ``September 13, 1993``): score against another copy where there is a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search_env.datasets.rows import Row
from search_env.datasets.streaming import is_csv, iter_csv, iter_rows
from search_env.types import Question


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of a Bamboogle file: CSV where its name says so, else JSON.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad or the file is damaged.
    """
    path = Path(path)
    records = iter_csv(path) if is_csv(path) else iter_rows(path)
    return (_question(number, record) for number, record in enumerate(records, start=1))


def _question(number: int, record: Row) -> Question:
    capital = "Question" in record.data
    return Question(
        id=f"bamboogle_{number}",
        text=record.text("Question" if capital else "question"),
        answers=(record.text("Answer" if capital else "answer"),),
        dataset="bamboogle",
        split="test",
    )
