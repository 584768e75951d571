r"""FlashRAG's layouts, which Search-R1 and many others share.

Questions are JSON lines ``{id, question, golden_answers, metadata?}``; of the metadata only a
``type`` is read, as ``kind``. Search-R1's merged files name the source of each row in
``data_source``: ids are unique in one source only.

A corpus is JSON lines ``{id, contents}`` where contents is the title in double quotes, a newline,
and the text (``"\"Aaron\"\nAaron is ..."``, as in ``wiki-18.jsonl``). Text without a newline has no
title but that of a field ``title``. Texts are kept unchanged, since ids are the file's own.
"""

from __future__ import annotations

import re

from search_env.datasets.loaders import native
from search_env.datasets.loaders.verl import nested
from search_env.datasets.rows import Row, document_id, question_id
from search_env.types import Document, Question

_LINE_END = re.compile(r"\r\n|\n|\r")


def parse_documents(row: Row) -> list[Document]:
    """Return the passage of a row."""
    title, text = split_contents(row.body("contents"))
    title = title or row.heading(row.name_of(native.TITLES))
    return [Document(row.own_id(native.PASSAGE_IDS) or document_id(title, text), title, text)]


def split_contents(contents: str) -> tuple[str, str]:
    r"""Return title and text of FlashRAG's ``contents``.

    Example:
        >>> split_contents('"Aaron"\nAaron is a prophet.')
        ('Aaron', 'Aaron is a prophet.')
        >>> split_contents("No title here.")
        ('', 'No title here.')
    """
    end = _LINE_END.search(contents)
    if not end:
        return "", contents
    title, text = contents[: end.start()], contents[end.end() :]
    quoted = len(title) >= 2 and title[0] == title[-1] == '"'
    return (title[1:-1] if quoted else title), text


def parse_question(row: Row) -> Question:
    """Return the question of a row; ``dataset`` and ``split`` are those of merged files."""
    kind = nested(row, "metadata").data.get("type")
    text = row.text(row.name_of(native.QUESTIONS) or "question")
    return Question(
        id=row.own_id(native.QUESTION_IDS) or question_id(text),
        text=text,
        answers=row.answers("golden_answers"),
        dataset=row.optional_text("data_source"),
        split=nested(row, "extra_info").optional_text("split"),
        kind=kind if isinstance(kind, str) else "",
    )
