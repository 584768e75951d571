r"""FlashRAG's layouts, which Search-R1 and many others share.

Questions are JSON lines ``{id, question, golden_answers, metadata?}``; of the metadata only a
``type`` is read, as ``kind``. A corpus is JSON lines ``{id, contents}`` where contents is the title
in double quotes, a newline, and the text (``"\"Aaron\"\nAaron is ..."``, as in ``wiki-18.jsonl``).
Text without a newline has no title. Texts are kept to the character, since ids are the file's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search_env.datasets.rows import Row, unique_questions
from search_env.datasets.streaming import iter_rows
from search_env.types import Document, Question


def read_questions(path: str | Path) -> Iterator[Question]:
    """Yield the questions of a FlashRAG file; ``dataset`` and ``split`` stay empty.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad, an id comes twice, or the file is damaged.
    """
    return unique_questions(iter_rows(Path(path)), _question)


def read_documents(path: str | Path) -> Iterator[Document]:
    """Yield the passages of a FlashRAG corpus in constant memory; ids are not checked for repeats.

    Raises:
        DataNotFoundError: There is no readable file.
        DataFormatError: A row is bad or the file is damaged.
    """
    for record in iter_rows(Path(path)):
        title, text = split_contents(record.text("contents"))
        yield Document(record.identifier("id"), title, text)


def split_contents(contents: str) -> tuple[str, str]:
    r"""Return title and text of FlashRAG's ``contents``.

    Example:
        >>> split_contents('"Aaron"\nAaron is a prophet.')
        ('Aaron', 'Aaron is a prophet.')
        >>> split_contents("No title here.")
        ('', 'No title here.')
    """
    title, newline, text = contents.partition("\n")
    if not newline:
        return "", contents
    quoted = len(title) >= 2 and title[0] == title[-1] == '"'
    return (title[1:-1] if quoted else title), text


def _question(record: Row) -> Question:
    metadata = record.data.get("metadata")
    kind = metadata.get("type") if isinstance(metadata, dict) else None
    return Question(
        id=record.identifier("id"),
        text=record.text("question"),
        answers=record.answers("golden_answers"),
        kind=kind if isinstance(kind, str) else "",
    )
